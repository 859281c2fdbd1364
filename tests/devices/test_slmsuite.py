"""slmsuite's own checks and calibrations on labctl's simulated devices, unchanged."""

from __future__ import annotations

import time

import numpy as np
import pytest

from labctl.bench import open_bench
from labctl.bench.slmsuite import refuse_unsound, slmsuite_system
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


@pytest.mark.parametrize("start", [9, 12, 14])
def test_slmsuites_fourier_calibration_with_a_pinhole_on_the_input(start: int) -> None:
    """With a pinhole as input, SLM, lens and camera are slmsuite's `FourierSLM`, and its affine transform is known.

    A blaze of angle k (radians) moves the light by f2 k: slmsuite's matrix, camera pixels per k, is f2 / camera pitch.
    From these starts of its random phases slmsuite once took overexposed spots for their mirror image, or was off by
    one spot; `test_slmsuite_calibrations` has the rest.
    """
    np.random.seed(start)  # noqa: NPY002 - slmsuite draws from the global state
    bench = open_bench(parse_bench(TEXT))
    try:
        pinhole = np.zeros((64, 64), np.uint8)
        pinhole[30:34, 30:34] = 255
        bench.show(input=pinhole)
        bench.capture()
        with slmsuite_system(bench) as system:
            found = system.fourier_calibrate(array_shape=(8, 6), array_pitch=(16, 16), autoexpose=True, plot=-1)
            refuse_unsound(system, "fourier")
    finally:
        bench.close()
    scale = 0.1 / 5.5e-6
    matrix = np.asarray(found["M"])
    assert np.diag(matrix) == pytest.approx([scale, scale], rel=2e-3)
    assert np.abs(matrix[[0, 1], [1, 0]]).max() < 2e-3 * scale
    assert np.ravel(found["b"]) == pytest.approx([255.5, 255.5], abs=0.3), "the zero order, at the middle"


def test_settling_of_a_simulated_slm_passes_on_the_worlds_clock() -> None:
    """Whatever slmsuite waits in `set_phase`: simulated seconds, and no real ones."""
    bench = open_bench(parse_bench(TEXT))
    try:
        slm = bench.device("slm").driver
        flat = np.zeros(slm.shape)
        for options, passed in (
            ({}, 0.0),
            ({"settle": False}, 0.0),
            ({"settle": True}, 20.0),
            ({"settle": 300}, 300.0),
            ({"settle": np.bool_(True)}, 20.0),
        ):
            slm.settle_time_s = 20.0
            before, real = bench.clock.now(), time.monotonic()
            assert slm.set_phase(flat, **options) is slm.display
            assert bench.clock.now() - before == pytest.approx(passed)
            assert time.monotonic() - real < 10
        slm.settle = True
        before = bench.clock.now()
        slm.set_phase(flat)
        assert bench.clock.now() - before == pytest.approx(20)
    finally:
        bench.close()
