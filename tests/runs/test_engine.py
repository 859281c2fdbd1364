"""The engine: order, recording before seeing, and every way in which a run can end."""

from __future__ import annotations

import itertools
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_fakes import Pairs, Rig, Script, gray

from labctl.bench.facts import BenchFacts
from labctl.clock import DrivenClock
from labctl.errors import Aborted, DeviceError, RunError
from labctl.procedures.messages import Checkpoint, Exposure, Log, Measure, Prompt, Publish, Read, Set, Steps
from labctl.runs import events
from labctl.runs.engine import Engine, interruptible
from labctl.runs.events import State
from labctl.runs.framefile import read_table
from labctl.runs.ordering import Shown, plan
from labctl.runs.store import RunStore, open_run


@contextmanager
def fresh() -> Iterator[tuple[Rig, RunStore]]:
    """A rig and a store of their own, for property tests, where fixtures are shared between examples."""
    with tempfile.TemporaryDirectory() as folder:
        yield Rig(), RunStore(Path(folder))


def outcome_of(engine: Engine) -> str:
    if engine.folder is None:
        pytest.fail("the run was not recorded")
    return open_run(engine.folder).outcome


# -- order and pairing ------------------------------------------------------------------------------------------------


def test_frames_come_back_in_the_order_asked_while_the_slm_changes_least(rig: Rig) -> None:
    procedure = Pairs()
    assert Engine(rig.bench).run(procedure).values == procedure.expected()
    assert rig.slm.changes == 2


def test_a_batch_starts_with_the_pattern_that_is_already_shown(rig: Rig) -> None:
    Engine(rig.bench).run(Pairs(batches=4))
    assert rig.slm.changes == 2 + 3  # each further batch begins where the last one ended


levels = st.none() | st.integers(1, 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(levels, levels), min_size=1, max_size=12), st.booleans())
def test_leave_as_it_is_means_what_the_order_asked_would_have_shown(asked: list[Any], known: bool) -> None:
    rig = Rig()

    def body(_: BenchFacts) -> Steps[list[int]]:
        if known:
            yield Measure([Exposure(gray(9), gray(8))])
        frames = yield Measure(
            [Exposure(None if s is None else gray(s), None if i is None else gray(i)) for s, i in asked]
        )
        return [int(frame.data[0, 0]) for frame in frames]

    slm, inp = (9, 8) if known else (0, 0)
    expected = []
    for s, i in asked:
        slm, inp = slm if s is None else s, inp if i is None else i
        expected.append(16 * slm + inp)
    assert Engine(rig.bench).run(Script(body)) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=20))
def test_a_plan_takes_each_exposure_once_and_each_slm_pattern_in_one_go(asked: list[tuple[int, int]]) -> None:
    planned = plan([Exposure(gray(s), gray(i)) for s, i in asked], Shown())
    assert sorted(item.position for item in planned) == list(range(len(asked)))
    tokens = [item.shown.slm_token for item in planned]
    changes = sum(a != b for a, b in itertools.pairwise(tokens))
    assert changes == max(len(set(tokens)) - 1, 0)


# -- recording --------------------------------------------------------------------------------------------------------


def test_a_frame_is_on_disk_before_observer_or_procedure_see_it(rig: Rig, runs_dir: Path) -> None:
    seen: list[int] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.Captured):
            folder = engine.folder
            copy = runs_dir.parent / "copy.h5"  # a copy, as HDF5 will not open a file twice in one process
            copy.write_bytes((folder / "frames.h5").read_bytes())
            table = read_table(copy)
            assert table[-1]["number"] == event.frame.number
            seen.append(len(table))

    engine = Engine(rig.bench, store=RunStore(runs_dir))
    failures: list[BaseException] = []

    def strict(event: events.Event) -> None:
        try:
            watch(event)
        except AssertionError as error:
            failures.append(error)

    engine.observer = strict
    engine.run(Pairs())
    assert not failures
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_run_records_what_was_asked_shown_and_returned(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    result = engine.run(Pairs(), provenance={"seeds": [1, 2], "config": {"bench": {"name": "fake"}}})
    run = open_run(engine.folder)
    assert run.outcome == "done"
    assert run.result["values"] == result.values
    assert run.intent["provenance"] == {"seeds": [1, 2], "config": {"bench": {"name": "fake"}}}
    assert run.intent["procedure"]["parameters"]["batches"] == 1
    assert run.intent["devices"]["laser"] == "laser"
    frames = {tuple(frame.tag["pair"]): frame for frame in run.frames(check=True)}
    for (s, i), frame in frames.items():
        assert frame.data[0, 0] == 16 * s + i
        assert np.array_equal(run.pattern("slm", frame.slm), gray(s))
    assert len(run.patterns("slm")) == 2
    assert run.patterns("input") == []


def test_input_patterns_are_kept_once_each_on_request(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir, keep_input_patterns=True))
    engine.run(Pairs(batches=2))
    assert len(open_run(engine.folder).patterns("input")) == 3


def test_every_request_is_served_and_logged(rig: Rig, runs_dir: Path) -> None:
    def body(_: BenchFacts) -> Steps[float]:
        yield Set("laser", "power", 0.5)
        power = yield Read("laser", "power")
        yield Checkpoint({"step": 1, "weights": np.arange(20_000.0)})
        yield Checkpoint({"step": 2, "weights": np.arange(20_001.0)})
        yield Publish("power_mW", power)
        yield Log("half way", "warning")
        choice = yield Prompt("Turn the knob", ("continue", "skip"))
        assert choice == "continue"
        return float(power)

    seen: list[events.Event] = []
    engine = Engine(rig.bench, observer=seen.append, store=RunStore(runs_dir))
    assert engine.run(Script(body)) == 0.5
    run = open_run(engine.folder)
    checkpoint = run.checkpoint
    assert checkpoint is not None
    assert checkpoint["step"] == 2
    assert checkpoint["weights"].shape == (20_001,)
    assert [e["kind"] for e in run.events if e["kind"] in ("set", "read", "prompt")] == ["set", "read", "prompt"]
    assert any(isinstance(e, events.Published) and e.value == 0.5 for e in seen)
    assert any(isinstance(e, events.Logged) and e.level == "warning" for e in seen)
    assert isinstance(seen[-2], events.RunFinished)
    assert rig.laser.settings["power"] == 0.0  # make_safe


def test_progress_counts_up_and_gives_an_eta(rig: Rig) -> None:
    seen: list[events.Event] = []
    clock = DrivenClock()
    rig.camera.before_grab = lambda _: clock.sleep(2.0)
    Engine(rig.bench, observer=seen.append, clock=clock).run(Pairs())
    progress = [e for e in seen if isinstance(e, events.Progressed)]
    assert [e.done for e in progress] == list(range(7))
    assert progress[0].eta_s is None
    assert progress[2].eta_s == pytest.approx(8.0)
    assert progress[-1].eta_s == 0.0


# -- ends -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.booleans())
def test_abort_at_any_frame(k: int, twice: bool) -> None:
    cleaned: list[bool] = []

    def body(facts: BenchFacts) -> Steps[Any]:
        try:
            yield Set("laser", "power", 1.0)
            return (yield from Pairs(batches=2).steps(facts))
        finally:
            cleaned.append(True)

    with fresh() as (rig, store):
        seen: list[events.Event] = []

        def watch(event: events.Event) -> None:
            seen.append(event)
            if isinstance(event, events.Progressed) and event.done == k:
                engine.abort()
                if twice:
                    engine.abort()

        engine = Engine(rig.bench, observer=watch, store=store)
        with pytest.raises(Aborted):
            engine.run(Script(body, 12))
        assert rig.camera.grabs == k
        assert cleaned == [True]
        assert rig.is_safe
        assert rig.laser.safe == 1
        assert outcome_of(engine) == "aborted"
        assert open_run(engine.folder).frame_count == k
        assert next(e for e in seen if isinstance(e, events.RunFinished)).outcome == "aborted"
        assert engine.snapshot().state is State.IDLE
        engine.observer = None
        assert engine.run(Pairs()).values == Pairs().expected()


def test_abort_when_idle_does_not_touch_the_next_run(rig: Rig) -> None:
    engine = Engine(rig.bench)
    engine.abort()
    engine.pause()
    assert engine.run(Pairs()).values == Pairs().expected()


@pytest.mark.parametrize("ending", ["resume", "abort"])
def test_pause_from_another_thread_loses_and_doubles_nothing(rig: Rig, runs_dir: Path, ending: str) -> None:
    paused, go = threading.Event(), threading.Event()

    def watch(event: events.Event) -> None:
        if isinstance(event, events.Captured) and event.frame.number == 3:
            go.set()  # ask from the other thread, and do not go on before it has asked
            asked.wait(5)
        if event == events.StateChanged(State.PAUSED):
            paused.set()

    asked = threading.Event()
    engine = Engine(rig.bench, observer=watch, store=RunStore(runs_dir))
    counts: list[int] = []

    def other() -> None:
        go.wait(5)
        engine.pause()
        asked.set()
        paused.wait(5)
        counts.append(engine.snapshot().captured)
        assert engine.snapshot().state is State.PAUSED
        getattr(engine, ending)()

    thread = threading.Thread(target=other)
    thread.start()
    procedure = Pairs(batches=2)
    if ending == "resume":
        assert engine.run(procedure).values == procedure.expected()
        assert rig.camera.grabs == 12
        assert sorted(f.number for f in open_run(engine.folder).frames()) == list(range(12))
    else:
        with pytest.raises(Aborted):
            engine.run(procedure)
        assert rig.camera.grabs == 4
        assert rig.is_safe
    thread.join(5)
    assert counts == [4]


def test_a_failing_observer_changes_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def watch(event: events.Event) -> None:
        raise ValueError("the window is gone")

    assert Engine(rig.bench, observer=watch).run(Pairs()).values == Pairs().expected()
    assert "the window is gone" in caplog.text


@pytest.mark.parametrize("where", ["camera", "slm", "procedure", "count", "message", "answer"])
def test_a_failed_run_leaves_the_bench_safe_and_the_engine_ready(rig: Rig, runs_dir: Path, where: str) -> None:
    cleaned: list[str] = []

    def fail(*_: Any) -> None:
        raise OSError("cable pulled")

    def body(facts: BenchFacts) -> Steps[Any]:
        try:
            yield Set("laser", "power", 1.0)
            yield Measure([Exposure(gray(1), gray(1))])
            if where == "camera":
                rig.camera.before_grab = fail
            elif where == "slm":
                rig.slm.before_show = fail
            elif where == "procedure":
                raise ZeroDivisionError("in the fit")
            elif where == "message":
                yield "measure"  # type: ignore[misc]
            elif where == "answer":
                yield Prompt("Turn", ("yes", "no"))
            yield Measure([Exposure(gray(2), gray(2))])
        finally:
            yield Set("laser", "power", 0.25)
            cleaned.append(where)

    class Miscounted(Script):
        def exposures(self, facts: BenchFacts) -> int:
            raise ValueError("no such mask")

    expected = {"procedure": ZeroDivisionError, "count": ValueError, "message": RunError, "answer": RunError}
    engine = Engine(rig.bench, store=RunStore(runs_dir), answer=lambda _: "maybe")
    with pytest.raises(expected.get(where, DeviceError)) as caught:
        engine.run((Miscounted if where == "count" else Script)(body, 2))
    if where in ("camera", "slm"):
        assert str(caught.value) == f"{where}: OSError: cable pulled (tried 3 times)"
    assert cleaned == ([] if where == "count" else [where])
    assert rig.is_safe
    if where != "count":
        assert outcome_of(engine) == "failed"
        assert open_run(engine.folder).frame_count == 1
    rig.camera.before_grab, rig.slm.before_show = lambda _: None, lambda: None
    assert engine.run(Pairs()).values == Pairs().expected()
    assert outcome_of(engine) == "done"


def test_a_procedure_may_answer_for_a_failed_device(rig: Rig) -> None:
    def body(_: BenchFacts) -> Steps[str]:
        try:
            yield Read("power-meter", "power")
        except DeviceError:
            yield Log("no power meter: the drift is not corrected", "warning")
        return "went on"

    assert Engine(rig.bench).run(Script(body)) == "went on"


def test_a_procedure_that_will_not_end_is_ended(rig: Rig) -> None:
    def body(_: BenchFacts) -> Steps[None]:
        while True:
            try:
                yield Measure([Exposure(gray(1), gray(1))])
            except Aborted:
                yield Log("no")

    engine = Engine(rig.bench)
    rig.camera.before_grab = lambda number: engine.abort() if number == 2 else None
    with pytest.raises(Aborted):
        engine.run(Script(body))
    assert rig.camera.grabs == 3


@pytest.mark.parametrize("where", ["camera", "procedure", "observer", "paused"])
def test_ctrl_c_anywhere_is_an_abort(rig: Rig, runs_dir: Path, where: str) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a script starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def body(facts: BenchFacts) -> Steps[None]:
        yield Set("laser", "power", 1.0)
        yield Measure([Exposure(gray(1), gray(1))])
        if where == "procedure":
            raise KeyboardInterrupt
        yield Measure([Exposure(gray(2), gray(2))])

    def watch(event: events.Event) -> None:
        if where == "observer" and isinstance(event, events.Captured):
            raise KeyboardInterrupt
        if where == "paused" and isinstance(event, events.Captured):
            engine.pause()
        if event == events.StateChanged(State.PAUSED):
            signal.raise_signal(signal.SIGINT)

    def grab(number: int) -> None:
        if where == "camera" and number == 1:
            raise KeyboardInterrupt

    rig.camera.before_grab = grab
    engine = Engine(rig.bench, observer=watch, store=RunStore(runs_dir))
    with pytest.raises(Aborted):
        engine.run(Script(body, 2))
    assert rig.is_safe
    assert outcome_of(engine) == "aborted"
    engine.observer = None
    rig.camera.before_grab = lambda _: None
    assert engine.run(Pairs()).values == Pairs().expected()


def test_first_ctrl_c_waits_for_the_frame_and_the_second_does_not(rig: Rig, runs_dir: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    reached: list[str] = []

    def grab(number: int) -> None:
        if number == 2:
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            if impatient:
                signal.raise_signal(signal.SIGINT)
                reached.append("after the second")

    rig.camera.before_grab = grab
    for frames in (3, 2):
        impatient = frames == 2
        reached.clear()
        rig.camera.grabs = 0
        engine = Engine(rig.bench, store=RunStore(runs_dir))
        with pytest.raises(Aborted), interruptible(engine):
            engine.run(Pairs())
        assert reached == ["after the first"]
        assert open_run(engine.folder).frame_count == frames
        assert rig.is_safe
        assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_idle_is_not_swallowed(rig: Rig) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(Engine(rig.bench)):
        signal.raise_signal(signal.SIGINT)


def test_a_busy_or_closed_engine_refuses(rig: Rig) -> None:
    engine = Engine(rig.bench)
    refusals: list[str] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            try:
                engine.run(Pairs())
            except RunError as error:
                refusals.append(str(error))

    engine.observer = watch
    engine.run(Pairs())
    assert "busy with 'pairs'" in refusals[0]
    engine.close()
    assert engine.snapshot().state is State.CLOSED
    with pytest.raises(RunError, match="closed"):
        engine.run(Pairs())


def test_close_during_a_run_aborts_it(rig: Rig) -> None:
    engine = Engine(rig.bench)
    rig.camera.before_grab = lambda number: engine.close() if number == 1 else None
    with pytest.raises(Aborted):
        engine.run(Pairs())
    assert engine.snapshot().state is State.CLOSED
    assert rig.camera.grabs == 2
