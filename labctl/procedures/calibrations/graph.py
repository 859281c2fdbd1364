"""What a bench's calibrations depend on, which of their records still hold, and what is to be measured again.

A calibration says with class attributes how it depends on others:

``needs``      kinds of records that must be there
``uses``       kinds that it takes into account where they exist
``max_age_h``  hours after which its record is stale
``limits``     quality figure -> largest value accepted
``sections``   sections of the bench file, and devices, that it depends on (default: optics, slm, input, camera)
``essential``  whether a bench without it cannot show a model (default: no)

A record is stale when it is too old, when a device or a section of the bench file that it depends on has changed, or
when a kind that it needs or uses has another record now than the one that it was made from.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import entry_points
from typing import Any

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, moment, unsound
from labctl.errors import CalibrationError

log = logging.getLogger(__name__)
GROUP = "labctl.calibrations"
BUILT_IN: Mapping[str, str] = {
    "dark": "dark:Dark",
    "registration": "registration:Registration",
    "gain": "gain:Gain",
    "fourier-centre": "fourier_centre:FourierCentre",
    "input-response": "input_response:InputResponse",
    "fourier-plane": "fourier_plane:FourierPlane",
    "slm-response": "slm_response:SlmResponse",
    "crosstalk": "crosstalk:Crosstalk",
    "zero-order": "zero_order:ZeroOrder",
    "settle": "settle:Settle",
    "wavefront": "wavefront:Wavefront",
    "pupil": "pupil:Pupil",
    "flat-field": "flat_field:FlatField",
    "stability": "stability:Stability",
    "twin": "twin:TwinFit",
    "reference": "check:Reference",
}
"""Kind -> module here, and class, in the order in which they are measured where their needs and uses leave a choice."""
BASIC = ("dark", "registration", "gain", "fourier-centre")
"""What a plain deployment stands on."""
SECTIONS = ("optics", "slm", "input", "camera")


class State(StrEnum):
    """What a record is good for."""

    GOOD = "good"
    MISSING = "missing"
    REFUSED = "refused"
    STALE = "stale"
    OUT_OF_LIMITS = "out of limits"


@dataclass(frozen=True)
class Status:
    """Where one kind of calibration stands.

    Attributes
    ----------
    kind : str
    state : State
    why : str
        What is wrong with it, or ""; in plain words.
    age_h : float or None
        Hours since it was taken.
    record : CalibrationRecord or None
        The one in force.
    """

    kind: str
    state: State
    why: str = ""
    age_h: float | None = None
    record: CalibrationRecord | None = None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        record = self.record
        return {
            "kind": self.kind, "state": self.state.value, "why": self.why,
            "age_h": None if self.age_h is None else round(self.age_h, 3),
            "quality": {} if record is None else dict(record.quality),
            "taken": "" if record is None else record.taken, "run": "" if record is None else record.run,
            "digest": "" if record is None else record.digest,
        }  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """What is known of a bench without opening it: enough to say which records hold.

    Attributes
    ----------
    records : mapping of kind to record
    devices : mapping of name to identity
        Empty where they have not been asked.
    sections : mapping of name to hash
    refused : mapping of kind to reason
        Files that are no records of this bench.
    """

    records: Mapping[str, CalibrationRecord]
    devices: Mapping[str, str]
    sections: Mapping[str, str]
    refused: Mapping[str, str]

    @staticmethod
    def of(facts: BenchFacts, refused: Mapping[str, str] | None = None) -> Standing:
        """That of an open bench."""
        return Standing(facts.calibrations, facts.devices, facts.sections, refused or {})


def registry() -> dict[str, Any]:
    """Every calibration, by kind, in an order in which each comes after all that it needs and uses.

    Those of installed packages (entry point group ``labctl.calibrations``: a class, constructed without arguments) come
    with labctl's own; one that cannot be imported, or has the name of another, is left out with a warning.

    Raises
    ------
    CalibrationError
        If they need each other in a circle.
    """
    found: dict[str, Any] = {}
    for kind, where in BUILT_IN.items():
        module, name = where.split(":")
        found[kind] = getattr(importlib.import_module(f"labctl.procedures.calibrations.{module}"), name)()
    for point in entry_points(group=GROUP):
        try:
            made = point.load()()
        except Exception as error:  # whatever a foreign module does when it is imported
            log.warning("the calibration '%s' cannot be had from %s: %s", point.name, point.value, error)
            continue
        if made.name in found:
            log.warning("the calibration '%s' of %s is left out: there is one of this name", made.name, point.value)
            continue
        found[made.name] = made
    return in_order(found)


def in_order(steps: Mapping[str, Any]) -> dict[str, Any]:
    """Calibrations by kind, each after all that it needs and uses; else in the order given.

    Raises
    ------
    CalibrationError
        If there is a circle: the message names it.
    """
    done: dict[str, Any] = {}

    def visit(kind: str, path: tuple[str, ...]) -> None:
        if kind in done or kind not in steps:
            return
        if kind in path:
            circle = " -> ".join([*path[path.index(kind) :], kind])
            raise CalibrationError(f"calibrations depend on each other in a circle: {circle}: take one `uses` out")
        for parent in parents_of(steps[kind]):
            visit(parent, (*path, kind))
        done[kind] = steps[kind]

    for kind in steps:
        visit(kind, ())
    return done


def parents_of(step: Any) -> tuple[str, ...]:
    """Kinds that a calibration needs or uses."""
    return tuple(dict.fromkeys((*getattr(step, "needs", ()), *getattr(step, "uses", ()))))


def is_essential(step: Any) -> bool:
    """Whether a bench without this calibration cannot show a model."""
    return bool(getattr(step, "essential", False))


def attributed(record: CalibrationRecord, step: Any, facts: BenchFacts) -> CalibrationRecord:
    """A record that says what it was made from: the records that `step` needs and uses, the devices, the bench file."""
    known = facts.calibrations
    return replace(
        record,
        parents={kind: known[kind].digest for kind in parents_of(step) if kind in known},
        devices=dict(facts.devices),
        sections=dict(facts.sections),
    )


def refusal(record: CalibrationRecord, step: Any) -> str:
    """Why a record is not to be kept: not finite, or a quality figure above its limit; "" if it is sound."""
    if wrong := unsound(record):
        return f"{record.kind}: {wrong}: the result is not kept"
    for name, limit in getattr(step, "limits", {}).items():
        if record.quality.get(name, 0.0) > limit:
            return (
                f"{record.kind}: {name} is {record.quality[name]:.3g}, its limit is {limit:.3g}: "
                "the result is not kept; look at the run's frames for the reason"
            )
    return ""


def survey(standing: Standing, steps: Mapping[str, Any], now: str | dt.datetime) -> dict[str, Status]:
    """Where each calibration stands.

    Parameters
    ----------
    standing : Standing
    steps : mapping of kind to calibration, in order
        As `registry` gives them.
    now : ISO 8601 time or datetime
        What ages are counted to.
    """
    when = moment(now) if isinstance(now, str) else now.astimezone(dt.UTC)
    found: dict[str, Status] = {}
    for kind, step in steps.items():
        record = standing.records.get(kind)
        if record is None:
            reason = standing.refused.get(kind, "")
            found[kind] = Status(kind, State.REFUSED if reason else State.MISSING, reason or "never measured")
            continue
        taken = moment(record.taken)
        age = None if taken is None or when is None else (when - taken).total_seconds() / 3600
        if wrong := refusal(record, step):
            found[kind] = Status(kind, State.OUT_OF_LIMITS, wrong.split(": ")[1], age, record)
        elif why := _staleness(record, step, standing, found, age):
            found[kind] = Status(kind, State.STALE, why, age, record)
        else:
            found[kind] = Status(kind, State.GOOD, "", age, record)
    return found


def _staleness(
    record: CalibrationRecord, step: Any, standing: Standing, above: Mapping[str, Status], age_h: float | None
) -> str:
    if record.version < 2:
        return "made by an older labctl that kept no hash"
    sections = (*getattr(step, "sections", SECTIONS), "simulation")
    for name in sections:
        if then := record.devices.get(name):
            now = standing.devices.get(name, then)
            if now != then:
                return f"the {name} is '{now}' now, it was '{then}'"
    for name in sections:
        if record.sections.get(name) != standing.sections.get(name):
            return f"[{name}] of the bench file has changed"
    for kind in parents_of(step):
        then, there = record.parents.get(kind), standing.records.get(kind)
        if there is not None and then is None:
            return f"made without '{kind}', which is there now"
        if there is not None and there.digest != then:
            return f"made from another '{kind}' than the one in force"
        if there is None and then is not None:
            return f"made from a '{kind}' that is no longer there"
        if kind in above and kind in getattr(step, "needs", ()) and above[kind].state is not State.GOOD:
            return f"'{kind}', which it needs, is {above[kind].state.value}"
    limit = float(getattr(step, "max_age_h", float("inf")))
    if age_h is None:
        return "it does not say when it was taken"
    if age_h > limit:
        return f"{_hours(age_h)} old, good for {_hours(limit)}"
    return ""


def _hours(hours: float) -> str:
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


def plan(
    found: Mapping[str, Status], steps: Mapping[str, Any], *, only: Sequence[str] = (), everything: bool = False
) -> dict[str, str]:
    """What to measure, in order, and why.

    What depends on a kind that is measured again is measured again too.

    Parameters
    ----------
    found : mapping of kind to Status
        As `survey` gives it.
    only : sequence of kinds
        No more than these and what they need. They are measured whatever their records are.
    everything : bool
        All, whatever their records are.

    Raises
    ------
    CalibrationError
        If there is no such kind.
    """
    check_kinds(only, steps)
    wanted = _with_needs(only, steps) if only else set(steps)
    chosen: dict[str, str] = {}
    for kind, step in steps.items():
        if kind not in wanted:
            continue
        status = found[kind]
        redone = [parent for parent in parents_of(step) if parent in chosen]
        if everything or kind in only:
            why = "asked for" + (f" ({status.state.value}: {status.why})" if status.why else "")
        elif status.state is not State.GOOD:
            why = f"{status.state.value}: {status.why}"
        elif redone:
            why = f"'{redone[0]}' is measured anew"
        else:
            continue
        chosen[kind] = why
    return chosen


def check_kinds(kinds: Iterable[str], steps: Mapping[str, Any]) -> None:
    """Raise `CalibrationError` if a kind is unknown; the message says which there are."""
    for kind in kinds:
        if kind not in steps:
            raise CalibrationError(f"no calibration is called '{kind}': there are {', '.join(steps)}")


def dependants(kinds: Iterable[str], steps: Mapping[str, Any]) -> list[str]:
    """What needs or uses any of these kinds, directly or not, in order."""
    reached = set(kinds)
    found = []
    for kind, step in steps.items():
        if kind not in reached and reached & set(parents_of(step)):
            reached.add(kind)
            found.append(kind)
    return found


def _with_needs(kinds: Iterable[str], steps: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    rest = list(kinds)
    while rest:
        kind = rest.pop()
        if kind in found or kind not in steps:
            continue
        found.add(kind)
        rest += getattr(steps[kind], "needs", ())
    return found
