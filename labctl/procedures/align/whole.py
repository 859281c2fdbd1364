"""The whole alignment: all steps in order, and a last look at every figure of merit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.procedures.align import camera, focus, panel, slm
from labctl.procedures.align.adjusting import Adjusting, Merit, Row, refused
from labctl.procedures.align.eye import Eye
from labctl.procedures.align.light import find_light
from labctl.procedures.exposing import laser_on
from labctl.procedures.messages import Log, Publish, Set, Steps

LIGHT = "light"
PARTS: tuple[tuple[str, str, Callable[[Eye], Steps[Sequence[Merit]]]], ...] = (
    ("slm", "centre the zero frequency on the SLM", slm.centre),
    ("focus", "focus the camera on the input plane", focus.focus),  # before dots are measured
    ("input", "turn the input panel to the SLM", panel.rotation),
    ("input", "bring the input panel on axis", panel.place),
    ("camera", "square the camera", camera.rotation),
    ("camera", "centre the camera on the zero order", camera.place),
    ("beam", "centre the beam on the SLM", slm.balance),
)
"""(step, what it does, what it measures), in order."""
STEPS = (LIGHT, *dict.fromkeys(step for step, _, _ in PARTS))
ROUNDS = 2
"""After the first pass, how often figures that a later step has spoiled are seen to again."""


@dataclass(frozen=True)
class Alignment:
    """What an alignment found and brought about.

    Attributes
    ----------
    rows : tuple of Row
        Each figure of merit: before, after, target.
    turns : int
        Turns of screws that were asked for.
    frames : int
        Without those taken to find exposure times.
    """

    rows: tuple[Row, ...]
    turns: int
    frames: int

    @property
    def ok(self) -> bool:
        """Whether every figure of merit is within its target."""
        return all(row.ok for row in self.rows)


@dataclass(frozen=True)
class Align:
    """Align the bench: find the light, centre it on the SLM, bring the input on axis, square and focus the camera.

    Attributes
    ----------
    only : tuple of str
        Steps to do, of `STEPS`; empty for all. Light is found in any case: every other step needs it.
    """

    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [step for step in self.only if step not in STEPS]
        if unknown:
            raise CalibrationError(f"align has no step '{unknown[0]}': there are {', '.join(STEPS)}")

    @property
    def name(self) -> str:
        return "align"

    def exposures(self, facts: BenchFacts) -> int:
        return 12 + 12 * len(self._parts())

    def _parts(self) -> list[tuple[str, str, Callable[[Eye], Steps[Sequence[Merit]]]]]:
        return [part for part in PARTS if not self.only or part[0] in self.only]

    def steps(self, facts: BenchFacts) -> Steps[Alignment]:
        if not facts.geometry.coherent:
            raise CalibrationError(
                "align: it looks at the Fourier plane, which incoherent light does not have: align in coherent light"
            )
        yield from laser_on(facts)
        yield Set("camera", "window", None)  # an aborted run may have left a narrow one
        eye = Eye(facts)
        light = yield from find_light(eye)
        parts = [(title, Adjusting(eye, step, partial(look, eye))) for step, title, look in self._parts()]
        rows: dict[str, tuple[Row, ...]] = {}
        for title, part in parts:
            yield from self._do(title, part, rows)
        for _ in range(ROUNDS):
            turns = eye.turns
            if not turns:
                break
            for title, part in parts:
                yield from self._do(title, part, rows)
            if eye.turns == turns:
                break
        found = light + tuple(row for part in rows.values() for row in part)
        yield Publish("alignment", [asdict(row) for row in found])
        return Alignment(found, eye.turns, eye.frames)

    def _do(self, title: str, part: Adjusting, rows: dict[str, tuple[Row, ...]]) -> Steps[None]:
        """One part of a step; what keeps it from being done is said in its row, and the next one is tried."""
        turns = part.eye.turns
        try:
            rows[title] = yield from part.run()
        except CalibrationError as error:
            rows[title] = (refused(part.step, error),)
            yield Log(f"{title}: {error}", "warning")
            return
        met = all(row.ok for row in rows[title])
        how = f"{part.eye.turns - turns} turns" if part.eye.turns > turns else "nothing to turn"
        yield Log(f"{title}: {'done' if met else 'not reached'}, {how}", "info" if met else "warning")
