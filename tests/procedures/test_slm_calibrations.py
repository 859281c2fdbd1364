"""Crosstalk and zero order against the simulated SLM's, which only these tests may read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.crosstalk import Crosstalk
from labctl.procedures.calibrations.zero_order import ZeroOrder
from labctl.runs.engine import Engine

Make = Callable[..., Any]


def with_response(made: Any) -> Any:
    """The bench with its true response of gray level to phase among its records."""
    table, stroke = made.world._slm_tables
    y, x = (np.linspace(0, n - 1, 9) for n in stroke.shape)
    values = {
        "phase": (table - table[-1]).astype(float), "y": y, "x": x,
        "stroke": stroke[np.ix_(np.rint(y).astype(int), np.rint(x).astype(int))],
    }  # fmt: skip
    made.bench.with_calibrations({"slm-response": CalibrationRecord("slm-response", "sim-4f", values, {})})
    return made


@pytest.mark.parametrize(
    ("preset", "effects", "limit"),
    [("ideal", {"slm_crosstalk_px": 0.9}, 0.02), ("ideal", {"slm_crosstalk_px": 1.5, "slm_lut": 0.2}, 0.03),
     ("ideal", {}, 0.31), ("typical", {}, 0.1)],
)  # fmt: skip
def test_crosstalk(small: Make, preset: str, effects: dict[str, float], limit: float) -> None:
    made = with_response(small(preset, 2, **effects))
    record = Engine(made.bench).run(Crosstalk())
    assert record["fwhm"] == pytest.approx(made.world._effects.slm_crosstalk_px, abs=limit)
    assert Crosstalk().picture(record).shape == (4, 10)


@pytest.mark.parametrize(
    ("preset", "effects", "limit"),
    [("ideal", {"slm_zero_order": 0.04}, 0.005), ("ideal", {"slm_zero_order": 0.08, "slm_lut": 0.2}, 0.005),
     ("ideal", {}, 0.01), ("typical", {}, 0.02)],
)  # fmt: skip
def test_zero_order(small: Make, preset: str, effects: dict[str, float], limit: float) -> None:
    made = with_response(small(preset, 2, **effects))
    record = Engine(made.bench).run(ZeroOrder())
    zero = made.world._effects.slm_zero_order
    table, _ = made.world._slm_tables
    true = (zero / (1 - zero)) ** 0.5 * np.exp(-1j * table[-1])
    assert abs(complex(*record["amplitude"]) - true) < limit
    if zero:
        assert record["suppression"] < 0.1
    assert ZeroOrder().picture(record).max() == 1


@pytest.mark.parametrize("procedure", [Crosstalk(), ZeroOrder()])
def test_what_is_missing_is_named(small: Make, procedure: Any) -> None:
    with pytest.raises(CalibrationError, match="no 'slm-response' calibration"):
        Engine(small().bench).run(procedure)


@pytest.mark.parametrize("procedure", [Crosstalk(), ZeroOrder()])
def test_low_light_is_refused(small: Make, procedure: Any) -> None:
    made = with_response(small("typical", 1, flux_e_per_s=0.5))
    with pytest.raises(CalibrationError, match=f"{procedure.name}: too little light"):
        Engine(made.bench).run(procedure)
