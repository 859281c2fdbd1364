"""What a training tells while it goes on: where it stands, how long it will take, and every epoch that is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labctl.learning.checkpoint import EpochRecord


@dataclass(frozen=True)
class TrainProgress:
    """Where a training stands.

    Attributes
    ----------
    stage
        "teacher", "distilled seed 0", ...; `stage_index` of `stages`, from 0.
    epoch, epochs
        Epochs done and in all of this stage.
    fraction
        0..1 of the whole training, by estimated cost.
    loss
        Running training loss, nats.
    validation
        Last accuracy on held-back images, 0..1, or None.
    eta_s
        Seconds left, from the pace of this stage and of those like the ones to come; None until there is one.
    """

    stage: str
    stage_index: int
    stages: int
    epoch: int
    epochs: int
    fraction: float
    loss: float
    validation: float | None
    eta_s: float | None


@dataclass(frozen=True)
class DataRead:
    """The images are there: which set, the hash of its training split, and how many of each kind."""

    name: str
    source: str
    sha256: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class EpochDone:
    """One epoch of one network is done, and its checkpoint is on disk.

    Attributes
    ----------
    stage, group, seed
        As in `TrainProgress`; the arm as metrics.json names it, "VARIANT/ARM"; and its seed.
    epoch, epochs
        Which one, from 1, of how many.
    loss
        Mean training loss of the epoch, nats.
    validation
        Accuracy (or mIoU) on held-back images after it, 0..1.
    seconds
        Spent on this network until then, over all processes that worked on it one after the other.
    restored
        Taken from the checkpoint of a training that was cut off, not trained now.
    """

    stage: str
    group: str
    seed: int
    epoch: int
    epochs: int
    loss: float
    validation: float
    seconds: float
    restored: bool


Told = DataRead | EpochDone
Watch = Callable[[Told], None]


@dataclass(frozen=True)
class Stage:
    """One network to be fitted: its name, arm and seed; stages of one `kind` take equally long per epoch.

    `cost` is that of all its epochs, in a unit that all stages share.
    """

    name: str
    group: str
    seed: int
    kind: str
    cost: float
    epochs: int


class StageReporter:
    """What `fit` calls while it fits one stage."""

    def __init__(self, whole: Reporter, stage: Stage, index: int) -> None:
        self._whole, self._stage, self._index = whole, stage, index
        self._begun: tuple[float, float] | None = None

    def batch(self, epoch: int, part: float, loss: float, validation: float | None) -> None:
        """So many epochs done, this part (0..1) of the stage, the loss of a batch, the last validation."""
        now = self._whole.now()
        if self._begun is None:
            self._begun = (part, now)
        done = part - self._begun[0]
        if done > 0:
            self._whole.pace[self._stage.kind] = (now - self._begun[1]) / (done * self._stage.epochs)
        self._whole.tell(self._index, epoch, part, loss, validation)

    def epoch(self, record: EpochRecord, seconds: float, *, restored: bool) -> None:
        """An epoch is done and saved, or was found in a checkpoint; `seconds` as in `EpochDone`."""
        stage, number = self._stage, record.epoch + 1
        if restored and number:
            self._whole.pace[stage.kind] = seconds / number
        if self._whole.watch is not None:
            self._whole.watch(
                EpochDone(
                    stage.name,
                    stage.group,
                    stage.seed,
                    number,
                    stage.epochs,
                    record.loss,
                    record.validation,
                    seconds,
                    restored,
                )
            )


class Reporter:
    """Turns progress within stages into progress of the whole, with the time left.

    Parameters
    ----------
    stages
        All that will be fitted, in order.
    progress, watch
        Who is told of batches, and of epochs; None is nobody.
    now
        Seconds that only rise.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        progress: Callable[[TrainProgress], None] | None,
        watch: Watch | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.watch, self.now = watch, now
        self.pace: dict[str, float] = {}  # kind -> seconds per epoch, as last measured
        self._stages, self._progress = list(stages), progress
        self._total = sum(stage.cost for stage in stages)
        self._index = -1

    def stage(self) -> StageReporter:
        """The next stage's."""
        self._index += 1
        return StageReporter(self, self._stages[self._index], self._index)

    def tell(self, index: int, epoch: int, part: float, loss: float, validation: float | None) -> None:
        """Tell whoever looks at the progress."""
        if self._progress is None:
            return
        stage = self._stages[index]
        before = sum(earlier.cost for earlier in self._stages[:index])
        fraction = min(1.0, (before + part * stage.cost) / self._total)
        self._progress(
            TrainProgress(
                stage.name,
                index,
                len(self._stages),
                epoch,
                stage.epochs,
                fraction,
                loss,
                validation,
                self._left(index, part),
            )
        )

    def _left(self, index: int, part: float) -> float | None:
        """Seconds: by measured pace where one of its kind was measured, else by cost, at the mean pace so far."""
        kinds = {stage.kind: stage.cost / stage.epochs for stage in self._stages}
        known = [kind for kind in self.pace if kind in kinds]
        stage = self._stages[index]
        if stage.kind not in self.pace:
            return None
        per_cost = sum(self.pace[kind] for kind in known) / sum(kinds[kind] for kind in known)
        left = (1 - part) * stage.epochs * self.pace[stage.kind]
        for later in self._stages[index + 1 :]:
            left += later.epochs * self.pace.get(later.kind, per_cost * later.cost / later.epochs)
        return left
