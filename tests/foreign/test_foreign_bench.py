"""Every calibration on a bench that labctl has not made: drivers and light of `fourlab`, which know the contract only.

Its makers know what it is (`foreign_known`); the tolerances say how near each calibration has to come.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fourlab
import numpy as np
import pytest
import torch
from foreign_known import known_of
from scoring_truth import score

from calibration import HeldOut, available
from labctl.bench import Bench, open_bench
from labctl.bench.records import CalibrationRecord
from labctl.config.load import parse_bench
from labctl.errors import CalibrationError
from labctl.optics.detection import expected_tiles
from labctl.optics.fidelity import pearson
from labctl.procedures.calibrations.twin import TwinFit
from labctl.procedures.deployment import compile_deployment
from labctl.runs.engine import Engine

HERE = Path(__file__).parent
Make = Callable[..., Bench]


TOLERANCES: dict[str, dict[str, float]] = {
    "dark": {"offset (counts)": 0.5, "read noise (%)": 20},  # of a quarter of a count, which rounding distorts
    "registration": {"unsteered (px rms)": 0.2, "in the tiles (px rms)": 0.2},
    "gain": {"gain (%)": 5},
    "fourier-centre": {"centre (SLM px)": 0.6},
    "input-response": {"amplitude (rms)": 0.01, "contrast (%)": 5, "uniformity (rms)": 0.08},
    "fourier-plane": {"scale (%)": 0.2, "rotation (deg)": 0.1, "defocus (waves rms)": 0.02},
    "slm-response": {"gray to phase (rad rms)": 0.1, "stroke (rms)": 0.02},
    "crosstalk": {"width (SLM px)": 0.1},
    "zero-order": {"amplitude (%)": 5},
    "settle": {"SLM to 1 % (%)": 10, "SLM rise, outside its span (%)": 10, "input (ms)": 3},
    "wavefront": {"residual (waves rms)": 1 / 40},
    "pupil": {"amplitude (rms)": 0.12},
    "twin": {"one_minus_r_mean": 0.02, "one_minus_r_worst": 0.05},  # a short fit
    "stability": {"flicker (%)": 60},  # a standard deviation of a dozen frames
}
"""How near each kind has to come on this bench, in the figures of `scoring_truth`."""


def measured(bench: Bench) -> dict[str, dict[str, float]]:
    """Run every calibration in order, each knowing the records before it, and score it; refusals score nothing."""
    engine, known = Engine(bench), known_of(bench)
    found: dict[str, CalibrationRecord] = {}
    scores: dict[str, dict[str, float]] = {}
    for kind, step in available().items():
        if kind == "twin":
            step = TwinFit(masks=8, inputs=3, held_out=3, on_axis=4, levels=4, fit_steps=60)
        try:
            record = engine.run(step)
        except CalibrationError:
            if kind in TOLERANCES:
                raise
            continue
        found[kind] = record
        bench.with_calibrations(found)
        scores[kind] = score(record, known) if kind != "twin" else dict(record.quality)
    return scores


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


@pytest.fixture(scope="module")
def calibrated() -> Iterator[tuple[Bench, dict[str, dict[str, float]]]]:
    light = fourlab.table("calibrated", seed=1)
    text = (HERE / "bench.toml").read_text(encoding="utf-8")
    for name in ("Lcos", "Panel", "Laser"):  # a table of its own
        text = text.replace(f'"fourlab:{name}"', f'"fourlab:{name}"\noptions = {{ table_name = "calibrated" }}')
    bench = open_bench(parse_bench(text), clock=light.time)
    yield bench, measured(bench)
    bench.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", list(TOLERANCES))
def test_a_calibration_finds_what_the_makers_know(
    calibrated: tuple[Bench, dict[str, dict[str, float]]], kind: str
) -> None:
    found = calibrated[1][kind]
    for name, limit in TOLERANCES[kind].items():
        assert found[name] <= limit, (kind, name, found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kernel_bank_is_deployed_and_read(calibrated: tuple[Bench, dict[str, dict[str, float]]]) -> None:
    """Two signed kernels in four tiles: what is captured is what ``conv2d`` gives, once the bench is calibrated."""
    bench = calibrated[0]
    dice = torch.Generator().manual_seed(3)
    kernels = torch.randn(2, 1, 5, 5, generator=dice)
    images = torch.nn.functional.avg_pool2d(torch.rand(3, 1, 20, 20, generator=dice), 3, 1, 1)[:, 0]
    images = (images - images.amin()) / (images.amax() - images.amin())
    misses = []
    for ways in ({"calibrated": False, "corrected": False}, {"corrected": False}, {"corrected": True}):
        deployment = compile_deployment(kernels, bench.facts, image=(20, 20), **ways)
        (shots,) = Engine(bench).run(HeldOut((deployment,), images, 1))
        expected = expected_tiles(images[:, None], deployment.kernels, deployment.detection)
        misses.append(1 - pearson(shots.intensity[:, 0].clamp(min=0).sqrt(), expected).mean(0))
    assert float(misses[0].mean()) > 0.3
    assert float(misses[1].mean()) < 0.03
    assert float(misses[2].mean()) < 0.03
    assert float(misses[2].max()) < 0.05


def test_the_drivers_pass_slmsuites_own_tests() -> None:
    fourlab.table("tested", seed=2)
    slm, panel = fourlab.Lcos("tested"), fourlab.Panel("tested")
    assert slm.test()
    assert panel.test()
    assert fourlab.Cam(slm, panel).test()


@pytest.fixture(autouse=True)
def _tables() -> Any:
    yield
    for name in ("main", "tested"):
        fourlab.TABLES.pop(name, None)
