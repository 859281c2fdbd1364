"""The simulated light: ideal it computes conv2d, and every effect does what its name says. Tests may know the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.clock import DrivenClock
from labctl.errors import ConfigError
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import PRESETS, Effects, Truth, resolve
from labctl.simulation.world import World

QUIET = Effects(input_stop_px=60, full_well_e=1e7, flux_e_per_s=1e9)


def geometry(slm: tuple[int, int] = (256, 256), f2: float = 0.075) -> Geometry:
    return Geometry(
        638e-9, 0.1, f2, Plane(slm, (16e-6, 16e-6)), Plane((96, 96), (8e-6, 8e-6)), Plane((300, 320), (5.5e-6, 5.5e-6))
    )


def world(effects: Effects = QUIET, seed: int = 1, **plane: tuple[int, int]) -> World:
    made = World(geometry(**plane), effects, seed=seed, clock=DrivenClock(), camera_bitdepth=16)
    made.show_slm(np.zeros(made._geometry.slm.shape, np.uint8))
    made.clock.sleep(10)
    return made


def dot(at: tuple[int, int], size: int = 4) -> np.ndarray:
    picture = np.zeros((96, 96), np.uint8)
    picture[at[0] : at[0] + size, at[1] : at[1] + size] = 255
    return picture


def middle(frame: np.ndarray) -> np.ndarray:
    weight = frame.astype(float) - np.median(frame)
    weight[weight < 0.2 * weight.max()] = 0
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    return np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()


@pytest.mark.parametrize("slm", [(256, 256), (200, 320)])
def test_the_camera_sees_the_input_inverted_and_scaled(slm: tuple[int, int]) -> None:
    """An ideal bench, SLM flat: each dot lands where the nominal affine map says, for a square SLM and another."""
    simulated = world(slm=slm)
    nominal = simulated._geometry.nominal_input_to_camera()
    for at in ((30, 30), (30, 60), (58, 40)):
        simulated.show_input(dot(at))
        want = nominal[:, :2] @ (np.array(at) + 1.5) + nominal[:, 2]
        assert middle(simulated.expose(1e-3)) == pytest.approx(want, abs=0.1)


def test_a_blaze_moves_the_image_by_its_carrier() -> None:
    simulated = world()
    simulated.show_input(dot((46, 46)))
    before = middle(simulated.expose(1e-3))
    carrier = np.array([0.06, -0.03])
    y, x = np.mgrid[:256, :256] - 127.5
    phase = 2 * np.pi * (carrier[0] * y + carrier[1] * x)
    simulated.show_slm(((255 - np.rint(phase / (2 * np.pi) * 256)) % 256).astype(np.uint8))
    moved = middle(simulated.expose(1e-3)) - before
    want = simulated._geometry.nominal_carrier_to_camera() @ carrier
    assert moved == pytest.approx(want, abs=0.1)


def test_phase_patterns_only_move_light() -> None:
    """Energy: whatever the SLM shows, the whole camera plane gets the same light (Parseval), within what leaves it."""
    bench = Geometry(
        638e-9,
        0.1,
        0.075,
        Plane((256, 256), (16e-6, 16e-6)),
        Plane((96, 96), (8e-6, 8e-6)),
        Plane((544, 544), (5.5e-6, 5.5e-6)),
    )  # the camera covers exactly one diffraction order
    simulated = World(bench, QUIET, seed=1, clock=DrivenClock(), camera_bitdepth=16)
    simulated.show_input(dot((30, 40), 20))
    light = []
    for seed in range(3):
        pattern = np.random.default_rng(seed).integers(0, 256, (256, 256)).astype(np.uint8)
        simulated.show_slm(pattern if seed else np.zeros_like(pattern))
        simulated.clock.sleep(10)
        light.append(float(simulated.expose(1e-3).astype(float).sum()))
    assert light[1:] == pytest.approx([light[0]] * 2, rel=0.02)


def test_the_ideal_world_computes_conv2d() -> None:
    """A kernel's complex mask is not phase-only; a pure shift is: its phase mask moves the image by whole pixels."""
    simulated = world()
    picture = dot((40, 40), 16)
    simulated.show_input(picture)
    still = simulated.expose(1e-3).astype(float)
    pixel, shift = 8e-6, 5
    nu_y, _ = simulated._geometry.frequencies()
    phase = np.broadcast_to((2 * np.pi * nu_y * shift * pixel)[:, None], (256, 256))
    simulated.show_slm(((255 - np.rint(phase / (2 * np.pi) * 256)) % 256).astype(np.uint8))
    moved = middle(simulated.expose(1e-3)) - middle(still)
    kernel = torch.zeros(1, 1, 11, 11)
    kernel[0, 0, 5 + shift, 5] = 1  # conv2d with this reads the pixel `shift` below: the picture moves up
    image = torch.from_numpy(picture.astype(np.float32))[None, None]
    up = middle(torch.nn.functional.conv2d(image, kernel, padding=5)[0, 0].numpy()) - middle(picture)
    scale = simulated._geometry.nominal_input_to_camera()[0, 0]
    assert moved == pytest.approx(up * scale, abs=0.1)


def test_noise_is_a_function_of_seed_and_exposure_number() -> None:
    """The same exposures give the same frames, and other numbers other noise."""
    frames = []
    for _ in range(2):
        simulated = world(PRESETS["typical"])
        simulated.show_input(dot((40, 40)))
        frames.append([simulated.expose(1e-3) for _ in range(2)])
    assert (frames[0][0] == frames[1][0]).all()
    assert (frames[0][1] == frames[1][1]).all()
    assert (frames[0][0] != frames[0][1]).any()


@pytest.mark.parametrize("flux", [1.2e4, 2e6])
@pytest.mark.parametrize("read_noise", [0.0, 1.0, 3.0])
def test_photons_set_the_variance(flux: float, read_noise: float) -> None:
    """Shot noise: the variance between frames is the mean number of electrons, plus the read noise's."""
    effects = dataclasses.replace(
        QUIET, shot_noise=True, full_well_e=65535 - 1000, flux_e_per_s=flux, read_noise_e=read_noise, offset_counts=1000
    )
    simulated = world(effects)
    simulated.show_input(np.full((96, 96), 255, np.uint8))
    frames = np.stack([simulated.expose(1e-3).astype(float) - 1000 for _ in range(8)])
    lit = frames.mean(0) > 0.8 * np.median(frames.mean(0)[150:160, 160:170])
    variance, mean = frames[:, lit].var(0, ddof=1).mean(), frames[:, lit].mean()
    assert variance == pytest.approx(mean + read_noise**2 + 1 / 12, rel=0.1)


def test_saturation_clips_at_full_scale() -> None:
    effects = dataclasses.replace(QUIET, full_well_e=1000)
    simulated = world(effects)
    simulated.show_input(np.full((96, 96), 255, np.uint8))
    assert simulated.expose(1.0).max() == 2**16 - 1


def test_the_zero_order_stays_when_the_pattern_steers() -> None:
    """The unmodulated fraction of the light is where the flat SLM had it."""
    y = np.mgrid[:256, :256][0]
    blaze = ((255 - np.rint(0.08 * y % 1 * 256)) % 256).astype(np.uint8)
    shares = []
    for fraction in (0.0, 0.05):
        simulated = world(dataclasses.replace(QUIET, slm_zero_order=fraction))
        simulated.show_input(dot((44, 44), 8))
        r, c = (int(v) for v in middle(simulated.expose(1e-3)))
        simulated.show_slm(blaze)
        frame = simulated.expose(1e-3).astype(float)
        shares.append(frame[r - 10 : r + 10, c - 10 : c + 10].sum() / frame.sum())
    assert shares[0] < 0.01
    assert shares[1] == pytest.approx(0.05, abs=0.02)


def test_the_crystal_settles_exponentially() -> None:
    """A frame taken too early shows the old pattern, one taken after five time constants the new."""
    simulated = world(dataclasses.replace(QUIET, slm_rise_s=0.044))
    simulated.show_input(dot((44, 44), 8))
    y = np.mgrid[:256, :256][0]
    flat, blaze = np.zeros((256, 256), np.uint8), ((255 - np.rint(0.08 * y % 1 * 256)) % 256).astype(np.uint8)
    simulated.show_slm(flat)
    simulated.clock.sleep(1)
    old = simulated.expose(1e-4).astype(float)
    simulated.show_slm(blaze)
    early = simulated.expose(1e-4).astype(float)
    simulated.clock.sleep(0.2)
    late = simulated.expose(1e-4).astype(float)
    assert np.corrcoef(early.ravel(), old.ravel())[0, 1] > 0.99
    assert np.corrcoef(late.ravel(), old.ravel())[0, 1] < 0.2


def test_laser_off_is_dark_and_drift_is_slow() -> None:
    effects = dataclasses.replace(QUIET, laser_drift=0.02)
    simulated = world(effects)
    simulated.show_input(np.full((96, 96), 255, np.uint8))
    levels = []
    for _ in range(60):
        levels.append(float(simulated.expose(1e-3).mean()))
        simulated.clock.sleep(60)
    steps = np.diff(levels) / levels[0] * 60  # per hour
    assert 0.005 < np.sqrt((steps**2).mean()) < 0.06
    simulated.set_laser(on=False)
    assert simulated.expose(1e-3).max() == 0


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), effect=st.sampled_from(["fourier_shift_px", "camera_shift_px", "slm_lut"]))
def test_switching_one_effect_leaves_the_others(seed: int, effect: str) -> None:
    """Each effect has its own dice."""
    full = Truth.draw(PRESETS["typical"], seed)
    less = Truth.draw(dataclasses.replace(PRESETS["typical"], **{effect: 0.0}), seed)
    assert full.input_shift == less.input_shift
    assert full.camera_rotation == less.camera_rotation
    assert (full.zernikes == less.zernikes).all()


def test_aberrations_have_the_size_they_say() -> None:
    for seed in range(5):
        sizes = Truth.draw(PRESETS["typical"], seed).zernikes
        assert np.sqrt((sizes[5:] ** 2).sum()) == pytest.approx(PRESETS["typical"].aberration_waves)


def test_ideal_has_every_effect_off() -> None:
    truth = Truth.draw(PRESETS["ideal"], 3)
    assert truth.input_shift == truth.fourier_shift == truth.camera_shift == (0.0, 0.0)
    assert not truth.zernikes.any()
    assert not truth.lut_bend.any()


def test_unknown_effect_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean slm_lut"):
        resolve("typical", {"slm_lutt": 0.1})
