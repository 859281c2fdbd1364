"""Time as an argument: driven, real, or at a speed-up; and what a bench file makes of it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.bench import open_bench
from labctl.clock import Clock, DrivenClock, RealClock, ScaledClock
from labctl.config.load import parse_bench
from labctl.errors import ConfigError

TEXT = """
[bench]
name = "clocked"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [64, 60], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [32, 32], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [40, 30], pitch_um = 5.5, readout_ms = 5.0 }
exposure_ms = 4.0
[simulation]
preset = "ideal"
"""


@pytest.mark.parametrize("clock", [RealClock(), DrivenClock(), ScaledClock(10)])
def test_each_is_a_clock_that_never_runs_backwards(clock: Clock) -> None:
    assert isinstance(clock, Clock)
    first = clock.now()
    clock.sleep(-1)
    clock.sleep(0)
    assert clock.now() >= first


@given(st.floats(1e-3, 1e3), st.lists(st.floats(0, 100), max_size=5))
def test_a_scaled_clock_is_a_multiple_of_the_real_one(speed: float, waits: list[float]) -> None:
    real = DrivenClock(3.0)
    clock = ScaledClock(speed, real)
    start = clock.now()
    for wait in waits:
        clock.sleep(wait)
    assert clock.now() - start == pytest.approx(sum(waits), rel=1e-6, abs=1e-6 * (1 + start))
    assert real.now() - 3.0 == pytest.approx(sum(waits) / speed, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ScaledClock(speed)


def test_a_bench_file_chooses_the_clock() -> None:
    kinds = {"": DrivenClock, 'clock = "real"\n': RealClock, 'clock = "real"\nspeed = 10.0\n': ScaledClock}
    for lines, kind in kinds.items():
        bench = open_bench(parse_bench(TEXT + lines))
        assert type(bench.clock) is kind
        bench.close()


def test_a_bench_at_a_speed_up_takes_that_share_of_the_time() -> None:
    """150 ms of settling, 4 of exposure and 5 of read-out: at 10 times the speed, at least 15.9 ms and not 159."""
    import numpy as np

    bench = open_bench(parse_bench(TEXT + 'clock = "real"\nspeed = 10.0\n'))
    bench.capture()  # the first exposure builds tables
    there, here = bench.clock.now(), time.perf_counter()
    bench.show(slm=np.ones((60, 64), np.uint8))
    frame = bench.capture()
    took = time.perf_counter() - here
    assert frame.started - there >= 0.15
    passed = bench.clock.now() - there
    assert passed >= 0.159
    assert 0.0155 < took < passed / 5
    bench.close()


def test_a_speed_needs_a_real_clock_and_a_bench_that_is_simulated_in_full() -> None:
    with pytest.raises(ConfigError, match=r'speed is of the real clock: add clock = "real"'):
        parse_bench(TEXT + "speed = 10.0\n")
    mixed = TEXT.replace('[camera]\ndriver = "simulated"', '[camera]\ndriver = "slmsuite:basler.Basler"')
    with pytest.raises(ConfigError, match="simulated in full"):
        open_bench(parse_bench(mixed + 'clock = "real"\nspeed = 10.0\n'))
