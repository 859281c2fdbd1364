"""The screws of the simulated bench: what they move, how inexactly, and that the world forgets how it stood before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import PRESETS, Effects
from labctl.simulation.screws import SCREWS, TURN_S, Screw, Screws
from labctl.simulation.world import World

GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((128, 128), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2), Plane((200, 200), (5.5e-6,) * 2)
)
QUIET = Effects(full_well_e=1e6, flux_e_per_s=1e9)


def world(effects: Effects = QUIET, seed: int = 4, lit: tuple[int, int, int, int] = (40, 44, 50, 58)) -> World:
    made = World(GEOMETRY, effects, seed=seed, clock=DrivenClock(), camera_bitdepth=16)
    made.show_slm(np.full((128, 128), 255, np.uint8))
    picture = np.zeros((96, 96), np.uint8)
    picture[lit[0] : lit[1], lit[2] : lit[3]] = 255
    made.show_input(picture)
    made.clock.sleep(10)
    return made


def centre(made: World) -> NDArray[np.float64]:
    frame = made.expose(1e-3).astype(float)
    y, x = np.indices(frame.shape)
    return np.array([(frame * y).sum(), (frame * x).sum()]) / frame.sum()


def steady(effects: Effects = QUIET) -> tuple[World, Screws]:
    made = world(effects)
    return made, Screws(made, steady=True)


def test_moving_the_camera_moves_the_picture_the_other_way() -> None:
    made, screws = steady()
    before = centre(made)
    screws.turn("camera", "x", 0.055)
    screws.turn("camera", "y", -0.022)
    assert centre(made) - before == pytest.approx([4, -10], abs=0.1)


def test_moving_the_panel_moves_its_inverted_image() -> None:
    made, screws = steady()
    before = centre(made)
    screws.turn("input", "y", 0.08)
    assert centre(made) - before == pytest.approx([-0.75 * 80 / 5.5, 0], abs=0.1)


def test_moving_the_slm_leaves_the_zero_frequency_behind() -> None:
    made, screws = steady()
    screws.turn("slm", "x", 0.16)
    assert made._truth.fourier_shift == pytest.approx((0, -10))
    assert made._truth.beam_offset == pytest.approx((0, -10))
    screws.turn("beam", "y", 0.16)
    assert made._truth.beam_offset == pytest.approx((10, -10))


@pytest.mark.parametrize("part", ["input", "camera"])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_clockwise_turn_is_clockwise_in_the_parts_own_pixels(part: str, mirror: bool) -> None:
    """The picture turns with the panel, and against the camera; in a mirror a panel's turn is the other way round."""
    made = world(replace(QUIET, camera_mirror=mirror), lit=(46, 50, 20, 76))
    screws = Screws(made, steady=True)

    def angle() -> float:
        """Of the lit bar, clockwise; rows count down."""
        frame = made.expose(1e-3).astype(float)
        frame[frame < 0.05 * frame.max()] = 0
        y, x = np.indices(frame.shape)
        y, x = y - (frame * y).sum() / frame.sum(), x - (frame * x).sum() / frame.sum()
        return float(np.rad2deg(0.5 * np.arctan2(2 * (frame * x * y).sum(), (frame * (x**2 - y**2)).sum())))

    before = angle()
    screws.turn(part, "rotation", 5.0)
    turned = -5.0 if part == "camera" else 5.0
    assert angle() - before == pytest.approx(-turned if mirror and part == "input" else turned, abs=0.3)


def test_focus_blurs_either_side_alike() -> None:
    made, screws = steady()
    peak = made.expose(1e-3).max()
    screws.turn("camera", "focus", 8.0)
    far = made.expose(1e-3).max()
    screws.turn("camera", "focus", -16.0)
    near = made.expose(1e-3).max()
    assert far < 0.6 * peak
    assert near == pytest.approx(far, rel=0.01)


@pytest.mark.parametrize("name", SCREWS, ids="/".join)
def test_a_turned_world_is_a_world_that_stood_so_from_the_start(name: tuple[str, str]) -> None:
    """Nothing that was computed for how it stood before is left."""
    effects = replace(PRESETS["typical"], full_well_e=1e6)
    made = world(effects)
    made.expose(1e-3)  # fills what is kept
    Screws(made).turn(*name, 0.3)
    fresh = world(effects)
    fresh._truth, fresh._sensor = made._truth, fresh._sensor.moved(made._truth)
    when = 20.0
    again = [w.expose(1e-3, start=when, number=3) for w in (made, fresh)]
    assert np.array_equal(*again)
    assert not np.array_equal(again[0], world(effects).expose(1e-3, start=when, number=3))


def test_slack_is_lost_when_a_screw_is_turned_back() -> None:
    screw = Screw(direction=1, scale=1.0, backlash=0.02, coupling=0.0, travel=1.0)
    assert screw.turn(0.1) == pytest.approx(0.1)
    assert screw.turn(0.1) == pytest.approx(0.1)
    assert screw.turn(-0.05) == pytest.approx(-0.03)
    assert screw.turn(-0.05) == pytest.approx(-0.05)
    assert screw.turn(0.015) == 0
    assert screw.turn(0.1) == pytest.approx(0.095)


def test_a_screw_ends() -> None:
    screws = Screws(world(), steady=True)
    screws.screws["slm", "x"].travel = 0.2
    assert screws.turn("slm", "x", 0.5)  # as far as it goes
    assert screws.screws["slm", "x"].place == pytest.approx(0.2)
    assert not screws.turn("slm", "x", 0.1)
    assert screws.turn("slm", "x", -0.1)


def test_a_hand_is_inexact_the_same_way_each_time() -> None:
    """Directions, scales and each turn come from the seed; within what the module says of them."""
    moved = []
    for _ in range(2):
        made = world(seed=9)
        screws = Screws(made)
        places = []
        for _ in range(12):
            screws.turn("slm", "y", 0.1)
            places.append(screws.screws["slm", "y"].place)
        moved.append(np.abs(np.diff(places)) / 0.1)
        assert made.clock.now() == pytest.approx(10 + 12 * TURN_S)
    assert np.array_equal(*moved)
    assert 0.85 * 0.8 <= moved[0].min() < moved[0].max() <= 1.15 * 1.2
    assert moved[0].std() > 0.05


def test_some_screws_go_the_other_way_and_most_do_not() -> None:
    directions = [screw.direction for seed in range(30) for screw in Screws(world(seed=seed)).screws.values()]
    share = directions.count(-1) / len(directions)
    assert 0.08 < share < 0.25
