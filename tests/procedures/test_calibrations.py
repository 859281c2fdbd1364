"""Calibrations against the world's truth, which only these tests may read, and refusals with a reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from labctl.errors import CalibrationError
from labctl.procedures.calibrations import BASIC, Calibrate, Dark, FourierCentre, Gain, Registration
from labctl.procedures.messages import Measure, Set
from labctl.runs.engine import Engine

Make = Callable[..., "object"]


@pytest.mark.parametrize(("preset", "seed"), [("typical", 7), ("typical", 12), ("nasty", 11)])
def test_from_the_bare_file_to_the_truth(scored: Make, preset: str, seed: int) -> None:
    """Registration, Fourier centre and gain come out near what the dice gave, whatever flips `nasty` has."""
    made = scored(preset, seed)
    found = {record.kind: record for record in Engine(made.bench).run(Calibrate(only=BASIC)).records}
    wrong = found["registration"]["input_to_camera"] - made.input_to_camera
    middle = np.asarray(made.bench.facts.geometry.input.centre)
    corners = [middle + np.array(c) for c in ((0, 0), (-28, -28), (28, 28), (-28, 28))]
    errors = [np.linalg.norm(wrong[:, :2] @ c + wrong[:, 2]) for c in corners]
    assert max(errors) < (0.6 if preset == "nasty" else 0.3)
    assert np.abs(found["fourier-centre"]["centre"] - made.fourier_centre).max() < 1.0
    assert float(found["gain"]["gain"]) == pytest.approx(10_000 / (4095 - 64), rel=0.08)
    read_noise = np.hypot(made.world._effects.read_noise_e / (10_000 / (4095 - 64)), 12**-0.5)  # and rounding
    assert float(found["dark"]["read_noise"]) == pytest.approx(read_noise, rel=0.1)
    hot = found["dark"]["hot"]
    assert 1e-5 < hot.mean() < 1e-3


def test_an_ideal_bench_calibrates_to_the_nominal_geometry(scored: Make) -> None:
    made = scored("ideal")
    found = {record.kind: record for record in Engine(made.bench).run(Calibrate(only=BASIC)).records}
    wrong = found["registration"]["input_to_camera"] - made.bench.facts.geometry.nominal_input_to_camera()
    middle = np.asarray(made.bench.facts.geometry.input.centre)
    for corner in ((0, 0), (-28, -28), (28, 28), (-28, 28)):
        assert np.linalg.norm(wrong[:, :2] @ (middle + corner) + wrong[:, 2]) < 0.15
    assert found["fourier-centre"]["centre"] == pytest.approx(made.fourier_centre, abs=0.2)
    assert "gain" not in found  # no noise: nothing to measure it by, and it says so


def test_no_light_is_refused_with_what_to_check(scored: Make) -> None:
    made = scored("typical", flux_e_per_s=1.0)
    engine = Engine(made.bench)
    made.bench.with_calibrations({"dark": engine.run(Dark())})
    with pytest.raises(CalibrationError, match=r"too little light.*laser is on"):
        engine.run(Registration())


def test_a_spectrum_far_off_the_slm_is_refused(scored: Make) -> None:
    made = scored("typical", 3, fourier_shift_px=60)
    engine = Engine(made.bench)
    assert np.abs(made.world._truth.fourier_shift).max() > 20
    made.bench.with_calibrations({"registration": engine.run(Registration())})
    with pytest.raises(CalibrationError, match="not within 10 px of the SLM's middle"):
        engine.run(FourierCentre(search_px=10))


def test_what_is_missing_is_named(scored: Make) -> None:
    with pytest.raises(CalibrationError, match="no 'registration' calibration: run `labctl calibrate sim-4f`"):
        Engine(scored().bench).run(FourierCentre())


def test_dots_that_do_not_fit_on_the_panel_are_refused(scored: Make) -> None:
    made = scored("ideal")
    with pytest.raises(CalibrationError, match=r"the dots span 5000 input pixels, and the panel has .*: lower span_px"):
        Engine(made.bench).run(Registration(span_px=5000))


def test_the_dark_frame_switches_the_laser_off_and_on_again(scored: Make) -> None:
    """Message by message, without hardware."""
    steps = Dark().steps(scored().bench.facts)
    assert next(steps) == Set("laser", "enabled", False)
    assert steps.send(None) == Set("camera", "window", None)
    assert isinstance(steps.send(None), Measure)
    steps.close()


def test_a_narrow_window_left_by_an_aborted_run_spoils_nothing(scored: Make) -> None:
    """Dark frame and registration are of the whole sensor, whatever the camera read before."""
    made = scored("typical")
    engine = Engine(made.bench)
    made.bench.set("camera", "window", (600, 800, 100, 900))
    dark = engine.run(Dark())
    assert dark["offset"].shape == made.bench.facts.geometry.camera.shape
    made.bench.with_calibrations({"dark": dark})
    made.bench.set("camera", "window", (600, 800, 100, 900))
    assert engine.run(Registration()).quality["residual_px"] < 0.5


def test_each_says_how_many_frames_it_means_to_take(scored: Make) -> None:
    """Within a few: finding an exposure time may take some more or fewer."""
    for procedure in (Dark(), Gain(), Registration()):
        made = scored("typical")
        engine = Engine(made.bench)
        engine.run(procedure)
        assert engine.snapshot().captured == pytest.approx(procedure.exposures(made.bench.facts), abs=8)
