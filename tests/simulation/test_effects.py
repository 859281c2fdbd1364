"""Each effect of the simulated world, one by one, against an analytic result or independent code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from labctl.clock import DrivenClock
from labctl.optics.fourf import FourF
from labctl.optics.geometry import Geometry, Plane
from labctl.optics.zernike import zernike
from labctl.simulation.effects import PRESETS, Effects
from labctl.simulation.transforms import Spreading
from labctl.simulation.world import World

QUIET = Effects(input_stop_px=60, full_well_e=1e7, flux_e_per_s=1e9)
N = 256
GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((N, N), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2), Plane((544, 544), (5.5e-6,) * 2)
)


def world(seed: int = 1, quiet: Effects = QUIET, **effects: object) -> World:
    made = World(GEOMETRY, dataclasses.replace(quiet, **effects), seed=seed, clock=DrivenClock(), camera_bitdepth=16)
    made.show_slm(np.zeros((N, N), np.uint8))
    made.clock.sleep(100)
    return made


def square(size: int, level: int = 255) -> NDArray[np.uint8]:
    picture = np.zeros((96, 96), np.uint8)
    low = (96 - size) // 2
    picture[low : low + size, low : low + size] = level
    return picture


def blaze(carrier: float) -> NDArray[np.uint8]:
    y = np.arange(N)[:, None]
    return np.broadcast_to((255 - np.rint(carrier * y % 1 * 256)) % 256, (N, N)).astype(np.uint8)


def frame(made: World, exposure: float = 1e-3) -> NDArray[np.float64]:
    return made.expose(exposure).astype(float)


def light(made: World, middle: tuple[float, float], half: int = 40) -> float:
    r, c = (round(v) for v in middle)
    return float(frame(made)[r - half : r + half, c - half : c + half].sum())


CENTRE = GEOMETRY.camera.centre
SEED_OF_A_FAR_GHOST = 3
STEER = GEOMETRY.nominal_carrier_to_camera()[0, 0]


def test_aberrated_images_agree_with_matrix_fourier_optics() -> None:
    """World (non-uniform FFT, numpy) against `labctl.optics.fourf` (matrix DFT, torch), with Zernikes."""
    made = world(3, aberration_waves=0.15, defocus_waves=0.1)
    picture = square(40)
    picture[30:45, 35:50] = 80
    made.show_input(picture)
    got = frame(made)

    axis = (np.arange(N) - (N - 1) / 2) / (N / 2)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    waves = sum(size * zernike(j, y, x) for j, size in enumerate(made._truth.zernikes) if size)
    operator = FourF(GEOMETRY, (0, 96), (0, 96))
    spectrum = operator.spectrum(torch.from_numpy(picture / 255.0).float())
    behind = spectrum * torch.from_numpy(np.exp(2j * np.pi * waves)).to(torch.complex64)
    # image orientation: minus, and scaled from the camera plane to the input plane
    place = -(torch.arange(544, dtype=torch.float64) - CENTRE[0]) * 5.5e-6 * GEOMETRY.f1 / GEOMETRY.f2
    want = operator.field_at(behind, place, place).abs().square().numpy()
    inside = np.s_[200:344, 200:344]
    assert np.corrcoef(got[inside].ravel(), want[inside].ravel())[0, 1] > 0.998


def test_a_tilt_moves_the_spectrum() -> None:
    """Pointing jitter by d pixels is the same as a Fourier plane shifted by d."""
    pixels = np.argwhere(np.ones((20, 20)))
    metres = (pixels - 9.5) * 8e-6
    still = Spreading.build(metres, pixels, GEOMETRY, (0.0, 0.0))
    moved = Spreading.build(metres, pixels, GEOMETRY, (1.5, -2.0))
    amplitude = np.zeros((96, 96), np.float32)
    amplitude[:20, :20] = np.random.default_rng(0).random((20, 20))
    a = moved.transform(*moved.spread(amplitude, (0, 96, 0, 96))) * moved.factor
    points, place = still.spread(amplitude, (0, 96, 0, 96))
    b = still.transform(points * still.tilt(np.array([1.5, -2.0]), place), place) * still.factor
    # the envelope of the pixels' shape does not move with the beam: compare the middle of the panel
    part = np.s_[64:192, 64:192]
    assert np.abs(a - b)[part].max() / np.abs(a).max() < 0.02


def test_contrast_is_the_ratio_of_white_to_black() -> None:
    made = world(input_contrast=300)
    made.show_input(np.full((96, 96), 255, np.uint8))
    white = light(made, CENTRE, 10)
    made.show_input(np.zeros((96, 96), np.uint8))
    assert white / light(made, CENTRE, 10) == pytest.approx(300, rel=0.03)


def test_gamma_bends_the_amplitude() -> None:
    made = world(input_gamma=0.3)
    levels = []
    for gray in (255, 128):
        made.show_input(np.full((96, 96), gray, np.uint8))
        levels.append(light(made, CENTRE, 10))
    want = (128 / 255) ** (2 * made._truth.input_gamma)
    assert levels[1] / levels[0] == pytest.approx(want, rel=0.01)


def test_steered_light_falls_as_the_pixels_sinc() -> None:
    """Square pixels: an image at carrier c has sinc^2(c) of the light; points have all of it."""
    shares = []
    for fill in (False, True):
        made = world(slm_fill=fill)
        made.show_input(square(10))
        made.show_slm(blaze(0.25))
        made.clock.sleep(100)
        shares.append(light(made, (CENTRE[0] + 0.25 * STEER, CENTRE[1])))
    assert shares[1] / shares[0] == pytest.approx(np.sinc(0.25) ** 2, rel=0.03)


def test_without_lut_error_the_response_is_linear_and_with_it_it_is_bent() -> None:
    linear, _ = world()._slm_tables
    assert np.diff(linear) == pytest.approx(-2 * np.pi / 256, abs=1e-5)
    bent, _ = world(slm_lut=0.2)._slm_tables
    assert 0.02 < np.abs(bent - linear).max() <= 0.2
    assert bent[0] == pytest.approx(linear[0], abs=1e-6)


def test_crosstalk_spreads_a_step_over_its_width() -> None:
    """10-90 % of a blurred step is 1.09 full widths at half maximum of a Gaussian."""
    made = world(slm_crosstalk_px=1.8)
    step = np.zeros((N, N), np.uint8)
    step[:, N // 2 :] = 100
    phase = made._delivered_phase(step)[N // 2].astype(float)
    share = (phase - phase[0]) / (phase[-1] - phase[0])
    sigma = np.sqrt((np.diff(share) * (np.arange(N - 1) - (N - 1) / 2 + 0.5) ** 2).sum())
    assert sigma * 2.3548 == pytest.approx(1.8, rel=0.05)


def test_phase_ripple_is_the_derivative_of_the_field() -> None:
    made = world(slm_flicker=0.01)
    made.show_slm(np.random.default_rng(0).integers(0, 256, (N, N)).astype(np.uint8))
    sampler = made._sampler((0, 544, 0, 544))
    field, ripple = made._slm_field(made.clock.now() + 50, 1e-3, (0, 544, 0, 544), sampler)
    phase = made._delivered_phase(made._slm.latest)
    exact = made._to_transform(np.exp(1.02j * phase).astype(np.complex64), sampler)
    assert ripple is not None
    assert np.abs(field + 0.02 * ripple - exact).max() / np.abs(exact).max() < 0.01


def test_large_steps_settle_more_slowly() -> None:
    """A step of nearly 2 pi lags one of a tenth of it by the stated fraction of time constants."""
    made = world(slm_rise_s=0.044, slm_rise_slowing=0.5)
    pattern = np.zeros((N, N), np.uint8)
    pattern[:, : N // 2], pattern[:, N // 2 :] = 25, 250
    before = made._delivered_phase(made._slm.latest).astype(float)
    after = made._delivered_phase(pattern).astype(float)
    made.show_slm(pattern)
    sampler = made._sampler((0, 544, 0, 544))
    field, _ = made._slm_field(made.clock.now() + 0.02, 0.0, (0, 544, 0, 544), sampler)
    behind = field / made._to_transform(np.ones((N, N), np.complex64), sampler)
    phase = np.unwrap(np.angle(behind))
    tau = 0.044 / np.log(9)
    for column in (10, N - 10):
        step = before[0, column] - after[0, column]
        want = after[0, column] + step * np.exp(-0.02 / (tau * (1 + 0.5 * abs(step) / (2 * np.pi))))
        off = (phase[N // 2, column] - want + np.pi) % (2 * np.pi) - np.pi
        assert abs(off) < 0.01


def test_roughness_has_the_rms_it_says() -> None:
    waves = np.angle(world(roughness_waves=0.03)._pupil) / (2 * np.pi)
    assert waves.std() == pytest.approx(0.03, rel=0.02)


def test_the_ghost_is_a_displaced_copy_with_its_share_of_the_light() -> None:
    made = world(SEED_OF_A_FAR_GHOST, ghost=0.04)
    made.show_input(square(12))
    away = np.asarray(made._truth.ghost[:2]) * STEER
    assert np.abs(away).max() > 25  # beside the image, which is 13 pixels wide
    here = light(made, CENTRE, 11)
    there = light(made, (CENTRE[0] + away[0], CENTRE[1] + away[1]), 11)
    assert there / here == pytest.approx(0.04, rel=0.35)  # defocus spreads some of it


def test_fringes_have_the_contrast_they_say() -> None:
    response, _ = world(fringes=0.05)._sensor.maps
    assert (response.max() - response.min()) / (response.max() + response.min()) == pytest.approx(0.05, rel=0.02)


def test_prnu_and_hot_pixels_are_as_frequent_as_they_say() -> None:
    response, hot = world(prnu=0.02, hot_pixels=1e-3)._sensor.maps
    assert response.std() == pytest.approx(0.02, rel=0.05)
    assert (hot > 0).mean() == pytest.approx(1e-3, rel=0.3)


def test_the_offset_rolls_slowly() -> None:
    made = world(offset_counts=100, offset_drift_counts=2)
    made.set_laser(on=False)
    rows = []
    for _ in range(40):
        rows.append(frame(made).mean(1))
        made.clock.sleep(90)
    assert np.std(rows) == pytest.approx(2, rel=0.2)
    assert np.abs(np.diff(rows, axis=0)).max() < 2


def test_vignetting_darkens_the_corners_of_the_stop() -> None:
    made = world(input_vignetting=0.2)
    _, illumination = made._input_tables
    inside = illumination[illumination > 0]
    assert inside.max() == pytest.approx(1, abs=0.01)
    assert inside.min() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_camera_may_be_mounted_any_way(turn: int, mirror: bool) -> None:
    """Quarter turns and a mirror only rearrange the picture."""
    made, straight = world(camera_turn_deg=turn, camera_mirror=mirror), world()
    picture = square(12)
    picture[30:36, 60:80] = 255
    made.show_input(picture)
    straight.show_input(picture)
    got, want = frame(made), frame(straight)
    found = [np.rot90(side, k) for side in (want, want[:, ::-1]) for k in range(4)]
    match = [np.abs(got - other).max() < 0.02 * want.max() for other in found]
    assert sum(match) == 1
    assert match.index(True) // 4 == int(mirror)


def test_presets_grow_from_ideal_to_nasty() -> None:
    """Every size of an imperfection is at least as large in the worse preset."""
    order = [PRESETS[name] for name in ("ideal", "mild", "typical", "nasty")]
    better = {"input_contrast", "input_stop_px", "full_well_e", "flux_e_per_s", "camera_turn_deg", "camera_mirror"}
    for field in dataclasses.fields(Effects):
        if field.name not in better:
            sizes = [float(getattr(preset, field.name)) for preset in order]
            assert sizes == sorted(sizes), field.name
    assert all(getattr(PRESETS["typical"], f.name) for f in dataclasses.fields(Effects) if f.name not in {
        "camera_turn_deg", "camera_mirror", "camera_flips", "camera_focus_mm"})  # fmt: skip


def test_creep_moves_camera_and_fourier_plane_steadily_and_only_over_hours() -> None:
    """After h hours the picture has moved by minus h times the camera's creep, and the spectrum by its own."""
    made = world(4, creep_px_per_h=2.0)
    row, column, y, x = made._truth.creep
    assert 0 < max(map(abs, (row, column, y, x))) <= 2.0
    made.show_input(square(20))
    made.clock.sleep(1)
    before, fourier = made.expose(1e-3).astype(float), np.asarray(made._truth.fourier_shift)
    made.clock.sleep(3 * 3600 - 1)
    after = made.expose(1e-3).astype(float)

    def middle(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        grid = np.indices(picture.shape)
        return np.asarray((grid * picture).sum((1, 2)) / picture.sum())

    assert middle(after) - middle(before) == pytest.approx([3 * row, 3 * column], abs=0.05)
    assert np.asarray(made._truth.fourier_shift) - fourier == pytest.approx([3 * y, 3 * x], abs=0.03)
    frames = []
    for size in (0.0, 0.2):  # in the first minutes nothing has crept
        made = world(4, creep_px_per_h=size)
        made.show_input(square(20))
        frames.append(made.expose(1e-3))
    assert (frames[0] == frames[1]).all()
