"""What a run tells: events to whoever watches, lines to the folder's log, counts to whoever asks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from labctl.clock import Clock
from labctl.errors import RunError
from labctl.runs import events
from labctl.runs.control import Control
from labctl.runs.events import Event
from labctl.runs.progress import Pace
from labctl.runs.store import RunFolder

log = logging.getLogger("labctl.runs.engine")
Observer = Callable[[Event], None]


class Telling:
    """One engine's voice; on the engine's thread only.

    Attributes
    ----------
    observer : callable or None
        Told every event. What it raises is logged and goes no further.
    folder : RunFolder or None
        Where lines are recorded.
    muted : bool
        Record nothing: what is told again has been recorded.
    done, total, repeated : int
        Exposures done, of those meant, and how many of them had to be repeated.
    """

    def __init__(self, control: Control, clock: Clock, observer: Observer | None) -> None:
        self.observer = observer
        self.folder: RunFolder | None = None
        self.muted = False
        self.done = self.total = self.repeated = 0
        self._control, self._clock = control, clock
        self._pace = Pace()

    def begin(self, folder: RunFolder | None, *, muted: bool) -> None:
        """A run begins."""
        self.folder, self.muted = folder, muted
        self.done = self.total = self.repeated = 0
        self._pace.restart(self._clock.now())

    def restart_pace(self) -> None:
        """Time passed that says nothing about the rate."""
        self._pace.restart(self._clock.now())

    def frame(self, event: events.Captured, *, captured: int, mismatches: int, label: str) -> None:
        """A frame has come, from the bench or from what was recorded."""
        self.done += 1
        self.repeated += event.frame.repeats > 0
        self.tell(event)
        self._pace.tick(self._clock.now())
        self.count(captured=captured, mismatches=mismatches, label=label)

    def count(self, *, captured: int, mismatches: int, label: str) -> None:
        """How far the run is."""
        total = max(self.total, self.done)
        saved = 0 if self.folder is None else self.folder.saved
        eta = self._pace.eta_s(total - self.done)
        self._control.update(
            done=self.done, total=total, captured=captured, saved=saved, repeated=self.repeated,
            mismatches=mismatches, eta_s=eta,
        )  # fmt: skip
        self.tell(events.Progressed(self.done, total, label, eta, saved))

    def say(self, text: str, level: str = "info") -> None:
        """A line for the log."""
        log.log(getattr(logging, level.upper(), logging.INFO), "%s", text)
        self.record("log", text=text, level=level)
        self.tell(events.Logged(text, level))

    def record(self, kind: str, **values: Any) -> None:
        """A line in the folder's event log. Losing one is no reason to lose the run; losing a frame is."""
        if self.folder is None or self.muted:
            return
        try:
            self.folder.event(kind, **values)
        except RunError as error:
            log.warning("%s", error)

    def tell(self, event: Event) -> None:
        """An event for whoever watches."""
        if self.observer is None:
            return
        try:
            self.observer(event)
        except Exception:  # whoever watches must not be able to break what is watched
            log.exception("an observer failed at %s", type(event).__name__)


def in_short(value: Any) -> Any:
    """A published value for the event log: pictures by their shape only."""
    if isinstance(value, np.ndarray) and value.size > 16:
        return {"shape": list(value.shape), "dtype": value.dtype.name}
    return value
