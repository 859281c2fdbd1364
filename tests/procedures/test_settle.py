"""Settle times against those of the simulated panels, which only these tests may read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from labctl.errors import CalibrationError
from labctl.procedures.calibrations.settle import Settle
from labctl.runs.engine import Engine
from labctl.simulation.world import LN9

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("preset", "effects"),
    [
        ("ideal", {"slm_rise_s": 0.04}),
        ("ideal", {"slm_rise_s": 0.02, "slm_rise_slowing": 0.5, "slm_crosstalk_px": 0.9}),
        ("typical", {}),
        ("typical", {"slm_rise_s": 0.06, "laser_flicker": 0.006}),
    ],
)
def test_rise_and_settle_time(small: Make, preset: str, effects: dict[str, float]) -> None:
    made = small(preset, 2, **effects)
    engine = Engine(made.bench)
    record = engine.run(Settle())
    rise, slowing = made.world._effects.slm_rise_s, made.world._effects.slm_rise_slowing
    assert record["slm_settle"] == pytest.approx(rise * (1 + slowing) / LN9 * np.log(100), rel=0.1)
    assert rise * 0.95 <= record["slm_rise"] <= rise * (1 + slowing) * 1.05
    assert record["input_settle"] == pytest.approx(0.0, abs=0.003)
    assert engine.snapshot().captured == pytest.approx(Settle().exposures(made.bench.facts), abs=8)
    assert Settle().picture(record).max() == 1


def test_an_slm_faster_than_the_camera(small: Make) -> None:
    """As on the ideal bench of a dry run: no rise to be seen, and settled by the first frame."""
    made = small("ideal", 2)
    record = Engine(made.bench).run(Settle())
    assert record["slm_rise"] == 0
    assert record["slm_settle"] < 0.003


def test_an_slm_slower_than_its_file_says_is_refused(small: Make) -> None:
    made = small("ideal", 2, slm_rise_s=0.6)
    with pytest.raises(CalibrationError, match=r"settle: .*(raise settle_ms|exponential|slower than its settle_ms)"):
        Engine(made.bench).run(Settle())


def test_low_light_is_refused(small: Make) -> None:
    made = small("typical", 1, flux_e_per_s=1.0)
    with pytest.raises(CalibrationError, match=r"settle: too little light"):
        Engine(made.bench).run(Settle())
