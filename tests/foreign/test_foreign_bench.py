"""Every calibration on a bench that labctl has not made: drivers and light of `fourlab`, which know the contract only.

Its makers know what it is (`foreign_known`); the tolerances say how near each calibration has to come.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fourlab
import numpy as np
import pytest
from foreign_known import known_of
from scoring_truth import score

from labctl.bench import Bench
from labctl.bench.records import CalibrationRecord
from labctl.procedures import calibrations
from labctl.runs.engine import Engine

HERE = Path(__file__).parent
Make = Callable[..., Bench]


def calibrate(bench: Bench, names: Iterable[str]) -> dict[str, CalibrationRecord]:
    """Run calibrations by class name, each knowing the records before it."""
    engine = Engine(bench)
    found: dict[str, CalibrationRecord] = {}
    for name in names:
        record = engine.run(getattr(calibrations, name)())
        found[record.kind] = record
        bench.with_calibrations(found)
    return found


def test_it_shares_no_code_with_the_simulated_world() -> None:
    """Otherwise calibrating it would prove nothing."""
    known = {"__future__", "collections", "dataclasses", "functools", "typing"}
    for path in (HERE / "fourlab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in known | {"numpy", "scipy", "slmsuite", "fourlab"}, (path.name, name)


def test_light_goes_where_its_makers_say(foreign: Make) -> None:
    """The bench itself: a dot through a flat SLM, and steered, falls where its geometry says; a white field is 1."""
    bench = foreign(waves=np.zeros((6, 6)), unmodulated=0.0, panel_delay_s=0.0)
    light, known = bench.device("slm").driver.light, known_of(bench)
    flat = np.zeros(light.slm)
    white = np.full(light.panel, 255, np.uint8)
    light.__dict__.update(beam=np.ones(light.slm), illumination=np.ones(light.panel))
    whole = (0, light.camera[0], 0, light.camera[1])
    middle = known.input_to_camera @ np.array([59.5, 79.5, 1.0])
    seen = light.intensity(flat, white, whole)
    r, c = np.rint(middle).astype(int)
    assert seen[r - 9 : r + 10, c - 9 : c + 10].mean() == pytest.approx(1, abs=0.02)
    light.black, light._spectra = 0.0, {}
    light.__dict__.pop("amplitude_of_gray")
    rows, columns = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in light.slm), indexing="ij")
    for place, carrier in (((60, 80), (0, 0)), ((31, 112), (0, 0)), ((60, 80), (0.11, -0.17))):
        dot = np.zeros(light.panel, np.uint8)
        dot[place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2] = 255
        power = light.intensity(2 * np.pi * (carrier[0] * rows + carrier[1] * columns), dot, whole)
        power = np.where(power > 0.1 * power.max(), power, 0)
        centre = [float((power * axis).sum() / power.sum()) for axis in np.indices(power.shape)]
        expected = known.input_to_camera @ np.array([*place, 1.0]) + known.carrier_to_camera @ np.asarray(carrier)
        assert centre == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_the_first_calibrations_find_what_its_makers_know(foreign: Make) -> None:
    bench = foreign()
    known = known_of(bench)
    found = calibrate(bench, ("Dark", "Registration", "Gain", "FourierCentre"))
    wrong = {kind: score(record, known) for kind, record in found.items()}
    assert wrong["dark"]["offset (counts)"] < 0.5
    assert wrong["dark"]["read noise (%)"] < 20  # of a quarter of a count, which rounding distorts
    assert wrong["registration"]["unsteered (px rms)"] < 0.2
    assert wrong["registration"]["in the tiles (px rms)"] < 0.2
    assert wrong["gain"]["gain (%)"] < 5
    assert wrong["fourier-centre"]["centre (SLM px)"] < 0.6


def test_the_drivers_pass_slmsuites_own_tests() -> None:
    fourlab.table("tested", seed=2)
    slm, panel = fourlab.Lcos("tested"), fourlab.Panel("tested")
    assert slm.test()
    assert panel.test()
    assert fourlab.Cam(slm, panel).test()


@pytest.fixture(autouse=True)
def _tables() -> Any:
    yield
    fourlab.TABLES.clear()
