"""Ctrl-C as people expect it: once for a clean abort, twice for now."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from labctl.runs.control import STOPPABLE

if TYPE_CHECKING:
    from labctl.runs.engine import Engine

log = logging.getLogger(__name__)


@contextmanager
def interruptible(engine: Engine) -> Iterator[None]:
    """While inside, the first Ctrl-C aborts the run at the next frame boundary, the second one at once.

    With nothing running, or a run already ending, Ctrl-C is a `KeyboardInterrupt` as ever. Off the main thread this
    does nothing, because only the main thread may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if engine.snapshot().state not in STOPPABLE:
            raise KeyboardInterrupt
        log.warning("aborting; Ctrl-C again to drop everything")
        engine.abort()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
