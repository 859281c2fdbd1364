"""A small simulated bench with a laser, a shutter and a power meter, reached in three ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from labctl.bench import Bench, open_bench
from labctl.config.load import parse_bench

LIGHT = """
[bench]
name = "small"
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
options = { resolution = [48, 48], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [80, 72], pitch_um = 5.5, readout_ms = 5.0 }
exposure_ms = 1.0
[simulation]
preset = "ideal"
seed = 3
"""
SIMULATED = """
[instruments.laser]
driver = "simulated"
role = "laser"
[instruments.shutter]
driver = "simulated"
role = "shutter"
[instruments.meter]
driver = "simulated"
role = "power-meter"
options = { nominal_mw = 10.0 }
"""
FIRMWARE = """
[instruments.laser]
driver = "serial"
role = "laser"
[instruments.laser.options]
port = "simulated:laser"
identify = { query = "*IDN?", expect = "labctl,simulated laser,.*" }
safe = [["enabled", false]]
[instruments.laser.options.settings]
enabled = { set = "OUTP {value}", get = "OUTP?", type = "bool" }
power = { set = "SOUR:POW {value:.6f}", get = "SOUR:POW?", unit = "W" }

[instruments.shutter]
driver = "visa"
role = "shutter"
[instruments.shutter.options]
resource = "simulated:shutter"
safe = [["open", false]]
settings.open = { set = "SHUT {value}", get = "SHUT?", type = "bool" }

[instruments.meter]
driver = "visa"
role = "power-meter"
options = { resource = "simulated:power-meter", settings = { power = { get = "MEAS:POW?", unit = "W" } } }
"""


@pytest.fixture
def light() -> str:
    """A bench file without instruments."""
    return LIGHT


@pytest.fixture(params=["drivers", "firmware"])
def instruments(request: pytest.FixtureRequest) -> str:
    """The three instruments, as simulated drivers and as real drivers in front of simulated firmware."""
    return SIMULATED if request.param == "drivers" else FIRMWARE


@pytest.fixture
def simulated() -> str:
    """The three instruments as simulated drivers."""
    return SIMULATED


@pytest.fixture
def lit() -> Iterator[Callable[..., Bench]]:
    """Opens a bench file with the input white; closed after the test."""
    opened: list[Bench] = []

    def make(text: str, **more: Any) -> Bench:
        opened.append(open_bench(parse_bench(text), **more))
        opened[-1].show(input=np.full((48, 48), 255, np.uint8))
        return opened[-1]

    yield make
    for bench in opened:
        bench.close()
