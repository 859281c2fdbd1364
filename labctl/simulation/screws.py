"""The adjustable mechanics of the simulated bench, and the hand that turns its screws.

A hand is told "the input panel, along x, by +0.12 mm", and does about that: a screw has a direction that may be the
other one, a scale, slack when it is turned back (backlash), and moves a little of what it should not (coupling); and
each turn is a little more or less than was meant. So whoever asks has to look again afterwards.

Directions are those of a part's own pixels: +y towards its last row, +x towards its last column, rotation clockwise
when row 0 is up and column 0 on the left. Focus is positive away from the lens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labctl.simulation.effects import Truth
from labctl.simulation.world import World

ScrewName = tuple[str, str]
TURN_S = 3.0
"""What a turn of a screw takes a person, on the bench's clock."""
TRAVEL = {"x": 6.5, "y": 6.5, "rotation": 15.0, "focus": 12.0}
"""How far each kind of screw goes to either side of where it stands at first: mm, or degrees."""
BACKLASH = {"x": 0.01, "y": 0.01, "rotation": 0.03, "focus": 0.03}
"""Largest slack: mm, or degrees."""
COUPLING = 0.08
"""Largest share of a shift that goes along the other axis."""
SWING_MM_PER_DEG = 0.02
"""Largest shift that turning a part brings, because it does not turn about its middle."""
UNSTEADY = 0.2
"""Most by which one turn is more or less than was meant, fraction."""
REVERSED = 0.15
"""Share of the screws that go the other way."""
SCREWS: tuple[ScrewName, ...] = (
    ("input", "x"), ("input", "y"), ("input", "rotation"), ("slm", "x"), ("slm", "y"), ("beam", "x"), ("beam", "y"),
    ("camera", "x"), ("camera", "y"), ("camera", "rotation"), ("camera", "focus"),
)  # fmt: skip


@dataclass
class Screw:
    """One screw.

    Attributes
    ----------
    direction : int
        -1 where it goes the other way than anyone would think.
    scale : float
        What it moves, of what was meant.
    backlash : float
        Slack, in its unit.
    coupling : float
        Share of a shift that goes along the other axis; for a rotation, mm per degree along x and y.
    travel : float
        How far it goes to either side, in its unit.
    place : float
        Where it stands, from where it stood at first.
    """

    direction: int
    scale: float
    backlash: float
    coupling: float
    travel: float
    place: float = 0.0
    _turned: float = 0.0
    _slack: float = 0.0

    def turn(self, by: float) -> float:
        """Turn it by what should move the part by `by`; by how much the part moves."""
        by *= self.direction * self.scale
        if by * self._turned < 0:
            self._slack = self.backlash
        self._turned = by
        lost = min(self._slack, abs(by))
        self._slack -= lost
        meant = self.place + np.sign(by) * (abs(by) - lost)
        place = float(np.clip(meant, -self.travel, self.travel))
        moved, self.place = place - self.place, place
        return moved

    def at_its_end(self, by: float) -> bool:
        """Whether it does not go any further that way."""
        return self.travel - self.direction * np.sign(by) * self.place <= 1e-9


class Screws:
    """All screws of one simulated bench, and a hand that turns them; everything drawn from the world's seed.

    Parameters
    ----------
    world : World
    steady : bool
        A hand and screws that do just what they are told.

    Attributes
    ----------
    screws : dict of (part, axis) to Screw
    turns : int
        How many were turned so far.
    """

    def __init__(self, world: World, *, steady: bool = False) -> None:
        self._world, self._steady, self.turns = world, steady, 0
        self.screws = {name: self._draw(name) for name in SCREWS}

    def turn(self, part: str, axis: str, by: float) -> bool:
        """Turn a screw so that its part moves by about `by` (mm, or degrees).

        Returns
        -------
        bool
            False where the screw is at the end of its travel, and did not move.

        Raises
        ------
        KeyError
            If there is no such screw.
        """
        screw = self.screws[part, axis]
        dice = np.random.default_rng([self._world._seed, 11, self.turns])
        self.turns += 1
        self._world.clock.sleep(TURN_S)
        if screw.at_its_end(by):
            return False
        moved = screw.turn(by if self._steady else by * (1 + dice.uniform(-UNSTEADY, UNSTEADY)))
        truth = self._moved(self._world._truth, part, axis, moved)
        if axis in ("x", "y"):
            truth = self._moved(truth, part, "y" if axis == "x" else "x", moved * screw.coupling)
        elif axis == "rotation":
            for other in ("x", "y"):
                truth = self._moved(truth, part, other, moved * screw.coupling)
        self._world.move(truth)
        return True

    def _draw(self, name: ScrewName) -> Screw:
        axis = name[1]
        if self._steady:
            return Screw(1, 1.0, 0.0, 0.0, TRAVEL[axis])
        dice = np.random.default_rng([self._world._seed, 12, *"/".join(name).encode()])
        coupling = {"rotation": SWING_MM_PER_DEG, "focus": 0.0}.get(axis, COUPLING)
        return Screw(
            direction=-1 if dice.random() < REVERSED else 1,
            scale=float(dice.uniform(0.85, 1.15)),
            backlash=float(dice.uniform(0, BACKLASH[axis])),
            coupling=float(dice.uniform(-coupling, coupling)),
            travel=TRAVEL[axis],
        )

    def _moved(self, truth: Truth, part: str, axis: str, by: float) -> Truth:
        """The mechanics after a part has moved by `by` (mm, or degrees) along its own axis."""
        changes: dict[str, Any] = {}
        geometry = self._world._geometry
        if axis in ("x", "y"):
            plane = {"input": geometry.input, "camera": geometry.camera}.get(part, geometry.slm)
            step = np.zeros(2)
            step[int(axis == "x")] = by * 1e-3 / plane.pitch[int(axis == "x")]
            if part == "input":
                changes["input_shift"] = _pair(truth.input_shift + step)
            elif part == "camera":  # the picture moves the other way
                changes["camera_shift"] = _pair(truth.camera_shift - step)
            else:
                changes["beam_offset"] = _pair(truth.beam_offset + (step if part == "beam" else -step))
            if part == "slm":
                changes["fourier_shift"] = _pair(truth.fourier_shift - step)
        elif axis == "rotation" and part == "input":
            changes["input_rotation"] = truth.input_rotation + np.deg2rad(by)
        elif axis == "rotation":
            changes["camera_rotation"] = truth.camera_rotation + np.deg2rad(-by if truth.camera_mirror else by)
        else:
            changes["camera_focus"] = truth.camera_focus + by * 1e-3
        return replace(truth, **changes)


def _pair(values: Any) -> tuple[float, float]:
    y, x = np.asarray(values, float)
    return float(y), float(x)
