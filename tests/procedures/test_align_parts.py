"""Parts of the alignment that need no bench: which spot is the zero order, what the words are, small geometry."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.optics.geometry import Geometry, Plane
from labctl.procedures.align.adjusting import Merit, instruction
from labctl.procedures.align.eye import spots, turned
from labctl.procedures.align.light import zero_order
from labctl.procedures.align.panel import recognise
from labctl.procedures.align.slm import offset
from labctl.procedures.messages import Log

PLANE = Plane((64, 64), (8e-6, 8e-6))


def facts(**more: Any) -> BenchFacts:
    return BenchFacts("b", Geometry(638e-9, 0.1, 0.075, PLANE, PLANE, PLANE), 256, 256, 12, 1e-3, 0.1, 0.0, 0.0, **more)


def scene(*lights: tuple[float, float, float]) -> NDArray[np.float32]:
    """Spots (row, column, peak) on a noisy ground."""
    y, x = np.indices((200, 240))
    picture = np.random.default_rng(1).normal(0, 1, (200, 240))
    for row, column, peak in lights:
        picture += peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 2.5**2))
    return picture.astype(np.float32)


def finish(steps: Generator[Any, Any, Any]) -> tuple[Any, list[str]]:
    said = []
    while True:
        try:
            message = next(steps)
        except StopIteration as stop:
            return stop.value, said
        assert isinstance(message, Log)
        said.append(message.text)


STEERED = [(40.0, 120.0), (160.0, 120.0), (100.0, 40.0), (100.0, 200.0)]


def steered(zero: float, *still: tuple[float, float, float]) -> list[NDArray[np.float32]]:
    return [scene((100, 120, zero), (row, column, 800), *still) for row, column in STEERED]


def test_the_zero_order_is_what_loses_light_to_a_blaze_and_keeps_some() -> None:
    (spot, rank, share), said = finish(zero_order(scene((100, 120, 1000)), steered(60)))
    assert spot.place == pytest.approx([100, 120], abs=0.1)
    assert (rank, said) == (0, [])
    assert share == pytest.approx(0.06, abs=0.01)


def test_a_brighter_reflection_that_never_was_on_the_slm_is_passed_over() -> None:
    glass = (60.0, 60.0, 2000.0)
    (spot, rank, _), said = finish(zero_order(scene((100, 120, 1000), glass), steered(60, glass)))
    assert spot.place == pytest.approx([100, 120], abs=0.1)
    assert rank == 1
    assert said == [
        "the brighter spot at row 60, column 60 stays as it is when the SLM steers: a reflection not of the SLM"
    ]


def test_of_two_spots_alike_the_one_that_keeps_light_is_the_zero_order() -> None:
    """The other is an image: it moves away as a whole."""
    (spot, rank, _), said = finish(zero_order(scene((100, 120, 1000), (60, 60, 1100)), steered(60)))
    assert spot.place == pytest.approx([100, 120], abs=0.1)
    assert rank == 1
    assert said[0].startswith("of two spots alike, that at row 100, column 120 keeps light")


def test_two_spots_that_nothing_tells_apart_are_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match=r"two spots could be the zero order, at row .* and at row .*: block"):
        finish(zero_order(scene((100, 120, 1000), (60, 60, 1000)), steered(50, (60, 60, 50))))


def test_light_that_does_not_move_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"at row 100, column 120 does not move when the SLM steers: it misses"):
        finish(zero_order(scene((100, 120, 1000)), steered(1000)))


def test_darkness_is_refused_with_what_to_check() -> None:
    with pytest.raises(CalibrationError, match=r"no light.*laser and shutter"):
        finish(zero_order(scene(), [scene()] * 4))


def test_a_spots_shoulder_is_no_second_spot() -> None:
    assert len(spots(scene((100, 120, 1000)), 5, 4)) == 1


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("degrees", [-20.0, 0.3])
def test_a_turn_is_found_whatever_flips_there_are(mirror: bool, quarters: int, degrees: float) -> None:
    def rotation(angle: float) -> NDArray[np.float64]:
        return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    flip = rotation(quarters * np.pi / 2) @ np.diag([1.0, -1.0 if mirror else 1.0])
    angle, nearest = turned(3.7 * rotation(np.deg2rad(degrees)) @ flip)
    assert np.rad2deg(angle) == pytest.approx(degrees)
    assert nearest == pytest.approx(flip, abs=1e-9)


@pytest.mark.parametrize("missing", [None, 0, 3])
def test_a_cross_is_recognised_among_stray_spots(missing: int | None) -> None:
    dots = np.array([(0, 0), (20, 20), (-20, -20), (20, -20), (-20, 20)], float)
    panel = np.array([[0.1, -1.05], [1.1, 0.08]])
    seen = [np.array([90.0, 110.0]) + panel @ dot for n, dot in enumerate(dots) if n != missing]
    seen += [np.array([20.0, 30.0]), np.array([150.0, 75.0])]
    found = recognise(seen, dots, panel + 0.04)
    assert found is not None
    middle, fit, residual = found
    assert middle == pytest.approx([90, 110])
    assert fit == pytest.approx(panel)
    assert residual < 1e-9


def test_what_is_no_cross_is_not_recognised() -> None:
    dots = np.array([(0, 0), (20, 20), (-20, -20), (20, -20), (-20, 20)], float)
    places = [np.array(p, float) for p in ((10, 10), (15, 80), (90, 33), (40, 44), (72, 90))]
    assert recognise(places, dots, np.eye(2)) is None
    assert recognise(places[:3], dots, np.eye(2)) is None


def test_half_of_the_light_before_the_edge_puts_the_spot_on_it() -> None:
    assert offset(0.5) == pytest.approx(0, abs=1e-3)
    assert offset(0.8) == pytest.approx(-offset(0.2), abs=1e-3)
    assert -1 <= offset(0.99) < offset(0.7) < 0


def merit(**more: Any) -> Merit:
    known = {"name": "panel off", "part": "input", "axis": "x", "unit": "mm", "by": -0.3, "sigma": 0.01, "target": 0.05}
    return Merit(**(known | more))


def test_the_words_say_part_way_and_how_far() -> None:
    said = instruction(facts(), merit(), -0.3)
    assert said.startswith("Move the input panel towards its first column by about 0.3 mm; watch the figure.")
    assert said.endswith("(panel off: 0.3 ± 0.01 mm, should be below 0.05)")
    assert "away from the lens by about 0.4 mm" in instruction(facts(), merit(part="camera", axis="focus"), 0.4)
    turn = instruction(facts(), merit(part="camera", axis="rotation", unit="deg"), 1.5)
    assert turn.startswith("Turn the camera clockwise, as its own picture stands, by about 1.5 degrees")


def test_with_the_screws_pitch_they_say_turns() -> None:
    known = facts(mechanics={"input": {"x": 0.5}, "camera": {"focus": -0.25}})
    assert "0.3 mm: 0.6 turns anticlockwise;" in instruction(known, merit(), -0.3)
    assert "0.5 mm: 2 turns anticlockwise;" in instruction(known, merit(part="camera", axis="focus"), 0.5)


def test_after_the_first_turn_they_say_which_way_that_is_now() -> None:
    assert ", the same way as the last time;" in instruction(facts(), merit(), -0.1, last=-0.3)
    assert ", the other way than the last time;" in instruction(facts(), merit(), 0.1, last=-0.3)
