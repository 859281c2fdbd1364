"""A recorded run once more with no bench: the same result bit for bit, or another analysis of the same frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from runs_fakes import Pairs, Rig, Script, gray
from small_lab import SmallLab

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.cli.main import run as labctl
from labctl.config.schema import BenchConfig
from labctl.errors import Aborted, ModelError, RunError
from labctl.procedures.calibrations import Dark
from labctl.procedures.messages import Exposure, Measure, Read, Set, Steps
from labctl.runs.comparing import differences
from labctl.runs.engine import Engine
from labctl.runs.facts import NAME, facts_of
from labctl.runs.offers import prepare_again
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.replay import RecordedBench, replay
from labctl.runs.store import RunStore
from labctl.workspace import Workspace


def recorded_in(folder: Path | None) -> RecordedRun:
    if folder is None:
        pytest.fail("not recorded")
    return open_run(folder)


@dataclass(frozen=True)
class Lab:
    """The small lab, with new runs in a folder of the test's own."""

    small: SmallLab
    runs_dir: Path

    @property
    def runs(self) -> dict[str, RecordedRun]:
        return self.small.runs

    @property
    def workspace(self) -> Workspace:
        return self.small.workspace

    @property
    def config(self) -> BenchConfig:
        return self.small.config

    def again(self, name: str, **changes: Any) -> RecordedRun:
        made = prepare_again(self.runs[name], self.workspace, self.config, **changes)
        outcome = replay(self.runs[name], made.procedure, runs_dir=self.runs_dir, provenance=made.provenance)
        return recorded_in(outcome.folder)


@pytest.fixture
def lab(small_lab: SmallLab, tmp_path: Path) -> Lab:
    return Lab(small_lab, tmp_path / "runs")


@pytest.fixture
def here(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("LABCTL_WORKSPACE", str(lab.workspace.root))
    return lab.workspace


@pytest.mark.parametrize("name", ["calibrate", "evaluate"])
def test_the_same_parameters_give_the_same_result(lab: Lab, name: str) -> None:
    first, second = lab.runs[name], lab.again(name)
    assert second.outcome == "done"
    assert differences(first.result, second.result) == []
    assert second.intent["provenance"]["replay_of"] == first.id
    assert second.intent["provenance"]["recipe"] == first.intent["provenance"]["recipe"]
    assert second.frame_count == 0
    assert not (second.path / "frames.h5").exists()
    assert second.intent["devices"] == first.intent["devices"]
    with pytest.raises(RunError, match=f"is itself a replay, without frames: replay run {first.id} instead"):
        replay(second, prepare_again(second, lab.workspace, lab.config).procedure, runs_dir=None)


def test_fewer_images_are_another_analysis_of_the_same_frames(lab: Lab) -> None:
    second = lab.again("evaluate", images=5)
    assert second.result["arm"]["count"] == 5
    assert lab.runs["evaluate"].result["arm"]["count"] == 8
    assert second.result["exposure_s"] == lab.runs["evaluate"].result["exposure_s"]


def test_a_single_calibration_out_of_the_sequence(lab: Lab) -> None:
    """Another procedure than the recorded one, which asks for some of its frames: the dark frames alone."""
    outcome = replay(lab.runs["calibrate"], Dark(), runs_dir=None)
    (sequence,) = (record for record in lab.runs["calibrate"].result["records"] if record["kind"] == "dark")
    for name, value in outcome.result.values.items():
        assert np.asarray(value).tobytes() == np.asarray(sequence["values"][name]).tobytes()
    assert outcome.folder is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 9}, r'exposure 8 of batch 3 \{"image": 8, "set": "test"\} was not recorded in run'),
        ({"encoder": "off-axis"}, "the one recorded had another SLM pattern"),
        ({"seed": 1}, "the one recorded had another input pattern"),
        ({"calibrated": False}, "was not recorded in run"),
    ],
)
def test_what_was_not_captured_is_refused(lab: Lab, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said) as caught:
        lab.again("evaluate", **changes)
    assert "replay can only analyse what was captured" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_replay_is_not_saved_as_a_calibration_of_the_bench(lab: Lab) -> None:
    before = {path: path.read_bytes() for path in lab.workspace.calibration.rglob("*.h5")}
    lab.again("calibrate")
    assert {path: path.read_bytes() for path in lab.workspace.calibration.rglob("*.h5")} == before


@pytest.mark.parametrize("name", ["calibrate", "evaluate"])
def test_the_facts_of_the_bench_come_back_bit_for_bit(lab: Lab, name: str) -> None:
    then, now = lab.small.facts[name], facts_of(lab.runs[name])
    for field in fields(BenchFacts):
        if field.name != "calibrations":
            assert getattr(now, field.name) == getattr(then, field.name), field.name
    assert list(now.calibrations) == list(then.calibrations)
    assert len(now.calibrations) == (0 if name == "calibrate" else 4)
    for kind, record in then.calibrations.items():
        kept = now.calibrations[kind]
        for field in fields(CalibrationRecord):
            one, other = getattr(record, field.name), getattr(kept, field.name)
            if field.name not in ("values", "uncertainties"):
                assert one == other, (kind, field.name)
                continue
            assert set(one) == set(other)
            for key in one:
                before, after = np.asarray(one[key]), np.asarray(other[key])
                assert (before.dtype, before.shape, before.tobytes()) == (after.dtype, after.shape, after.tobytes())


def copied(recorded: RecordedRun, to: Path) -> RecordedRun:
    return open_run(Path(shutil.copytree(recorded.path, to / recorded.id)))


def test_calibrations_that_were_tampered_with_are_noticed(lab: Lab, tmp_path: Path) -> None:
    recorded = copied(lab.runs["evaluate"], tmp_path)
    with h5py.File(recorded.path / NAME, "r+") as file:
        file["fourier-centre/values/centre"][0] += 1e-9
    with pytest.raises(RunError, match="'fourier-centre' is not the calibration that run"):
        facts_of(recorded)
    (recorded.path / NAME).unlink()
    with pytest.raises(RunError, match=r"calibrations\.h5 cannot be read"):
        facts_of(recorded)


def test_a_run_of_an_older_labctl_says_what_it_lacks(lab: Lab) -> None:
    intent = json.loads(json.dumps(lab.runs["evaluate"].intent))
    del intent["bench"]["slm_levels"]
    old = RecordedRun(lab.runs["evaluate"].path, intent)
    with pytest.raises(RunError, match="did not keep 'slm_levels' of its bench: it can be read and reported"):
        RecordedBench(old)


def test_a_run_can_be_replayed_wherever_its_folder_lies(lab: Lab, tmp_path: Path) -> None:
    recorded = copied(lab.runs["calibrate"], tmp_path)
    made = prepare_again(recorded, lab.workspace, lab.config)
    outcome = replay(recorded, made.procedure, runs_dir=tmp_path / "runs")
    assert differences(recorded.result, recorded_in(outcome.folder).result) == []


def test_readings_and_settings_are_replayed_and_no_device_is_touched(rig: Rig, runs_dir: Path) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        yield Set("laser", "power", 0.25)
        (frame,) = yield Measure([Exposure(gray(2), gray(3))])
        power = yield Read("laser", "power")
        return [frame.number, int(frame.data[0, 0]), power]

    engine = Engine(rig.bench, store=RunStore(runs_dir))
    first = engine.run(Script(body))
    recorded = recorded_in(engine.folder)
    touched = (rig.slm.changes, rig.camera.grabs, rig.laser.safe)
    assert replay(recorded, Script(body), runs_dir=runs_dir).result == first == [0, 35, 0.25]
    assert (rig.slm.changes, rig.camera.grabs, rig.laser.safe) == touched


def test_there_is_nothing_to_set_or_read(lab: Lab) -> None:
    bench = RecordedBench(lab.runs["calibrate"])
    assert bench.make_safe() == []
    for call in (lambda: bench.set("laser", "power", 1.0), lambda: bench.read("laser", "power")):
        with pytest.raises(RunError, match=r"laser\.power cannot be .*: run .* is being replayed, with no bench"):
            call()


def test_a_run_that_is_being_written_is_not_replayed(rig: Rig, runs_dir: Path) -> None:
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder, pytest.raises(RunError, match="is being written"):
        replay(open_run(folder.path), Pairs(), runs_dir=None)


def test_a_run_that_was_aborted_is_replayed_as_far_as_it_came(rig: Rig, runs_dir: Path) -> None:
    def body(facts: BenchFacts) -> Steps[Any]:
        yield Measure([Exposure(gray(1), gray(1))])
        raise Aborted("enough")

    engine = Engine(rig.bench, store=RunStore(runs_dir))
    with pytest.raises(Aborted):
        engine.run(Script(body))
    recorded = recorded_in(engine.folder)
    with pytest.raises(Aborted, match="enough"):
        replay(recorded, Script(body), runs_dir=runs_dir)
    with pytest.raises(RunError, match="was not recorded in run"):
        replay(recorded, Pairs(), runs_dir=None)


def test_the_command(lab: Lab, here: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    first = lab.runs["evaluate"]
    assert labctl(["runs", "replay", first.id, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["differences"] == []
    assert said["replay_of"] == first.id
    assert open_run(Path(said["folder"])).outcome == "done"
    assert labctl(["runs", "replay", first.id, "--set", "images=5"]) == 0
    assert "the result differs from the recorded one:\n  arm.count: 8, 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "imags=5"], "imags is not a key of the procedure 'evaluate': did you mean images?"),
        (["--set", "images"], "--set images: write KEY=VALUE"),
        (["--set", "images=many"], "evaluate: images = 'many': must be a valid integer"),
        (["--set", "images=9"], "was not recorded in run"),
    ],
)
def test_the_command_refuses_in_one_line(
    lab: Lab, here: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert labctl(["runs", "replay", lab.runs["evaluate"].id, "--json", *arguments]) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


def test_a_changed_model_is_refused_unless_allowed(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(lab.workspace.root, tmp_path / "lab"))
    recipe = root / "models" / "tiny" / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8") + "[distillation]\nalpha = 0.5\n", encoding="utf-8")
    recorded = open_run(root / "runs" / lab.runs["evaluate"].id)
    with pytest.raises(ModelError, match="the model 'tiny' changed since run"):
        prepare_again(recorded, Workspace(root), lab.config)
    monkeypatch.setenv("LABCTL_WORKSPACE", str(root))
    assert labctl(["runs", "replay", recorded.id]) == 1
    assert labctl(["runs", "replay", recorded.id, "--allow-changed"]) == 0
    assert "bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": 1.0}, {"a": 1.0}, []),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": 0.0}, {"a": -0.0}, ["a: 0.0, -0.0"]),
        ({"a": 1}, {"a": 1.0}, ["a: 1, 1.0"]),
        ({"a": 1}, {"b": 1}, ["the result.a: only in the first", "the result.b: only in the second"]),
        ([1, 2], [1, 3, 4], ["the result: 2 entries, 3", "[1]: 2, 3"]),
        (np.float32([1, 2]), np.float32([1, 2.5]), ["the result: 1 of 2 elements differ, by 0.5 at most"]),
        (np.float32([1]), np.float64([1]), ["the result: float32 (1,), float64 (1,)"]),
        (
            {"$type": "CalibrationRecord", "taken": "then", "kind": "dark"},
            {"$type": "CalibrationRecord", "taken": "now", "kind": "gain"},
            ["kind: 'dark', 'gain'"],
        ),
    ],
)
def test_differences_are_found_to_the_bit(one: Any, other: Any, said: list[str]) -> None:
    assert differences(one, other) == said


def test_facts_without_calibrations_need_no_file(rig: Rig, runs_dir: Path) -> None:
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        recorded = open_run(folder.path)
        assert not (folder.path / NAME).exists()
        assert replace(facts_of(recorded), calibrations={}) == replace(rig.bench.facts, calibrations={})
