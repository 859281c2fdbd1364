"""Run folders: what is whole, what is readable, and what is said when the disk gives up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from runs_fakes import Pairs, Rig, Script, gray

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord, load_records
from labctl.errors import Aborted, RunError
from labctl.procedures.messages import Exposure, Measure, Steps
from labctl.runs.catalogue import list_runs
from labctl.runs.engine import Engine
from labctl.runs.framefile import FrameFile
from labctl.runs.session import execute, make_engine
from labctl.runs.store import RunStore, open_run
from labctl.runs.values import ArrayFile, from_json, to_json

HERE = Path(__file__).parent


def test_intent_is_there_before_anything_else_and_no_result_means_cut_off(rig: Rig, runs_dir: Path) -> None:
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        assert json.loads((folder.path / "run.json").read_text(encoding="utf-8"))["procedure"]["name"] == "pairs"
        assert open_run(folder.path).outcome == "running"
        assert list_runs(runs_dir)[0].outcome == "running"
    assert open_run(folder.path).outcome == "cut off"
    assert not (folder.path / ".lock").exists()


def test_frames_of_different_shapes_come_back_in_order(rig: Rig, runs_dir: Path) -> None:
    shapes = [((4, 5), np.uint8), ((6, 8), np.uint16), ((4, 5), np.uint8)]
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        for k, (shape, kind) in enumerate(shapes):
            frame = Frame(
                np.full(shape, k, kind), k, k, k + 0.5, 0.5, "s", "i", (k, 2 * k), {"image": k, "what": "déjà"}
            )
            folder.write_frame(frame, Exposure(gray(1)))
    back = list(open_run(folder.path).frames(check=True))
    assert [(f.data.shape, f.data.dtype.type) for f in back] == shapes
    assert [int(f.data[0, 0]) for f in back] == [0, 1, 2]
    assert back[2].tag == {"image": 2, "what": "déjà"}
    assert back[2].ended == 2.5
    assert back[2].origin == (2, 4)


def test_a_flipped_byte_is_found(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Pairs())
    with h5py.File(engine.folder / "frames.h5", "r+") as file:
        file["frames/6x8-uint16"][3, 2, 2] ^= 1
    assert len(list(open_run(engine.folder).frames())) == 6
    with pytest.raises(RunError, match="frame 3 does not fit its checksum"):
        list(open_run(engine.folder).frames(check=True))


@dataclass(frozen=True, eq=False)
class Everything:
    small: Any
    big: Any
    field: Any
    nothing: Any
    path: Path
    odd: Any
    record: CalibrationRecord


def test_results_survive_as_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    value = Everything(
        small=np.arange(6, dtype=np.int16).reshape(2, 3),
        big=np.arange(20_000, dtype=np.float32),
        field=np.array([1 + 2j]),
        nothing=float("nan"),
        path=tmp_path,
        odd=object(),
        record=CalibrationRecord("gain", "b", {"gain": np.float64(2.5)}, {"gain": "count/e-"}, quality={"r": 0.5}),
    )
    with ArrayFile(tmp_path / "a.h5") as arrays:
        text = json.dumps(to_json(value, arrays), allow_nan=False)
    with h5py.File(tmp_path / "a.h5") as file:
        back = from_json(json.loads(text), file)
    assert back["$type"] == "Everything"
    assert back["small"].dtype == np.int16
    assert np.array_equal(back["small"], value.small)
    assert np.array_equal(back["big"], value.big)
    assert back["field"][0] == 1 + 2j
    assert np.isnan(back["nothing"])
    assert back["path"] == str(tmp_path)
    assert "object" in back["odd"]["$repr"]
    assert "cannot be kept" in caplog.text
    assert back["record"]["values"]["gain"] == 2.5
    assert len(text) < 1500


def test_a_full_disk_is_one_line_and_the_frames_before_it_are_readable(
    rig: Rig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = FrameFile.append

    def limited(self: FrameFile, frame: Frame, *rest: Any, **more: Any) -> None:
        if frame.number == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, frame, *rest, **more)

    engine = Engine(rig.bench, store=RunStore(runs_dir))
    monkeypatch.setattr(FrameFile, "append", limited)
    with pytest.raises(RunError) as caught:
        engine.run(Pairs())
    assert "\n" not in str(caught.value)
    assert "the disk is full" in str(caught.value)
    assert rig.is_safe
    run = open_run(engine.folder)
    assert run.outcome == "failed"
    assert len(list(run.frames(check=True))) == 4
    assert not (engine.folder / ".ballast").exists()
    monkeypatch.undo()
    assert engine.run(Pairs()).values == Pairs().expected()


def test_hdf5s_own_word_for_a_full_disk_is_understood(
    rig: Rig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Can't flush (file write failed: errno = 28, error message = 'No space left on device')")

    monkeypatch.setattr(FrameFile, "append", refuse)
    with pytest.raises(RunError, match="the disk is full: free some space"):
        Engine(rig.bench, store=RunStore(runs_dir)).run(Pairs())


def test_a_disk_that_is_nearly_full_stops_the_run_before_hdf5_meets_it(
    rig: Rig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 100, 1000))
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    with pytest.raises(RunError, match=r"frame 0 could not be saved.*the disk is full"):
        engine.run(Pairs())
    assert open_run(engine.folder).frame_count == 0


def test_a_folder_that_cannot_be_made_is_one_line(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be made"):
        Engine(rig.bench, store=RunStore(tmp_path / "file")).run(Pairs())
    assert rig.is_safe


def test_a_result_that_cannot_be_written_is_no_success(
    rig: Rig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "result.json.part":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    engine = make_engine(rig.bench, runs_dir=runs_dir)
    with pytest.raises(RunError, match=r"the result .* cannot be written"):
        execute(Pairs(), rig.bench, runs_dir=runs_dir, calibration_dir=runs_dir / "c", engine=engine)
    assert open_run(engine.folder).outcome == "cut off"
    assert not (runs_dir / "c").exists()


@pytest.mark.parametrize("frames", [7])
def test_kill_9_loses_no_frame_that_was_reported(runs_dir: Path, frames: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])}
    with subprocess.Popen(
        [sys.executable, str(HERE / "killed_run.py"), str(runs_dir)],
        stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        if process.stdout is None:
            pytest.fail("no pipe")
        for _ in range(frames):
            process.stdout.readline()
        (running,) = list_runs(runs_dir)
        process.kill()
        told = [*process.stdout.read().split(), str(frames)]
    assert running.outcome == "running"
    (summary,) = list_runs(runs_dir)
    assert summary.outcome == "cut off"
    assert summary.frames >= max(int(number) for number in told if number.isdigit())
    saved = list(open_run(summary.path).frames(check=True))
    assert len(saved) == summary.frames
    for frame in saved:
        slm, inp = frame.tag["pair"]
        assert frame.data[0, 0] == 16 * slm + inp


def test_a_session_saves_calibrations_after_success_only(rig: Rig, tmp_path: Path) -> None:
    where = {"runs_dir": tmp_path / "runs", "calibration_dir": tmp_path / "calibration"}

    def body(facts: BenchFacts) -> Steps[Any]:
        yield Measure([Exposure(gray(1), gray(1))])
        raise Aborted("enough")

    with pytest.raises(Aborted):
        execute(Script(body), rig.bench, **where)
    assert not (tmp_path / "calibration").exists()
    outcome = execute(Pairs(), rig.bench, **where)
    saved = load_records(tmp_path / "calibration" / "fake")
    assert saved["pairing"].run == outcome.run_id
    assert rig.bench.facts.calibration("pairing").run == outcome.run_id
    again = execute(Pairs(), rig.bench, **where)
    if again.folder is None:
        pytest.fail("not recorded")
    assert open_run(again.folder).intent["bench"]["calibrations"]["pairing"]["run"] == outcome.run_id


def test_a_session_without_a_store_leaves_no_run(rig: Rig, tmp_path: Path) -> None:
    outcome = execute(Pairs(), rig.bench, runs_dir=tmp_path / "runs", calibration_dir=tmp_path / "c", store=False)
    assert outcome.folder is None
    assert not (tmp_path / "runs").exists()
