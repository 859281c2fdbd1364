"""Showing a model on a bench and reading what it answers: exposing, capturing maps, counting right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.errors import ModelError
from labctl.learning.backend import Backend
from labctl.learning.bundle import Bundle
from labctl.learning.data import ImageSet
from labctl.learning.fits import requirements
from labctl.learning.metrics import wilson
from labctl.optics.detection import Detection, expected_tiles
from labctl.optics.encoders import EncoderSpec
from labctl.optics.fidelity import pearson
from labctl.procedures.deployment import Deployment, Reader, show_image
from labctl.procedures.exposing import expose_well, laser_on
from labctl.procedures.messages import Exposure, Log, Measure, Publish, Set, Steps
from labctl.procedures.patterns import check_fit, compile_model, digest_of, patterns_needed
from labctl.procedures.watch import Drift, Gathered, Watch

UNRECORDED: Mapping[str, bool] = {"record": False}
"""Field metadata: too large for a run's record, which has its hash instead."""
BATCH = 25
HELD_BYTES = 200_000_000
"""Of frames of one batch; twice as many are held while the next is exposed."""
FOR_EXPOSURE = 12
FOR_GAIN = 32


@dataclass(frozen=True, eq=False)
class Task:
    """A model and the images it is tried on.

    Attributes
    ----------
    model, model_hash : str
    bundle : Bundle
    test, train : ImageSet
        Images to count right answers on; images for exposure, gain and refitting. Never mixed.
    data_hash : str
        Of the test images.
    """

    model: str
    model_hash: str
    data_hash: str
    data_source: str
    bundle: Bundle = field(metadata=UNRECORDED)
    test: ImageSet = field(metadata=UNRECORDED)
    train: ImageSet = field(metadata=UNRECORDED)

    @staticmethod
    def of(bundle: Bundle, test: ImageSet, train: ImageSet) -> Task:
        """A task, checked: the images must be what the model takes.

        Raises
        ------
        ModelError
            If image size or classes do not fit, or the classes are of pixels.
        """
        front = bundle.student.front
        if test.labels.ndim != 1:
            raise ModelError(
                f"model '{bundle.name}' names a class for each pixel: so far a bench counts right answers of models "
                "that name one for each image"
            )
        if tuple(test.images.shape[1:]) != (front.in_channels, *front.image):
            raise ModelError(
                f"model '{bundle.name}' takes {front.in_channels} x {front.image[0]} x {front.image[1]} images, "
                f"{test.name} has {' x '.join(map(str, test.images.shape[1:]))}"
            )
        return Task(bundle.name, bundle.sha256, test.sha256, f"{test.name}, {test.source}", bundle, test, train)

    @property
    def kernels(self) -> Float[Tensor, "maps channels ky kx"]:
        """The student's optical layer."""
        return self.bundle.student.fused_kernels().detach()

    @property
    def detection(self) -> Detection:
        """How the student was trained to be read."""
        return self.bundle.student.front.detection

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of its images, pixels."""
        return self.bundle.student.front.image

    def patterns(self, facts: BenchFacts) -> int:
        """Patterns that the model takes on a bench, which is also exposures per image."""
        return patterns_needed(requirements(self.bundle), facts)


@dataclass(frozen=True, eq=False)
class Part:
    """One pattern of a model on the bench.

    Attributes
    ----------
    deployment : Deployment
    reader : Reader
        With its gain fitted.
    exposure_s : float
    """

    deployment: Deployment
    reader: Reader
    exposure_s: float


@dataclass(frozen=True, eq=False)
class Deployed:
    """A model on the bench, ready to be asked.

    Attributes
    ----------
    parts : tuple of Part
        One for each pattern: of one, for a model of one input channel whose tiles fit in one frame.
    """

    parts: tuple[Part, ...]

    @property
    def deployment(self) -> Deployment:
        """The first pattern."""
        return self.parts[0].deployment

    @property
    def exposure_s(self) -> float:
        """Exposure time of the first pattern, s."""
        return self.parts[0].exposure_s

    @property
    def digest(self) -> str:
        """Of all patterns."""
        return digest_of([part.deployment for part in self.parts])


@dataclass(frozen=True, eq=False)
class Captures:
    """What the bench answered to a set of images.

    Attributes
    ----------
    maps : float tensor [n, maps, y, x]
        In the units of ``conv2d`` (or of its square), summed over channels.
    tile_r : float array [tiles]
        Pearson r of each tile's amplitude against what it should show, mean over images; NaN for dark tiles. All tiles
        of all patterns.
    last : array [row, column], counts
        The last frame, for the report.
    """

    maps: Float[Tensor, "n maps y x"]
    tile_r: NDArray[np.float64]
    last: NDArray[np.generic]


@dataclass(frozen=True)
class Arm:
    """One row of the results: right answers of one way to run the model, with a 95 % Wilson interval."""

    name: str
    correct: int
    count: int
    confusion: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def accuracy(self) -> float:
        """Right answers, per cent."""
        return 100 * self.correct / self.count

    def row(self) -> dict[str, str | float]:
        """For the report's table."""
        low, high = wilson(self.correct, self.count)
        return {
            "arm": self.name, "accuracy (%)": self.accuracy, "accuracy (%) low": 100 * low,
            "accuracy (%) high": 100 * high, "images": self.count,
        }  # fmt: skip


def score(name: str, logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> Arm:
    """Count right answers."""
    answers, classes = logits.argmax(1), logits.shape[1]
    confusion = torch.bincount(labels * classes + answers, minlength=classes * classes).reshape(classes, classes)
    return Arm(name, int((answers == labels).sum()), len(labels), tuple(tuple(row) for row in confusion.tolist()))


@torch.no_grad()
def answer(backend: Backend, maps: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n classes"]:
    """Logits of the electronic back end, in eval mode."""
    return backend.eval()(maps)


def deploy(
    task: Task,
    facts: BenchFacts,
    *,
    calibrated: bool = True,
    corrected: bool | None = None,
    encoder: EncoderSpec | None = None,
) -> Steps[Deployed]:
    """Compile the model, show it, find exposure times and gains, one of each per pattern; training images only.

    `corrected` is as in `labctl.procedures.deployment.compile_deployment`.

    Raises
    ------
    ModelError
        If the model does not fit the bench; says all that keeps it from it.
    CalibrationError
        If the bench is not calibrated, or there is no light where tiles should be.
    """
    for cost in check_fit(task.bundle, facts):
        yield Log(cost, "warning")
    patterns = compile_model(
        task.kernels, facts, image=task.image, detection=task.detection, encoder=encoder, calibrated=calibrated,
        corrected=corrected,
    )  # fmt: skip
    yield from laser_on(facts)
    parts = []
    for number, deployment in enumerate(patterns, 1):
        which = f", pattern {number} of {len(patterns)}, channel {deployment.channel + 1}" if len(patterns) > 1 else ""
        yield Log(
            f"{task.model}{which}: {len(deployment.kernels)} tiles by {deployment.encoder.name}, "
            f"deployment {deployment.digest[:12]}, camera window {deployment.window}"
        )
        if (correction := deployment.correction) is not None:
            yield Log("masks made through the twin: {:.2%} as wanted, {:.2%} before".format(*correction.match[::-1]))
    window = _around([deployment.window for deployment in patterns])
    yield Set("camera", "window", window)
    for deployment in patterns:
        probes = task.train.images[:FOR_GAIN, deployment.channel, None]
        shown = [show_image(probe[0], facts, deployment) for probe in probes]
        exposure = yield from expose_well(facts, deployment.pattern, shown[:FOR_EXPOSURE], target=0.75, quantile=0.9999)
        frames = yield Measure(
            [Exposure(deployment.pattern, s, exposure, {"for": "gain"}) for s in shown], "gain of the tiles"
        )
        reader = Reader(deployment, facts)
        intensity = torch.stack([reader.intensity(frame) for frame in frames])
        expected = expected_tiles(probes, deployment.kernels, deployment.detection)
        parts.append(Part(deployment, reader.fit(intensity, expected), exposure))
    return Deployed(tuple(parts))


def _around(windows: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The window that holds all windows."""
    r0, r1, c0, c1 = zip(*windows, strict=True)
    return min(r0), max(r1), min(c0), max(c1)


def capture(
    task: Task,
    facts: BenchFacts,
    deployed: Deployed,
    images: ImageSet,
    *,
    label: str,
    backend: Backend | None = None,
    onto: Gathered | None = None,
) -> Steps[Captures]:
    """Show images one by one and read their maps; publishes the running accuracy and pictures to watch.

    With several patterns, a batch of images is shown with each of them in turn. What is read is added to `onto`, and
    all that is there then is returned.
    """
    onto = onto or Gathered()
    parts, maps, correlations = deployed.parts, onto.maps, onto.tile_r
    right, before = 0, onto.count
    last: NDArray[np.generic] = np.zeros((1, 1))
    size = _batch(parts)

    def asked(start: int) -> Measure:
        """A batch, to be exposed while the one before it is computed on."""
        batch = images.images[start : start + size]
        tags = [{"pattern": n} if len(parts) > 1 else {} for n in range(len(parts))]
        exposures = [
            Exposure(
                part.deployment.pattern, show_image(image[part.deployment.channel], facts, part.deployment),
                part.exposure_s, {"set": images.split, "image": before + start + i, **tag},
            )
            for part, tag in zip(parts, tags, strict=True)
            for i, image in enumerate(batch)
        ]  # fmt: skip
        return Measure(exposures, label, ahead=True)

    starts = range(0, len(images), size)
    frames = yield asked(0)
    for start in starts:
        following = (yield asked(start + size)) if start + size < len(images) else ()
        batch = images.images[start : start + size]
        read, r = _read(parts, frames, batch, len(task.kernels))
        correlations.append(r)
        maps.append(read)
        last = frames[-1].data
        yield Publish("captured map", read[-1, 0].numpy())
        yield Publish("tile fidelity (r)", float(correlations[-1].nanmean()))
        if backend is not None:
            right += int((answer(backend, read).argmax(1) == images.labels[start : start + size]).sum())
            yield Publish(f"accuracy, {label} (%)", 100 * right / (start + len(batch)))
        frames = following
    return Captures(torch.cat(maps), torch.cat(correlations).nanmean(0).double().numpy(), last)


def _batch(parts: Sequence[Part]) -> int:
    """Images in a batch: with several patterns as many as memory takes, so that the slow SLM changes rarely."""
    if len(parts) == 1:
        return BATCH
    r0, r1, c0, c1 = _around([part.deployment.window for part in parts])
    held = HELD_BYTES // (len(parts) * 2 * (r1 - r0) * (c1 - c0))
    return min(max(held, BATCH), 4 * BATCH)


def _read(
    parts: Sequence[Part], frames: Sequence[Frame], batch: Float[Tensor, "n channels y x"], maps: int
) -> tuple[Float[Tensor, "n maps y x"], Float[Tensor, "n tiles"]]:
    """Maps of a batch, summed over channels, and Pearson r of every tile; frames are by part, then by image."""
    total = torch.zeros(len(batch), maps, *batch.shape[-2:])
    r = []
    for n, part in enumerate(parts):
        deployment, reader = part.deployment, part.reader
        own = [frames[n * len(batch) + i] for i in range(len(batch))]
        intensity = torch.stack([reader.intensity(frame) for frame in own])
        total[:, deployment.maps] += reader.maps_of(intensity)
        one = batch[:, deployment.channel, None]
        expected = expected_tiles(one, deployment.kernels, deployment.detection)
        r.append(pearson(intensity.clamp(min=0).sqrt(), expected))
    return total, torch.cat(r, dim=1)


@dataclass(frozen=True)
class Evaluation:
    """Result of `Evaluate`; `drift` is what the watch found, `records` what was calibrated on the way."""

    arm: Arm
    tile_r: NDArray[np.float64]
    exposure_s: float
    deployment: str
    drift: tuple[Drift, ...] = ()
    records: tuple[CalibrationRecord, ...] = ()


@dataclass(frozen=True)
class Evaluate:
    """Deploy a model as it is and count its right answers on test images.

    Attributes
    ----------
    task : Task
    calibrated : bool
        Use the bench's calibrations.
    corrected : bool, optional
        Make the masks through the bench's twin; default: where it has one.
    encoder : EncoderSpec
    watch : Watch
        What is done about a bench that changes meanwhile.
    """

    task: Task
    calibrated: bool = True
    corrected: bool | None = None
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    watch: Watch = field(default_factory=Watch)

    @property
    def name(self) -> str:
        return "evaluate"

    def exposures(self, facts: BenchFacts) -> int:
        shown = self.task.patterns(facts) * len(self.task.test)
        return self.task.patterns(facts) * (FOR_EXPOSURE * 2 + FOR_GAIN) + shown + self.watch.frames(shown)

    def steps(self, facts: BenchFacts) -> Steps[Evaluation]:
        from labctl.procedures.watching import capture_watched

        def deployed_on(known: BenchFacts) -> Steps[Deployed]:
            return deploy(self.task, known, calibrated=self.calibrated, corrected=self.corrected, encoder=self.encoder)

        seen = facts if self.calibrated else uncalibrated(facts)
        backend = self.task.bundle.student.backend
        done = yield from capture_watched(
            self.task, seen, self.task.test, deployed_on, self.watch, label="test images", backend=backend
        )
        yield Set("camera", "window", None)
        arm = score("deployed", answer(backend, done.captures.maps), self.task.test.labels)
        last = done.deployed
        return Evaluation(arm, done.captures.tile_r, last.exposure_s, last.digest, done.drift, done.records)


def uncalibrated(facts: BenchFacts) -> BenchFacts:
    """The bench as its file describes it, with no calibration at all."""
    return replace(facts, calibrations={})


def table(arms: Sequence[Arm]) -> list[dict[str, str | float]]:
    """Rows for the report."""
    return [arm.row() for arm in arms]
