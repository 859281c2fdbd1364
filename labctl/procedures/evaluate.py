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
from labctl.errors import ModelError
from labctl.learning.bundle import Bundle
from labctl.learning.data import ImageSet
from labctl.learning.metrics import wilson
from labctl.learning.backend import Backend
from labctl.optics.detection import Detection, expected_tiles
from labctl.optics.encoders import EncoderSpec
from labctl.optics.fidelity import pearson
from labctl.procedures.deployment import Deployment, Reader, compile_deployment, show_image
from labctl.procedures.exposing import expose_well, laser_on
from labctl.procedures.messages import Exposure, Log, Measure, Publish, Set, Steps

UNRECORDED: Mapping[str, bool] = {"record": False}
"""Field metadata: too large for a run's record, which has its hash instead."""
BATCH = 25
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
            If image size or classes do not fit.
        """
        front = bundle.student.front
        if tuple(test.images.shape[1:]) != (front.in_channels, *front.image):
            raise ModelError(
                f"model '{bundle.name}' takes {front.in_channels} x {front.image[0]} x {front.image[1]} images, "
                f"{test.name} has {' x '.join(map(str, test.images.shape[1:]))}"
            )
        return Task(bundle.name, bundle.sha256, test.sha256, f"{test.name}, {test.source}", bundle, test, train)

    @property
    def kernels(self) -> Float[Tensor, "maps 1 ky kx"]:
        """The student's optical layer."""
        return self.bundle.student.fused_kernels().detach()

    @property
    def detection(self) -> Detection:
        """How the student was trained to be read."""
        return Detection(self.bundle.recipe.student.detection)


@dataclass(frozen=True, eq=False)
class Deployed:
    """A model on the bench, ready to be asked.

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
class Captures:
    """What the bench answered to a set of images.

    Attributes
    ----------
    maps : float tensor [n, maps, y, x]
        In the units of ``conv2d``.
    tile_r : float array [tiles]
        Pearson r of each tile's amplitude against conv2d, mean over images; NaN for dark tiles.
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
    encoder: EncoderSpec | None = None,
) -> Steps[Deployed]:
    """Compile the model, show it, find the exposure time and the one gain; training images only."""
    image = task.bundle.student.front.image
    deployment = compile_deployment(
        task.kernels, facts, image=image, detection=task.detection, encoder=encoder, calibrated=calibrated
    )
    yield Log(
        f"{task.model}: {len(deployment.kernels)} tiles by {deployment.encoder.name}, "
        f"deployment {deployment.digest[:12]}, camera window {deployment.window}"
    )
    yield from laser_on(facts)
    yield Set("camera", "window", deployment.window)
    probes = task.train.images[:FOR_GAIN]
    shown = [show_image(probe[0], facts, deployment) for probe in probes]
    exposure = yield from expose_well(facts, deployment.pattern, shown[:FOR_EXPOSURE], target=0.75, quantile=0.9999)
    frames = yield Measure(
        [Exposure(deployment.pattern, s, exposure, {"for": "gain"}) for s in shown], "gain of the tiles"
    )
    reader = Reader(deployment, facts)
    intensity = torch.stack([reader.intensity(frame) for frame in frames])
    return Deployed(deployment, reader.fit(intensity, expected_tiles(probes, deployment.kernels)), exposure)


def capture(
    task: Task,
    facts: BenchFacts,
    deployed: Deployed,
    images: ImageSet,
    *,
    label: str,
    backend: Backend | None = None,
) -> Steps[Captures]:
    """Show images one by one and read their maps; publishes the running accuracy and pictures to watch."""
    deployment, reader = deployed.deployment, deployed.reader
    maps, correlations = [], []
    right = 0
    last: NDArray[np.generic] = np.zeros((1, 1))

    def asked(start: int) -> Measure:
        """A batch, to be exposed while the one before it is computed on."""
        exposures = [
            Exposure(
                deployment.pattern, show_image(image[0], facts, deployment), deployed.exposure_s,
                {"set": images.split, "image": start + i},
            )
            for i, image in enumerate(images.images[start : start + BATCH])
        ]  # fmt: skip
        return Measure(exposures, label, ahead=True)

    starts = range(0, len(images), BATCH)
    frames = yield asked(0)
    for start in starts:
        following = (yield asked(start + BATCH)) if start + BATCH < len(images) else ()
        batch = images.images[start : start + BATCH]
        intensity = torch.stack([reader.intensity(frame) for frame in frames])
        expected = expected_tiles(batch, deployment.kernels)
        correlations.append(pearson(intensity.clamp(min=0).sqrt(), expected))
        read = torch.stack([reader.maps(frame) for frame in frames])
        maps.append(read)
        last = frames[-1].data
        yield Publish("captured map", read[-1, 0].numpy())
        yield Publish("tile fidelity (r)", float(correlations[-1].nanmean()))
        if backend is not None:
            right += int((answer(backend, read).argmax(1) == images.labels[start : start + BATCH]).sum())
            yield Publish(f"accuracy, {label} (%)", 100 * right / (start + len(batch)))
        frames = following
    return Captures(torch.cat(maps), torch.cat(correlations).nanmean(0).double().numpy(), last)


@dataclass(frozen=True)
class Evaluation:
    """Result of `Evaluate`."""

    arm: Arm
    tile_r: NDArray[np.float64]
    exposure_s: float
    deployment: str


@dataclass(frozen=True)
class Evaluate:
    """Deploy a model as it is and count its right answers on test images.

    Attributes
    ----------
    task : Task
    calibrated : bool
        Use the bench's calibrations.
    encoder : EncoderSpec
    """

    task: Task
    calibrated: bool = True
    encoder: EncoderSpec = field(default_factory=EncoderSpec)

    @property
    def name(self) -> str:
        return "evaluate"

    def exposures(self, facts: BenchFacts) -> int:
        return FOR_EXPOSURE * 2 + FOR_GAIN + len(self.task.test)

    def steps(self, facts: BenchFacts) -> Steps[Evaluation]:
        seen = facts if self.calibrated else uncalibrated(facts)
        deployed = yield from deploy(self.task, seen, calibrated=self.calibrated, encoder=self.encoder)
        backend = self.task.bundle.student.backend
        captures = yield from capture(self.task, seen, deployed, self.task.test, label="test images", backend=backend)
        yield Set("camera", "window", None)
        arm = score("deployed", answer(backend, captures.maps), self.task.test.labels)
        return Evaluation(arm, captures.tile_r, deployed.exposure_s, deployed.deployment.digest)


def uncalibrated(facts: BenchFacts) -> BenchFacts:
    """The bench as its file describes it, with no calibration at all."""
    return replace(facts, calibrations={})


def table(arms: Sequence[Arm]) -> list[dict[str, str | float]]:
    """Rows for the report."""
    return [arm.row() for arm in arms]
