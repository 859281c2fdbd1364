"""Going on with a run that was cut off, and running one anew: the same result bit for bit, or the reason why not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_fakes import Counted, Pairs, Rig, Script, gray
from small_lab import EVALUATE, SmallLab

from labctl.bench import open_bench
from labctl.bench.bench import token
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord, load_records, save_record
from labctl.cli.main import run as labctl
from labctl.config.load import load_bench
from labctl.errors import Aborted, DeviceError, RunError
from labctl.procedures.messages import Exposure, Measure, Procedure, Prompt, Read, Set, Steps
from labctl.runs.again import (
    changes_since,
    config_of,
    config_to_use,
    had_proof,
    keep_what_was_learned,
    may_resume,
    resume,
)
from labctl.runs.comparing import differences
from labctl.runs.engine import Engine
from labctl.runs.events import Captured, Event
from labctl.runs.facts import facts_of
from labctl.runs.offers import Prepared, prepare, prepare_again
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.replay import replay
from labctl.runs.session import make_engine
from labctl.runs.store import RunStore
from labctl.workspace import Workspace

HERE = Path(__file__).parent


def recorded_in(folder: Path | None) -> RecordedRun:
    if folder is None:
        pytest.fail("not recorded")
    return open_run(folder)


def cut_off(rig: Rig, runs_dir: Path, procedure: Procedure[Any], after: int) -> RecordedRun:
    """A run that ended, without a word, after so many frames, or one more that was under way."""
    engine = Engine(rig.bench, store=RunStore(runs_dir))

    def watch(event: Event) -> None:
        if isinstance(event, Captured) and engine.snapshot().saved >= after:
            engine.stop()

    engine.observer = watch
    with pytest.raises(Aborted):
        engine.run(procedure)
    recorded = recorded_in(engine.folder)
    (recorded.path / "result.json").unlink()
    return open_run(recorded.path)


def go_on(recorded: RecordedRun, rig: Rig, procedure: Procedure[Any], tmp_path: Path) -> Any:
    engine = make_engine(rig.bench, runs_dir=recorded.path.parent)
    return resume(recorded, Prepared(procedure), engine, calibration_dir=tmp_path / "calibration").result


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 5, 6, 7, 10])
def test_a_run_goes_on_where_it_was_cut_off(rig: Rig, runs_dir: Path, tmp_path: Path, after: int) -> None:
    recorded = cut_off(rig, runs_dir, Pairs(batches=2), after)
    assert recorded.outcome == "cut off"
    assert after <= recorded.frame_count < 12
    before = [frame.data.tobytes() for frame in recorded.frames()]
    second = Rig()
    result: Counted = go_on(recorded, second, Pairs(batches=2), tmp_path)
    assert result.values == Pairs(batches=2).expected()
    assert sorted(result.numbers) == list(range(12))
    assert second.camera.grabs == 12 - len(before)  # nothing is taken twice
    done = open_run(recorded.path)
    assert done.outcome == "done"
    assert done.frame_count == 12
    assert [frame.data.tobytes() for frame in done.frames(check=True)][: len(before)] == before
    assert load_records(tmp_path / "calibration" / "fake")["pairing"].run == recorded.id
    assert second.is_safe


def test_a_run_that_was_aborted_twice_is_finished_the_third_time(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    recorded = cut_off(rig, runs_dir, Pairs(batches=3), 4)
    second = Rig()
    engine = make_engine(second.bench, runs_dir=runs_dir)

    def watch(event: Event) -> None:
        if isinstance(event, Captured) and engine.snapshot().saved >= 10:
            engine.stop()

    engine.observer = watch
    with pytest.raises(Aborted):
        resume(recorded, Prepared(Pairs(batches=3)), engine, calibration_dir=tmp_path / "calibration")
    again = open_run(recorded.path)
    assert again.outcome == "aborted"
    assert go_on(again, Rig(), Pairs(batches=3), tmp_path).values == Pairs(batches=3).expected()
    done = open_run(recorded.path)
    assert replay(done, Pairs(batches=3), runs_dir=None).result.values == Pairs(batches=3).expected()


def test_settings_are_made_again_and_readings_are_not(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        got = []
        for level in (1, 2, 3, 4):
            yield Set("laser", "power", level / 10)
            got.append((yield Read("laser", "power")))
            (frame,) = yield Measure([Exposure(gray(level), gray(level))])
            got.append(int(frame.data[0, 0]))
        return got

    recorded = cut_off(rig, runs_dir, Script(body), 2)
    second = Rig()
    powers: list[float] = []
    second.camera.before_grab = lambda number: powers.append(second.laser.settings["power"])
    assert go_on(recorded, second, Script(body), tmp_path) == [0.1, 17, 0.2, 34, 0.3, 51, 0.4, 68]
    assert powers in ([0.3, 0.4], [0.4])
    assert replay(open_run(recorded.path), Script(body), runs_dir=None).result[-2:] == [0.4, 68]


def test_a_setting_made_before_the_last_frame_is_in_force_after_it(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        yield Set("laser", "power", 0.7)
        frames = yield Measure([Exposure(gray(level), gray(1)) for level in (1, 2, 3, 4)])
        return [int(frame.data[0, 0]) for frame in frames]

    recorded = cut_off(rig, runs_dir, Script(body), 1)
    second = Rig()
    powers: list[float] = []
    second.camera.before_grab = lambda number: powers.append(second.laser.settings["power"])
    assert go_on(recorded, second, Script(body), tmp_path) == [17, 33, 49, 65]
    assert set(powers) == {0.7}
    assert second.is_safe
    assert replay(open_run(recorded.path), Script(body), runs_dir=None).result == [17, 33, 49, 65]


def test_a_prompt_that_was_answered_is_not_asked_again(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        first = yield Prompt("block the beam", ("done", "abort"))
        yield Measure([Exposure(gray(1), gray(1))])
        second = yield Prompt("open the beam", ("done", "abort"))
        return [first, second]

    asked: list[str] = []

    def answer(prompt: Prompt) -> str:
        asked.append(prompt.text)
        return "abort" if prompt.text == "open the beam" and asked.count(prompt.text) == 1 else "done"

    engine = Engine(rig.bench, store=RunStore(runs_dir), answer=answer)
    with pytest.raises(Aborted):
        engine.run(Script(body))
    recorded = recorded_in(engine.folder)
    engine = make_engine(Rig().bench, runs_dir=runs_dir, answer=answer)
    done = resume(recorded, Prepared(Script(body)), engine, calibration_dir=tmp_path / "calibration")
    assert done.result == ["done", "done"]
    assert asked == ["block the beam", "open the beam", "open the beam"]


def test_a_run_that_failed_goes_on_once_the_device_is_well(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    def fail(number: int) -> None:
        if number >= 8:
            raise DeviceError("camera: unplugged", device="camera")

    rig.camera.before_grab = fail
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    with pytest.raises(DeviceError):
        engine.run(Pairs(batches=2))
    recorded = recorded_in(engine.folder)
    assert recorded.outcome == "failed"
    assert go_on(recorded, Rig(), Pairs(batches=2), tmp_path).values == Pairs(batches=2).expected()


def test_another_procedure_does_not_go_on_with_a_run(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    recorded = cut_off(rig, runs_dir, Pairs(batches=2), 8)
    with pytest.raises(RunError, match="cannot be resumed: its procedure now wants exposure 0 of batch 0"):
        go_on(recorded, Rig(), Pairs(((5, 5),)), tmp_path)
    assert open_run(recorded.path).frame_count == recorded.frame_count
    result = go_on(open_run(recorded.path), Rig(), Pairs(batches=2), tmp_path)
    assert result.values == Pairs(batches=2).expected()


def test_another_bench_does_not_go_on_with_a_run(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    recorded = cut_off(rig, runs_dir, Pairs(), 2)
    other = Rig()
    other.bench.facts = replace(other.bench.facts, camera_bitdepth=8)
    with pytest.raises(RunError, match="bench 'fake', which is not what it was: camera_bitdepth was 12, and is 8"):
        go_on(recorded, other, Pairs(), tmp_path)


def test_the_calibrations_of_then_are_in_force(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        frames = yield Measure([Exposure(gray(n), gray(1)) for n in (1, 2, 3)])
        return [float(facts.calibration("gain")["gain"]) for _ in frames]

    def known(gain: float) -> dict[str, CalibrationRecord]:
        return {"gain": CalibrationRecord("gain", "fake", {"gain": np.array(gain)}, {"gain": "e-/count"})}

    rig.bench.with_calibrations(known(2.0))
    recorded = cut_off(rig, runs_dir, Script(body), 1)
    second = Rig()
    second.bench.with_calibrations(known(3.0))
    assert go_on(recorded, second, Script(body), tmp_path) == [2.0, 2.0, 2.0]


def test_what_is_not_to_be_resumed_says_why(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Pairs())
    done = recorded_in(engine.folder)
    with pytest.raises(RunError, match=r"is done: there is nothing to resume \(`labctl runs repeat` runs it anew\)"):
        may_resume(done)
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder, pytest.raises(RunError, match="by another process"):
        may_resume(open_run(folder.path))
    with pytest.raises(RunError, match="was not recorded"):
        replay(done, Pairs(batches=2), runs_dir=runs_dir)
    (replayed,) = (open_run(path.parent) for path in runs_dir.glob("*/run.json") if "replay_of" in path.read_text())
    with pytest.raises(RunError, match="is a replay, with no bench to go on with"):
        may_resume(replayed)


def test_a_run_with_a_proof_of_pairing_is_not_resumed_without_one(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    for proof, had in ((-1, False), (0, True)):
        with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
            shown = Exposure(gray(1), gray(1), tag={"pair": [1, 1]})
            frame = Frame(gray(17), 0, 0.0, 0.005, 0.005, token(gray(1)), token(gray(1)), tag={}, proof=proof)
            folder.write_frame(frame, shown)
        recorded = open_run(folder.path)
        assert had_proof(recorded) == had
    with pytest.raises(RunError, match="asked a proof of pairing of its frames: learn one before it is resumed"):
        go_on(recorded, Rig(), Pairs(), tmp_path)
    assert open_run(recorded.path).outcome == "cut off"


def test_records_that_were_not_saved_any_more_are_saved_later(rig: Rig, runs_dir: Path, tmp_path: Path) -> None:
    """A process that dies between the result and the records has not lost what it learned."""

    @dataclass(frozen=True)
    class Learn:
        name: str = "learn"

        def exposures(self, facts: BenchFacts) -> int:
            return 0

        def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
            yield Read("laser", "power")
            values = {"big": np.arange(20_000, dtype=np.float32), "one": np.array(0.1), "hot": np.array([True, False])}
            units = dict.fromkeys(values, "1")
            spread = {"one": np.array(1e-3)}
            return CalibrationRecord("it", facts.name, values, units, spread, {"r": 0.1 + 0.2}, "2026-01-02T00:00:00Z")

    engine = Engine(rig.bench, store=RunStore(runs_dir))
    learned = engine.run(Learn())
    recorded, place = recorded_in(engine.folder), tmp_path / "calibration"
    assert keep_what_was_learned(recorded, place) == ["it"]
    kept = load_records(place / "fake")["it"]
    for name, value in learned.values.items():
        assert kept.values[name].tobytes() == np.asarray(value).tobytes()
        assert kept.values[name].dtype == np.asarray(value).dtype
    assert (kept.quality, kept.taken, kept.run) == (learned.quality, learned.taken, recorded.id)
    assert float(kept.uncertainties["one"]) == 1e-3
    assert keep_what_was_learned(recorded, place) == []
    save_record(place / "fake", replace(kept, taken="2026-03-01T00:00:00Z", run="newer"))
    assert keep_what_was_learned(recorded, place) == []
    assert load_records(place / "fake")["it"].run == "newer"


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def killed(folder: Path, moments: int, seed: int) -> list[dict[str, Any]]:
    paths = [str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_lab.py"), str(folder), str(moments), str(seed)],
        capture_output=True, text=True, encoding="utf-8", check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_killed(lines: list[dict[str, Any]], moments: int) -> None:
    assert [line["moment"] for line in lines] == list(range(moments))
    assert [line for line in lines if line["unequal"]] == []
    states = [state for line in lines for state in line["killed"]]
    assert sum("cut off" in state for state in states) >= len(states) / 3


@pytest.mark.timeout(600)
def test_killed_at_five_random_moments_and_resumed_it_ends_with_the_same_result(tmp_path: Path) -> None:
    check_killed(killed(tmp_path, 5, seed=1), 5)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_a_hundred_random_moments_and_resumed_it_ends_with_the_same_result(tmp_path: Path) -> None:
    check_killed(killed(tmp_path, 100, seed=2), 100)


# -- the commands, and repeat -----------------------------------------------------------------------------------------


@pytest.fixture
def lab(small_lab: SmallLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, RecordedRun]:
    """A copy of the small lab, to change, and its evaluation."""
    root = Path(shutil.copytree(small_lab.workspace.root, tmp_path / "lab"))
    monkeypatch.setenv("LABCTL_WORKSPACE", str(root))
    return Workspace(root), open_run(root / "runs" / small_lab.runs["evaluate"].id)


def test_resuming_from_the_command_line(
    lab: tuple[Workspace, RecordedRun], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, whole = lab
    config = load_bench("small", workspace)
    bench = open_bench(config, calibration_dir=workspace.calibration)
    made = prepare("evaluate", EVALUATE, workspace, config)
    engine = make_engine(bench, runs_dir=workspace.runs)

    def watch(event: Event) -> None:
        if isinstance(event, Captured) and event.frame.tag.get("image") == 3:
            engine.stop()

    engine.observer = watch
    with pytest.raises(Aborted):
        engine.run(made.procedure, provenance=made.provenance)
    bench.close()
    record = load_records(workspace.calibration / "small")["registration"]  # learned since: not for the resumed run
    save_record(workspace.calibration / "small", replace(record, values={n: v + 1 for n, v in record.values.items()}))
    text = (workspace.benches / "small.toml").read_text(encoding="utf-8")
    (workspace.benches / "small.toml").write_text(text.replace("exposure_ms = 1.0", "exposure_ms = 2.0"), "utf-8")

    assert labctl(["runs", "resume", engine.run_id, "--json"]) == 0
    told = capsys.readouterr()
    assert "the file of bench 'small' has changed since (camera.exposure_ms): the recorded one is used" in told.err
    assert json.loads(told.out)["run"] == engine.run_id
    assert differences(whole.result, recorded_in(engine.folder).result) == []
    assert labctl(["runs", "resume", engine.run_id]) == 1
    assert "is done: there is nothing to resume" in capsys.readouterr().err


def test_repeating_gives_the_same_result_and_says_what_is_not_as_it_was(
    lab: tuple[Workspace, RecordedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, first = lab
    assert labctl(["runs", "repeat", first.id, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["differences"] == []
    assert said["changed"] == [] or "local changes" in said["changed"][0]
    second = open_run(Path(said["folder"]))
    assert second.id != first.id
    assert second.intent["provenance"]["repeat_of"] == first.id
    assert second.frame_count == first.frame_count
    assert [f.data.tobytes() for f in second.frames()] == [f.data.tobytes() for f in first.frames()]

    record = load_records(workspace.calibration / "small")["registration"]
    moved = {name: value + 0.25 for name, value in record.values.items()}
    save_record(workspace.calibration / "small", replace(record, values=moved))
    assert labctl(["runs", "repeat", first.id, "--old-calibrations"]) == 0
    assert "the result is the recorded one, bit for bit" in capsys.readouterr().out


def test_what_changed_since_is_listed(lab: tuple[Workspace, RecordedRun]) -> None:
    workspace, first = lab
    intent = json.loads(json.dumps(first.intent))
    intent["versions"]["numpy"] = "1.0"
    intent["git"] = {"revision": "f" * 40, "dirty": False}
    intent["provenance"]["models"]["tiny"] = "0" * 64
    intent["bench"]["calibrations"]["dark"]["digest"] = "0" * 16
    intent["bench"]["calibrations"]["gone"] = {"taken": "2026-01-01", "run": "", "digest": ""}
    del intent["bench"]["calibrations"]["gain"]
    old = RecordedRun(first.path, intent)
    made = prepare_again(old, workspace, config_of(old), allow_changed=True)
    lines = changes_since(old, made, facts_of(first))
    assert any(line.startswith("numpy 1.0 then, ") for line in lines)
    assert any(line.startswith("labctl's revision ffffffffffff then, ") for line in lines)
    assert any(line.startswith("the model 'tiny': 000000000000 then, ") for line in lines)
    assert any(line.startswith("calibration 'dark' was taken anew") for line in lines)
    assert "calibration 'gone' is gone, which was taken 2026-01-01" in lines
    assert "calibration 'gain' is new: there was none then" in lines
    assert len(lines) == 6


def test_the_bench_file_of_then_is_used_whatever_became_of_it(lab: tuple[Workspace, RecordedRun]) -> None:
    workspace, first = lab
    config, said = config_to_use(first, workspace)
    assert said == ""
    assert config.path == workspace.benches / "small.toml"
    (workspace.benches / "small.toml").unlink()
    config, said = config_to_use(first, workspace)
    assert "bench 'small' has no file in" in said
    assert config.digest() == first.intent["bench"]["digest"]
    with pytest.raises(RunError, match="did not keep its bench file"):
        config_of(RecordedRun(first.path, {"provenance": {}}))
    broken = {"provenance": {"config": {**first.intent["provenance"]["config"], "optics": {}}}}
    with pytest.raises(RunError, match=r"does not understand the bench file that it kept \(optics\.wavelength_nm"):
        config_of(RecordedRun(first.path, broken))


def test_a_bench_file_with_an_infinity_comes_back() -> None:
    from labctl.runs.values import to_json

    config = load_bench(HERE.parent.parent / "configs" / "benches" / "sim-4f.toml")
    effects = {"input_contrast": float("inf")}
    simulation = config.simulation.model_copy(update={"effects": effects})  # type: ignore[union-attr]
    config = config.model_copy(update={"simulation": simulation})
    kept = to_json({"config": config.model_dump(mode="json")})
    back = config_of(RecordedRun(Path("runs/x"), {"provenance": json.loads(json.dumps(kept))}))
    assert back.digest() == config.digest()
