"""Limits and interlocks of `[safety]`: refused before anything is sent, tripped by what the camera and meter see."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

from labctl.bench import Bench
from labctl.config.load import parse_bench
from labctl.errors import ConfigError, DeviceError, SafetyError

Lit = Callable[..., Bench]
WHITE = np.full((48, 48), 255, np.uint8)


def safety(text: str) -> str:
    return f"[safety]\n{text}\n"


@pytest.mark.parametrize("value", [1.01, float("nan"), float("inf"), "1", True, None])
def test_the_laser_is_never_set_above_its_limit(lit: Lit, light: str, simulated: str, value: object) -> None:
    bench = lit(light + simulated + safety("max_laser_power = 1.0"))
    with pytest.raises(DeviceError, match=r"laser: power = .* is outside 0 ... 1, the limits .*: nothing was sent"):
        bench.set("laser", "power", value)
    assert bench.read("laser", "power") == 1.0
    bench.set("laser", "power", 0.99)
    assert bench.read("laser", "power") == 0.99


def test_limits_of_the_instrument_and_of_safety_both_hold(lit: Lit, light: str, simulated: str) -> None:
    text = simulated.replace('role = "laser"', 'role = "laser"\nlimits = { power = [0.1, 5.0] }')
    bench = lit(light + text + safety("max_laser_power = 1.0"))
    for value in (0.05, 1.5):
        with pytest.raises(DeviceError, match=r"is outside 0.1 ... 1"):
            bench.set("laser", "power", value)
    bench.make_safe()  # what is safe is not held to limits
    assert bench.read("laser", "enabled") is False


def test_a_laser_that_is_already_too_strong_is_not_worked_with(lit: Lit, light: str, simulated: str) -> None:
    with pytest.raises(SafetyError, match=r"laser: power is 1, above safety.max_laser_power = 0.5: lower it"):
        lit(light + simulated + safety("max_laser_power = 0.5"))


@pytest.mark.parametrize("exposure_s", [0.0101, 0.0, -1.0, float("nan"), float("inf")])
def test_an_exposure_above_the_limit_is_not_taken(lit: Lit, light: str, exposure_s: float) -> None:
    bench = lit(light + safety("max_exposure_ms = 10"))
    bench.capture(0.01)
    before = bench.clock.now()
    with pytest.raises(SafetyError, match=r"outside safety.max_exposure_ms = 10: no frame was taken"):
        bench.capture(exposure_s)
    assert bench.clock.now() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_exposure_ms = 0.5", "camera.exposure_ms = 1 is above safety.max_exposure_ms = 0.5"),
        ("safe_state.lamp.on = false", "there is no instrument 'lamp': there are laser, shutter, meter"),
        ('power_loss = { meter = "metre", below = 1e-3 }', "there is no instrument 'metre'"),
        ("max_laserpower = 1.0", "did you mean max_laser_power"),
        ('saturation = { pixels = 5, reaction = "explode" }', "reaction"),
        ("saturation = { pixels = 0 }", "pixels"),
    ],
)
def test_a_wrong_safety_section_is_one_line(light: str, simulated: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_bench(light + simulated + safety(text))
    assert "\n" not in str(caught.value)


def test_a_limit_on_a_laser_that_is_not_there_is_refused(light: str) -> None:
    with pytest.raises(ConfigError, match="limits nothing: no instrument has the role laser"):
        parse_bench(light + safety("max_laser_power = 1.0"))


SATURATED_S = 1.0
"""Long enough to saturate the small bench's camera."""


def test_saturation_trips_after_so_many_frames_in_a_row(lit: Lit, light: str, simulated: str) -> None:
    bench = lit(light + simulated + safety("saturation = { pixels = 10, frames = 3 }"))
    for exposure in (SATURATED_S, SATURATED_S, 1e-4, SATURATED_S, SATURATED_S):
        bench.capture(exposure)
    with pytest.raises(SafetyError, match=r"camera: 3 frames in a row with 10 saturated pixels or more .*: shorten"):
        bench.capture(SATURATED_S)
    assert bench.read("laser", "enabled") is True  # "abort" leaves that to the end of the run


def test_a_warning_is_given_once_until_all_is_well(
    lit: Lit, light: str, simulated: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = lit(light + simulated + safety('saturation = { pixels = 10, reaction = "warn" }'))
    with caplog.at_level(logging.WARNING, "labctl"):
        for exposure in (SATURATED_S, SATURATED_S, 1e-4, SATURATED_S):
            bench.capture(exposure)
    assert [record.message[:7] for record in caplog.records] == ["camera:", "camera:"]


def test_laser_off_is_at_once_and_holds_until_the_bench_was_made_safe(lit: Lit, light: str, instruments: str) -> None:
    bench = lit(light + instruments + safety('saturation = { pixels = 10, reaction = "laser-off" }'))
    with pytest.raises(SafetyError, match=r"saturated pixels .*\(laser and shutter were made safe\)"):
        bench.capture(SATURATED_S)
    assert bench.read("laser", "enabled") is False
    assert bench.read("shutter", "open") is False
    for name, setting in (("laser", "enabled"), ("shutter", "open")):
        with pytest.raises(SafetyError, match=f"{name}: not switched on again, because an interlock tripped: camera"):
            bench.set(name, setting, True)
        bench.set(name, setting, False)
    bench.make_safe()
    bench.set("laser", "enabled", True)
    assert bench.read("laser", "enabled") is True


POWER = 'power_loss = { meter = "meter", below = 5e-3, every_s = 10.0, reaction = "laser-off" }'


def test_lost_power_trips_but_a_laser_that_was_switched_off_does_not(lit: Lit, light: str, simulated: str) -> None:
    bench = lit(light + simulated + safety(POWER))
    bench.capture()
    bench.set("laser", "enabled", False)
    bench.clock.sleep(20)
    bench.capture()  # dark because it was told to be
    bench.set("laser", "enabled", True)
    bench.set("shutter", "open", False)
    bench.clock.sleep(20)
    bench.capture()
    bench.set("shutter", "open", True)
    bench.capture()
    bench._instruments["laser"].device._world.set_laser(on=False)  # it dies
    bench.capture()  # the meter is read every ten seconds
    bench.clock.sleep(10)
    with pytest.raises(SafetyError, match=r"meter: power is 0, below safety.power_loss.below = 0.005: check laser"):
        bench.capture()
    assert bench.read("shutter", "open") is False


def test_a_meter_that_says_nothing_is_no_reassurance(
    lit: Lit, light: str, simulated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labctl.simulation.instruments import SimulatedPowerMeter

    def dead(self: object, setting: str) -> float:
        raise OSError("cable")

    bench = lit(light + simulated + safety(POWER))
    monkeypatch.setattr(SimulatedPowerMeter, "read", dead)
    with pytest.raises(SafetyError, match=r"meter: the power cannot be read \(.*cable.*\): check meter and light"):
        bench.capture()


def test_the_safe_state_of_the_file_comes_first_and_ignores_limits(lit: Lit, light: str, simulated: str) -> None:
    text = simulated.replace('role = "laser"', 'role = "laser"\nlimits = { power = [0.1, 5.0] }')
    bench = lit(light + text + safety("safe_state = { laser = { power = 0.0 } }"))
    bench.make_safe()
    assert bench.read("laser", "power") == 0.0
    assert bench.read("laser", "enabled") is False


def test_one_dead_instrument_does_not_keep_the_others_unsafe(
    lit: Lit, light: str, simulated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labctl.simulation.instruments import SimulatedLaser

    def dead(self: object, *args: object) -> None:
        raise OSError("cable")

    bench = lit(light + simulated + safety("safe_state = { laser = { power = 0.0 } }"))
    with monkeypatch.context() as patch:
        patch.setattr(SimulatedLaser, "make_safe", dead)
        failures = bench.make_safe()
    assert len(failures) == 1
    assert failures[0].startswith("laser: cable")
    assert bench.read("laser", "power") == 0.0
    assert bench.read("shutter", "open") is False


def test_an_opening_that_fails_leaves_the_laser_off(
    lit: Lit, light: str, simulated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labctl.simulation import instruments

    made_safe = []
    monkeypatch.setattr(instruments.SimulatedLaser, "make_safe", lambda self: made_safe.append(self.name))

    def broken(self: object, world: object, **options: object) -> None:
        raise OSError("no meter on the bus")

    monkeypatch.setattr(instruments.SimulatedPowerMeter, "__init__", broken)
    with pytest.raises((DeviceError, ConfigError)):
        lit(light + simulated)
    assert made_safe == ["simulated laser"]
