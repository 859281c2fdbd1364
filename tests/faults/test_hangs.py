"""A device that hangs, at each kind of call: an abort does not wait, a run ends in time, and the bench closes."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from faults_benches import FaultyRig
from faults_course import WINDOWS, Course, Seen, Told

from labctl.bench import bench as bench_module
from labctl.clock import ScaledClock
from labctl.config.schema import RecoverySection
from labctl.errors import Aborted, DeviceError
from labctl.runs.engine import Engine
from labctl.runs.events import State

LONG_S = 60.0
HANG_S = 0.6
SLACK_S = 3.0
"""What a machine that is busy with other tests may add to half a second."""
COURSE = Course(WINDOWS["tiny"])
STUCK = {"at": [2], "fault": "stuck"}
AT_CALLS = [
    ("slm", "show"), ("input", "show"), ("camera", "grab"), ("camera", "expose"), ("camera", "read_out"),
    ("camera", "set_window"), ("laser", "set"), ("laser", "read"), ("slm", "restart"), ("camera", "restart"),
    ("laser", "restart"),
]  # fmt: skip
"""`restart` is opening again."""
AT_THE_END = [("camera", "discard"), ("laser", "make_safe"), ("slm", "blank"), ("input", "blank")]


class Hang:
    """One call of one device that does not come back until it is released."""

    def __init__(self, one: FaultyRig, device: str, method: str) -> None:
        self.reached, self.release, self.ended = threading.Event(), threading.Event(), threading.Event()
        fake = getattr(one, device)
        plain = getattr(fake, method)

        def hanging(*given: Any) -> Any:
            if self.reached.is_set():
                return plain(*given)
            self.reached.set()
            self.release.wait(LONG_S)
            try:
                return plain(*given)
            finally:
                self.ended.set()

        setattr(fake, method, hanging)


def tiny(device: str, method: str) -> FaultyRig:
    faults = [STUCK | {"device": device}] if method == "restart" else []
    one = FaultyRig(
        faults, overlaps=method in ("expose", "read_out", "discard"), lit=True, reopens=True, clock=ScaledClock(10.0),
        recovery=RecoverySection(hang_s=HANG_S, wait_s=0.0),
    )  # fmt: skip
    one.bench._timeout_s = 0.05
    return one


@pytest.fixture(scope="module")
def reference() -> Seen:
    return Engine(FaultyRig(lit=True).bench).run(COURSE)


@pytest.fixture(autouse=True)
def opening_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "OPENING_S", 0.1)


def ended_threads() -> None:
    for thread in [t for t in threading.enumerate() if t.name == "labctl-hardware"]:
        thread.join(LONG_S)


def check_next(one: FaultyRig, engine: Engine, hang: Hang, reference: Seen) -> None:
    """Released: no thread is left, the device is safe, the next run is sound, and the bench closes."""
    hang.release.set()
    assert hang.ended.wait(LONG_S)
    ended_threads()
    assert one.bench.calls.lost == frozenset()
    assert one.is_safe
    assert engine.snapshot().state is State.IDLE
    engine.observer = None
    assert engine.run(COURSE) == reference
    one.bench.close()
    assert one.closed == [1, 1, 1, 1]
    assert one.is_safe


@pytest.mark.parametrize(("device", "method"), AT_CALLS)
def test_an_abort_does_not_wait(device: str, method: str, reference: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "OPENING_S", LONG_S)
    one = tiny(device, method)
    one.bench.recovery = RecoverySection(hang_s=LONG_S, wait_s=0.0)
    hang, engine, asked = Hang(one, device, method), Engine(one.bench), []

    def abort() -> None:
        hang.reached.wait(LONG_S)
        asked.append(time.monotonic())
        engine.abort()

    other = threading.Thread(target=abort)
    other.start()
    with pytest.raises(Aborted, match=rf"{device}: does not answer"):
        engine.run(COURSE)
    took_s = time.monotonic() - asked[0]
    other.join()
    assert not hang.release.is_set()
    assert took_s < 0.5 + SLACK_S
    with pytest.raises(DeviceError, match=f"^{device}: still hangs in an earlier call"):
        engine.run(COURSE)
    check_next(one, engine, hang, reference)


@pytest.mark.parametrize(("device", "method"), AT_CALLS)
def test_without_an_abort_the_run_ends_in_time(device: str, method: str, reference: Seen) -> None:
    one = tiny(device, method)
    hang, engine = Hang(one, device, method), Engine(one.bench)
    start = time.monotonic()
    with pytest.raises(DeviceError, match=f"^{device}: does not answer: check its cable and power") as caught:
        engine.run(COURSE)
    assert caught.value.device == device
    assert HANG_S < time.monotonic() - start < 3 * HANG_S + SLACK_S
    check_next(one, engine, hang, reference)


@pytest.mark.parametrize(("device", "method"), AT_THE_END)
@pytest.mark.parametrize("aborting", [False, True])
def test_a_hang_while_the_bench_is_made_safe(device: str, method: str, aborting: bool, reference: Seen) -> None:
    """The others are made safe, and what was measured is kept."""
    one = tiny(device, method)
    if aborting:
        one.bench.recovery = RecoverySection(hang_s=LONG_S, wait_s=0.0)
    told = Told()
    hang, engine = Hang(one, device, method), Engine(one.bench, observer=told.watch)
    other = threading.Thread(target=lambda: (hang.reached.wait(LONG_S), aborting and engine.abort()))
    other.start()
    start = time.monotonic()
    assert engine.run(COURSE) == reference
    assert time.monotonic() - start < 2 * HANG_S + 2 * SLACK_S
    other.join()
    assert told.has(f"{device}: does not answer")
    dark = (not one.laser.settings["enabled"], not one.slm.shown.any(), not one.input.shown.any())
    assert dark == (method != "make_safe", (device, method) != ("slm", "blank"), (device, method) != ("input", "blank"))
    check_next(one, engine, hang, reference)


@pytest.mark.parametrize("device", ["slm", "input", "camera", "laser"])
def test_a_hang_while_the_bench_is_closed(device: str) -> None:
    one = tiny(device, "close")
    hang = Hang(one, device, "close")
    Engine(one.bench).run(COURSE)
    start = time.monotonic()
    one.bench.close()
    assert HANG_S < time.monotonic() - start < HANG_S + SLACK_S
    assert one.is_safe
    assert sum(one.closed) == 3
    hang.release.set()
    assert hang.ended.wait(LONG_S)
    ended_threads()
    assert all(one.closed)


def test_a_laser_that_hangs_while_it_is_lit_is_dark_as_soon_as_it_answers() -> None:
    """Also after the bench was closed; then it is released, too."""
    one = tiny("laser", "set")
    one.laser.make_safe()
    plain, reached, release = one.laser.set, threading.Event(), threading.Event()

    def lit(setting: str, value: Any) -> None:
        plain(setting, value)
        if setting == "enabled" and value:
            reached.set()
            release.wait(LONG_S)

    one.laser.set = lit  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"^laser: does not answer"):
        Engine(one.bench).run(COURSE)
    assert one.laser.settings["enabled"] is True  # it hangs with its light on, and takes no command
    one.bench.close()
    assert one.closed == [1, 1, 1, 0]
    release.set()
    ended_threads()
    assert one.laser.settings["enabled"] is False
    assert one.closed == [1, 1, 1, 1]
