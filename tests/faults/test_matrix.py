"""Every fault at every call: a run recovers with right frames, or ends in one line and can go on; the next is sound."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults_benches import SIMULATED, FaultyRig, disarm
from faults_course import PAIRS, WINDOWS, Course, Seen, Told
from faults_matrix import COLUMNS, PROVABLE, Becomes, Case, cases

from labctl.bench import Bench, open_bench, token
from labctl.config.faults import FAULTS_OF
from labctl.config.load import parse_bench
from labctl.devices.faults import FaultPlan
from labctl.errors import DeviceError, LabctlError
from labctl.runs.engine import Engine
from labctl.runs.events import State
from labctl.runs.past import Past
from labctl.runs.store import RunFolder, RunStore, open_run

CASES = list(cases())


def run_once(engine: Engine, course: Course) -> tuple[Seen | None, LabctlError | None, Told]:
    told = Told()
    engine.observer = told.watch
    with told.listening():
        try:
            return engine.run(course), None, told
        except LabctlError as error:
            return None, error, told


def became(seen: Seen | None, reference: Seen, told: Told, *, safe: bool) -> Becomes:
    if seen is None:
        return Becomes.ENDS
    if seen != reference:
        return Becomes.UNSEEN
    if told.has("the bench could not be made safe"):
        return Becomes.REPORTS
    if not safe:
        return Becomes.UNSEEN
    if told.has("opening it again ("):
        return Becomes.REOPEN
    return Becomes.RETRY if told.has("trying again (") else Becomes.GOES_ON


def as_is(case: Case) -> bool:
    return COLUMNS[case.column].call is None


def at_calls(*, thin: bool) -> list[Any]:
    """Those that are as good as another, for another device of the same kind or the other camera, are left to CI."""
    found = []
    for case in CASES:
        if as_is(case):
            continue
        alike = case.device == "input" or (case.manner == "grab" and COLUMNS[case.column].kind != "camera")
        found.append(pytest.param(case, marks=[pytest.mark.slow] if thin and alike else [], id=str(case)))
    return found


def tiny(case: Case | None, manner: str, *, reopens: bool = True) -> FaultyRig:
    return FaultyRig(
        case.plan if case else (), overlaps=manner == "overlap", lit=True, reopens=reopens,
        recovery=COLUMNS[case.column].recovery if case else None,
    )  # fmt: skip


@cache
def tiny_reference(manner: str) -> Seen:
    one = tiny(None, manner)
    seen = Engine(one.bench).run(Course(WINDOWS["tiny"]))
    assert one.is_safe
    expected = []
    for power, (r0, r1, c0, c1) in zip((0.5, 0.75), WINDOWS["tiny"], strict=True):
        for s, i in PAIRS:
            expected.append(token(np.full((r1 - r0, c1 - c0), 256 * round(10 * power) + 16 * s + i, np.uint16)))
    assert list(seen.pixels) == expected
    if manner == "overlap":
        assert one.camera.overlapped > 0  # type: ignore[attr-defined]
    one.bench.close()
    return seen


def check_ended(case: Case, error: LabctlError | None, engine: Engine, reference: Seen) -> None:
    """One line with device and cause; frames before it are intact, each that of the run without a fault."""
    assert isinstance(error, DeviceError)
    assert error.device == case.device
    assert "\n" not in str(error)
    assert case.says(case.device, str(error)), str(error)
    recorded = open_run(engine.folder)  # type: ignore[arg-type]
    assert recorded.outcome == "failed"
    assert recorded.result is None or "pixels" not in recorded.result
    due = dict(zip([(batch, *pair) for batch in (0, 1) for pair in PAIRS], reference.pixels, strict=True))
    frames = list(recorded.frames(check=True)) if recorded.frame_count else []
    found = [(n // len(PAIRS), *frame.tag["pair"]) for n, frame in enumerate(frames)]
    assert len(set(found)) == len(found)
    for place, frame in zip(found, frames, strict=True):
        assert token(frame.data) == due[place]


@pytest.mark.parametrize("case", at_calls(thin=False))
def test_on_the_tiny_bench(case: Case, tmp_path: Path) -> None:
    reference, course = tiny_reference(case.manner), Course(WINDOWS["tiny"])
    one = tiny(case, case.manner)
    engine = Engine(one.bench, store=RunStore(tmp_path))
    seen, error, told = run_once(engine, course)
    assert (case.device, case.fault) in {(device, fault) for device, _, fault in one.done()}
    assert became(seen, reference, told, safe=one.is_safe) is case.becomes, (error, told.lines)
    one.disarm()
    if case.becomes is Becomes.ENDS:
        check_ended(case, error, engine, reference)
        with Past(open_run(engine.folder), "live") as past:  # type: ignore[arg-type]
            assert engine.run(course, past=past, folder=RunFolder.reopen(engine.folder)) == reference  # type: ignore[arg-type]
    else:
        assert open_run(engine.folder).outcome == "done"  # type: ignore[arg-type]
    assert engine.snapshot().state is State.IDLE
    again, error, told = run_once(engine, course)
    assert (again, error) == (reference, None)
    assert not told.has("again (")  # nothing of the fault is left
    assert one.is_safe
    one.bench.close()
    assert one.closed == [1, 1, 1, 1]


def simulated(case: Case | None, manner: str, *, effects: str = "") -> Bench:
    text = SIMULATED if manner == "overlap" else SIMULATED.replace("timestamps = true", "timestamps = false")
    config = parse_bench(text + effects)
    if case is not None:
        plan = FaultPlan.model_validate({"plan": case.plan})
        config = config.model_copy(update={"faults": plan, "recovery": COLUMNS[case.column].recovery})
    return open_bench(config)


def is_dark(bench: Bench) -> bool:
    world = bench.device("slm").driver._world
    return not (world.laser[0] or world._slm.latest.any() or world._input.latest.any())


@cache
def simulated_reference(manner: str, effects: str = "") -> Seen:
    bench = simulated(None, manner, effects=effects)
    assert bench.overlaps == (manner == "overlap")
    seen = Engine(bench).run(Course(WINDOWS["faulty"]))
    assert len(set(seen.pixels)) == len(seen.pixels)
    bench.close()
    return seen


@pytest.mark.parametrize("case", at_calls(thin=True))
def test_on_a_bench_from_a_file(case: Case, tmp_path: Path) -> None:
    """Devices are closed and opened again as a bench file says."""
    reference, course = simulated_reference(case.manner), Course(WINDOWS["faulty"])
    bench = simulated(case, case.manner)
    engine = Engine(bench, store=RunStore(tmp_path))
    seen, error, told = run_once(engine, course)
    assert (case.device, case.fault) in {(item.device, item.fault) for item in bench.injected}
    assert became(seen, reference, told, safe=is_dark(bench)) is case.becomes, (error, told.lines)
    if case.becomes is Becomes.ENDS:
        check_ended(case, error, engine, reference)
    disarm(bench)
    again, error, told = run_once(engine, course)
    assert (again, error) == (reference, None)
    assert not told.has("again (")
    assert is_dark(bench)
    bench.close()


@pytest.mark.parametrize("manner", ["grab", "overlap"])
def test_repeated_exposures_have_the_noise_of_the_first(manner: str) -> None:
    """Noise is a function of the exposure's number, which a repeated exposure keeps: equal to the bit."""
    noisy = "[simulation.effects]\nshot_noise = true\nread_noise_e = 2.5\nlaser_flicker = 0.01\n"
    reference = simulated_reference(manner, noisy)
    assert reference != simulated_reference(manner)
    repeated = 0
    for case in CASES:
        seen_again = case.becomes in (Becomes.RETRY, Becomes.REOPEN) and case.lasts != "for good"
        if case.manner == manner and case.device in ("slm", "camera") and seen_again and case.fault != "dropped":
            bench = simulated(case, manner, effects=noisy)
            engine = Engine(bench)
            assert engine.run(Course(WINDOWS["faulty"])) == reference, str(case)
            repeated += engine.snapshot().repeated
            bench.close()
    assert repeated > 10


@pytest.mark.parametrize("case", [case for case in CASES if as_is(case) and case.manner == "grab"], ids=str)
def test_closing(case: Case) -> None:
    one = tiny(case, "grab")
    assert Engine(one.bench).run(Course(WINDOWS["tiny"])) == tiny_reference("grab")
    told, start = Told(), one.clock.now()
    with told.listening():
        one.bench.close()
    assert one.closed == [1, 1, 1, 1]
    assert one.is_safe
    if case.becomes is Becomes.REPORTS:
        assert told.has(f"closing {case.device}: OSError: the device cannot be released")
    else:
        assert one.clock.now() - start == pytest.approx(30.0)


def test_every_fault_has_its_cells() -> None:
    kinds = {(COLUMNS[case.column].kind, case.fault) for case in CASES}
    assert kinds == {(kind, fault) for kind, faults in FAULTS_OF.items() for fault in faults}
    assert {(case.column, case.fault) for case in CASES} >= PROVABLE


def test_the_page_is_what_the_matrix_says() -> None:
    """Write it with ``python tests/faults/table.py``."""
    import table

    assert table.PAGE.read_text(encoding="utf-8") == table.page()
