"""Frames per second, from counts read now and then."""

from __future__ import annotations

from collections import deque

from labctl.gui.mailbox import Counts

WINDOW_S = 2.0


class Rates:
    """Captured and shown frames per second over the last two seconds."""

    def __init__(self) -> None:
        self._history: deque[tuple[float, Counts]] = deque()

    def add(self, now: float, counts: Counts) -> None:
        """Note the counts at a time, s. Counts that fall mean a new run: what was before is forgotten."""
        if self._history and counts.captured < self._history[-1][1].captured:
            self._history.clear()
        self._history.append((now, counts))
        while now - self._history[0][0] > WINDOW_S:
            self._history.popleft()

    @property
    def value(self) -> tuple[float, float]:
        """Captured and shown, 1/s; zeros until two readings lie apart."""
        (first, old), (last, new) = (self._history[0], self._history[-1]) if self._history else ((0, None), (0, None))
        if old is None or new is None or last - first < 0.2:
            return 0.0, 0.0
        return (new.captured - old.captured) / (last - first), (new.shown - old.shown) / (last - first)
