"""The simulated sensor: its noise is normal where it says so, and work in stretches changes nothing."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from scipy import stats

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation import camera, hands
from labctl.simulation.effects import PRESETS, Effects, Truth
from labctl.simulation.hands import share
from labctl.simulation.transforms import Sampler, Window
from labctl.simulation.world import World


def normal(seed: tuple[int, ...], shape: tuple[int, int] = (512, 512)) -> np.ndarray:
    noise = np.random.Generator(np.random.SFC64(list(seed)))
    return camera.standard_normal(camera._bits(noise, shape)).astype(float)


def test_looked_up_numbers_are_standard_normal() -> None:
    """Moments, the law itself (Kolmogorov-Smirnov), and the tails up to four standard deviations."""
    drawn = normal((1, 2), (1024, 1024))
    n = drawn.size
    assert drawn.mean() == pytest.approx(0, abs=5 / n**0.5)
    assert drawn.var() == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert (drawn**3).mean() == pytest.approx(0, abs=5 * (15 / n) ** 0.5)
    assert (drawn**4).mean() == pytest.approx(3, abs=5 * (96 / n) ** 0.5)
    assert stats.kstest(drawn[::4].ravel(), "norm").pvalue > 1e-3
    for sigma in (2, 3, 3.5, 4):
        want = 2 * stats.norm.sf(sigma) * n
        assert (np.abs(drawn) > sigma).sum() == pytest.approx(want, abs=5 * want**0.5)


def test_pixels_and_exposures_have_independent_noise() -> None:
    """No correlation between neighbours (also of squares), nor between frames of other numbers or seeds."""
    first, others = normal((1, 2)), [normal(seed) for seed in ((1, 3), (2, 2), (1, 258))]
    pairs = [(first[:, shift:], first[:, :-shift]) for shift in (1, 2, 3, 4, 8)]
    pairs += [(first[shift:], first[:-shift]) for shift in (1, 2)] + [(first, other) for other in others]
    for a, b in pairs:
        for power in (1, 2):
            r = np.corrcoef((a**power).ravel(), (b**power).ravel())[0, 1]
            assert abs(r) < 5 / a.size**0.5


def test_opencv_and_numpy_look_up_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = normal((4,))
    monkeypatch.setattr(camera, "LOOK_UP_16", False)
    assert (normal((4,)) == fast).all()


GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((256, 240), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2), Plane((600, 660), (5.5e-6,) * 2)
)


@pytest.mark.parametrize("preset", ["ideal", "typical", "nasty"])
def test_frames_do_not_depend_on_how_work_is_shared(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread or three: the same counts, bit for bit. Long stretches or short: but for rounding."""
    frames = []
    for workers, at_once in ((1, 2**16), (3, 2**16), (8, 2**16), (3, 2**12), (1, 2**24)):
        monkeypatch.setattr(hands, "WORKERS", workers)
        monkeypatch.setattr(hands, "AT_ONCE", at_once)
        world = World(GEOMETRY, dataclasses.replace(PRESETS[preset], flux_e_per_s=1e8), seed=2, clock=DrivenClock())
        world.show_slm(np.random.default_rng(0).integers(0, 256, (256, 240)).astype(np.uint8))
        picture = np.zeros((96, 96), np.uint8)
        picture[30:66, 20:56] = 200
        world.show_input(picture)
        world.clock.sleep(10)
        frames.append([world.expose(1e-3), world.expose(1e-3, (70, 200, 130, 401))])
    assert frames[0][0].max() > 500
    for want, *threads, short, long in zip(*frames, strict=True):
        assert all((got == want).all() for got in threads)
        for got in (short, long):
            away = np.abs(got.astype(int) - want)
            assert away.max() <= 1
            assert away.mean() < 0.01


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("degrees", [0.0, 3.0, 40.0])
def test_a_sensor_larger_than_the_order_is_dark_outside_and_whole_inside(turn: int, degrees: float) -> None:
    """The part that is sampled holds every pixel that light reaches: sampling all of the window gives the same."""
    truth = Truth.draw(Effects(camera_turn_deg=turn), 1)
    truth = dataclasses.replace(truth, camera_rotation=np.deg2rad(degrees), camera_shift=(31.0, -77.0))
    window: Window = (0, 600, 0, 660)
    sampler = Sampler.build(window, GEOMETRY, truth)
    power = np.random.default_rng(0).random((sampler.rows, sampler.columns)).astype(np.float32) + 1
    whole = dataclasses.replace(sampler, lit=window)(power)
    assert np.abs(sampler(power) - whole).max() < 2e-3
    top, bottom, left, right = sampler.lit
    assert (bottom - top) * (right - left) < 600 * 660
    assert 0.1 < (whole > 0).mean() < 0.95


def test_every_stretch_is_worked_on_once_and_errors_come_back() -> None:
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def work(first: int, end: int) -> None:
        with lock:
            seen.append((first, end))

    share(work, 103, 10)
    assert sorted(seen) == [(n, min(n + 10, 103)) for n in range(0, 103, 10)]

    def broken(first: int, end: int) -> None:
        if first == 50:
            raise ValueError("stretch 50")

    with pytest.raises(ValueError, match="stretch 50"):
        share(broken, 103, 10)
