"""Incoherent light: every point for itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import PRESETS, Effects
from labctl.simulation.world import World

COHERENT = Geometry(
    638e-9, 0.1, 0.075, Plane((200, 256), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2), Plane((300, 320), (5.5e-6,) * 2)
)
INCOHERENT = dataclasses.replace(COHERENT, coherent=False)
QUIET = Effects(input_stop_px=60, full_well_e=1e8, flux_e_per_s=1e10, aberration_waves=0.1, input_shift_px=4,
                camera_rotation_deg=2)  # fmt: skip


def world(geometry: Geometry, effects: Effects = QUIET) -> World:
    made = World(geometry, effects, seed=4, clock=DrivenClock(), camera_bitdepth=16)
    y, x = np.mgrid[:200, :256]
    phase = 0.08 * y + 0.2 * np.sin(x / 9)
    made.show_slm((np.rint(phase * 256) % 256).astype(np.uint8))
    made.clock.sleep(100)
    return made


def dots(*places: tuple[int, int], size: int = 1) -> NDArray[np.uint8]:
    picture = np.zeros((96, 96), np.uint8)
    for r, c in places:
        picture[r : r + size, c : c + size] = 255
    return picture


def frame(made: World, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    made.show_input(picture)
    return made.expose(1e-3).astype(float)


def test_a_single_point_looks_the_same_in_both_kinds_of_light() -> None:
    """But for its own size, which is a little below what the optics resolve."""
    one = dots((47, 50))
    a, b = frame(world(COHERENT), one), frame(world(INCOHERENT), one)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
    assert b.sum() > 0


def test_intensities_of_points_add_in_incoherent_light_only() -> None:
    """Two neighbours interfere when coherent; incoherent, the frame of both is the sum of the frames of each."""
    left, right, both = dots((47, 50)), dots((47, 52)), dots((47, 50), (47, 52))
    errors = []
    for geometry in (INCOHERENT, COHERENT):
        made = world(geometry)
        total = frame(made, left) + frame(made, right)
        errors.append(np.abs(frame(made, both) - total).max() / total.max())
    assert errors[0] < 0.01
    assert errors[1] > 0.1


def test_a_flat_slm_images_squared_amplitudes_at_unit_gain() -> None:
    """Far from edges, a uniform panel of amplitude a gives intensity a squared, as in coherent light."""
    levels = []
    for geometry in (COHERENT, INCOHERENT):
        made = World(
            geometry, Effects(full_well_e=1e8, flux_e_per_s=1e10), seed=1, clock=DrivenClock(), camera_bitdepth=16
        )
        made.show_slm(np.zeros((200, 256), np.uint8))
        levels.append(np.median(frame(made, np.full((96, 96), 255, np.uint8))[140:160, 150:170]))
    assert levels[1] == pytest.approx(levels[0], rel=0.03)


def test_every_preset_runs_incoherent() -> None:
    for name in ("mild", "typical", "nasty"):
        made = world(INCOHERENT, PRESETS[name])
        assert frame(made, dots((40, 40), size=12)).max() > 100
