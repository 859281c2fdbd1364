"""A procedure whose report holds one of everything, like the demo's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from runs_fakes import Pairs

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, now_iso
from labctl.procedures.messages import Log, Publish, Set, Steps
from labctl.procedures.report_data import Curve, Picture, ReportData

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
ARMS = {"teacher": 0.912, "student, simulated": 0.874, "uncalibrated": 0.231, "calibrated": 0.842, "refitted": 0.861}


@dataclass(frozen=True, eq=False)
class Shown:
    report: ReportData
    records: tuple[CalibrationRecord, ...]


@dataclass(frozen=True)
class Sample:
    """Takes a few frames and returns a report about much more."""

    seed: int = 0
    name: str = "demo"

    def exposures(self, facts: BenchFacts) -> int:
        return 6

    def steps(self, facts: BenchFacts) -> Steps[Shown]:
        yield Log("calibrating the bench")
        yield Set("laser", "power", 0.5)
        yield from Pairs().steps(facts)
        yield Log("eleven input pixels are dark: left out of the registration", "warning")
        yield Publish("accuracy", 0.861)
        return Shown(report(self.seed), records(facts.name))


def records(bench: str) -> tuple[CalibrationRecord, ...]:
    rng = np.random.default_rng(0)
    affine = np.array([[-1.602, 0.013, 1033.1], [-0.012, -1.599, 1288.7]])
    return (
        CalibrationRecord(
            "registration", bench, {"input_to_camera": affine}, {"input_to_camera": "px"},
            {"input_to_camera": np.full((2, 3), 0.0021)}, {"residual_px": 0.083, "r2": 0.99991}, now_iso(),
        ),
        CalibrationRecord(
            "gain", bench, {"gain": np.array(0.4127), "read_noise": np.array(2.61)},
            {"gain": "count/e-", "read_noise": "e-"}, {"gain": np.array(0.003)}, {"r2": 0.9987}, now_iso(),
        ),
        CalibrationRecord("dark", bench, {"offset": rng.normal(12, 1, (64, 64))}, {"offset": "count"}, taken=now_iso()),
    )  # fmt: skip


def report(seed: int = 0, size: int = 1024) -> ReportData:
    rng = np.random.default_rng(seed)
    pictures = []
    for k in range(4):
        mask = np.fft.fftshift(np.fft.fft2(np.pad(rng.normal(size=(7, 7)), ((0, 121), (0, 121)))))
        pictures.append(Picture(f"mask {k}", "amplitude", "amplitude", np.abs(mask), "Masks", f"mask {k}"))
        pictures.append(Picture(f"mask {k}", "phase", "phase", np.angle(mask), "Masks", f"mask {k}"))
    axis = np.linspace(-1, 1, size)
    yy, xx = np.meshgrid(axis, axis, indexing="ij")
    gray = ((np.sin(180 * xx + 60 * yy) * np.exp(-2 * (xx**2 + yy**2)) * 0.5 + 0.5) * 255).astype(np.uint8)
    pictures.append(Picture("pattern", "sent to the SLM", "gray", gray, "Shown and captured"))
    frame = (rng.poisson(40 + 900 * np.exp(-40 * ((xx - 0.3) ** 2 + (yy + 0.2) ** 2)))).astype(np.uint16)
    pictures.append(Picture("frame", "test image 17", "intensity", frame, "Shown and captured"))
    for k in range(3):
        captured = rng.normal(size=(28, 28)).cumsum(0).cumsum(1)
        predicted = captured + rng.normal(scale=2, size=(28, 28))
        edge = float(np.abs(captured).max())
        for name, data, limits in (
            ("captured", captured, (-edge, edge)), ("predicted", predicted, (-edge, edge)),
            ("difference", captured - predicted, None),
        ):  # fmt: skip
            row = f"map {k}, r = 0.99{k}"
            pictures.append(Picture(name, "", "signed", data, "Captured against predicted", row, "√counts", limits))
    confusion = {}
    for arm, share in ARMS.items():
        counts = np.zeros((10, 10), int)
        for i in range(10):
            off = rng.dirichlet(np.full(9, 0.4)) * (1 - share)
            counts[i] = rng.multinomial(50, np.insert(off, i, share))
        confusion[arm] = counts.tolist()
    table: list[dict[str, str | float]] = [
        {"arm": arm, "accuracy": s, "accuracy low": s - 0.03, "accuracy high": s + 0.028, "images": 500, "r": s / 0.9}
        for arm, s in ARMS.items()
    ]
    epochs = np.arange(1, 13)
    return ReportData(
        title="First light: Fashion-MNIST through a 4f bench",
        summary="Eight signed 7×7 maps of the distilled student, computed by light as sixteen tiles of one phase "
        "pattern. Calibration recovers most of what deployment loses; refitting the back end recovers more.",
        table=table, confusion=confusion, classes=CLASSES, pictures=pictures,
        curves=(
            Curve("training", epochs, 1.2 * np.exp(-epochs / 4) + 0.3, "epoch", "loss"),
            Curve("held out", epochs, 1.2 * np.exp(-epochs / 4) + 0.36, "epoch", "loss"),
        ),
    )  # fmt: skip
