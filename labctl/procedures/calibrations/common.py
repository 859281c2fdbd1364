"""What the calibrations share: making a record, and the plainest patterns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, now_iso
from labctl.procedures.exposing import gray, square
from labctl.procedures.messages import Gray


def record(kind: str, facts: BenchFacts, values: dict[str, tuple[object, str]], **more: object) -> CalibrationRecord:
    return CalibrationRecord(
        kind=kind,
        bench=facts.name,
        values={name: np.asarray(value) for name, (value, _) in values.items()},
        units={name: unit for name, (_, unit) in values.items()},
        taken=now_iso(),
        bench_digest=facts.digest,
        devices=dict(facts.devices),
        sections=dict(facts.sections),
        **more,  # type: ignore[arg-type]
    )


def seen_square(facts: BenchFacts, shown: Gray, side_px: int) -> tuple[NDArray[np.float64], int]:
    """Where a square of the panel is seen through a flat SLM (camera px), and half the room it takes with its blur."""
    affine = facts.calibration("registration")["input_to_camera"]
    middle = affine[:, :2] @ np.argwhere(shown).mean(0) + affine[:, 2]
    return middle, int(0.75 * side_px * np.abs(affine[:, :2]).max())


def flat(facts: BenchFacts) -> Gray:
    return gray(facts, np.zeros(facts.geometry.slm.shape, np.float32))


def black(facts: BenchFacts) -> Gray:
    return square(facts, 0)
