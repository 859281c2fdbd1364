"""The engine's states: what every request makes of every state, also twice, from two threads, and in a storm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_fakes import Pairs, Rig, Script, gray

from labctl.bench.facts import BenchFacts
from labctl.errors import Aborted, RunError, Stopped
from labctl.procedures.messages import Exposure, Measure, Prompt, Set, Steps
from labctl.runs import events
from labctl.runs.control import ACTIVE, Control
from labctl.runs.engine import Engine, interruptible
from labctl.runs.events import State
from labctl.runs.store import RunStore, open_run

REQUESTS = ("pause", "resume", "stop", "abort", "close")
IDLE, OPEN, RUN, PAUSING, PAUSED, RECOV, STOP, ABORT, CLOSED = (
    State.IDLE, State.OPENING, State.RUNNING, State.PAUSING, State.PAUSED, State.RECOVERING, State.STOPPING,
    State.ABORTING, State.CLOSED,
)  # fmt: skip
LEADS = {
    IDLE: {"close": CLOSED},
    OPEN: {"stop": STOP, "abort": ABORT, "close": ABORT},
    RUN: {"pause": PAUSING, "stop": STOP, "abort": ABORT, "close": ABORT},
    PAUSING: {"resume": RUN, "stop": STOP, "abort": ABORT, "close": ABORT},
    PAUSED: {"resume": RUN, "stop": STOP, "abort": ABORT, "close": ABORT},
    RECOV: {"stop": STOP, "abort": ABORT, "close": ABORT},
    STOP: {"abort": ABORT, "close": ABORT},
    ABORT: {},
    CLOSED: {},
}
"""The drawing in `Control`, as a table; what is missing changes nothing."""


def brought_to(state: State, listener: Callable[[State], None] = lambda _: None) -> Control:
    """A control in this state, by the way that leads there."""
    control = Control(listener)
    if state is State.CLOSED:
        control.close()
    if state in (State.IDLE, State.CLOSED):
        return control
    control.begin("a run")
    if state is State.OPENING:
        return control
    control.opened()
    if state is State.RECOVERING:
        control.trouble()
    if state in (State.PAUSING, State.PAUSED):
        control.pause()
    if state is State.STOPPING:
        control.stop()
    if state is State.ABORTING:
        control.abort()
    if state is State.PAUSED:
        reached = threading.Event()
        thread = threading.Thread(target=lambda: control.gate(lambda: None, reached.set))
        thread.start()
        reached.wait(5)
        control.waiter = thread  # type: ignore[attr-defined]
    assert control.state is state
    return control


def released(control: Control) -> None:
    """Let whoever waits in a pause go."""
    thread = getattr(control, "waiter", None)
    if thread is not None:
        control.resume()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def quiet_waiters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter whose run is ended raises, which is right and of no interest here."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("times", [1, 2])
def test_every_request_in_every_state(state: State, request_: str, times: int) -> None:
    told: list[State] = []
    control = brought_to(state, told.append)
    told.clear()
    for _ in range(times):
        getattr(control, request_)()
    expected = LEADS[state].get(request_, state)
    assert control.state is expected
    assert told == ([expected] if expected is not state else [])
    released(control)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_from_two_threads_is_as_good_as_one(state: State, request_: str) -> None:
    control = brought_to(state)
    gate = threading.Barrier(2)

    def ask() -> None:
        gate.wait(5)
        getattr(control, request_)()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert control.state is LEADS[state].get(request_, state)
    released(control)


@pytest.mark.parametrize("state", list(State))
def test_only_an_idle_engine_begins(state: State) -> None:
    control = brought_to(state)
    if state is State.IDLE:
        control.begin("another")
        assert control.state is State.OPENING
        return
    with pytest.raises(RunError, match="closed" if state is State.CLOSED else "busy with 'a run'"):
        control.begin("another")
    assert control.state is state
    released(control)


@pytest.mark.parametrize("state", ACTIVE)
@pytest.mark.parametrize("closing", [False, True])
def test_the_end_leads_home_from_everywhere(state: State, closing: bool) -> None:
    control = brought_to(state)
    if closing:
        control.close()
    assert control.end() is (State.CLOSED if closing else State.IDLE)
    released(control)


@pytest.mark.parametrize("before", ["opened", "recovered"])
def test_a_pause_asked_for_too_early_is_kept(before: str) -> None:
    control = brought_to(State.OPENING if before == "opened" else State.RECOVERING)
    control.pause()
    control.pause()
    getattr(control, before)()
    assert control.state is State.PAUSING
    control.resume()
    assert control.state is State.RUNNING


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*REQUESTS, "opened", "trouble", "recovered", "end", "begin"]), max_size=30))
def test_no_order_of_requests_is_lost_in_a_state_that_does_not_exist(asked: list[str]) -> None:
    """Whatever is asked, an ending run cannot be brought back, and a closed engine stays closed."""
    control = Control()
    for request in asked:
        before = control.state
        try:
            control.begin("run") if request == "begin" else getattr(control, request)()
        except RunError:
            assert before is not State.IDLE
        after = control.state
        if before is State.CLOSED:
            assert after is State.CLOSED
        if before is State.ABORTING:
            assert after in (State.ABORTING, State.IDLE, State.CLOSED)
        if before is State.STOPPING:
            assert after in (State.STOPPING, State.ABORTING, State.IDLE, State.CLOSED)


# -- the same of a real run -------------------------------------------------------------------------------------------


def at_state(engine: Engine, state: State, do: Callable[[], None]) -> None:
    """Do something the first time that the engine tells this state."""
    done: list[bool] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StateChanged) and event.state is state and not done:
            done.append(True)
            do()

    engine.observer = watch


def run_into(rig: Rig, state: State) -> Callable[[BenchFacts], Steps[Any]]:
    """A procedure that brings the engine into this state on its way."""
    broken = iter([OSError("cable")])

    def body(facts: BenchFacts) -> Steps[Any]:
        yield Set("laser", "power", 1.0)
        yield Measure([Exposure(gray(1), gray(1))])
        if state is State.RECOVERING:

            def fail(_: int) -> None:
                for error in broken:
                    raise error

            rig.camera.before_grab = fail
        yield Measure([Exposure(gray(2), gray(i)) for i in range(1, 6)])
        return "whole"

    return body


@pytest.mark.parametrize("state", [State.OPENING, State.RUNNING, State.PAUSED, State.RECOVERING, State.STOPPING])
@pytest.mark.parametrize("request_", ["stop", "abort", "close"])
def test_a_run_ends_from_every_state(rig: Rig, runs_dir: Any, state: State, request_: str) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))

    def reach_and_ask() -> None:
        getattr(engine, request_)()

    at_state(engine, state, reach_and_ask)
    watch = engine.observer

    def also(event: events.Event) -> None:
        if state in (State.PAUSED, State.STOPPING) and isinstance(event, events.Captured) and event.frame.number == 1:
            engine.pause() if state is State.PAUSED else engine.stop()
        if watch is not None:
            watch(event)

    engine.observer = also
    with pytest.raises(Aborted) as caught:
        engine.run(Script(run_into(rig, state), 6))
    assert isinstance(caught.value, Stopped) == (request_ == "stop")
    assert rig.is_safe
    assert engine.snapshot().state is (State.CLOSED if request_ == "close" else State.IDLE)
    if engine.folder is not None:
        assert open_run(engine.folder).outcome == "aborted"
    if request_ == "close":
        with pytest.raises(RunError, match="closed"):
            engine.run(Pairs())
    else:
        engine.observer = None
        rig.camera.before_grab = lambda _: None
        assert engine.run(Pairs()).values == Pairs().expected()


def test_states_are_told_in_the_order_of_the_drawing(rig: Rig) -> None:
    told: list[State] = []
    engine = Engine(rig.bench)

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StateChanged):
            told.append(event.state)
            if event.state is State.PAUSED:
                engine.resume()
        if isinstance(event, events.Captured) and event.frame.number == 2:
            engine.pause()

    engine.observer = watch
    engine.run(Script(run_into(rig, State.RECOVERING), 6))
    assert told == [
        State.OPENING, State.RUNNING, State.RECOVERING, State.RUNNING, State.PAUSING, State.PAUSED, State.RUNNING,
        State.IDLE,
    ]  # fmt: skip


def test_a_stop_keeps_what_was_exposed_and_tells_a_prompting_procedure(rig: Rig, runs_dir: Any) -> None:
    cleaned: list[str] = []

    def body(facts: BenchFacts) -> Steps[None]:
        try:
            yield Measure([Exposure(gray(1), gray(i)) for i in range(1, 4)])
            yield Prompt("go on?")
        except Stopped:
            yield Set("laser", "power", 0.1)
            cleaned.append("stopped")
            raise

    engine = Engine(rig.bench, store=RunStore(runs_dir), answer=lambda _: "continue")
    rig.camera.before_grab = lambda number: engine.stop() if number == 1 else None
    with pytest.raises(Stopped):
        engine.run(Script(body, 3))
    assert cleaned == ["stopped"]
    assert open_run(engine.folder).frame_count == 2
    assert rig.is_safe


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_a_storm_of_ctrl_c_leaves_the_bench_safe_and_the_engine_ready(moments: list[int]) -> None:
    """Ctrl-C at any calls of any device, any number of times in a row."""
    rig = Rig()
    left = sorted(moments)
    calls = iter(range(10_000))

    def strike(*_: Any) -> None:
        now = next(calls)
        while left and left[0] <= now:
            left.pop(0)
            signal.raise_signal(signal.SIGINT)

    rig.camera.before_grab, rig.slm.before_show, rig.input.before_show = strike, strike, strike
    engine = Engine(rig.bench)
    with interruptible(engine):
        with suppress(Aborted, KeyboardInterrupt):
            engine.run(Pairs(batches=3))
        rig.camera.before_grab = rig.slm.before_show = rig.input.before_show = lambda *_: None
        assert engine.snapshot().state is State.IDLE
        assert rig.is_safe
    assert engine.run(Pairs()).values == Pairs().expected()
