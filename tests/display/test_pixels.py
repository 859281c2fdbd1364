"""Gray levels reach the screen as they are, every pixel of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slmsuite.hardware.slms.slm import SLM

from labctl.bench import open_bench
from labctl.config.load import parse_bench
from labctl.devices.display import Display
from labctl.errors import ConfigError

pytestmark = pytest.mark.xserver
Open = Callable[..., Display]


@pytest.mark.parametrize("patterns", [25, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_the_screen_equals_the_pattern_in_every_pixel(large: Any, opened: Open, patterns: int) -> None:
    display = opened(resolution=[1920, 1080])
    assert display.shape == (1080, 1920)
    rng = np.random.default_rng(patterns)
    wrong = []
    for number in range(patterns):
        pattern = rng.integers(0, 256, display.shape, dtype=np.uint8)
        display.set_phase(pattern)
        if not large.shows(pattern):
            wrong.append(number)
    assert not wrong


def test_black_before_the_first_pattern_and_gone_after_the_last(small: Any, opened: Open) -> None:
    assert small.comes_to_show(np.full((300, 500), 255))
    display = opened()
    assert small.shows(np.zeros((300, 500)))
    display.close()
    assert small.comes_to_show(np.full((300, 500), 255))


def test_no_cursor_over_the_pattern(small: Any, opened: Open, pointer: Any) -> None:
    opened().close()  # until the first program asks for a cursor, an X server shows none
    pointer(100, 100)
    assert small.until(lambda: not small.shows(np.full((300, 500), 255)))
    display = opened()
    for x in (100, 120):
        pointer(x, 100)
        display.set_phase(np.full((300, 500), x, np.uint8))
        assert small.shows(np.full((300, 500), x))


def test_the_desktops_screen_takes_patterns_too_where_that_is_allowed(small: Any, opened: Open) -> None:
    display = opened("640x480+0+0", allow_primary=True)
    ramp = np.tile(np.arange(640) % 256, (480, 1)).astype(np.uint8)
    display.set_phase(ramp)
    assert small.shows(ramp, 0)
    assert small.shows(np.full((300, 500), 255), 1)


def test_a_phase_is_wrapped_and_a_gray_pattern_is_not_touched(small: Any, opened: Open) -> None:
    display = opened()
    phase = np.linspace(0, 2 * np.pi, 500, endpoint=False) * np.ones((300, 1))
    display.set_phase(phase)
    once = small.pixels(1)
    assert len(np.unique(once)) == 256
    display.set_phase(phase + 6 * np.pi)
    assert np.mean(small.pixels(1) != once) < 0.01  # float32 rounding at the borders of levels
    display.set_phase(np.zeros((300, 500)))
    assert small.shows(np.full((300, 500), 255))  # slmsuite's convention: phase 0 is the highest level
    display.set_phase(np.full((300, 500), 77, np.uint8))
    assert small.shows(np.full((300, 500), 77))


@pytest.mark.parametrize("as_file", [False, True])
def test_the_look_up_table_picks_the_level_that_gives_the_phase(
    small: Any, opened: Open, tmp_path: Path, as_file: bool
) -> None:
    """A panel whose phase grows with the square of its level: half a wave is at 1/sqrt(2) of the range."""
    levels = np.arange(256)
    response = (levels / 256) ** 2
    lut: Any = list(response)
    if as_file:
        lut = tmp_path / "response.csv"
        rows = [f"{level},{phase:.9f}" for level, phase in zip(levels, response, strict=True)]
        lut.write_text("\n".join(["# level, phase / 2 pi", *rows]), encoding="utf-8")
        lut = str(lut)
    display = opened(lut=lut)
    display.set_phase(np.full((300, 500), -np.pi))
    assert abs(int(small.pixels(1)[0, 0, 0]) - 256 / np.sqrt(2)) <= 1
    display.set_phase(np.full((300, 500), 77, np.uint8))
    assert small.shows(np.full((300, 500), 77))


@pytest.mark.parametrize(
    "options", [{}, {"lut": list((np.arange(256) / 256) ** 2)}, {"wav_um": 0.6, "wav_design_um": 0.8}, {"bitdepth": 6}]
)
def test_the_short_way_of_gray_levels_ends_where_slmsuites_does(small: Any, opened: Open, options: Any) -> None:
    display = opened(**options)
    pattern = np.random.default_rng(2).integers(0, display.bitresolution, (300, 500), dtype=np.uint8)
    given = pattern.copy()
    assert display.set_phase(pattern, settle=False) is display.display
    phase, levels = display.phase.copy(), display.display.copy()
    assert small.shows(given)
    SLM.set_phase(display, np.zeros_like(pattern))
    SLM.set_phase(display, pattern)
    np.testing.assert_allclose(np.exp(1j * phase), np.exp(1j * display.phase), atol=1e-5)
    assert np.array_equal(levels, display.display)
    if display.bitresolution < 256:
        with pytest.raises(TypeError, match="within the bitdepth"):
            display.set_phase(np.full((300, 500), 64, np.uint8))


def test_a_look_up_table_of_another_depth_is_refused(small: Any, opened: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lut does not fit 8 bits"):
        opened(lut=[0.0, 0.5, 1.0])
    with pytest.raises(ConfigError, match="lut cannot be read"):
        opened(lut=str(tmp_path / "none.csv"))


def test_levels_packed_into_colours(small: Any, opened: Open) -> None:
    display = opened(bitdepth=10, packing="rg")
    pattern = np.random.default_rng(0).integers(0, 1024, (300, 500), dtype=np.uint16)
    display.set_phase(pattern)
    expected = np.stack([pattern >> 8, pattern & 255, np.zeros_like(pattern)], axis=-1)
    assert np.array_equal(small.pixels(1), expected)


def test_slmsuites_own_test_passes(small: Any, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    assert opened().test() is True
    assert len(Display.info(verbose=False)) == 2


BENCH = """
[bench]
name = "mixed"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "display"
options = { monitor = "screen", resolution = [500, 300], pitch_um = 12.0 }
settle_ms = 1
[input]
driver = "simulated"
options = { resolution = [64, 64], pitch_um = 8.0 }
settle_ms = 1
[camera]
driver = "simulated"
options = { resolution = [96, 96], pitch_um = 5.5 }
exposure_ms = 1.0
[simulation]
preset = "ideal"
"""


def test_on_a_bench_beside_simulated_devices(small: Any) -> None:
    bench = open_bench(parse_bench(BENCH))
    try:
        assert bench.facts.geometry.slm.shape == (300, 500)
        assert bench.devices["slm"].startswith("display screen")
        pattern = np.random.default_rng(1).integers(0, 256, (300, 500), dtype=np.uint8)
        bench.show(slm=pattern)
        assert small.shows(pattern)
        assert bench.capture().data.shape == (96, 96)
        assert not bench.make_safe()
        assert small.shows(np.zeros((300, 500)))
    finally:
        bench.close()
