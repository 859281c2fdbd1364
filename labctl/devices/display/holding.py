"""Who keeps a screen black after its owner died, and how the next owner sends them away.

By a file: it stands for the black window, and the next owner deletes it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path

from labctl.devices.display.finding import MonitorInfo

DESKTOP_LIMIT_S = 10.0
"""A black window that cannot be covered must not keep anyone from their desktop for longer."""


def hold_s(asked_s: float, *, desktop: bool) -> float:
    """How long to stay black, s."""
    return min(asked_s, DESKTOP_LIMIT_S) if desktop else asked_s


def mark(monitor: MonitorInfo) -> Path:
    """The file that stands for "a window of a dead owner keeps this monitor black"."""
    session = os.environ.get("DISPLAY", "")
    key = hashlib.blake2b("|".join((session, *monitor.identities)).encode(), digest_size=8).hexdigest()
    return user_cache_path("labctl", appauthor=False) / "displays" / f"{key}.black"


def take(monitor: MonitorInfo) -> Path:
    """Say that this process keeps the monitor black; it may go when the file has gone."""
    path = mark(monitor)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{os.getpid()}\n", encoding="utf-8")
    return path


def relieve(monitor: MonitorInfo) -> None:
    """Send whoever keeps the monitor black away: a new window covers it."""
    mark(monitor).unlink(missing_ok=True)
