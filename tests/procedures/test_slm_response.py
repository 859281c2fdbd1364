"""Gray level to phase, against what the simulated SLM truly does, which only these tests may read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.slm_response import SlmResponse
from labctl.procedures.messages import Measure
from labctl.runs.engine import Engine

Make = Callable[..., Any]


def miss_rad(made: Any, record: CalibrationRecord) -> float:
    """Error of the phase over gray levels and panel, rms, rad."""
    table, stroke = made.world._slm_tables
    true = (table - table[-1])[:, None, None] * stroke[None, ::8, ::8]
    rows, columns = (np.arange(0, n, 8) for n in stroke.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    found = RegularGridInterpolator((record["y"], record["x"]), record["stroke"].astype(float))((y, x))
    wrong: NDArray[np.float64] = record["phase"][:, None, None] * found - true
    return float(np.sqrt(np.mean(wrong**2)))


@pytest.mark.parametrize(
    ("effects", "limit"),
    [
        ({}, 0.005),
        ({"slm_lut": 0.3}, 0.01),
        ({"slm_lut": 0.2, "slm_crosstalk_px": 0.9}, 0.01),
        ({"slm_zero_order": 0.08, "slm_lut": 0.2}, 0.02),
        ({"input_contrast": 300, "input_stop_px": 96, "slm_lut": 0.2}, 0.03),
    ],
)
def test_each_effect_alone(small: Make, effects: dict[str, float], limit: float) -> None:
    made = small("ideal", 3, **effects)
    record = Engine(made.bench).run(SlmResponse())
    assert miss_rad(made, record) < limit
    assert record["phase"][-1] == 0
    assert record["phase"][0] == pytest.approx(2 * np.pi * 255 / 256, abs=0.6)
    assert SlmResponse().picture(record).shape == (9, 256)
    if effects.get("slm_crosstalk_px"):
        assert record["crosstalk"] == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_typical_bench(small: Make, seed: int) -> None:
    """256 px leave four regions: the bars are for 1024."""
    made = small("typical", seed)
    engine = Engine(made.bench)
    assert miss_rad(made, engine.run(SlmResponse())) < 0.1
    assert engine.snapshot().captured < 66


def test_a_stroke_of_three_half_turns_is_found(small: Make) -> None:
    """Light repeats itself every turn; the fit starts on the right fold all the same."""
    made = small("ideal", 3)
    table, stroke = made.world._slm_tables
    made.world.__dict__["_slm_tables"] = (table * np.float32(1.5), stroke)
    assert miss_rad(made, Engine(made.bench).run(SlmResponse())) < 0.02


def test_low_light_is_refused(small: Make) -> None:
    made = small("typical", 1, flux_e_per_s=2000.0)
    with pytest.raises(CalibrationError, match=r"slm-response: too little light: .*laser is on"):
        Engine(made.bench).run(SlmResponse())


def test_light_that_rises_past_the_camera_is_refused(small: Make) -> None:
    made = small("ideal", 1)
    steps = SlmResponse().steps(made.bench.facts)
    answer: Any = None
    with pytest.raises(CalibrationError, match="saturate the camera"):
        for _ in range(40):
            message = steps.send(answer)
            answer = None
            if isinstance(message, Measure):
                for exposure in message.exposures:
                    made.bench.show(slm=exposure.slm, input=exposure.input)
                power = 100.0 if len(message.exposures) > 1 else 1.0
                made.world.set_laser(power=power)
                answer = [made.bench.capture(one.exposure_s) for one in message.exposures[:3]] * len(message.exposures)
                answer = answer[: len(message.exposures)]


def test_an_slm_that_does_nothing_is_refused(small: Make) -> None:
    made = small("ideal", 1, shot_noise=True, read_noise_e=2.5)
    table, stroke = made.world._slm_tables
    made.world.__dict__["_slm_tables"] = (table * np.float32(0), stroke)
    with pytest.raises(CalibrationError, match="slm-response: "):
        Engine(made.bench).run(SlmResponse())
