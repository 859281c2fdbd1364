"""The one way from the hardware thread into the window: rare events as signals, in order, in batches.

Whoever is on another thread calls `Bridge.post`; it returns at once. Events wait in a deque, and one queued signal
wakes the GUI thread however many there are, so that a chatty engine cannot flood the event loop. Of `Progressed` only
the newest counts, ten times a second at most. Frames do not come this way: see `labctl.gui.mailbox`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from PySide6.QtCore import QObject, Qt, Signal

from labctl.gui.guard import guarded
from labctl.gui.status import Line, Outcome, Status
from labctl.runs.events import (
    Logged,
    Progressed,
    Prompted,
    Published,
    RunFinished,
    RunStarted,
    StateChanged,
)

log = logging.getLogger(__name__)
PROGRESS_PERIOD_S = 0.1


class Bridge(QObject):
    """Carries events into the thread that it lives in. Signals carry the event itself."""

    session = Signal(object)  # labctl.gui.status.Status
    state = Signal(object)  # StateChanged
    started = Signal(object)  # RunStarted
    progressed = Signal(object)  # Progressed
    published = Signal(object)  # Published
    prompted = Signal(object)  # Prompted
    finished = Signal(object)  # RunFinished
    outcome = Signal(object)  # labctl.gui.status.Outcome
    logged = Signal(object)  # Line
    _wake = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._lock = threading.Lock()
        self._events: deque[Any] = deque()
        self._progress: Progressed | None = None
        self._progress_at = float("-inf")
        self._awake = False
        self._closed = False
        self._wake.connect(self._drain, Qt.ConnectionType.QueuedConnection)

    def post(self, event: Any) -> None:
        """Hand over an event, from any thread. Returns at once; never raises."""
        with self._lock:
            if self._closed:
                return
            if isinstance(event, Progressed):
                self._progress = event
                if time.monotonic() - self._progress_at < PROGRESS_PERIOD_S and event.done < event.total:
                    return
            else:
                self._events.append(event)
            wake, self._awake = not self._awake, True
        if wake:
            try:
                self._wake.emit()
            except RuntimeError:  # Qt has deleted the bridge: the window is gone, and nobody is left to be told
                self.close()

    def close(self) -> None:
        """Deliver nothing from now on."""
        with self._lock:
            self._closed = True
            self._events.clear()
            self._progress = None

    @guarded()
    def _drain(self) -> None:
        with self._lock:
            events, self._events = list(self._events), deque()
            progress, self._progress = self._progress, None
            if progress is not None:
                self._progress_at = time.monotonic()
            self._awake = False
        # The newest progress is from the run under way, so it goes after that run's start and before its end.
        for event in events:
            if progress is not None and isinstance(event, RunFinished):
                self.progressed.emit(progress)
                progress = None
            self._deliver(event)
        if progress is not None:
            self.progressed.emit(progress)

    def _deliver(self, event: Any) -> None:
        match event:
            case StateChanged():
                self.state.emit(event)
            case RunStarted():
                self.started.emit(event)
            case Published():
                self.published.emit(event)
            case Prompted():
                self.prompted.emit(event)
            case RunFinished():
                self.finished.emit(event)
            case Logged():
                self.logged.emit(Line(event.text, event.level, "run"))
            case Line():
                self.logged.emit(event)
            case Status():
                self.session.emit(event)
            case Outcome():
                self.outcome.emit(event)
            case _:
                log.warning("no signal for an event of type %s", type(event).__name__)


class LogHandler(logging.Handler):
    """Sends records of the ``labctl`` loggers to the bridge."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._plain = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        """Post the record as one line (a traceback makes it several)."""
        try:
            line = Line(self._plain.format(record), record.levelname.lower(), record.name, record.created)
            self._bridge.post(line)
        except Exception:
            self.handleError(record)
