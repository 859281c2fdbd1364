"""Wavefront and pupil amplitude, against what the simulated optics truly do, which only these tests may read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.pupil import Pupil
from labctl.procedures.calibrations.wavefront import Wavefront
from labctl.runs.engine import Engine

Make = Callable[..., Any]
QUICK = Wavefront(blocks=32, masks=8)


def on_pixels(record: CalibrationRecord, name: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A record's map on every fourth pixel of the SLM."""
    axes = (record["y"], record["x"])
    places = [np.clip(np.arange(0, n, 4), a[0], a[-1]) for n, a in zip(shape, axes, strict=True)]
    at = np.stack(np.meshgrid(*places, indexing="ij"), -1)
    return np.asarray(RegularGridInterpolator(axes, record[name].astype(float))(at))


def left_waves(made: Any, phase: NDArray[np.float64]) -> float:
    """Wavefront that is left when this phase (rad) is taken off, rms over the inscribed disk; no piston, no tilt."""
    pupil = made.world._pupil[::4, ::4]
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in pupil.shape), indexing="ij")
    disk = y**2 + x**2 < 1
    plane = np.stack([np.ones(int(disk.sum())), y[disk], x[disk]], 1)
    field = pupil[disk] * np.exp(-1j * phase[disk])
    tilt = np.zeros(3)
    for _ in range(8):
        left = np.angle(field * np.exp(-1j * plane @ tilt))
        tilt += np.linalg.lstsq(plane, left, rcond=None)[0]
    return float(np.sqrt(np.mean(np.angle(field * np.exp(-1j * plane @ tilt)) ** 2)) / (2 * np.pi))


@pytest.mark.parametrize(
    ("effects", "limit"),
    [
        ({"aberration_waves": 0.06, "defocus_waves": 0.08}, 0.008),
        ({"aberration_waves": 0.06, "roughness_waves": 0.015, "slm_lut": 0.2, "slm_zero_order": 0.04}, 0.012),
        ({"defocus_waves": 0.2, "camera_turn_deg": 90.0, "camera_mirror": True, "camera_rotation_deg": 2.0}, 0.008),
    ],
)
def test_each_effect_alone(small: Make, effects: dict[str, Any], limit: float) -> None:
    made = small("ideal", 3, **effects)
    record = Engine(made.bench).run(QUICK)
    phase = on_pixels(record, "phase", made.bench.facts.geometry.slm.shape)
    assert left_waves(made, np.zeros_like(phase)) > 3 * limit
    assert left_waves(made, phase) < limit
    assert bytes(record["method"]) == b"speckle"
    assert QUICK.picture(record).shape == (32, 32)
    if "defocus_waves" in effects:
        assert record["zernikes"][3] == pytest.approx(made.world._truth.zernikes[4], abs=0.008)


def test_the_pupil_is_the_optics_without_the_pinholes_spectrum(small: Make) -> None:
    made = small("ideal", 3, aberration_waves=0.05, pupil_apodisation=0.3)
    engine = Engine(made.bench)
    made.bench.with_calibrations({"wavefront": engine.run(QUICK)})
    record = engine.run(Pupil(blocks=32, masks=6))
    found = on_pixels(record, "amplitude", made.bench.facts.geometry.slm.shape)
    true = np.abs(made.world._pupil[::4, ::4])
    scale = float((found * true).sum() / (found**2).sum())
    # finest speckle, which the SLM's opposite edges make, is washed out by the camera more than the model knows: so
    # the edges come out darker than they are
    assert np.sqrt(np.mean((found * scale - true) ** 2)) < 0.07
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.9
    assert record["amplitude"].max() == 1


def test_low_light_is_refused(small: Make) -> None:
    made = small("typical", 1, flux_e_per_s=2000.0)
    with pytest.raises(CalibrationError, match=r"wavefront: too little light: .*laser is on"):
        Engine(made.bench).run(QUICK)


def test_a_wrong_registration_is_refused(small: Make) -> None:
    """Speckle that is not where it is looked for fits no wavefront."""
    made = small("ideal", 3)
    wrong = made.bench.facts.calibrations["registration"]
    turned = {**wrong.values, "carrier_to_camera": wrong["carrier_to_camera"] * 1.06}
    made.bench.with_calibrations({"registration": CalibrationRecord("registration", wrong.bench, turned, {})})
    with pytest.raises(CalibrationError, match="wavefront: masks that were not fitted miss by"):
        Engine(made.bench).run(QUICK)


def test_light_beside_the_camera_is_refused(small: Make) -> None:
    made = small("ideal", 3, camera=256)
    with pytest.raises(CalibrationError, match="the light would fall on rows"):
        Engine(made.bench).run(QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_typical_bench(small: Make, seed: int) -> None:
    """Within the bar of a fortieth of a wave, in 18 frames."""
    made = small("typical", seed, side=512, camera=900)
    engine = Engine(made.bench)
    record = engine.run(Wavefront())
    assert engine.snapshot().captured <= 20
    assert left_waves(made, on_pixels(record, "phase", (512, 512))) < 0.025
