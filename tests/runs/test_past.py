"""What a recorded run answers when its procedure, or another one, asks again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from runs_fakes import Pairs, Rig, Script, gray

from labctl.bench.bench import token
from labctl.bench.facts import BenchFacts
from labctl.errors import RunError
from labctl.procedures.messages import Exposure, Measure, Procedure, Prompt, Read, Set, Steps
from labctl.runs.engine import Engine
from labctl.runs.past import Past
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.store import RunStore
from labctl.runs.values import to_json


@pytest.fixture
def record(rig: Rig, runs_dir: Path) -> Callable[[Procedure[Any]], RecordedRun]:
    def run(procedure: Procedure[Any]) -> RecordedRun:
        engine = Engine(rig.bench, store=RunStore(runs_dir), answer=lambda prompt: prompt.options[-1])
        engine.run(procedure)
        if engine.folder is None:
            pytest.fail("not recorded")
        return open_run(engine.folder)

    return run


def feed(procedure: Procedure[Any], facts: BenchFacts, past: Past) -> Any:
    """Drive a procedure from the past alone."""
    steps, answer, batch, shown = procedure.steps(facts), None, 0, ["", ""]
    while True:
        try:
            message = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = None
        match message:
            case Measure(exposures):
                answer = []
                for position, exposure in enumerate(exposures):
                    shown = [token(new) or old for new, old in zip((exposure.slm, exposure.input), shown, strict=True)]
                    answer.append(past.take(batch, position, exposure, *shown))
                batch += 1
            case Set(instrument, setting, value):
                past.note_set(instrument, setting, value)
            case Read(instrument, setting):
                answer = past.reading(instrument, setting)[1]
            case Prompt(text):
                answer = past.choice(text)


def ask(past: Past, slm: int, inp: int, place: tuple[int, int] = (0, 0), **more: Any) -> Any:
    exposure = Exposure(gray(slm), gray(inp), **{"tag": {"pair": [slm, inp]}, **more})
    return past.take(*place, exposure, token(gray(slm)), token(gray(inp)))


def test_the_same_procedure_gets_the_same_answers(rig: Rig, record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs(batches=2))
    with Past(recorded) as past:
        assert past.remaining == 12
        result = feed(Pairs(batches=2), rig.bench.facts, past)
        assert past.remaining == 0
    assert result.values == recorded.result["values"] == Pairs(batches=2).expected()
    assert result.numbers == recorded.result["numbers"]


def test_a_frame_comes_back_whole(record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs())
    saved = {(frame.slm, frame.input): frame for frame in recorded.frames()}
    with Past(recorded) as past:
        frame = ask(past, 2, 2, (0, 3))
        want = saved[token(gray(2)), token(gray(2))]
        assert frame is not None
        assert np.array_equal(frame.data, want.data)
        assert frame.data.dtype == want.data.dtype
        for name in ("number", "started", "ended", "exposure_s", "slm", "input", "origin", "tag"):
            assert getattr(frame, name) == getattr(want, name)
        assert past.last is frame
        earlier = ask(past, 1, 1)
        assert earlier.number < frame.number
        assert past.last is frame  # the one captured last, whatever the order of asking


def test_frames_are_found_by_content_where_the_place_differs(record: Callable[..., RecordedRun]) -> None:
    with Past(record(Pairs(batches=2))) as past:
        taken = [ask(past, 1, 3, (7, 5)), ask(past, 1, 3, (7, 6))]
        assert [int(frame.data[0, 0]) for frame in taken] == [19, 19]
        assert taken[0].number < taken[1].number  # identical exposures in the order recorded
        with pytest.raises(RunError, match="was not recorded"):
            ask(past, 1, 3, (7, 7))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tag": {"pair": "other"}}, "the one recorded was tagged"),
        ({"exposure_s": 0.006}, "the one recorded was exposed for 5 ms, not 6 ms"),
        ({"slm": gray(9)}, "the one recorded had another SLM pattern"),
        ({"input": gray(9)}, "the one recorded had another input pattern"),
    ],
)
def test_what_was_not_recorded_is_refused_with_the_reason(
    record: Callable[..., RecordedRun], more: dict[str, Any], said: str
) -> None:
    recorded = record(Pairs())
    wanted = Exposure(**{"slm": gray(1), "input": gray(1), "tag": {"pair": [1, 1]}} | more)
    with Past(recorded) as past, pytest.raises(RunError) as caught:
        past.take(0, 0, wanted, token(wanted.slm), token(wanted.input))
    assert str(caught.value).startswith("exposure 0 of batch 0 ")
    assert f"was not recorded in run {recorded.id}" in str(caught.value)
    assert str(caught.value).endswith("replay can only analyse what was captured")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_exposure_time_of_the_bench_file_is_meant_where_none_is_given(record: Callable[..., RecordedRun]) -> None:
    with Past(record(Pairs())) as past:
        assert ask(past, 1, 1, exposure_s=0.005) is not None
        assert ask(past, 2, 1, (0, 1), exposure_s=None) is not None


def test_a_panel_of_which_nothing_is_known_fits_any_pattern(record: Callable[..., RecordedRun]) -> None:
    """Dark frames leave the panels as they are: taken alone they are the same frames as within a longer run."""

    def body(facts: BenchFacts) -> Steps[Any]:
        yield Measure([Exposure(gray(3), gray(4))])
        return (yield Measure([Exposure(None, None, 0.02, {"for": "dark"})]))

    with Past(record(Script(body))) as past:
        frame = past.take(0, 0, Exposure(None, None, 0.02, {"for": "dark"}), "", "")
    assert frame is not None
    assert frame.slm == token(gray(3))


def reading(rig: Rig, *values: Any) -> Script:
    def body(facts: BenchFacts) -> Steps[Any]:
        got = []
        for value in values:
            rig.laser.settings["state"] = value
            got.append((yield Read("laser", "state")))
        yield Measure([Exposure(gray(1), gray(1))])
        return got

    return Script(body)


def test_readings_come_back_exactly(rig: Rig, record: Callable[..., RecordedRun]) -> None:
    values = [0.1 + 0.2, 1e-300, 7, -0.0, 1 / 3]
    with Past(record(reading(rig, *values))) as past:
        got = [past.reading("laser", "state") for _ in values]
        assert [found for found, _ in got] == [True] * len(values)
        assert [repr(value) for _, value in got] == [repr(value) for value in values]
        with pytest.raises(RunError, match=r"a reading of laser\.state was not recorded"):
            past.reading("laser", "state")


def test_readings_of_every_kind_come_back(record: Callable[..., RecordedRun]) -> None:
    """Those too that the bench refuses today: whoever logs them, they are what they were."""
    recorded = record(Pairs())
    values = [math.nan, math.inf, True, False, "on", None, [1, 2.5], np.float32(0.1), np.array([0.1, 1e-300])]
    with (recorded.path / "events.jsonl").open("a", encoding="utf-8") as log:
        for value in values:
            line = {"kind": "read", "instrument": "meter", "setting": "power", "value": to_json(value)}
            log.write(json.dumps(line) + "\n")
    with Past(recorded) as past:
        got = [past.reading("meter", "power")[1] for _ in values]
    assert [repr(value) for value in got[:-2]] == [repr(value) for value in values[:-2]]
    assert got[-2] == float(np.float32(0.1))
    assert np.array_equal(got[-1], values[-1])


def test_choices_come_back(rig: Rig, record: Callable[..., RecordedRun]) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        first = yield Prompt("turn the screw", ("left", "right"))
        second = yield Prompt("turn the screw", ("left", "middle"))
        return [first, second]

    recorded = record(Script(body))
    with Past(recorded) as past:
        assert feed(Script(body), rig.bench.facts, past) == ["right", "middle"] == recorded.result
        with pytest.raises(RunError, match="an answer to 'turn the screw' was not recorded"):
            past.choice("turn the screw")


def windows(*windows: Any) -> Script:
    def body(facts: BenchFacts) -> Steps[Any]:
        taken = []
        for window in windows:
            yield Set("laser", "power", window)
            taken += yield Measure([Exposure(gray(1), gray(1))])
        return [frame.number for frame in taken]

    return Script(body)


def test_frames_taken_with_another_setting_do_not_answer(rig: Rig, record: Callable[..., RecordedRun]) -> None:
    recorded = record(windows(1.0, 0.5))
    with Past(recorded) as past:
        assert feed(windows(0.5, 1.0), rig.bench.facts, past) == [1, 0]
    with Past(recorded) as past, pytest.raises(RunError, match=r"was taken with another laser\.power"):
        feed(windows(0.7), rig.bench.facts, past)


def test_a_window_of_the_camera_is_known_by_the_frame_itself(record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs())  # it never sets the window
    for window, fits in ((None, True), ((0, 6, 0, 8), True), ((1, 6, 0, 8), False), ((0, 6, 0, 7), False)):
        with Past(recorded) as past:
            past.note_set("camera", "window", window)
            if fits:
                assert ask(past, 1, 1) is not None
                continue
            with pytest.raises(RunError, match=r"another camera\.window"):
                ask(past, 1, 1)


def test_resuming_goes_live_after_the_last_frame_and_not_before(rig: Rig, record: Callable[..., RecordedRun]) -> None:
    recorded = record(reading(rig, 1.0))
    with Past(recorded, "live") as past:
        assert past.reading("laser", "state") == (True, 1.0)
        with pytest.raises(RunError, match="cannot be resumed: its procedure now wants a reading"):
            past.reading("laser", "state")
        assert past.take(0, 0, Exposure(gray(1), gray(1)), token(gray(1)), token(gray(1))) is not None
        assert past.reading("laser", "state") == (False, None)
        assert past.choice("what now?") is None
        assert past.take(1, 0, Exposure(gray(1), gray(1)), token(gray(1)), token(gray(1))) is None


def test_resuming_refuses_a_procedure_that_asks_for_something_else(record: Callable[..., RecordedRun]) -> None:
    with Past(record(Pairs(batches=2)), "live") as past:
        with pytest.raises(
            RunError, match=r"cannot be resumed: its procedure now wants exposure 0 of batch 0.* 6 recorded"
        ):
            past.take(0, 0, Exposure(gray(5), gray(5)), token(gray(5)), token(gray(5)))
        assert past.remaining == 12


def test_a_batch_that_was_cut_off_may_be_asked_for_in_any_order(record: Callable[..., RecordedRun]) -> None:
    with Past(record(Pairs()), "live") as past:
        assert ask(past, 8, 8, (0, 6)) is None  # of the same batch: the run was cut off before it
        assert ask(past, 1, 1) is not None


def test_an_abort_at_a_prompt_is_not_chosen_again_on_resuming(record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs())
    with (recorded.path / "events.jsonl").open("a", encoding="utf-8") as log:
        for choice in ("continue", "abort"):
            log.write(json.dumps({"kind": "prompt", "text": "block the beam", "choice": choice}) + "\n")
    with Past(recorded, "live") as past:
        for _ in range(6):
            past._serve(past._served.index(False), Exposure())
        assert [past.choice("block the beam") for _ in range(2)] == ["continue", None]


def test_what_was_read_while_a_run_was_being_ended_is_no_answer(record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs())
    with (recorded.path / "events.jsonl").open("a", encoding="utf-8") as log:
        for kind, value in (("read", 1), ("ending", None), ("read", 2), ("resumed", None), ("read", 3)):
            line = {"kind": kind, "instrument": "meter", "setting": "power", "value": value}
            log.write(json.dumps(line) + "\n")
    with Past(recorded) as past:
        assert [past.reading("meter", "power")[1] for _ in range(2)] == [1, 3]


def test_a_run_without_frames_has_none(record: Callable[..., RecordedRun]) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        return (yield Read("laser", "power"))

    with Past(record(Script(body)), "live") as past:
        assert past.remaining == 0
        assert past.last is None
        assert past.reading("laser", "power") == (True, 0.0)
        assert ask(past, 1, 1) is None


def test_a_damaged_frame_is_not_served(record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs())
    with h5py.File(recorded.path / "frames.h5", "r+") as file:
        file["frames/6x8-uint16"][0, 0, 0] ^= 1
    with Past(recorded) as past, pytest.raises(RunError, match="frame 0 does not fit its checksum"):
        ask(past, 1, 1)


def test_the_file_is_free_after_close(record: Callable[..., RecordedRun]) -> None:
    recorded = record(Pairs())
    past = Past(recorded)
    ask(past, 1, 1)
    past.close()
    past.close()
    with h5py.File(recorded.path / "frames.h5", "a"):
        pass
    with pytest.raises(RunError, match="released"):
        ask(past, 2, 1, (0, 1))
