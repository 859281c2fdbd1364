"""What depends on what, which records still hold, what is measured again and why: on calibrations of the test's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from labctl.bench import BenchFacts, CalibrationRecord
from labctl.errors import CalibrationError
from labctl.optics.geometry import Geometry, Plane
from labctl.procedures.calibrations import Calibrate, Calibration, graph, sequence
from labctl.procedures.calibrations.graph import (
    BASIC,
    Standing,
    State,
    attributed,
    dependants,
    in_order,
    plan,
    refusal,
    registry,
    survey,
)
from labctl.procedures.messages import Log, Publish, Set

NOW = "2026-06-10T12:00:00+00:00"
DEVICES = {"slm": "SLM 1", "input": "panel 1", "camera": "camera 1", "laser": "laser 1"}
SECTIONS = {"optics": "o", "slm": "s", "input": "i", "camera": "c", "instruments": "l"}
PLANE = Plane((8, 8), (8e-6, 8e-6))
FACTS = BenchFacts(
    "b", Geometry(638e-9, 0.1, 0.1, PLANE, PLANE, PLANE), 256, 256, 12, 1e-3, 0.1, 0.01, 0.0, devices=DEVICES,
    sections=SECTIONS, digest="d",
)  # fmt: skip


@dataclass(frozen=True)
class Fake:
    """A calibration whose result is what the test wants."""

    name: str
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    max_age_h: float = 100.0
    limits: Mapping[str, float] = field(default_factory=lambda: {"residual": 1.0})
    sections: tuple[str, ...] = ("optics", "slm", "input", "camera")
    essential: bool = False
    value: float = 1.0
    residual: float = 0.5
    fails: bool = False

    def exposures(self, facts: BenchFacts) -> int:
        return 10

    def steps(self, facts: BenchFacts) -> Any:
        yield Log(f"measuring {self.name}")
        if self.fails:
            raise CalibrationError(f"{self.name}: too little light: open the shutter")
        return made(self, value=self.value)

    def picture(self, record: CalibrationRecord) -> np.ndarray:
        return np.full((2, 2), float(record["value"]), np.float32)


def made(step: Fake, value: float = 1.0, taken: str = "2026-06-10T10:00:00+00:00") -> CalibrationRecord:
    values = {"value": np.asarray(value)}
    return CalibrationRecord(step.name, "b", values, {"value": "1"}, quality={"residual": step.residual}, taken=taken)


DARK = Fake("dark", sections=("camera",), essential=True)
REGISTRATION = Fake("registration", uses=("dark",), essential=True)
CENTRE = Fake("centre", needs=("registration",))
EXTRA = Fake("extra", uses=("centre",))
STEPS = {step.name: step for step in (DARK, REGISTRATION, CENTRE, EXTRA)}


def bench(steps: Mapping[str, Fake] = STEPS) -> BenchFacts:
    """A bench all of whose calibrations hold."""
    facts = FACTS
    for step in steps.values():
        record = attributed(made(step), step, facts)
        facts = replace(facts, calibrations={**facts.calibrations, record.kind: record})
    return facts


def states(facts: BenchFacts, steps: Mapping[str, Fake] = STEPS, now: str = NOW, **refused: str) -> dict[str, str]:
    found = survey(Standing.of(facts, refused), steps, now)
    return {kind: f"{status.state.value}: {status.why}".rstrip(": ") for kind, status in found.items()}


def with_record(facts: BenchFacts, kind: str, **changes: Any) -> BenchFacts:
    record = replace(facts.calibrations[kind], **changes)
    return replace(facts, calibrations={**facts.calibrations, kind: record})


def without(facts: BenchFacts, kind: str) -> BenchFacts:
    return replace(facts, calibrations={k: record for k, record in facts.calibrations.items() if k != kind})


def run(procedure: Calibrate, facts: BenchFacts) -> tuple[Calibration, list[str]]:
    """Drive it by hand: its result, and what it logged."""
    steps, said = procedure.steps(facts), []
    try:
        while True:
            message = next(steps)
            if isinstance(message, Log):
                said.append(f"{message.level}: {message.text}")
            else:
                assert isinstance(message, Publish | Set)
    except StopIteration as stop:
        return stop.value, said


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """The calibrations that there are; a test may change them."""
    there = dict(STEPS)
    monkeypatch.setattr(sequence, "registry", lambda: in_order(there))
    return there


def test_labctls_own_come_in_an_order_that_serves_each() -> None:
    found = registry()
    kinds = list(found)
    assert set(BASIC) <= set(kinds)
    for number, (kind, step) in enumerate(found.items()):
        assert step.name == kind
        assert step.max_age_h > 0
        assert all(limit > 0 for limit in step.limits.values())
        for parent in step.needs:
            assert parent in kinds[:number], f"{kind} needs {parent}, which comes later or not at all"
        for parent in step.uses:
            assert parent not in kinds[number:], f"{kind} uses {parent}, which comes later"


def test_order_follows_needs_and_uses_and_a_circle_is_named() -> None:
    assert list(in_order(dict(reversed(STEPS.items())))) == ["dark", "registration", "centre", "extra"]
    circle = {**STEPS, "dark": replace(DARK, uses=("extra",))}
    with pytest.raises(CalibrationError, match="circle: dark -> extra -> centre -> registration -> dark"):
        in_order(circle)


def test_nothing_is_measured_where_everything_holds(steps: dict[str, Fake]) -> None:
    assert set(states(bench()).values()) == {"good"}
    result, said = run(Calibrate(as_of=NOW), bench())
    assert result == Calibration((), {}, {}, ())
    assert said == ["info: every calibration holds: nothing to measure"]


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (lambda f: replace(f, devices={**DEVICES, "camera": "camera 2"}), "dark", "stale: the camera is 'camera 2' now, it was 'camera 1'"),
        (lambda f: replace(f, devices={**DEVICES, "slm": "SLM 2"}), "registration", "stale: the slm is 'SLM 2' now, it was 'SLM 1'"),
        (lambda f: replace(f, devices={**DEVICES, "slm": "SLM 2"}), "dark", "good"),
        (lambda f: replace(f, devices={}), "registration", "good"),
        (lambda f: replace(f, sections={**SECTIONS, "camera": "cc"}), "dark", "stale: [camera] of the bench file has changed"),
        (lambda f: replace(f, sections={**SECTIONS, "optics": "oo"}), "dark", "good"),
        (lambda f: replace(f, sections={**SECTIONS, "optics": "oo"}), "centre", "stale: [optics] of the bench file has changed"),
        (lambda f: replace(f, sections={**SECTIONS, "simulation": "w"}), "dark", "stale: [simulation] of the bench file has changed"),
        (lambda f: replace(f, sections={**SECTIONS, "instruments": "ll"}), "centre", "good"),
        (lambda f: with_record(f, "dark", taken="2026-06-01T12:00:00+00:00"), "dark", "stale: 9.0 days old, good for 4.2 days"),
        (lambda f: with_record(f, "dark", taken=""), "dark", "stale: it does not say when it was taken"),
        (lambda f: with_record(f, "dark", version=1), "dark", "stale: made by an older labctl that kept no hash"),
        (lambda f: with_record(f, "dark", values={"value": np.asarray(2.0)}), "registration", "stale: made from another 'dark' than the one in force"),
        (lambda f: with_record(f, "dark", values={"value": np.asarray(2.0)}), "dark", "good"),
        (lambda f: with_record(f, "registration", parents={}), "registration", "stale: made without 'dark', which is there now"),
        (lambda f: without(f, "dark"), "registration", "stale: made from a 'dark' that is no longer there"),
        (lambda f: without(f, "dark"), "dark", "missing: never measured"),
        (lambda f: with_record(f, "registration", taken="2026-06-01T12:00:00+00:00"), "centre", "stale: 'registration', which it needs, is stale"),
        (lambda f: with_record(f, "registration", taken="2026-06-01T12:00:00+00:00"), "extra", "good"),
        (lambda f: with_record(f, "extra", quality={"residual": 1.5}), "extra", "out of limits: residual is 1.5, its limit is 1"),
        (lambda f: with_record(f, "extra", values={"value": np.asarray(np.nan)}), "extra", "out of limits: value is not finite"),
    ],
)  # fmt: skip
def test_a_record_is_stale_for_a_reason_that_is_told(change: Any, kind: str, why: str) -> None:
    assert states(change(bench()))[kind] == why


def test_a_file_that_was_refused_is_told_from_one_that_never_was() -> None:
    found = survey(Standing.of(without(bench(), "dark"), {"dark": "dark.h5 was edited"}), STEPS, NOW)
    assert (found["dark"].state, found["dark"].why) == (State.REFUSED, "dark.h5 was edited")
    assert found["registration"].age_h == 2.0
    assert found["registration"].as_json()["quality"] == {"residual": 0.5}


def test_what_depends_on_a_record_measured_anew_is_measured_anew(steps: dict[str, Fake]) -> None:
    facts = with_record(bench(), "registration", taken="2026-06-01T12:00:00+00:00")
    result, said = run(Calibrate(as_of=NOW), facts)
    assert dict(result.why) == {
        "registration": "stale: 9.0 days old, good for 4.2 days",
        "centre": "stale: 'registration', which it needs, is stale",
        "extra": "'centre' is measured anew",
    }
    assert [record.kind for record in result.records] == ["registration", "centre", "extra"]
    assert said[0] == "info: registration: stale: 9.0 days old, good for 4.2 days"
    after = replace(facts, calibrations={**facts.calibrations, **{record.kind: record for record in result.records}})
    assert set(states(after).values()) == {"good"}
    assert result.records[1].parents == {"registration": result.records[0].digest}
    assert Calibrate(as_of=NOW).exposures(facts) == 30
    assert dependants(["registration"], STEPS) == ["centre", "extra"]


def test_only_some_with_what_they_need() -> None:
    bare = survey(Standing.of(FACTS), STEPS, NOW)
    assert list(plan(bare, STEPS, only=("centre",))) == ["registration", "centre"]  # dark is used, not needed
    good = survey(Standing.of(bench()), STEPS, NOW)
    assert plan(good, STEPS, only=("centre",)) == {"centre": "asked for"}
    assert list(plan(good, STEPS, everything=True)) == list(STEPS)
    with pytest.raises(CalibrationError, match="no calibration is called 'cente': there are dark, registration"):
        plan(good, STEPS, only=("cente",))


def test_a_refused_one_never_replaces_a_good_one_and_what_needs_it_is_left(steps: dict[str, Fake]) -> None:
    steps["registration"] = replace(REGISTRATION, fails=True)
    facts = with_record(bench(), "registration", taken="2026-06-01T12:00:00+00:00")
    result, said = run(Calibrate(as_of=NOW), facts)
    assert [record.kind for record in result.records] == ["extra"]  # it uses the centre, and needs nothing
    assert dict(result.refused) == {
        "registration": "registration: too little light: open the shutter",
        "centre": "centre: not measured, because it needs 'registration', which was refused",
    }
    assert result.problems == ("registration: too little light: open the shutter",)
    assert "warning: registration: too little light: open the shutter; the earlier record stays in force" in said
    with pytest.raises(CalibrationError, match="too little light"):
        run(Calibrate(as_of=NOW, strict=True), facts)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (replace(EXTRA, residual=3.0), "extra: residual is 3, its limit is 1: the result is not kept"),
        (replace(EXTRA, value=np.nan), "extra: value is not finite: the result is not kept"),
        (replace(EXTRA, residual=np.nan), "extra: its quality figure residual is not finite"),
    ],
)
def test_a_result_out_of_limits_is_refused(steps: dict[str, Fake], bad: Fake, why: str) -> None:
    steps["extra"] = bad
    result, _ = run(Calibrate(as_of=NOW), without(bench(), "extra"))
    assert result.records == ()
    assert result.refused["extra"].startswith(why)
    assert result.problems == ()  # a bench can do without it
    asked, _ = run(Calibrate(only=("extra",), as_of=NOW), bench())
    assert asked.problems[0].startswith(why)  # but who asks for it wants to know
    assert refusal(made(EXTRA), EXTRA) == ""


def test_installed_packages_add_theirs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise ImportError("no module named their_sdk")

    points = [
        SimpleNamespace(name="etalon", value="their_lab:Etalon", load=lambda: lambda: Fake("etalon", uses=("gain",))),
        SimpleNamespace(name="odd", value="their_lab:Odd", load=broken),
        SimpleNamespace(name="dark", value="their_lab:Dark", load=lambda: lambda: Fake("dark")),
    ]
    monkeypatch.setattr(graph, "entry_points", lambda group: points if group == "labctl.calibrations" else [])
    with caplog.at_level(logging.WARNING):
        found = registry()
    assert "etalon" in found
    assert "no module named their_sdk" in caplog.text
    assert "there is one of this name" in caplog.text
