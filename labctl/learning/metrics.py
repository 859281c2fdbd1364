"""Accuracies with their 95 % intervals, per run and over seeds; the content of metrics.json."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]

_STUDENT_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of an accuracy of `correct` out of `n` images (Wilson 1927, score interval)."""
    if n < 1:
        return 0.0, 1.0
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_File):
    """Correct answers on n images, and the Wilson 95 % interval of the accuracy (images as the sample)."""

    n: int
    correct: int
    accuracy: Fraction
    interval95: tuple[float, float]

    @classmethod
    def of(cls, correct: int, n: int) -> Score:
        low, high = wilson(correct, n)
        return cls(n=n, correct=correct, accuracy=round(correct / n, 6), interval95=(round(low, 6), round(high, 6)))


class RunMetrics(_File):
    """One trained network: its seed, its scores on held-back training images, the test set and the shipped subset."""

    seed: int
    validation: Score
    test: Score
    shipped_test: Score | None = None
    epochs: int
    seconds: float
    curve: list[tuple[int, float, float]]


class ArmMetrics(_File):
    """All runs of one arm. `interval95` is of the mean over seeds (Student's t), absent with one seed."""

    runs: list[RunMetrics]
    mean_test: Fraction
    interval95: tuple[float, float] | None = None

    @classmethod
    def of(cls, runs: list[RunMetrics]) -> ArmMetrics:
        values = [run.test.accuracy for run in runs]
        mean = sum(values) / len(values)
        interval = None
        if 2 <= len(values) <= len(_STUDENT_T_975) + 1:
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
            half = _STUDENT_T_975[len(values) - 2] * deviation / math.sqrt(len(values))
            interval = (round(mean - half, 6), round(mean + half, 6))
        return cls(runs=runs, mean_test=round(mean, 6), interval95=interval)


class DataMetrics(_File):
    """What the figures were measured on."""

    name: str
    source: str
    train: int
    validation: int
    test: int
    train_sha256: str
    test_sha256: str
    shipped_test_sha256: str | None = None


class Selected(_File):
    """The network whose weights the bundle holds, and by what it was chosen."""

    arm: str
    seed: int
    by: Literal["validation"] = "validation"


class Metrics(_File):
    """metrics.json: every arm with its seeds and intervals, the chosen student, MACs, and what made them."""

    format: Literal[1] = 1
    recipe_sha256: str
    detection: str
    data: DataMetrics
    selected: Selected
    arms: dict[str, ArmMetrics]
    macs: dict[str, int]
    made_with: dict[str, str]

    def chosen(self) -> RunMetrics:
        """The run whose weights are in the bundle."""
        return next(run for run in self.arms[self.selected.arm].runs if run.seed == self.selected.seed)
