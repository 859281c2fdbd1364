"""Starting the process that Qt's windows live in: its environment, its pipes, and what it said when it died."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

WINDOW_MODULE = "labctl.devices.display.window"
_SCALING = ("QT_SCREEN_SCALE_FACTORS", "QT_ENABLE_HIGHDPI_SCALING", "QT_FONT_DPI", "QT_USE_PHYSICAL_DPI")


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the window's process: one pixel of the window is one pixel of the monitor.

    Parameters
    ----------
    base : mapping, optional
        Default: this process's.
    """
    env = {name: value for name, value in (os.environ if base is None else base).items() if name not in _SCALING}
    for name in ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"):
        if "cv2" in Path(env.get(name, "")).parts:  # `import cv2` points Qt to plugins of a Qt that is not PySide's
            del env[name]
    return env | {"QT_ENABLE_HIGHDPI_SCALING": "0", "QT_SCALE_FACTOR": "1", "QT_AUTO_SCREEN_SCALE_FACTOR": "0"}


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the window's process, with a pipe for each of its streams.

    It is out of reach of this terminal's Ctrl-C and hang-up: it has to outlive us to keep the screen black.
    """
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return subprocess.Popen(
        [sys.executable, "-m", WINDOW_MODULE, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment(), **apart,
    )  # fmt: skip


def why(said: Sequence[str]) -> str:
    """The line of a dead process's errors that tells most: Python's last one, or Qt's first one."""
    lines = [line.strip() for line in said if line.strip()]
    if not lines:
        return "it said nothing"
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else lines[0]


class LineReader(threading.Thread):
    """Hands each line of a stream to a callable, and says when the stream has ended."""

    def __init__(self, stream: IO[bytes], take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        super().__init__(name="display link", daemon=True)
        self._stream, self._take, self._ended = stream, take, ended

    def run(self) -> None:
        """Until the stream ends."""
        try:
            for line in iter(self._stream.readline, b""):
                self._take(line)
        except (OSError, ValueError):  # closed under our hands
            pass
        finally:
            self._ended()


class Complaints:
    """The last lines that a process wrote to its standard error."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.lines: deque[str] = deque(maxlen=40)
        self.reader = LineReader(stream, self._take, lambda: None)
        self.reader.start()

    def _take(self, line: bytes) -> None:
        self.lines.append(line.decode("utf-8", "replace"))
