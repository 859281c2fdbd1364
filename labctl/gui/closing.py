"""Closing while the hardware is at work: asked once, watched from the event loop, bounded in time."""

from __future__ import annotations

import logging
import time

from PySide6.QtCore import QObject, QTimer, Signal

from labctl.gui.guard import guarded
from labctl.gui.session import Session

log = logging.getLogger(__name__)
LIMIT_S = 10.0
POLL_MS = 40


class Closing(QObject):
    """Shuts a session down and says when that is over."""

    over = Signal()

    def __init__(self, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._since: float | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._look)

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._since is not None

    def begin(self) -> None:
        """Abort what runs, leave the bench safe, end the hardware thread. Returns at once."""
        self._since = time.monotonic()
        self._session.shutdown()
        self._timer.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.stop()

    @guarded()
    def _look(self) -> None:
        late = self._since is not None and time.monotonic() - self._since > LIMIT_S
        if late:
            log.error("the bench did not close within %.0f s: check the laser and the SLM by hand", LIMIT_S)
        if late or not self._session.alive:
            self._timer.stop()
            self.over.emit()
