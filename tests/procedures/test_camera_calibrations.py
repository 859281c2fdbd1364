"""Gain and linearity, input response, stability and exposure series: near the truth, honest, and refused in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.procedures.calibrations import Dark, FourierCentre, Gain, Registration
from labctl.procedures.calibrations.common import flat
from labctl.procedures.calibrations.flat_field import FlatField, _field, _lasting, _waves
from labctl.procedures.calibrations.input_response import InputResponse, _isotonic
from labctl.procedures.calibrations.linearity import linearity
from labctl.procedures.calibrations.stability import Stability
from labctl.procedures.exposing import hdr, laser_on, square
from labctl.procedures.messages import Set, Steps
from labctl.runs.engine import Engine

Open = Callable[..., Any]
FULL = 4000.0


def measure(made: Any, *procedures: Any) -> Any:
    for procedure in procedures:
        record = Engine(made.bench).run(procedure)
        made.bench.with_calibrations({record.kind: record})
    return record


def test_gain_and_saturation_are_the_cameras(small: Open) -> None:
    """Over seeds, errors divided by stated uncertainties are of the order of 1."""
    ratios = []
    for seed in (1, 4):
        made = small("typical", seed)
        found = measure(made, Dark(), Gain())
        ratios.append(float((found["gain"] - 10_000 / (4095 - 64)) / found.uncertainties["gain"]))
        assert 3950 < float(found["saturation"]) <= 4095
        assert float(found["nonlinearity"]) < 0.01
    assert 0.3 < np.sqrt(np.mean(np.square(ratios))) < 3, ratios


def scene(times: list[float], response: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> list[NDArray[Any]]:
    """Frames of a slope from dark to bright, with flicker and photon noise."""
    dice = np.random.default_rng(5)
    slope = np.tile(np.linspace(0.05, 1, 100), (100, 1))
    frames = []
    for t in times:
        light = slope * t * (1 + 0.003 * dice.standard_normal())
        counts = response(light) + 0.6 * np.sqrt(np.maximum(light, 1)) * dice.standard_normal(slope.shape)
        frames.append(np.clip(counts, None, FULL).astype(np.float32))
    return frames


TIMES = [500.0 * (n + 1) for n in range(8) for _ in range(2)]
"""Light of the brightest pixel, counts; a time is as good as light here."""


@pytest.mark.parametrize(
    ("response", "low", "high"),
    [
        (lambda light: light, 0.0, 0.006),
        (lambda light: FULL * (light / FULL) ** 0.9, 0.03, 0.3),
        (lambda light: light * (1 - 0.1 * light / FULL), 0.02, 0.2),
    ],
)
def test_a_bent_response_is_told_from_flicker(response: Any, low: float, high: float) -> None:
    found = linearity(scene(TIMES, response), TIMES, FULL)
    assert found is not None
    assert low <= found.nonlinearity < high


def test_saturation_is_found_where_it_is_and_too_little_light_says_nothing() -> None:
    times = [*TIMES, 5400.0, 7200.0]
    found = linearity(scene(times, lambda light: np.minimum(light, 3000)), times, FULL)
    assert found is not None
    assert found.saturation == pytest.approx(3000, rel=0.04)
    straight = linearity(scene(TIMES[:12], lambda light: light), TIMES[:12], FULL)
    assert straight is not None
    assert straight.saturation == np.inf
    assert linearity(scene([1.0, 2.0, 3.0], lambda light: light), [1.0, 2.0, 3.0], FULL) is None


def test_input_response_is_the_panels(small: Open) -> None:
    made = small("typical", 3)
    calibration = InputResponse()
    found = measure(made, Dark(), calibration)
    table, illumination = made.world._input_tables
    wrong = found["amplitude"] - table
    assert np.sqrt((wrong**2).mean()) < 0.004
    assert (np.diff(found["amplitude"]) >= 0).all()
    assert found["amplitude"][-1] == 1
    ratio = wrong / np.maximum(found.uncertainties["amplitude"], 1e-6)
    assert 0.3 < np.sqrt((ratio[:-1] ** 2).mean()) < 3
    assert float(found["contrast"]) == pytest.approx(300, rel=0.05)
    assert float(found["gamma"]) == pytest.approx(made.world._truth.input_gamma, abs=0.01)
    rows, columns = (np.rint(found[name]).astype(int) for name in ("y", "x"))
    lit = illumination[np.ix_(rows, columns)] > 0
    assert (found["uniformity"][~lit] < 0.5).all()
    assert (found["uniformity"][lit] > 0.4).all()
    middle = found["uniformity"][13:19, 13:19]
    assert middle.min() > 0.75
    assert calibration.picture(found).shape == found["uniformity"].shape


def test_a_panel_without_contrast_or_light_is_refused(small: Open) -> None:
    with pytest.raises(CalibrationError, match=r"input response: black is \d+ % of white's amplitude"):
        measure(small("typical", 1, input_contrast=1.5), Dark(), InputResponse())
    with pytest.raises(CalibrationError, match="too little light"):
        measure(small("typical", 1, flux_e_per_s=1.0), Dark(), InputResponse())
    falling = np.array([0.1, 0.4, 0.3, 1.0])
    assert _isotonic(falling) == pytest.approx([0.1, 0.35, 0.35, 1.0])
    with pytest.raises(CalibrationError, match=r"amplitude falls where gray rises .* near level (10|20)"):
        InputResponse()._refuse(np.array([0, 10, 20, 30]), np.array([0.1, 0.5, 0.2, 1.0]), 0.2, 0.1, 0.001)


def test_flicker_and_repeatability_are_told(small: Open) -> None:
    flickering = measure(small("ideal", 1, laser_flicker=0.02), Stability())
    assert float(flickering["flicker"]) == pytest.approx(0.02, abs=3 * float(flickering.uncertainties["flicker"]))
    assert float(flickering["repeatability"]) == pytest.approx(0.02, rel=0.6)
    assert float(flickering["repeatability_scaled"]) < 0.003
    calm = measure(small("ideal", 1), Stability())
    assert float(calm["repeatability"]) < 1e-3
    assert abs(float(calm["drift"])) <= 3 * float(calm.uncertainties["drift"]) + 1e-6
    noisy = measure(small("typical", 1), Dark(), Gain(), Stability())
    assert 0.8 * float(noisy["floor"]) < float(noisy["repeatability_scaled"]) < 3 * float(noisy["floor"])
    assert Stability().picture(noisy).shape == (28, 28)
    with pytest.raises(CalibrationError, match="fewer than 3 repeats say nothing"):
        measure(small("ideal", 1), Stability(repeats=2))


@dataclass(frozen=True)
class Series:
    """A procedure around `hdr`."""

    times: tuple[float, ...]

    @property
    def name(self) -> str:
        return "series"

    def exposures(self, facts: BenchFacts) -> int:
        return len(self.times)

    def steps(self, facts: BenchFacts) -> Steps[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        yield from laser_on(facts)
        return (yield from hdr(facts, flat(facts), square(facts, 40), self.times))


def test_an_exposure_series_reaches_what_one_frame_cannot(small: Open) -> None:
    """Bright and dim parts in one picture, with an uncertainty that two series bear out."""
    made = small("typical", 1, laser_flicker=0.01)
    measure(made, Dark(), Gain())
    times = (2e-4, 2e-3, 2e-2)
    first, second = (Engine(made.bench).run(Series(times)) for _ in range(2))
    (rate, error), (again, _) = first, second
    assert np.isfinite(rate).mean() > 0.999
    bright, dim = rate > 0.3 * np.nanmax(rate), (rate > 1e-3 * np.nanmax(rate)) & (rate < 1e-2 * np.nanmax(rate))
    assert bright.sum() > 300
    assert dim.sum() > 300
    assert np.nanmedian(error[dim] / rate[dim]) < 0.15  # a single frame that keeps the bright part has nothing there
    again = again * (rate[bright].sum() / again[bright].sum())
    ratio = (rate - again)[dim] / (2**0.5 * error[dim])
    assert 0.3 < 1.4826 * np.median(np.abs(ratio - np.median(ratio))) < 3
    with pytest.raises(CalibrationError, match=r"saturates at the shortest exposure, 0\.5 s: add a shorter one"):
        Engine(made.bench).run(_All((0.5, 1.0)))


@dataclass(frozen=True)
class _All(Series):
    """The same in a window that is all lit."""

    def steps(self, facts: BenchFacts) -> Steps[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        yield from laser_on(facts)
        registration = facts.calibration("registration")["input_to_camera"]
        r, c = (int(v) for v in registration[:, :2] @ np.asarray(facts.geometry.input.centre) + registration[:, 2])
        yield Set("camera", "window", (r - 8, r + 8, c - 8, c + 8))
        return (yield from hdr(facts, flat(facts), square(facts, 40), self.times))


def test_each_takes_as_many_frames_as_it_says(small: Open) -> None:
    made = small("typical", 2)
    facts = made.bench.facts
    budget = {"gain": 25, "input-response": 42, "stability": 18}
    for procedure in (Gain(), InputResponse(), Stability()):
        engine = Engine(made.bench)
        engine.run(procedure)
        assert engine.snapshot().captured == pytest.approx(procedure.exposures(facts), abs=6)
        assert engine.snapshot().captured <= budget[procedure.name]


def test_fringes_are_told_from_speckle() -> None:
    """A wave that is in every frame is found with its amplitude; without one, none is."""
    dice = np.random.default_rng(2)
    clear = np.ones((200, 240), bool)
    clear[80:120, 90:140] = False
    wave = np.array([[0.031, -0.047, 0.03, 0.02]])
    for fringes in (wave, np.zeros((0, 4))):
        field = 1 + _field(clear.shape, fringes)
        each = [np.where(clear, dice.exponential(1.0, clear.shape) * field - 1, 0.0) for _ in range(8)]
        found, error = _lasting(_waves(np.mean(each, axis=0), clear), each, [clear] * len(each))
        assert len(found) == len(fringes)
        assert error < 0.004
        if len(found):
            assert np.abs(_field(clear.shape, found) - _field(clear.shape, fringes)).max() < 0.012


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fringes_on_a_bench_are_found(scored: Open) -> None:
    made = scored("typical", 1)
    measure(made, Dark(), Registration(), FourierCentre())
    found = measure(made, FlatField())
    period, angle, start = made.world._truth.fringe
    rows, columns = np.indices(found["response"].shape)
    phase = (rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / period + start
    true = 1 + made.world._effects.fringes * np.sin(phase)
    assert np.corrcoef(true.ravel(), found["response"].ravel())[0, 1] > 0.95
    assert FlatField().picture(found).shape == true.shape
