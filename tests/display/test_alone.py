"""The window's process on its own: nothing that happens to its owner delays, changes or frees a pattern."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.devices.display import Display, link
from labctl.errors import DeviceError

pytestmark = pytest.mark.xserver
Open = Callable[..., Display]
Start = Callable[..., Any]
WHITE = np.full((300, 500), 255)
BLACK = np.zeros((300, 500))


def level(number: int) -> np.ndarray:
    return np.full((300, 500), number, np.uint8)


@pytest.mark.parametrize("seconds", [0.5, pytest.param(5.0, marks=pytest.mark.slow)])
def test_a_process_that_holds_pythons_lock_delays_no_swap(small: Any, opened: Open, seconds: float) -> None:
    display = opened()
    sent = time.perf_counter()
    display.set_phase(level(9), block=False)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # a call that does not give the lock back
    freed = time.perf_counter()
    swap = display.wait()
    assert freed - sent >= seconds
    assert swap is not None
    assert swap.at_s - sent < seconds / 2
    assert small.shows(level(9))


def test_a_stopped_owner_keeps_its_pattern_and_gets_the_one_it_had_sent(small: Any, opened: Open, owner: Start) -> None:
    one = owner(
        "display.set_phase(level(50))\nsay('first')\nsys.stdin.readline()\n"
        "display.set_phase(level(60), block=False)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
        "display.set_phase(level(70))\nsay('on')\nsys.stdin.readline()\n"
    )
    assert one.hear() == "first"
    assert small.shows(level(50))
    one.tell("go")
    assert small.comes_to_show(level(60))
    assert small.until(lambda: one.state() == "T")
    # Something covers the pattern and goes: its window draws it again, whoever is stopped.
    other = opened()
    assert small.shows(BLACK)
    other.close()
    assert small.comes_to_show(level(60))
    assert one.state() == "T"
    one.process.send_signal(signal.SIGCONT)
    assert one.hear() == "on"
    assert small.shows(level(70))


def test_a_killed_owner_leaves_the_screen_black_until_the_next_one_comes(
    small: Any, opened: Open, owner: Start
) -> None:
    one = owner("display.set_phase(level(50))\nsay('on')\nsys.stdin.readline()\n")
    assert one.hear() == "on"
    assert small.shows(level(50))
    one.process.kill()
    assert small.comes_to_show(BLACK)
    assert one.window_state() != "Z"
    display = opened()
    display.set_phase(level(80))
    assert small.until(lambda: one.window_state() == "Z")
    assert small.shows(level(80))


def test_black_ends_when_its_time_is_over(small: Any, owner: Start) -> None:
    one = owner("display.set_phase(level(50))\nsay('on')\nsys.stdin.readline()\n", hold_black_s=0.2)
    assert one.hear() == "on"
    one.process.kill()
    assert small.until(lambda: one.window_state() == "Z")
    assert small.comes_to_show(WHITE)


def test_black_ends_when_someone_clicks_three_times(small: Any, owner: Start, pointer: Any) -> None:
    one = owner("display.set_phase(level(50))\nsay('on')\nsys.stdin.readline()\n")
    assert one.hear() == "on"
    pointer(100, 100, clicks=3)  # not while its owner lives
    one.process.kill()
    assert small.comes_to_show(BLACK)
    assert one.window_state() != "Z"
    pointer(100, 100, clicks=3)
    assert small.until(lambda: one.window_state() == "Z")


def test_black_though_a_fork_of_the_dead_owner_keeps_the_pipe_open(small: Any, owner: Start) -> None:
    one = owner(
        "display.set_phase(level(50))\nfork = os.fork()\n"
        "if fork == 0:\n    signal.pause()\nsay(fork)\nsys.stdin.readline()\n"
    )
    fork = int(one.hear())
    try:
        one.process.kill()
        assert small.comes_to_show(BLACK)
    finally:
        os.kill(fork, signal.SIGKILL)


@pytest.mark.parametrize("ending", [pytest.param("", marks=pytest.mark.slow), "raise ValueError\n"])
def test_an_owner_that_ends_by_itself_takes_its_window_along(small: Any, owner: Start, ending: str) -> None:
    one = owner("display.set_phase(level(50))\nsay('on')\n" + ending)
    assert one.hear() == "on"
    one.process.wait(30)
    assert small.until(lambda: one.window_state() == "Z")
    assert small.comes_to_show(WHITE)


def test_ctrl_c_in_the_terminal_does_not_reach_the_window(small: Any, opened: Open) -> None:
    display = opened()
    assert os.getpgid(display._link.pid) != os.getpgid(0)
    assert os.getsid(display._link.pid) != os.getsid(0)


def test_a_window_whose_process_died_is_one_line_and_closes(small: Any, opened: Open) -> None:
    display = opened()
    os.kill(display._link.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(DeviceError, match="display 'screen': its window's process has ended") as lost:
            display.set_phase(level(1))
        assert "\n" not in str(lost.value)
    display.close()
    with pytest.raises(DeviceError, match="open the bench again"):
        display.set_phase(level(1))


def test_what_others_print_into_the_answers_is_passed_over(small: Any, opened: Open) -> None:
    display = opened()
    for line in (b"hello\n", b"12\n", b"{}\n"):
        display._link._take(line)
    display.set_phase(level(3))
    assert small.shows(level(3))


def test_a_hanging_window_is_given_up_in_time(small: Any, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CLOSE_LIMIT_S", 0.3)
    display = opened(timeout_s=0.3)
    os.kill(display._link.pid, signal.SIGSTOP)
    with pytest.raises(DeviceError, match=r"no swap within 0\.3 s"):
        display.set_phase(level(1))
    started = time.perf_counter()
    display.close()
    assert time.perf_counter() - started < 3.0


def test_an_x_server_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    if (program := shutil.which("Xvfb")) is None:
        pytest.skip("Xvfb is missing: apt install xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writing), "-screen", "0", "320x200x24", "-nolisten", "tcp"],
        pass_fds=[writing], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="ascii") as answer:
            monkeypatch.setenv("DISPLAY", f":{answer.readline().strip()}")
        monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
        display = opened(allow_primary=True)
        display.set_phase(np.zeros((200, 320), np.uint8))
    finally:
        server.kill()
        server.wait(10)
    with pytest.raises(DeviceError, match=r"display 'screen': its window's process has ended \(.*X11 connection broke"):
        display.set_phase(np.ones((200, 320), np.uint8))


def test_a_monitor_that_changes_its_mode_is_lost(small: Any, opened: Open) -> None:
    if (program := shutil.which("xrandr")) is None:
        pytest.skip("xrandr is missing: apt install x11-xserver-utils")

    def mode(*words: str) -> None:
        subprocess.run([program, *words], check=True, stderr=subprocess.DEVNULL)

    display = opened("640x480+0+0", allow_primary=True)
    mode("--newmode", "less", "12", "320", "330", "340", "350", "240", "242", "244", "250")
    mode("--addmode", "screen", "less")
    try:
        mode("--output", "screen", "--mode", "less")
        assert small.until(lambda: display._link._lost != "")
        with pytest.raises(DeviceError, match="its monitor has changed from 640x480 to 320x240") as lost:
            display.set_phase(np.zeros((480, 640), np.uint8))
        assert "\n" not in str(lost.value)
    finally:
        mode("--output", "screen", "--mode", "640x480")
        mode("--delmode", "screen", "less")
        mode("--rmmode", "less")


@pytest.mark.parametrize("times", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_opening_and_closing_leaves_nothing(small: Any, times: int) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    Display("screen", pitch_um=8.0).close()  # what is started once, such as the tracker of shared memory, is started
    before = held()
    for number in range(times):
        display = Display("screen", pitch_um=8.0)
        display.set_phase(level(number))
        window, memory = display._link.pid, Path("/dev/shm", display._link._memory.name)
        assert memory.exists()
        display.close()
        display.close()
        assert not memory.exists()
        assert not Path(f"/proc/{window}").exists()
    assert held() == before


def test_a_refused_display_leaves_nothing(small: Any) -> None:
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for options in ({"resolution": [10, 10]}, {"lut": [1.0, 2.0]}, {"allow_primary": True}):
        with pytest.raises(Exception, match="display"):
            Display("screen", pitch_um=8.0, **options)  # type: ignore[arg-type]
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before
