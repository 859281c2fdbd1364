"""slmsuite's own checks and calibrations on labctl's simulated devices, unchanged."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from labctl.bench import open_bench
from labctl.config.load import parse_bench

TEXT = """
[bench]
name = "fourier"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 100
[slm]
driver = "simulated"
options = { resolution = [256, 256], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [64, 64], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [512, 512], pitch_um = 5.5 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "ideal"
"""


def test_slmsuites_own_tests_pass() -> None:
    bench = open_bench(parse_bench(TEXT))
    try:
        assert bench.device("slm").driver.test()
        assert bench.device("input").driver.test()
        assert bench.device("camera").driver.test()
    finally:
        bench.close()


@pytest.mark.slow
def test_slmsuites_fourier_calibration_runs_with_a_pinhole_on_the_input() -> None:
    """With a pinhole as input, SLM, lens and camera are slmsuite's `FourierSLM`, and its affine transform is known.

    A blaze of angle k (radians) moves the light by f2 k: slmsuite's matrix, camera pixels per k, is f2 / camera pitch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no GPU
        from slmsuite.hardware.cameraslms import FourierSLM

    # slmsuite's hologram starts from random phases, and about one start in seven takes the spots for their mirror
    # image; what is pinned here is that the calibration runs on our devices, so the start is fixed
    np.random.seed(1)  # noqa: NPY002 - slmsuite draws from the global state
    bench = open_bench(parse_bench(TEXT))
    try:
        pinhole = np.zeros((64, 64), np.uint8)
        pinhole[30:34, 30:34] = 255
        bench.show(input=pinhole)
        bench.capture()
        slm, camera = bench.device("slm").driver, bench.device("camera").driver
        system = FourierSLM(camera, slm)
        camera.set_exposure(0.5)
        # slmsuite waits in real time; this bench's time is virtual, so the settling has to pass on its clock.
        clock, show = bench.clock, slm.set_phase

        def settled(*args: object, **kwargs: object) -> object:
            kwargs["settle"] = False
            done = show(*args, **kwargs)
            clock.sleep(0.5)
            return done

        slm.set_phase = settled
        calibration = system.fourier_calibrate(array_shape=(5, 4), array_pitch=(18, 18), plot=False)
    finally:
        bench.close()
    scale = 0.1 / 5.5e-6
    matrix = np.asarray(calibration["M"])
    assert np.diag(matrix) == pytest.approx([scale, scale], rel=5e-3)
    assert np.abs(matrix[[0, 1], [1, 0]]).max() < 5e-3 * scale
    assert np.ravel(calibration["b"]) == pytest.approx([255.5, 255.5], abs=0.5), "the zero order, at the middle"
