"""The display side of the mailbox: at its own pace, the newest frame, if there is one."""

from __future__ import annotations

import time
from typing import Protocol

from PySide6.QtCore import QObject, Qt, QTimer

from labctl.gui.guard import guarded
from labctl.gui.mailbox import Counts, Mailbox, Shot
from labctl.gui.rates import Rates

PERIOD_MS = 33
RUN_PERIOD_MS = 100
"""While a procedure has the bench: whoever aligns looks at the live view, and painting costs a fast run its time."""
COUNTS_PERIOD_S = 0.25


class Screen(Protocol):
    """What shows frames and counts."""

    def show_shot(self, shot: Shot) -> None: ...

    def show_counts(self, counts: Counts, captured_rate: float, shown_rate: float) -> None: ...


class Display(QObject):
    """Reads the mailbox on a timer of its own and hands what it finds to a screen."""

    def __init__(self, mailbox: Mailbox, screen: Screen, parent: QObject) -> None:
        super().__init__(parent)
        self._mailbox, self._screen = mailbox, screen
        self._rates = Rates()
        self._counted_at = 0.0
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(PERIOD_MS)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin to read."""
        self._timer.start()

    def spare(self, running: bool) -> None:
        """Look less often while a procedure runs."""
        period = RUN_PERIOD_MS if running else PERIOD_MS
        if self._timer.interval() != period:
            self._timer.setInterval(period)

    def stop(self) -> None:
        """Read no more."""
        self._timer.stop()

    @guarded()
    def _tick(self) -> None:
        shot = self._mailbox.take()
        if shot is not None:
            self._screen.show_shot(shot)
        now = time.monotonic()
        if now - self._counted_at >= COUNTS_PERIOD_S:
            self._counted_at = now
            counts = self._mailbox.counts()
            self._rates.add(now, counts)
            self._screen.show_counts(counts, *self._rates.value)
