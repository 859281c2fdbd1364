"""Benches with one device to try, the others simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from labctl.bench import Bench, open_bench
from labctl.config.load import parse_bench

TEXT = """
[bench]
name = "mixed"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = {{ resolution = [128, 128], pitch_um = 16.0 }}
settle_ms = 2
[input]
driver = "simulated"
options = {{ resolution = [64, 64], pitch_um = 8.0 }}
settle_ms = 1
[camera]
{camera}
exposure_ms = 4.0
[simulation]
preset = "ideal"
"""


def text_with(camera: str) -> str:
    return TEXT.format(camera=camera)


@pytest.fixture
def with_camera() -> Iterator[Callable[[str], Bench]]:
    """Opens a bench whose camera is the given lines of a bench file; closed after the test."""
    opened: list[Bench] = []

    def make(camera: str) -> Bench:
        opened.append(open_bench(parse_bench(text_with(camera))))
        return opened[-1]

    yield make
    for bench in opened:
        bench.close()
