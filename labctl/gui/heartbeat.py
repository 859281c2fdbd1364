"""How long the event loop was away: the figure behind "the interface never freezes"."""

from __future__ import annotations

import time

from PySide6.QtCore import QObject, Qt, QTimer

from labctl.gui.guard import guarded

PERIOD_MS = 5


class Heartbeat(QObject):
    """Notes the time between turns of the event loop, s. For measuring: it is off in daily use."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.gaps: list[float] = []
        self._last = 0.0
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(PERIOD_MS)
        self._timer.timeout.connect(self._beat)

    def start(self) -> None:
        """Measure from now on."""
        self.gaps.clear()
        self._last = time.perf_counter()
        self._timer.start()

    def stop(self) -> None:
        """Measure no more; `gaps` stays."""
        self._timer.stop()

    def quantile(self, share: float) -> float:
        """The gap, s, that this share of all gaps does not exceed; 0 if nothing was measured."""
        ordered = sorted(self.gaps)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    @guarded()
    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now
