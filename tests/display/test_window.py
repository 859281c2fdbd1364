"""The window's process from inside: what it does when its screen goes, and how long a dead owner's is black."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from labctl.devices.display import MonitorInfo, holding

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
MONITOR = MonitorInfo("HDMI-1", "HOLOEYE", "PLUTO", "6010", 1920, 0, 1920, 1080)


class Answers:
    """In the place of the pipe to the owner."""

    def __init__(self) -> None:
        from PySide6.QtCore import QObject, Signal

        class Source(QObject):
            arrived = Signal(str)
            ended = Signal()

        self.source = Source()
        self.arrived, self.ended = self.source.arrived, self.source.ended
        self.said: list[dict[str, Any]] = []

    def say(self, event: str, **values: Any) -> None:
        self.said.append({"event": event, **values})


def test_a_monitor_that_is_unplugged_is_lost_and_shows_no_pattern_elsewhere(qapp: Any) -> None:
    from labctl.devices.display.window import Server, described

    screen = qapp.primaryScreen()
    answers = Answers()
    place = described(screen).geometry
    server = Server(answers, {"monitor": place, "allow_primary": True, "desktop": "", "hold_black_s": 1.0})
    try:
        assert answers.said[-1]["monitor"]["primary"]
        server._screen_removed(None)
        assert answers.said[-1]["event"] == "monitor"
        qapp.screenRemoved.emit(screen)
        assert answers.said[-1]["event"] == "lost"
        assert "unplugged" in answers.said[-1]["message"]
        answers.arrived.emit('{"do": "show", "n": 1, "slot": 1}')
        assert answers.said[-1]["event"] == "failed"
    finally:
        server._watch.stop()
        server.deleteLater()


def test_nothing_lies_over_a_pattern(qapp: Any) -> None:
    """No frame, nobody above, no cursor."""
    from PySide6.QtCore import Qt

    from labctl.devices.display.window import PatternWindow

    window = PatternWindow(qapp.primaryScreen())
    assert window.cursor().shape() is Qt.CursorShape.BlankCursor
    assert window.flags() & Qt.WindowType.FramelessWindowHint
    assert window.flags() & Qt.WindowType.WindowStaysOnTopHint
    assert window.flags() & Qt.WindowType.WindowDoesNotAcceptFocus
    window.destroy()


def test_black_is_held_for_as_long_as_asked_but_not_over_the_desktop() -> None:
    assert holding.hold_s(3600.0, desktop=False) == 3600.0
    assert holding.hold_s(3600.0, desktop=True) == holding.DESKTOP_LIMIT_S
    assert holding.hold_s(1.0, desktop=True) == 1.0


def test_the_next_owner_of_a_monitor_relieves_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    held = holding.take(MONITOR)
    assert held.is_file()
    assert Path(os.environ["XDG_CACHE_HOME"]) in held.parents
    holding.relieve(MonitorInfo("HDMI-2"))
    assert held.is_file()
    monkeypatch.setenv("DISPLAY", ":elsewhere")
    holding.relieve(MONITOR)
    assert held.is_file()
    monkeypatch.delenv("DISPLAY")
    assert holding.mark(MONITOR) == held
    holding.relieve(MONITOR)
    assert not held.exists()
