"""How far a run is, and how long it will still take."""

from __future__ import annotations

from collections import deque

WINDOW = 40
"""Frames over which the rate is taken: long enough to be steady, short enough to follow a change of pace."""


class Pace:
    """The rate of the last frames. Times are in seconds on the engine's clock."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=WINDOW + 1)

    def restart(self, now: float) -> None:
        """Forget what was; used at the start and after a pause, which says nothing about the rate."""
        self._times.clear()
        self._times.append(now)

    def tick(self, now: float) -> None:
        """One more frame is done."""
        self._times.append(now)

    def eta_s(self, left: int) -> float | None:
        """Seconds that `left` frames will take, or None while too few have been seen."""
        if left <= 0:
            return 0.0
        if len(self._times) < 3:
            return None
        return left * (self._times[-1] - self._times[0]) / (len(self._times) - 1)
