"""slmsuite's own test and calibrations on the display driver: what stands on the screen is what the light would see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.fft import fft2, fftshift
from slmsuite.hardware.cameras.camera import Camera

from labctl.bench.slmsuite import refuse_unsound
from labctl.clock import RealClock
from labctl.devices.display import Display
from labctl.devices.fourier import fourier_slm

pytestmark = [
    pytest.mark.xserver,
    pytest.mark.filterwarnings("ignore:Covariance of the parameters could not be estimated"),
]
Open = Callable[..., Display]
GRID, SIDE = 1024, 512


@pytest.mark.parametrize(
    "options",
    [
        {"lut": [float(level) / 255 for level in range(256)]},
        {"wav_um": 0.638, "wav_design_um": 0.532},
        {"bitdepth": 10, "packing": "rg"},
    ],
    ids=["lut", "wavelengths", "packed"],
)
def test_slmsuites_own_test_passes_in_every_mode(small: Any, opened: Open, options: Any) -> None:
    assert opened(**options).test() is True


class FarField(Camera):
    """A camera behind a lens behind the monitor: it takes the gray levels from the screen, and knows a wavefront error.

    Its pixels are 1/1024 of the range of spatial frequencies; the panel's response bends by 0.3 rad.
    """

    def __init__(self, screens: Any) -> None:
        self._screens, self._exposure = screens, 1e-3
        gray = np.arange(256) / 256
        self.response = 2 * np.pi * (1 - gray - 1 / 256) - 0.3 * np.sin(np.pi * gray)
        y, x = np.mgrid[-150:150, -250:250] / 150 + 1 / 300
        self.error = 0.8 * (x**2 - y**2) + 0.6 * x * y + 0.5 * (x**2 + y**2)
        super().__init__((SIDE, SIDE), bitdepth=12, pitch_um=5.0, name="far field")

    def close(self) -> None: ...

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        return ["far field"]

    def _get_exposure_hw(self) -> float:
        return self._exposure

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self._exposure = float(exposure_s)

    def _get_image_hw(self, timeout_s: float) -> np.ndarray:
        phase = self.response[self._screens.pixels(1)[..., 0]] + self.error
        far = fftshift(np.abs(fft2(np.exp(1j * phase).astype(np.complex64), s=(GRID, GRID))) ** 2)
        low = (GRID - SIDE) // 2
        light = far[low : low + SIDE, low : low + SIDE] / phase.size**2
        return np.clip(np.rint(light * 1e7 * self._exposure), 0, 4095).astype(np.uint16)


@pytest.mark.slow
def test_slmsuites_calibrations_come_right_on_a_monitor(small: Any, opened: Open) -> None:
    """Fourier matrix 0.1 % off, phase response 0.0002 rad; wavefront from 0.18 to 0.024 waves rms."""
    slm, camera = opened(wav_um=0.638), FarField(small)
    np.random.seed(0)  # noqa: NPY002 - slmsuite draws from the global state
    with fourier_slm(slm, camera, clock=RealClock(), settle_s=0.01) as system:
        system.fourier_calibrate(array_shape=(8, 6), array_pitch=(20, 20), autoexpose=True, plot=-1)
        refuse_unsound(system, "fourier")
        matrix = np.asarray(system.calibrations["fourier"]["M"])
        assert matrix == pytest.approx(np.eye(2) * GRID * slm.pitch[0], abs=0.002 * GRID * slm.pitch[0])

        sweep = {"levels": 8, "periods": [16], "orders": 1, "directions": "x", "plot": -1}
        system.pixel_calibrate(test_index=True, autoexpose=0.5, **sweep)
        system.pixel_calibrate(**sweep)
        found = system.pixel_calibration_process()
        refuse_unsound(system, "pixel")
        true = camera.response[system.calibrations["pixel"]["levels"]] / (2 * np.pi)
        off = found - (true.max() - true)
        assert 2 * np.pi * off.std() < 0.003

        slm.set_phase(None, settle=True)
        point = system.kxyslm_to_ijcam([0, 0]) + np.array([[110.0], [80.0]])
        camera.set_exposure(0.018)
        away = (-0.45 / slm.pitch[0], 0.0)
        system.wavefront_calibrate_superpixel(point, superpixel_size=100, field_point=away, plot=-1)
        refuse_unsound(system, "wavefront_superpixel")
        system.wavefront_calibration_superpixel_process(plot=-1)
        before, after = rms(camera.error), rms(camera.error + np.asarray(slm.source["phase"]))
        assert before > 0.15
        assert after < 0.035


def rms(phase: np.ndarray) -> float:
    """Rms of a phase without tilt, waves, over the panel's middle."""
    field = np.exp(1j * phase)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]]
    far = np.abs(fft2(field, s=(GRID, GRID)))
    row, column = np.unravel_index(int(far.argmax()), far.shape)
    field = field * np.exp(-2j * np.pi * (row * y + column * x) / GRID)
    basis = np.stack([np.ones(field.size), y.ravel(), x.ravel()], 1)
    for _ in range(20):
        left = np.angle(field * np.conj(field.sum()))
        field = field * np.exp(-1j * (basis @ np.linalg.lstsq(basis, left.ravel(), rcond=None)[0]).reshape(field.shape))
    return float(left.std() / (2 * np.pi))
