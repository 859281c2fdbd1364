"""Accuracies with their 95 % intervals, per run and over seeds; the content of metrics.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from labctl.errors import ModelError

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
    """How good a network is on n images.

    Attributes
    ----------
    measure
        What `accuracy` is: "accuracy", the share of right answers, or "mIoU", the mean over classes of intersection
        over union, every pixel of the split counted together.
    correct
        Right answers (absent for mIoU).
    interval95
        Wilson's for an accuracy; for mIoU from 1,000 bootstrap draws of the images.
    pixel_accuracy, class_iou
        Share of right pixels, and the IoU of each class, for mIoU.
    """

    n: int
    correct: int | None = None
    accuracy: Fraction
    interval95: tuple[float, float]
    measure: Literal["accuracy", "mIoU"] = "accuracy"
    pixel_accuracy: float | None = None
    class_iou: tuple[float, ...] | None = None

    @classmethod
    def of(cls, correct: int, n: int) -> Score:
        low, high = wilson(correct, n)
        return cls(n=n, correct=correct, accuracy=round(correct / n, 6), interval95=(round(low, 6), round(high, 6)))


class RunMetrics(_File):
    """One trained network: its seed, its scores on held-back training images, the test set and the shipped subset.

    `read_test` is the score on the test set through the camera of the recipe's [readout], where there is one.
    """

    seed: int
    validation: Score
    test: Score
    shipped_test: Score | None = None
    read_test: Score | None = None
    epochs: int
    seconds: float
    curve: list[tuple[int, float, float]]


class ArmMetrics(_File):
    """All runs of one arm of one student.

    Attributes
    ----------
    arm, variant
        How it was trained, and which of the recipe's students it is ("" is the recipe's own).
    detection, after_detection
        How its maps are read, and what electronics do to every value of them. Absent for the teacher.
    parameters
        Weights of the back end (of the whole network for the teacher).
    interval95
        Of the mean over seeds (Student's t), absent with one seed.
    """

    arm: str = ""
    variant: str = ""
    detection: str | None = None
    after_detection: str | None = None
    parameters: int | None = None
    runs: list[RunMetrics]
    mean_test: Fraction
    interval95: tuple[float, float] | None = None

    @classmethod
    def of(cls, runs: list[RunMetrics], **about: Any) -> ArmMetrics:
        values = [run.test.accuracy for run in runs]
        mean = sum(values) / len(values)
        interval = None
        if 2 <= len(values) <= len(_STUDENT_T_975) + 1:
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
            half = _STUDENT_T_975[len(values) - 2] * deviation / math.sqrt(len(values))
            interval = (round(mean - half, 6), round(mean + half, 6))
        return cls(runs=runs, mean_test=round(mean, 6), interval95=interval, **about)


@dataclass(frozen=True)
class MeasuredImages:
    """A data set as a bundle's networks were built for it: it need not be known on the machine that loads them."""

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    task: Literal["classification", "segmentation"]


class DataMetrics(_File):
    """What the figures were measured on, and what the networks must know of it to be built again.

    `shape` is (channels, y, x) as the networks see them.
    """

    name: str
    source: str
    train: int
    validation: int
    test: int
    train_sha256: str
    test_sha256: str
    shipped_test_sha256: str | None = None
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    task: Literal["classification", "segmentation"] = "classification"
    licence: str = ""

    def images(self) -> MeasuredImages | None:
        """What the networks must know of the set, where this file holds it."""
        if self.shape is None or self.classes is None:
            return None
        return MeasuredImages(self.shape, self.classes, self.task)


class Selected(_File):
    """The network whose weights the bundle holds, and by what it was chosen."""

    arm: str
    seed: int
    by: Literal["validation", "import"] = "validation"


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

    @property
    def measured(self) -> bool:
        """Whether the accuracy of the bundle's student is known."""
        return self.selected.arm in self.arms

    def chosen(self) -> RunMetrics:
        """The run whose weights are in the bundle.

        Raises
        ------
        ModelError
            Its accuracy was never measured: a network that was imported without an image set.
        """
        if not self.measured:
            raise ModelError("its accuracy was never measured: import it again, with --data SET")
        return next(run for run in self.arms[self.selected.arm].runs if run.seed == self.selected.seed)
