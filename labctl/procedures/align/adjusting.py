"""Turning screws until figures of merit are met: measure, ask, look again, and learn how each screw answers.

Nothing is taken on trust. How far a part went is measured after each turn; from that comes how the screw answers
(its gain, and its sign), and the next request is made with it. A screw that goes the other way, one that moves
nothing, one at the end of its travel and light that is lost are each told apart, said, and dealt with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.procedures.align.eye import Eye, Lost
from labctl.procedures.messages import AT_ITS_END, MEANWHILE, Adjustment, Axis, Log, Part, Prompt, Publish, Steps

MOST_TURNS = 8
"""Of one screw, before it is given up."""
LIVE_S = 0.2
"""While a person turns a screw, so long is waited for an answer between two measurements."""
LEAST_GAIN, MOST_GAIN = 0.1, 10.0
STILL = 0.05
"""A part that moves by less than this share of what was asked has not moved."""
SKIP = "skip"
OPTIONS = ("done", AT_ITS_END, SKIP, "abort")
NAMES: dict[Part, str] = {"input": "input panel", "slm": "SLM", "beam": "beam on the SLM", "camera": "camera"}


@dataclass(frozen=True)
class Merit:
    """A figure of merit that one screw brings down.

    Attributes
    ----------
    name : str
        What it is, as a person says it.
    part, axis, unit
        Of the screw, as in `Adjustment`.
    by : float
        How far the part should move, in `unit`: the figure of merit is its size.
    sigma : float
        One standard deviation of `by`.
    target : float
        The largest size that is good enough.
    """

    name: str
    part: Part
    axis: Axis
    unit: Literal["mm", "deg"]
    by: float
    sigma: float
    target: float

    @property
    def size(self) -> float:
        """The figure of merit."""
        return abs(self.by)

    @property
    def met(self) -> bool:
        """Whether it is good enough."""
        return self.size <= self.target

    @property
    def title(self) -> str:
        """Name and unit, under which it is published."""
        return f"{self.name} ({self.unit})"


@dataclass(frozen=True)
class Row:
    """What became of one figure of merit.

    Attributes
    ----------
    step, merit, unit : str
    before, after, uncertainty, target : float
        In `unit`; `before` and `after` are nan where it could not be measured.
    ok : bool
    turns : int
        How often its screw was turned.
    note : str
        What there is to say; why it is not ok.
    """

    step: str
    merit: str
    unit: str
    before: float
    after: float
    uncertainty: float
    target: float
    ok: bool
    turns: int = 0
    note: str = ""


Look = Callable[[], Steps[Sequence[Merit]]]


@dataclass
class _Screw:
    """What was learned of a screw."""

    gain: float = 1.0
    known: bool = False
    turns: int = 0
    idle: int = 0
    asked: float = 0.0
    closed: str = ""


@dataclass
class Adjusting:
    """Brings the figures of merit of one step within their targets.

    Attributes
    ----------
    eye : Eye
    step : str
    look : callable
        Measures them all; a generator.
    """

    eye: Eye
    step: str
    look: Look
    _screws: dict[tuple[Part, Axis], _Screw] = field(default_factory=dict)
    _before: dict[tuple[Part, Axis], Merit] = field(default_factory=dict)

    def run(self) -> Steps[tuple[Row, ...]]:
        """Measure, and ask for turns until every figure is within its target or its screw is given up."""
        merits = yield from self._measure()
        for merit in merits:
            self._before.setdefault((merit.part, merit.axis), merit)
            screw = self._screws.setdefault((merit.part, merit.axis), _Screw())
            screw.closed = "" if screw.closed == "" or merit.met else screw.closed
        while open_ := [m for m in merits if not m.met and not self._screws[m.part, m.axis].closed]:
            worst = max(open_, key=lambda m: m.size / m.target)
            merits = yield from self._turn(worst, merits)
        return self.rows(merits)

    def rows(self, merits: Sequence[Merit]) -> tuple[Row, ...]:
        """The table's rows for these figures."""
        found = []
        for merit in merits:
            key = merit.part, merit.axis
            screw = self._screws.get(key, _Screw())
            found.append(
                Row(
                    self.step, merit.name, merit.unit, self._before.get(key, merit).size, merit.size, merit.sigma,
                    merit.target, merit.met, screw.turns, "" if merit.met else screw.closed,
                )
            )  # fmt: skip
        return tuple(found)

    def _measure(self) -> Steps[Sequence[Merit]]:
        self.eye.label = self.step
        merits = yield from self.look()
        for merit in merits:
            yield Publish(merit.title, merit.size)
        return merits

    def _turn(self, merit: Merit, merits: Sequence[Merit]) -> Steps[Sequence[Merit]]:
        """Ask for one turn, and judge what came of it."""
        screw = self._screws[merit.part, merit.axis]
        asked = merit.by / screw.gain
        choice = yield from self._ask(merit, screw, asked)
        if choice == SKIP:
            screw.closed = "skipped"
            return merits
        screw.turns += 1
        self.eye.turns += 1
        if choice == AT_ITS_END:
            screw.closed = f"the screw is at the end of its travel, {merit.size:.3g} {merit.unit} short: move its mount"
        try:
            fresh = yield from self._measure()
        except Lost as lost:
            fresh = yield from self._bring_back(merit, screw, asked, lost)
            screw.gain *= 2  # half as far the next time
            screw.asked = -asked
            return fresh
        now = next(m for m in fresh if (m.part, m.axis) == (merit.part, merit.axis))
        if screw.closed:
            screw.closed = (
                f"the screw is at the end of its travel, {now.size:.3g} {now.unit} short: move its mount on the table"
            )
            yield Log(f"{merit.name}: {screw.closed}", "warning")
            return fresh
        yield from self._judge(merit, now, screw, asked)
        return fresh

    def _judge(self, was: Merit, now: Merit, screw: _Screw, asked: float) -> Steps[None]:
        """Learn from a turn how the screw answers."""
        moved = was.by - now.by
        screw.asked = asked
        if abs(moved) < max(math.hypot(was.sigma, now.sigma), STILL * abs(asked)) and not now.met:
            screw.idle += 1
            if screw.idle >= 3:
                screw.closed = (
                    f"three turns moved nothing ({now.size:.3g} {now.unit} still): is it the right screw, and not "
                    "loose or clamped?"
                )
            yield Log(f"{was.name}: that turn hardly moved it: slack in the screw, or another screw?", "warning")
        else:
            screw.idle = 0
            answer = moved / asked
            size = min(max(abs(answer), LEAST_GAIN), MOST_GAIN)
            if answer * screw.gain < 0:
                screw.gain = math.copysign(size, answer)
                yield Log(
                    f"{was.name} went from {was.size:.3g} to {now.size:.3g} {now.unit}: that was the wrong way. From "
                    "now on this screw is taken to go the other way",
                    "warning",
                )
            else:
                size = math.sqrt(size * abs(screw.gain)) if screw.known else size
                screw.gain = math.copysign(size, screw.gain)
            screw.known = True
        if screw.turns >= MOST_TURNS and not now.met and not screw.closed:
            screw.closed = (
                f"not reached in {MOST_TURNS} turns, {now.size:.3g} ± {now.sigma:.2g} {now.unit} still: is the mount "
                "steady, and can this screw be set so finely?"
            )
            yield Log(f"{was.name}: {screw.closed}", "warning")

    def _bring_back(self, merit: Merit, screw: _Screw, asked: float, lost: Lost) -> Steps[Sequence[Merit]]:
        yield Log(f"{merit.name}: {lost}", "warning")
        text = f"The light is lost since that turn. Turn the same screw back, by as much ({_far(-asked, merit.unit)})."
        choice = yield Prompt(text, OPTIONS, adjust=Adjustment(merit.part, merit.axis, -asked, merit.unit))
        if choice == SKIP:
            screw.closed = "skipped"
        screw.turns += 1
        self.eye.turns += 1
        return (yield from self._measure())

    def _ask(self, merit: Merit, screw: _Screw, asked: float) -> Steps[str]:
        """The prompt, for as long as it stands: meanwhile the figure is measured and published."""
        adjust = Adjustment(merit.part, merit.axis, asked, merit.unit)
        prompt = Prompt(
            instruction(self.eye.facts, merit, asked, screw.asked), OPTIONS, merit.title, merit.target, adjust, LIVE_S
        )
        while True:
            choice: str = yield prompt
            if choice != MEANWHILE:
                return choice
            try:
                yield from self._measure()
            except Lost as lost:
                yield Log(f"{merit.name}: {lost}", "warning")


def instruction(facts: BenchFacts, merit: Merit, by: float, last: float = 0.0) -> str:
    """What the person at the table is asked to do.

    Parameters
    ----------
    facts : BenchFacts
    merit : Merit
    by : float
        How far the part should go, in the merit's unit.
    last : float
        What was asked of this screw before; 0 for nothing.
    """
    name, way = NAMES[merit.part], _way(merit.part, merit.axis, by)
    pitch = facts.mechanics.get(merit.part, {}).get(merit.axis)
    far = _far(by, merit.unit)
    if pitch is not None:
        far += f": {abs(by / pitch):.2g} turns {'clockwise' if by / pitch > 0 else 'anticlockwise'}"
    again = "" if not last else f", the {'same way as' if last * by > 0 else 'other way than'} the last time"
    verb = "Turn" if merit.axis == "rotation" else "Move"
    figure = f"{merit.name}: {merit.size:.3g} ± {merit.sigma:.2g} {merit.unit}, should be below {merit.target:.3g}"
    return f"{verb} the {name} {way} by about {far}{again}; watch the figure. ({figure})"


def _way(part: Part, axis: Axis, by: float) -> str:
    if axis == "rotation":
        return f"{'clockwise' if by > 0 else 'anticlockwise'}, as its own picture stands,"
    if axis == "focus":
        return "away from the lens" if by > 0 else "towards the lens"
    of = "the SLM's" if part == "beam" else "its"
    end = "last" if by > 0 else "first"
    return f"towards {of} {end} {'row' if axis == 'y' else 'column'}"


def _far(by: float, unit: str) -> str:
    return f"{abs(by):.2g} {'degrees' if unit == 'deg' else unit}"


def refused(step: str, error: CalibrationError) -> Row:
    """The row of a step that could not measure."""
    nan = math.nan
    return Row(step, "could not be measured", "", nan, nan, nan, nan, False, 0, str(error))


def since(row: Row, before: Row) -> Row:
    """A row with what there was at first and all turns since."""
    return replace(row, before=before.before, turns=max(row.turns, before.turns))
