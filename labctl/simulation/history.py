"""What a device did, and when: so that a frame exposed in the past shows the light of then."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

State = TypeVar("State")
KEPT = 16
"""Changes that are remembered; a frame in flight is younger than that many patterns."""


@dataclass(frozen=True, eq=False)
class Entry(Generic[State]):
    """A state, the one it came from, since when (s), and how many changes there were before it."""

    state: State
    before: State
    since: float
    serial: int


class History(Generic[State]):
    """The last states of one device. Safe to share between threads."""

    def __init__(self, state: State) -> None:
        self._entries: deque[Entry[State]] = deque([Entry(state, state, -1e9, 0)], maxlen=KEPT)
        self._lock = threading.Lock()

    def change(self, state: State, since: float) -> None:
        """A new state from `since` on; a change cannot overtake the one before it."""
        with self._lock:
            last = self._entries[-1]
            self._entries.append(Entry(state, last.state, max(since, last.since), last.serial + 1))

    @property
    def latest(self) -> State:
        """The state commanded last, whether or not it has begun."""
        return self._entries[-1].state

    def at(self, when: float) -> Entry[State]:
        """The entry of that time; the oldest that is remembered for times before it."""
        with self._lock:
            return next((entry for entry in reversed(self._entries) if entry.since <= when), self._entries[0])

    def changes(self, start: float, end: float) -> list[float]:
        """Times of the changes strictly between `start` and `end`."""
        with self._lock:
            return [entry.since for entry in self._entries if start < entry.since < end]


def steady(start: float, end: float, histories: Iterable[History[Any]]) -> list[tuple[float, float]]:
    """The stretches of ``start ... end`` within which none of the devices changes, in order."""
    times = {start, end, *(time for history in histories for time in history.changes(start, end))}
    return list(pairwise(sorted(times))) or [(start, end)]
