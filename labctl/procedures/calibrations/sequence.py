"""Calibrating a bench: what is missing, stale or out of limits, in the order in which calibrations need each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, now_iso
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.graph import (
    BASIC,
    Standing,
    attributed,
    is_essential,
    parents_of,
    plan,
    refusal,
    registry,
    survey,
)
from labctl.procedures.messages import Log, Publish, Set, Steps

__all__ = ["BASIC", "Calibrate", "Calibration", "Incomplete"]


@dataclass(frozen=True)
class Calibration:
    """What a pass through the calibrations gave.

    Attributes
    ----------
    records : tuple of CalibrationRecord
        Those that were accepted, for the bench's calibration folder.
    why : mapping of kind to reason
        What was to be measured, and why.
    refused : mapping of kind to reason
        What was measured and refused, or could not be: earlier records of these kinds stay in force.
    problems : tuple of str
        Reasons of those that a bench cannot do without, and of those that were asked for by name.
    """

    records: tuple[CalibrationRecord, ...]
    why: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class Incomplete(CalibrationError):
    """A calibration was refused that the bench cannot do without, or that was asked for by name.

    Attributes
    ----------
    calibration : Calibration
        What the pass gave all the same.
    """

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration.problems[0])
        self.calibration = calibration


@dataclass(frozen=True)
class Calibrate:
    """All calibrations that are missing, stale or out of limits.

    One that is refused is reported, its earlier record stays in force, and all that does not need it goes on.

    Attributes
    ----------
    only : tuple of str
        Measure these kinds, and of what they need what does not hold; nothing else.
    everything : bool
        Measure all, whatever the records are.
    strict : bool
        End with the reason as soon as one that the bench cannot do without is refused.
    as_of : str
        ISO 8601 time to which ages are counted, so that the same is chosen when a run is replayed; "" is now.
    """

    only: tuple[str, ...] = ()
    everything: bool = False
    strict: bool = False
    as_of: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        return "calibrate"

    def planned(self, facts: BenchFacts) -> tuple[dict[str, Any], dict[str, str]]:
        """The calibrations that there are, by kind, and of them what is to be measured, and why."""
        steps = registry()
        found = survey(Standing.of(facts), steps, self.as_of or now_iso())
        return steps, plan(found, steps, only=self.only, everything=self.everything)

    def exposures(self, facts: BenchFacts) -> int:
        steps, chosen = self.planned(facts)
        return sum(int(steps[kind].exposures(facts)) for kind in chosen)

    def steps(self, facts: BenchFacts) -> Steps[Calibration]:
        steps, chosen = self.planned(facts)
        known: dict[str, CalibrationRecord] = {}
        refused: dict[str, str] = {}
        if not chosen:
            yield Log("every calibration holds: nothing to measure")
        for kind, why in chosen.items():
            step = steps[kind]
            here = replace(facts, calibrations={**facts.calibrations, **known})
            yield Log(f"{kind}: {why}")
            try:
                _refuse_without(kind, step, refused)
                record = attributed((yield from step.steps(here)), step, here)
                if wrong := refusal(record, step):
                    raise CalibrationError(wrong)
            except CalibrationError as error:
                yield Set("camera", "window", None)
                refused[kind] = str(error)
                if self.strict and is_essential(step):
                    raise
                old = "; the earlier record stays in force" if kind in facts.calibrations else ""
                yield Log(f"{error}{old}", "warning")
                continue
            known[kind] = record
            quality = ", ".join(f"{name} {figure:.3g}" for name, figure in record.quality.items())
            yield Log(f"{record.kind}: {quality}")
            if callable(picture := getattr(step, "picture", None)):
                yield Publish(kind, picture(record))
        problems = tuple(reason for kind, reason in refused.items() if is_essential(steps[kind]) or kind in self.only)
        return Calibration(tuple(known.values()), chosen, refused, problems)


def _refuse_without(kind: str, step: Any, refused: Mapping[str, str]) -> None:
    for parent in parents_of(step):
        if parent in refused and parent in getattr(step, "needs", ()):
            raise CalibrationError(f"{kind}: not measured, because it needs '{parent}', which was refused")
