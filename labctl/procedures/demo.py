"""The main job, end to end: calibrate, deploy, capture real images, refit the back end, and compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import ModelError
from labctl.learning.refit import refit_backend
from labctl.optics.detection import Detection, expected_tiles
from labctl.optics.encoders import EncoderSpec
from labctl.optics.fidelity import encoder_fidelity, pearson
from labctl.optics.masks import kernel_masks
from labctl.procedures.calibrations import BASIC, Calibrate
from labctl.procedures.evaluate import (
    FOR_EXPOSURE,
    FOR_GAIN,
    Arm,
    Captures,
    Deployed,
    Task,
    answer,
    capture,
    deploy,
    score,
    table,
    uncalibrated,
)  # fmt: skip
from labctl.procedures.messages import Log, Publish, Set, Steps
from labctl.procedures.report_data import Picture, ReportData
from labctl.twin.model import Twin

CALIBRATE = Calibrate(only=BASIC, strict=True)


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    arms : tuple of Arm
        Teacher; student in simulation; deployed uncalibrated; deployed calibrated; back end refitted.
    records : tuple of CalibrationRecord
    tile_r_uncalibrated, tile_r_calibrated : float arrays [tiles]
        Pearson r of each tile's amplitude against conv2d.
    twin_r : float
        Mean Pearson r of captured maps against the twin's.
    efficiency : float
        Of the pattern on an ideal bench.
    exposure_s : float
    deployment : str
        Digest.
    report : ReportData
    """

    arms: tuple[Arm, ...]
    records: tuple[CalibrationRecord, ...]
    tile_r_uncalibrated: np.ndarray
    tile_r_calibrated: np.ndarray
    twin_r: float
    efficiency: float
    exposure_s: float
    deployment: str
    report: ReportData


@dataclass(frozen=True)
class Demo:
    """Take a bench from its bare file to a working optical network.

    Attributes
    ----------
    task : Task
        Its ``train`` images are for exposure, gain and refitting; right answers are counted on ``test`` only.
    encoder : EncoderSpec
    seed : int
        Of the refit.
    """

    task: Task
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    seed: int = 0

    @property
    def name(self) -> str:
        return "demo"

    def exposures(self, facts: BenchFacts) -> int:
        once = FOR_EXPOSURE * 2 + FOR_GAIN
        return CALIBRATE.exposures(uncalibrated(facts)) + 2 * (once + len(self.task.test)) + len(self.task.train)

    def steps(self, facts: BenchFacts) -> Steps[DemoResult]:
        task, student = self.task, self.task.bundle.student
        if task.detection is not Detection.PAIRED or task.patterns(facts) > 1:
            raise ModelError(
                f"model '{task.model}' takes {task.patterns(facts)} patterns under {task.detection.value} detection: "
                "the demo's report is of one pattern and paired detection; `labctl evaluate` runs this model"
            )
        labels = task.test.labels
        with torch.no_grad():
            arms = [score("student, in simulation", student(task.test.images), labels)]
            if task.bundle.teacher is not None:
                arms.insert(0, score("teacher", task.bundle.teacher(task.test.images), labels))
        yield Publish("results", table(arms))

        bare = uncalibrated(facts)
        raw = yield from deploy(task, bare, calibrated=False, encoder=self.encoder)
        raw_captures = yield from capture(
            task, bare, raw, task.test, label="test images, uncalibrated", backend=student.backend
        )
        arms.append(score("deployed, uncalibrated", answer(student.backend, raw_captures.maps), labels))
        yield Publish("results", table(arms))
        yield Set("camera", "window", None)

        calibration = yield from CALIBRATE.steps(bare)
        known = replace(facts, calibrations={record.kind: record for record in calibration.records})
        good = yield from deploy(task, known, calibrated=True, encoder=self.encoder)
        captures = yield from capture(
            task, known, good, task.test, label="test images, calibrated", backend=student.backend
        )
        arms.append(score("deployed, calibrated", answer(student.backend, captures.maps), labels))
        yield Publish("results", table(arms))

        training = yield from capture(task, known, good, task.train, label="training images, for the refit")
        yield Set("camera", "window", None)
        distillation, taught = task.bundle.recipe.distillation, task.bundle.teacher is not None
        by = "the teacher" if taught else "labels alone"
        yield Log(f"refitting the back end on {len(task.train)} captures, with {by}")
        with torch.no_grad():
            guidance = task.bundle.guide()(task.train.images) if taught else None
        refitted = refit_backend(
            student.backend, training.maps, task.train.labels, guidance,
            temperature=distillation.temperature, alpha=distillation.alpha, seed=self.seed,
        )  # fmt: skip
        arms.append(score("back end refitted on captures", answer(refitted, captures.maps), labels))
        yield Publish("results", table(arms))

        fidelity = encoder_fidelity(
            task.train.images[:2], good.deployment.kernels, good.deployment.layout, facts.geometry, self.encoder,
            levels=facts.slm_levels,
        )  # fmt: skip
        twin_r, pictures = _pictures(task, known, good, captures, raw_captures)
        return DemoResult(
            arms=tuple(arms),
            records=calibration.records,
            tile_r_uncalibrated=raw_captures.tile_r,
            tile_r_calibrated=captures.tile_r,
            twin_r=twin_r,
            efficiency=fidelity.efficiency,
            exposure_s=good.exposure_s,
            deployment=good.deployment.digest,
            report=ReportData(
                title=f"{task.model} on {facts.name}",
                summary=_summary(task, facts, good, captures, raw_captures, twin_r, fidelity.efficiency),
                table=table(arms),
                confusion={arm.name: [list(row) for row in arm.confusion] for arm in arms[-3:]},
                classes=list(task.test.classes),
                pictures=pictures,
            ),
        )


def _summary(
    task: Task,
    facts: BenchFacts,
    good: Deployed,
    captures: Captures,
    raw: Captures,
    twin_r: float,
    efficiency: float,
) -> str:
    return (
        f"{len(captures.maps)} test images ({task.data_source}), {len(good.deployment.kernels)} tiles in one frame by "
        f"the {good.deployment.encoder.name} encoder, {good.exposure_s * 1e3:.3g} ms exposure, "
        f"{100 * efficiency:.0f} % of the light in the tiles on an ideal bench. "
        f"Pearson r of the tiles against conv2d, mean (worst tile): uncalibrated {np.nanmean(raw.tile_r):.3f} "
        f"({np.nanmin(raw.tile_r):.3f}), calibrated {np.nanmean(captures.tile_r):.3f} "
        f"({np.nanmin(captures.tile_r):.3f}); captured maps against the twin's {twin_r:.3f}. "
        "Detection is paired: the optical layer is linear, it takes multiplications off the computer and adds no "
        "expressive power."
    )


@torch.no_grad()
def _pictures(
    task: Task, facts: BenchFacts, good: Deployed, captures: Captures, raw: Captures
) -> tuple[float, list[Picture]]:
    """Pictures of the report, and how well captures and twin agree."""
    deployment = good.deployment
    twin = Twin.from_facts(facts)
    shown = task.test.images[:4]
    predicted = (
        twin(deployment.pattern, shown[:, 0], deployment.layout, deployment.corner).clamp(min=0).sqrt()
        * deployment.scale[:, None, None]
    )
    wanted = expected_tiles(shown, deployment.kernels)
    predicted *= float(wanted.norm() / predicted.norm())
    half = len(predicted[0]) // 2
    maps = predicted[:, :half] - predicted[:, half:]
    agreement = pearson(captures.maps[: len(shown)], maps)
    digital = torch.nn.functional.conv2d(shown, task.kernels, padding=task.kernels.shape[-1] // 2)
    pictures = []
    nu = [torch.linspace(-0.5, 0.5, 65, dtype=torch.float64)] * 2
    masks = kernel_masks(task.kernels[:4, 0], nu[0], nu[1], (1.0, 1.0))
    for i, mask in enumerate(masks):
        row = f"map {i}"
        pictures += [
            Picture("kernel", "", "signed", task.kernels[i, 0].numpy(), "Kernels and masks", row),
            Picture("mask, amplitude", "", "amplitude", mask.abs().numpy(), "Kernels and masks", row),
            Picture("mask, phase", "", "phase", mask.angle().numpy() % (2 * np.pi), "Kernels and masks", row),
        ]
    middle = tuple(slice(n // 2 - 128, n // 2 + 128) for n in deployment.phase.shape)
    pictures += [
        Picture("gray pattern", "sent to the SLM", "gray", deployment.pattern[::2, ::2], "The SLM"),
        Picture("phase pattern", "middle 256 x 256 pixels", "phase", deployment.phase[middle], "The SLM"),
        Picture("calibrated", "last captured frame, all tiles", "intensity", captures.last, "The camera"),
        Picture("uncalibrated", "the same image", "intensity", raw.last, "The camera"),
    ]
    group = "Captured against predicted maps"
    for i in range(3):
        for m in (0, 1):
            limit = float(digital[i, m].abs().max())
            row = f"{task.test.classes[int(task.test.labels[i])]}, map {m}"
            panels = (
                ("conv2d", digital[i, m]), ("twin", maps[i, m]), ("captured", captures.maps[i, m]),
                ("captured - conv2d", captures.maps[i, m] - digital[i, m]), ("uncalibrated", raw.maps[i, m]),
            )  # fmt: skip
            pictures += [
                Picture(name, "", "signed", panel.numpy(), group, row, limits=(-limit, limit)) for name, panel in panels
            ]
    return float(agreement.nanmean()), pictures
