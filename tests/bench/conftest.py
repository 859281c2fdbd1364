"""Small benches for the bench tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from labctl.bench import Bench, open_bench
from labctl.config.load import parse_bench

TEXT = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [256, 240], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [96, 96], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [320, 300], pitch_um = 5.5, readout_ms = 5.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "typical"
seed = 3
"""


@pytest.fixture
def text() -> str:
    return TEXT


@pytest.fixture
def small() -> Iterator[Callable[..., Bench]]:
    """Opens the small bench, with lines replaced; closed after the test."""
    opened: list[Bench] = []

    def make(*replacements: tuple[str, str], **more: Any) -> Bench:
        changed = TEXT
        for old, new in replacements:
            assert old in changed
            changed = changed.replace(old, new)
        opened.append(open_bench(parse_bench(changed), **more))
        return opened[-1]

    yield make
    for bench in opened:
        bench.close()
