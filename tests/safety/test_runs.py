"""Procedures on a bench with a shutter and limits, through the engine: whatever happens, the bench ends safe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from labctl.bench import Bench, BenchFacts
from labctl.errors import SafetyError
from labctl.procedures.calibrations import Dark
from labctl.procedures.exposing import laser_on
from labctl.procedures.messages import Exposure, Measure, Set, Steps
from labctl.runs.engine import Engine

Lit = Callable[..., Bench]
WHITE = np.full((48, 48), 255, np.uint8)


@dataclass(frozen=True)
class Overexpose:
    """Lets light out and exposes for too long; its clean-up asks for light again."""

    name: str = "overexpose"

    def exposures(self, facts: BenchFacts) -> int:
        return 4

    def steps(self, facts: BenchFacts) -> Steps[None]:
        yield from laser_on(facts)
        try:
            yield Measure([Exposure(None, WHITE, 1.0)] * 4, "too long")
        finally:
            yield Set("laser", "enabled", True)


def test_the_dark_frame_shuts_the_shutter_and_leaves_the_laser_warm(lit: Lit, light: str, simulated: str) -> None:
    steps = Dark().steps(lit(light + simulated).facts)
    assert next(steps) == Set("shutter", "open", False)
    assert steps.send(None) == Set("camera", "window", None)
    assert isinstance(steps.send(None), Measure)
    steps.close()


def test_a_dark_frame_on_a_bench_with_a_shutter(lit: Lit, light: str, instruments: str) -> None:
    bench = lit(light.replace('"ideal"', '"typical"') + instruments)
    made = Engine(bench).run(Dark())
    assert made.kind == "dark"
    assert bench.read("shutter", "open") is False
    assert bench.read("laser", "enabled") is False


def test_calibrations_keep_to_the_longest_exposure(lit: Lit, light: str) -> None:
    facts = lit(light + "[safety]\nmax_exposure_ms = 4\n").facts
    assert facts.longest_exposure_s == pytest.approx(4e-3)
    steps = Dark().steps(facts)
    next(steps)
    assert steps.send("continue") == Set("camera", "window", None)
    asked = steps.send(None)
    assert isinstance(asked, Measure)
    times = [shot.exposure_s for shot in asked.exposures]
    assert max(times) == pytest.approx(4e-3)
    assert min(times) == pytest.approx(4e-3 / 20)
    steps.close()


@pytest.mark.parametrize("reaction", ["abort", "laser-off"])
def test_a_run_that_trips_an_interlock_fails_and_ends_dark(
    lit: Lit, light: str, instruments: str, reaction: str
) -> None:
    """Even though the procedure's clean-up asks for the laser."""
    text = f'[safety]\nsaturation = {{ pixels = 10, frames = 2, reaction = "{reaction}" }}\n'
    bench = lit(light + instruments + text)
    with pytest.raises(SafetyError, match="2 frames in a row with 10 saturated pixels"):
        Engine(bench).run(Overexpose())
    assert bench.read("laser", "enabled") is False
    assert bench.read("shutter", "open") is False
    bench.set("laser", "enabled", True)  # the next run may
