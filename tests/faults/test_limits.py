"""What the user may set in ``[recovery]`` is kept to the letter, and recovery never outweighs safety."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from faults_benches import SHAPE, SIMULATED, FaultyRig
from faults_course import WINDOWS, Course, Seen, Told
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.bench import open_bench
from labctl.bench.facts import BenchFacts
from labctl.clock import ScaledClock
from labctl.config.load import parse_bench
from labctl.config.schema import RecoverySection, SafetySection, SaturationSection
from labctl.errors import Aborted, DeviceError, SafetyError
from labctl.procedures.messages import Exposure, Measure, Read, Set, Steps
from labctl.runs.engine import Engine
from labctl.runs.events import State
from labctl.simulation.instruments import SimulatedLaser

COURSE = Course(WINDOWS["tiny"])
WHERE = {
    ("slm", "show"): ("slm", "show", False), ("camera", "frame"): ("camera", "grab", False),
    ("camera", "expose"): ("camera", "expose", True), ("camera", "read out"): ("camera", "read_out", True),
    ("camera", "window"): ("camera", "set_window", False), ("laser", "set"): ("laser", "set", False),
    ("laser", "read"): ("laser", "read", False),
}  # fmt: skip
TEN = 10.0


class Script:
    """A procedure from a function of the facts."""

    name = "script"

    def __init__(self, body: Callable[[BenchFacts], Steps[Any]]) -> None:
        self.steps = body

    def exposures(self, facts: BenchFacts) -> int:
        return 1


def gray(level: int) -> np.ndarray:
    return np.full(SHAPE, level, np.uint8)


def counting(one: FaultyRig, device: str, method: str, fails: int) -> list[float]:
    """The device's second call, and those that follow, fail so many times; when they were made."""
    fake, made = getattr(one, device), []
    plain, calls = getattr(fake, method), iter(range(10_000))

    def failing(*given: Any) -> Any:
        number = next(calls)
        if number >= 1:
            made.append(one.clock.now())
            if len(made) <= fails:
                raise OSError("cable")
        return plain(*given)

    setattr(fake, method, failing)
    return made


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(WHERE)), st.integers(0, 3), st.integers(0, 2), st.booleans(), st.integers(1, 7),
    st.sampled_from([0.0, 0.2, 3.0]),
)  # fmt: skip
def test_as_many_tries_as_were_allowed_and_not_one_more(
    where: tuple[str, str], retries: int, reopens: int, can_reopen: bool, fails: int, wait_s: float
) -> None:
    device, method, overlaps = WHERE[where]
    recovery = RecoverySection(retries=retries, reopens=reopens, wait_s=wait_s)
    one = FaultyRig(overlaps=overlaps, lit=True, reopens=can_reopen, recovery=recovery)
    made, told = counting(one, device, method, fails), Told()
    engine = Engine(one.bench, observer=told.watch)
    tries = 1 + retries + (reopens if can_reopen else 0)
    line, seen = "", None
    try:
        seen = engine.run(COURSE)
    except DeviceError as error:
        line = str(error)
    restores = where == ("camera", "window") or (device == "laser" and method == "set")
    if restores and fails > 1 + retries and can_reopen and reopens:
        assert len(one.reopened) <= reopens  # to open it again is to set it again: these calls fail, too
        return
    assert one.reopened == [device] * max(0, min(fails, tries - 1) - retries)
    if fails < tries:
        assert (seen is None, line) == (False, "")
        assert len([text for text in told.lines if "again (" in text]) == fails
    else:
        said = f" (tried {tries} times)" if tries > 1 else ""
        assert line == f"{device}: OSError: cable{said}"
        rests = np.diff(made[:tries])
        assert (rests >= wait_s - 1e-9).all()


@pytest.mark.parametrize("where", sorted(WHERE))
def test_with_no_tries_the_first_failure_ends_the_run(where: tuple[str, str]) -> None:
    device, method, overlaps = WHERE[where]
    one = FaultyRig(overlaps=overlaps, lit=True, reopens=True, recovery=RecoverySection(retries=0, reopens=0))
    made, told = counting(one, device, method, 1), Told()
    engine = Engine(one.bench, observer=told.watch)
    with pytest.raises(DeviceError, match=f"^{device}: OSError: cable$"):
        engine.run(COURSE)
    assert len(made) == 1
    assert one.reopened == []
    assert not told.has("again (")
    assert one.is_safe
    engine.run(COURSE)  # and what the camera still held poisons nothing


def test_what_is_left_in_a_camera_that_could_not_be_flushed_is_not_taken_for_the_next_run() -> None:
    """Even by a run that may not try anything twice."""
    faults = [
        {"device": "camera", "fault": "timeout", "call": "frame", "at": [3]},
        {"device": "camera", "fault": "timeout", "call": "flush", "at": [1, 2, 3]},
    ]
    one = FaultyRig(faults, overlaps=True, lit=True, recovery=RecoverySection(retries=0, reopens=0))
    engine = Engine(one.bench)
    reference = Engine(FaultyRig(lit=True).bench).run(COURSE)
    with pytest.raises(DeviceError, match=r"^camera: TimeoutError"):
        engine.run(COURSE)
    assert len(one.camera.exposed) > 0  # type: ignore[attr-defined]
    one.disarm()
    assert engine.run(COURSE) == reference


def test_a_window_that_the_camera_refused_does_not_stay() -> None:
    one = FaultyRig(lit=True, recovery=RecoverySection(retries=1, reopens=0))
    plain = one.camera.set_window

    def refusing(window: Any) -> Any:
        if window == (0, 99, 0, 99):
            one.camera.window = (0, 2, 0, 2)  # and is left with yet another
            raise ValueError("no such window")
        return plain(window)

    one.camera.set_window = refusing  # type: ignore[method-assign]

    def body(_: BenchFacts) -> Steps[list[tuple[int, ...]]]:
        yield Set("camera", "window", (1, 7, 1, 5))
        with pytest.raises(DeviceError, match=r"^camera: ValueError: no such window \(tried 2 times\)"):
            yield Set("camera", "window", (0, 99, 0, 99))
        frames = yield Measure([Exposure(gray(1), gray(1))])
        return [frame.data.shape for frame in frames]

    assert Engine(one.bench).run(Script(body)) == [(6, 4)]


# -- opened again -----------------------------------------------------------------------------------------------------


def stuck(device: str, call: str, at: int) -> dict[str, Any]:
    return {"device": device, "fault": "stuck", "call": call, "at": [at]}


def test_an_instrument_gets_its_settings_again_and_its_light_last() -> None:
    one = FaultyRig([stuck("laser", "read", 1)], lit=True, reopens=True)

    def body(_: BenchFacts) -> Steps[Any]:
        yield Set("laser", "enabled", True)
        yield Set("laser", "power", 0.3)
        yield Set("laser", "mode", "cw")
        yield Set("laser", "power", 0.5)
        one.laser.sent.clear()
        return (yield Read("laser", "power"))

    assert Engine(one.bench).run(Script(body)) == 0.5
    assert one.reopened == ["laser"]
    assert one.laser.sent == [("mode", "cw"), ("power", 0.5), ("enabled", True)]


def test_a_camera_gets_its_window_again_and_a_panel_its_pattern() -> None:
    one = FaultyRig([stuck("camera", "frame", 2), stuck("slm", "show", 5)], lit=True, reopens=True)

    def body(_: BenchFacts) -> Steps[list[np.ndarray]]:
        yield Set("laser", "enabled", True)
        yield Set("camera", "window", (1, 7, 1, 5))
        frames = yield Measure([Exposure(gray(s), gray(2)) for s in (1, 1, 3)])
        return [frame.data for frame in frames]

    frames = Engine(one.bench).run(Script(body))
    assert one.reopened == ["camera", "slm"]
    assert [frame.shape for frame in frames] == [(6, 4)] * 3
    assert [set(frame.ravel()) for frame in frames] == [{2560 + 18}, {2560 + 18}, {2560 + 50}]


def test_after_an_interlock_tripped_a_laser_that_is_opened_again_stays_dark() -> None:
    safety = SafetySection(saturation=SaturationSection(pixels=1, reaction="laser-off"))
    faults = [{"device": "camera", "fault": "saturated", "at": [1]}, stuck("laser", "set", 3)]
    one = FaultyRig(faults, lit=True, reopens=True, safety=safety)
    dark: list[bool] = []

    def body(_: BenchFacts) -> Steps[None]:
        yield Set("laser", "power", 0.5)
        yield Set("laser", "enabled", True)
        try:
            yield Measure([Exposure(gray(1), gray(1))])
        finally:
            one.laser.sent.clear()
            yield Set("laser", "power", 0.25)
            dark.append(not one.laser.settings["enabled"])

    with pytest.raises(SafetyError, match="saturated pixels"):
        Engine(one.bench).run(Script(body))
    assert one.reopened == ["laser"]
    assert dark == [True]
    assert ("enabled", True) not in one.laser.sent


@pytest.mark.parametrize(("power", "allowed"), [(1.4, True), (3.0, False)])
def test_a_laser_that_comes_back_too_strong_is_switched_off_and_ends_the_run(
    power: float, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut: it is back at its own power, and shines."""
    text = f"""{SIMULATED}
[safety]
max_laser_power = 1.5
[faults]
[[faults.plan]]
device = "laser"
fault = "stuck"
call = "read"
at = [1]
"""
    bench = open_bench(parse_bench(text))
    world = bench.device("slm").driver._world
    plain = SimulatedLaser.__init__

    def strong(self: SimulatedLaser, world: Any) -> None:
        plain(self, world)
        world.set_laser(on=True, power=power)

    monkeypatch.setattr(SimulatedLaser, "__init__", strong)
    strengths: list[float] = []
    set_laser = world.set_laser

    def watched(**changes: Any) -> None:
        set_laser(**changes)
        on, now = world.laser
        strengths.append(now if on else 0.0)

    world.set_laser = watched

    def body(_: BenchFacts) -> Steps[Any]:
        yield Set("laser", "power", 0.5)
        yield Set("laser", "enabled", True)
        return (yield Read("laser", "power"))

    engine = Engine(bench)
    if allowed:
        assert engine.run(Script(body)) == 0.5
        assert max(strengths) == power  # its own doing, and within the limit
    else:
        with pytest.raises(SafetyError, match=r"laser: power is 3, above safety.max_laser_power = 1.5"):
            engine.run(Script(body))
        after = strengths[strengths.index(power) + 1 :]
        assert after
        assert max(after) == 0.0  # dark with the next command that it was given
    assert world.laser[0] is False
    bench.close()


# -- no tries ---------------------------------------------------------------------------------------------------------


def test_what_safety_forbids_is_not_tried_again() -> None:
    one = FaultyRig(lit=True, reopens=True, safety=SafetySection(max_exposure_ms=10.0))
    told = Told()
    engine = Engine(one.bench, observer=told.watch)

    def body(_: BenchFacts) -> Steps[Any]:
        return (yield Measure([Exposure(gray(1), gray(1), exposure_s=0.02)]))

    with pytest.raises(SafetyError, match=r"an exposure of 20 ms is outside"):
        engine.run(Script(body))
    assert not told.has("again (")
    assert one.reopened == []


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("where", sorted(WHERE))
def test_while_aborting_nothing_is_tried_again(where: tuple[str, str], threads: bool) -> None:
    """Whether the abort comes before the failure or between two tries."""
    device, method, overlaps = WHERE[where]
    for first in (True, False):
        one = FaultyRig(
            overlaps=overlaps, lit=True, reopens=True, recovery=RecoverySection(retries=50, wait_s=TEN),
            clock=ScaledClock(100.0) if threads else None,
        )  # fmt: skip
        fake = getattr(one, device)
        failed: list[int] = []

        def failing(*_: Any, engine: list[Engine], now: bool, failed: list[int] = failed) -> Any:
            failed.append(1)
            if now:
                engine[0].abort()
            raise OSError("cable")

        engines: list[Engine] = []
        plain = getattr(fake, method)
        setattr(fake, method, lambda *given, now=first, engines=engines, f=failing: f(engine=engines, now=now))
        aborted = threading.Event()

        def watch(event: Any, engines: list[Engine] = engines, aborted: threading.Event = aborted) -> None:
            if getattr(event, "state", None) is State.RECOVERING:
                engines[0].abort()
                aborted.set()

        engines.append(Engine(one.bench, observer=watch))
        with pytest.raises(Aborted):
            engines[0].run(COURSE)
        assert len(failed) == 1
        assert one.reopened == []
        assert aborted.is_set() == (not first)
        setattr(fake, method, plain)
        assert isinstance(engines[0].run(COURSE), Seen)
        one.bench.close()
