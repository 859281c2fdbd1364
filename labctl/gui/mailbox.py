"""Frames on their way to the screen: one slot, the newest wins, and nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labctl.bench.frames import Frame
from labctl.procedures.messages import Gray


@dataclass(frozen=True, eq=False)
class Shot:
    """What the display needs of one captured frame.

    Attributes
    ----------
    frame : Frame
    slm, input : unsigned integer array [row, column], or None
        Gray levels last commanded; None when nothing was commanded yet.
    tag : mapping
        What the frame is for.
    """

    frame: Frame
    slm: Gray | None = None
    input: Gray | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Frames since the run, or the live view, began; `dropped` counts those that the display never showed."""

    captured: int = 0
    saved: int = 0
    shown: int = 0
    dropped: int = 0


class Mailbox:
    """One slot between the hardware thread and the display. An unread shot is dropped, and counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot: Shot | None = None
        self._captured = self._saved = self._shown = self._dropped = 0

    def put(self, shot: Shot) -> None:
        """Leave the newest shot; one that is still unread is dropped."""
        with self._lock:
            if self._slot is not None:
                self._dropped += 1
            self._slot = shot
            self._captured += 1

    def take(self) -> Shot | None:
        """The newest unread shot, once; None when there is none."""
        with self._lock:
            shot, self._slot = self._slot, None
            if shot is not None:
                self._shown += 1
            return shot

    def saved(self, count: int) -> None:
        """What the engine says is on disk."""
        with self._lock:
            self._saved = count

    def counts(self) -> Counts:
        """All four counts, consistent with each other; the unread shot is neither shown nor dropped yet."""
        with self._lock:
            return Counts(self._captured, self._saved, self._shown, self._dropped)

    def reset(self) -> None:
        """Start counting anew, and forget an unread shot."""
        with self._lock:
            self._slot = None
            self._captured = self._saved = self._shown = self._dropped = 0
