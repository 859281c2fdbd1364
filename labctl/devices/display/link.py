"""This process's end of a display: shared memory for patterns, a pipe of short messages, answers with the swap's time.

Two processes' ``time.perf_counter`` need not count from the same zero, and ``time.monotonic`` moves in steps of
15.6 ms on Windows before Python 3.13. So both sides use ``perf_counter_ns``, the clock of `labctl.clock.RealClock`, and
the link measures the offset at opening: of `PINGS` questions, the one answered fastest bounds the offset to half its
round trip. Both counters tick from the same hardware, so the offset stays.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.devices.display.child import Complaints, LineReader, start, why
from labctl.devices.display.finding import MonitorInfo
from labctl.devices.display.listing import no_window_system
from labctl.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)
SLOTS = 2
"""Patterns in shared memory: one being written here while the other is drawn there."""
PINGS = 16
OPEN_LIMIT_S = 30.0
CLOSE_LIMIT_S = 2.0


@dataclass(frozen=True)
class Swap:
    """A pattern that has reached the screen's buffer.

    Attributes
    ----------
    number : int
        Of the pattern, counted from 1.
    at_s : float
        When the window system had it, on this process's ``time.perf_counter``, s. Scan-out follows with the monitor's
        next refresh.
    uncertainty_s : float
        Of `at_s`, from the comparison of the two processes' clocks, s.
    round_trip_s : float
        From the call to the answer, s.
    """

    number: int
    at_s: float
    uncertainty_s: float
    round_trip_s: float


class WindowLink:
    """A window's process, from opening to closing.

    Parameters
    ----------
    request : mapping
        What the process is asked for: ``monitor``, ``allow_primary``, ``desktop``, ``hold_black_s``.
    pixel_bytes : 1 or 4
        Bytes per pixel in shared memory: gray, or blue, green, red and a fourth that is ignored.
    timeout_s : float
        How long one swap may take, s.
    fits : callable
        Told the monitor before its window appears; raises what is wrong with it.

    Raises
    ------
    ConfigError, DeviceError
        If the window cannot be opened: one line, with the monitors that there are where that helps.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        *,
        pixel_bytes: int,
        timeout_s: float,
        fits: Callable[[MonitorInfo], None] = lambda _: None,
    ) -> None:
        self._label = str(request["monitor"])
        self._timeout_s = timeout_s
        self._news = threading.Condition()
        self._events: dict[str, dict[str, Any]] = {}
        self._swaps: dict[int, dict[str, Any]] = {}
        self._asked: dict[int, int] = {}
        self._last = self._answered = 0
        self._lost = ""
        self._ended = self._closed = False
        self._memory: SharedMemory | None = None
        self._process = start([json.dumps(dict(request))])
        if self._process.stdout is None or self._process.stderr is None:
            raise DeviceError(f"display '{self._label}': no pipes to its process", device=self._label)
        self._said = Complaints(self._process.stderr)
        self._reader = LineReader(self._process.stdout, self._take, self._end)
        self._reader.start()
        try:
            self.monitor = MonitorInfo.read(self._event("monitor")["monitor"])
            fits(self.monitor)
            self._attach(pixel_bytes)
            self.offset_s, self.uncertainty_s = self._compare_clocks()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the window's process."""
        return self._process.pid

    def show(self, pixels: NDArray[np.uint8], *, wait: bool = True) -> Swap | None:
        """Send a pattern.

        Parameters
        ----------
        pixels : uint8 array [row, column] or [row, column, 4]
        wait : bool
            Return after the swap; else as soon as the pattern is in shared memory, at most one ahead of the screen.

        Returns
        -------
        Swap or None
            None without `wait`.

        Raises
        ------
        DeviceError
            If the window or its monitor is gone, or the swap takes too long.
        """
        asked = time.perf_counter_ns()
        self.wait(self._last - SLOTS + 1)
        number = self._last + 1
        self._write(number % SLOTS, pixels)
        self._asked[number] = asked
        self._last = number
        self._send({"do": "show", "n": number, "slot": number % SLOTS})
        return self.wait(number) if wait else None

    def wait(self, number: int | None = None) -> Swap | None:
        """Return when this pattern, by default the last one sent, is on the screen."""
        number = self._last if number is None else number
        with self._news:
            self._news.wait_for(lambda: self._answered >= number or self._gone(), self._timeout_s)
            if self._gone():
                raise self._loss()
            if self._answered < number:
                raise DeviceError(
                    f"display '{self._label}': no swap within {self._timeout_s:g} s: "
                    "check that the monitor is on and the screen not locked",
                    device=self._label,
                )
            answer = self._swaps.pop(number, None)
            asked = self._asked.pop(number, 0)
        if answer is None:
            return None
        if answer["event"] == "failed":
            raise DeviceError(f"display '{self._label}': {answer['message']}", device=self._label)
        answered: int = answer["answered_ns"]
        return Swap(
            number, answer["at_ns"] / 1e9 - self.offset_s, self.uncertainty_s, (answered - asked) / 1e9
        )  # fmt: skip

    def close(self) -> None:
        """Take the window away, within a few seconds whatever its process does. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(DeviceError):  # it may be gone already
            self._send({"do": "close"})
        try:
            self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(CLOSE_LIMIT_S)
        for thread in (self._reader, self._said.reader):
            thread.join(CLOSE_LIMIT_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def _attach(self, pixel_bytes: int) -> None:
        height, width = self.monitor.height, self.monitor.width
        stride = -(-width * pixel_bytes // 4) * 4  # Qt wants rows that start at multiples of four bytes
        self._layout = (SLOTS, height, stride)
        self._memory = SharedMemory(create=True, size=SLOTS * height * stride)
        self._send(
            {"do": "attach", "memory": self._memory.name, "slots": SLOTS, "stride": stride, "bytes": pixel_bytes}
        )
        self._event("ready")

    def _write(self, slot: int, pixels: NDArray[np.uint8]) -> None:
        if self._memory is None:
            raise DeviceError(f"display '{self._label}' is closed: open the bench again", device=self._label)
        rows = pixels.reshape(pixels.shape[0], -1)
        memory: NDArray[np.uint8] = np.ndarray(self._layout, np.uint8, self._memory.buf)
        memory[slot, :, : rows.shape[1]] = rows

    def _compare_clocks(self) -> tuple[float, float]:
        """Offset of the other process's counter, and half the fastest round trip, s."""
        best = (0.0, float("inf"))
        for number in range(PINGS):
            before = time.perf_counter_ns()
            self._send({"do": "ping", "n": number})
            pong = self._event(f"pong {number}")
            half = (pong["answered_ns"] - before) / 2
            if half < best[1]:
                best = (pong["at_ns"] - before - half, half)
        return best[0] / 1e9, best[1] / 1e9

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            if self._process.stdin is None:
                raise OSError("no pipe")
            self._process.stdin.write(json.dumps(dict(message)).encode() + b"\n")
        except (OSError, ValueError):
            with self._news:  # its last words may still be on their way
                self._news.wait_for(self._gone, CLOSE_LIMIT_S)
                raise self._loss() from None

    def _event(self, name: str) -> dict[str, Any]:
        with self._news:
            self._news.wait_for(lambda: name in self._events or self._gone(), OPEN_LIMIT_S)
            if name in self._events:
                return self._events.pop(name)
            if "refused" in self._events:
                refusal = self._events["refused"]
                if refusal["kind"] == "ConfigError":
                    raise ConfigError(refusal["message"])
                raise DeviceError(refusal["message"], device=self._label)
            if self._gone():
                raise self._loss(opening=True)
        raise DeviceError(f"display '{self._label}': no window within {OPEN_LIMIT_S:g} s", device=self._label)

    def _gone(self) -> bool:
        return bool(self._lost) or self._ended

    def _loss(self, *, opening: bool = False) -> Exception:
        if self._lost:
            return DeviceError(f"display '{self._label}': {self._lost}", device=self._label)
        if self._closed:
            return DeviceError(f"display '{self._label}' is closed: open the bench again", device=self._label)
        self._said.reader.join(CLOSE_LIMIT_S)
        reason = why(self._said.lines)
        if opening and not hasattr(self, "monitor"):
            return DeviceError(no_window_system(reason), device=self._label)
        return DeviceError(
            f"display '{self._label}': its window's process has ended ({reason}): open the bench again",
            device=self._label,
        )

    def _take(self, line: bytes) -> None:
        now = time.perf_counter_ns()
        try:
            message: dict[str, Any] = json.loads(line) | {"answered_ns": now}
            event = message["event"]
        except (ValueError, TypeError, KeyError):  # not ours: something that Python printed before our code ran
            log.debug("display '%s' said %r", self._label, line)
            return
        with self._news:
            if event in ("shown", "failed"):
                self._swaps[message["n"]] = message
                for old in [number for number in self._swaps if number < message["n"] - SLOTS]:
                    del self._swaps[old]
                    self._asked.pop(old, None)
                self._answered = message["n"]
            elif event == "lost":
                self._lost = str(message["message"])
            elif event == "pong":
                self._events[f"pong {message['n']}"] = message
            else:
                self._events[event] = message
            self._news.notify_all()

    def _end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()
