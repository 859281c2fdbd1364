"""A line from the keyboard, if one comes in time."""

from __future__ import annotations

import select
import sys
import threading

LOOK_S = 0.02
"""On Windows the keyboard is looked at so often."""


def line_within(seconds: float) -> str | None:
    """What is typed before Enter, without it; None if Enter does not come in time.

    Standard input must be a terminal. What was typed without Enter is kept for the next call.

    Raises
    ------
    EOFError
        If nothing will come any more.
    """
    if sys.platform == "win32":
        return _windows_line_within(seconds)
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ready:
        return None
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


_typed: list[str] = []


def _windows_line_within(seconds: float) -> str | None:
    import importlib

    keyboard = importlib.import_module("msvcrt")
    never = threading.Event()
    for _ in range(max(1, round(seconds / LOOK_S))):
        while keyboard.kbhit():
            key = keyboard.getwche()
            if key == "\x03":
                raise KeyboardInterrupt
            if key in "\r\n":
                line = "".join(_typed)
                _typed.clear()
                return line.strip()
            if key == "\b":
                _typed[-1:] = []
            else:
                _typed.append(key)
        never.wait(LOOK_S)
    return None
