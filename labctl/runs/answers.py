"""The frames that answer a `Measure`, which may be looked at before all of them are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labctl.bench.frames import Frame
from labctl.procedures.messages import Measure


class Frames(Sequence[Frame]):
    """One frame for each exposure, in the order asked; each is waited for when it is looked at.

    Parameters
    ----------
    count : int
    wait_for : callable
        Waits until what it is given is true; raises what made that impossible.
    """

    def __init__(self, count: int, wait_for: Callable[[Callable[[], bool]], None]) -> None:
        self._frames: list[Frame | None] = [None] * count
        self._missing = count
        self._failure: BaseException | None = None
        self._wait_for = wait_for

    @property
    def awaited(self) -> bool:
        """Whether frames are still to come."""
        return self._missing > 0 and self._failure is None

    def put(self, position: int, frame: Frame) -> None:
        """A frame has come."""
        self._missing -= self._frames[position] is None
        self._frames[position] = frame

    def lose(self, failure: BaseException) -> None:
        """The frames that have not come yet never will."""
        if self._missing and self._failure is None:
            self._failure = failure

    def wait(self) -> None:
        """Wait for those that are still to come."""
        if self.awaited:
            self._wait_for(lambda: not self.awaited)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._frames[index] is None and self._failure is None:
            self._wait_for(lambda: self._frames[index] is not None or self._failure is not None)
        if self._frames[index] is None and self._failure is not None:
            raise self._failure
        return self._frames[index]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a shot's frame belongs.

    Attributes
    ----------
    batch : int
        Which `Measure` of the run.
    message : Measure
    frames : Frames
        The answer.
    """

    batch: int
    message: Measure
    frames: Frames
