"""Simulated instruments act on the light that the simulated camera sees, whichever way they are reached."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from labctl.bench import Bench
from labctl.config.load import parse_bench
from labctl.errors import ConfigError, DeviceError

Lit = Callable[..., Bench]


def counts(bench: Bench) -> float:
    return float(bench.capture(1e-4).data.mean())


def test_laser_shutter_and_meter_share_one_light(lit: Lit, light: str, instruments: str) -> None:
    bench = lit(light + instruments)
    half = bench.read("laser", "power") / 2
    bright = counts(bench)
    assert bright > 100
    assert bench.read("meter", "power") == pytest.approx(10e-3)
    bench.set("shutter", "open", False)
    dark = counts(bench)
    assert dark < 0.05 * bright
    assert bench.read("meter", "power") == 0
    assert bench.read("shutter", "open") is False
    bench.set("shutter", "open", True)
    bench.set("laser", "power", half)
    assert counts(bench) - dark == pytest.approx((bright - dark) / 2, rel=0.02)
    assert bench.read("power-meter", "power") == pytest.approx(5e-3)
    bench.set("laser", "enabled", False)
    assert counts(bench) == pytest.approx(dark, abs=1)
    assert bench.read("meter", "power") == 0


def test_safe_is_dark_and_shut(lit: Lit, light: str, instruments: str) -> None:
    bench = lit(light + instruments)
    assert bench.make_safe() == []
    assert bench.read("laser", "enabled") is False
    assert bench.read("shutter", "open") is False


def test_the_meter_sees_the_laser_drift_and_flicker(lit: Lit, light: str, simulated: str) -> None:
    text = light.replace('"ideal"', '"typical"')
    bench = lit(text + simulated)
    readings = []
    for _ in range(200):
        bench.clock.sleep(60.0)
        readings.append(bench.read("meter", "power"))
    spread = (max(readings) - min(readings)) / 10e-3
    assert 0.005 < spread < 0.5
    assert lit(text + simulated).read("meter", "power") == pytest.approx(
        lit(text + simulated).read("meter", "power"), rel=1e-12
    )  # the same world reads the same


def test_a_bench_of_simulated_firmware_counts_as_simulated(light: str, instruments: str) -> None:
    config = parse_bench(light + instruments)
    assert config.simulated
    assert not config.real


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('role = "shutter"', 'role = "stage"', "there is no simulated stage, only laser, shutter, power-meter"),
        ("nominal_mw = 10.0", "nominal = 10.0", "did you mean nominal_mw"),
    ],
)
def test_a_wrong_simulated_instrument_names_its_key(
    lit: Lit, light: str, simulated: str, old: str, new: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        lit(light + simulated.replace(old, new))


def test_what_is_no_setting_is_refused(lit: Lit, light: str, simulated: str) -> None:
    bench = lit(light + simulated)
    for name, setting in (("laser", "colour"), ("shutter", "enabled"), ("meter", "energy")):
        with pytest.raises(DeviceError, match=f"has no setting '{setting}'"):
            bench.read(name, setting)
    with pytest.raises(DeviceError, match="cannot be set"):
        bench.set("meter", "power", 1.0)
    with pytest.raises(DeviceError, match="no fraction"):
        bench.set("laser", "power", float("nan"))
