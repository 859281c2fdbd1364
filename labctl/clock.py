"""Time as an argument: what waits, waits on a clock that it was given, so that tests and simulated benches drive it."""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """A monotonic time in seconds, and a way to let it pass."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never runs backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed on this clock; at once when `seconds` <= 0."""
        ...


def passes_by_itself(clock: Clock) -> bool:
    """Whether time goes on while nobody waits for it, so that it pays to do several things at once."""
    return isinstance(clock, RealClock | ScaledClock)


SPIN_S = 2e-3 if sys.platform == "win32" else 4e-4
"""The last part of a sleep is spent looking at the counter: a system wakes a sleeper by so much too late."""


class RealClock:
    """Wall time, from the monotonic counter. A sleep ends to some 0.01 ms, unless the machine is busy."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        if seconds > SPIN_S:
            time.sleep(seconds - SPIN_S)
        while time.perf_counter() < end:
            pass


class DrivenClock:
    """Simulated time: `sleep` advances it and returns at once. Safe to share between threads."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            with self._lock:
                self._now += seconds


class ScaledClock:
    """Wall time at a speed-up: `speed` of its seconds pass in one real second.

    Parameters
    ----------
    speed : float
        10 makes ten seconds pass in one; 0.1 is slow motion.
    real : Clock, optional
        What it is a multiple of; default wall time.

    Raises
    ------
    ValueError
        If `speed` is not positive and finite.
    """

    def __init__(self, speed: float, real: Clock | None = None) -> None:
        if not 0 < speed < float("inf"):
            raise ValueError(f"a clock's speed must be positive, not {speed:g}")
        self.speed = float(speed)
        self._real = real or RealClock()

    def now(self) -> float:
        return self._real.now() * self.speed

    def sleep(self, seconds: float) -> None:
        self._real.sleep(seconds / self.speed)
