"""X servers with two screens whose frame buffers lie in files: what a test reads there is what a monitor would show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.devices.display import Display

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 15.0


@dataclass(frozen=True)
class Screens:
    """An X server. Its root windows are white, so that black is somebody's doing."""

    display: str
    folder: Path

    def pixels(self, number: int) -> np.ndarray:
        """Red, green and blue of a screen now: uint8 [row, column, 3]."""
        raw = np.memmap(self.folder / f"Xvfb_screen{number}", np.uint8, "r")
        header = raw[:100].view(">u4")  # of an X window dump: see XWDFile.h
        size, width, height, stride, colours = (int(header[n]) for n in (0, 4, 5, 12, 19))
        start = size + 12 * colours
        rows = raw[start : start + height * stride].reshape(height, stride)[:, : 4 * width]
        return np.array(rows.reshape(height, width, 4)[..., 2::-1])

    def shows(self, pattern: Any, number: int = 1) -> bool:
        """Whether every pixel of a screen has this gray level in red, green and blue."""
        return bool((self.pixels(number) == np.asarray(pattern)[..., None]).all())

    def comes_to_show(self, pattern: Any, number: int = 1) -> bool:
        """Whether it comes to show it in time."""
        return self.until(lambda: self.shows(pattern, number))

    @staticmethod
    def until(look: Callable[[], bool]) -> bool:
        """Whether something becomes true in time."""
        until = time.monotonic() + WAIT_S
        pause = threading.Event()
        while not look():
            if time.monotonic() > until:
                return False
            pause.wait(0.01)
        return True


def _server(folder: Path, first: str, second: str) -> Iterator[Screens]:
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("Xvfb is missing: apt install xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writing), "-screen", "0", first, "-screen", "1", second, "-wr", "-noreset",
         "-nolisten", "tcp", "-fbdir", str(folder)],
        pass_fds=[writing], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="ascii") as answer:
            number = answer.readline().strip()
        assert number, "Xvfb did not start"
        yield Screens(f":{number}", folder)
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def large_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screens]:
    yield from _server(tmp_path_factory.mktemp("large"), "1920x1080x24", "1920x1080x24")


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screens]:
    """The first screen is 640x480, the second 500x300."""
    yield from _server(tmp_path_factory.mktemp("small"), "640x480x24", "500x300x24")


@pytest.fixture
def large(large_server: Screens, monkeypatch: pytest.MonkeyPatch) -> Screens:
    monkeypatch.setenv("DISPLAY", large_server.display)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    return large_server


@pytest.fixture
def small(small_server: Screens, monkeypatch: pytest.MonkeyPatch) -> Screens:
    monkeypatch.setenv("DISPLAY", small_server.display)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    return small_server


@pytest.fixture
def pointer(small: Screens) -> Iterator[Callable[..., None]]:
    """Moves the pointer of the small server to a place on its second screen, and clicks; takes it away afterwards."""
    if (program := shutil.which("xdotool")) is None:
        pytest.skip("xdotool is missing: apt install xdotool")

    def move(x: int, y: int, *, screen: int = 1, clicks: int = 0) -> None:
        click = ["click", "--repeat", str(clicks), "1"] if clicks else []
        subprocess.run(
            [program, "mousemove", "--screen", str(screen), str(x), str(y), *click], check=True, timeout=20
        )  # fmt: skip

    yield move
    move(10, 10, screen=0)


@pytest.fixture
def opened() -> Iterator[Callable[..., Display]]:
    """Opens displays and closes them after the test."""
    displays: list[Display] = []

    def make(monitor: str = "screen", **options: Any) -> Display:
        displays.append(Display(monitor, **{"pitch_um": 8.0} | options))
        return displays[-1]

    yield make
    for display in displays:
        display.close()


class Owner:
    """A process of its own that opens a display on the second screen, and does what the test's script says."""

    def __init__(self, script: str, hold_black_s: float) -> None:
        head = (
            "import os, signal, sys\nimport numpy as np\nimport labctl.devices.adapter\n"
            "from labctl.devices.display import Display\n"
            f"display = Display('screen', pitch_um=8.0, hold_black_s={hold_black_s})\n"
            "def level(n): return np.full(display.shape, n, np.uint8)\n"
            "def say(text): sys.stdout.write(f'{text}\\n'); sys.stdout.flush()\n"
            "say(display._link.pid)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + script],
            stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.window = int(self.hear())

    def hear(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, text: str) -> None:
        """A line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def state(self) -> str:
        """T when it is stopped."""
        return _state(self.process.pid)

    def window_state(self) -> str:
        """Z when the window's process is dead."""
        return _state(self.window)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdout, self.process.stdin):
            assert stream is not None
            stream.close()


def _state(pid: int) -> str:
    """The state letter of a process; Z once it is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.fixture
def owner() -> Iterator[Callable[..., Owner]]:
    started: list[Owner] = []

    def make(script: str, hold_black_s: float = 60.0) -> Owner:
        started.append(Owner(script, hold_black_s))
        return started[-1]

    yield make
    for one in started:
        one.end()
        # Whoever holds the screen black for a dead owner goes when the next one comes.
        if one.window_state() != "Z":
            Display("screen", pitch_um=8.0).close()
            assert Screens.until(lambda one=one: one.window_state() == "Z")
