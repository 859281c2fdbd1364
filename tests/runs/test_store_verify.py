"""`labctl runs verify` and `compact`: one flipped byte is found and named; a compacted run reads as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_fakes import Pairs, Rig
from typer.testing import CliRunner

from labctl.bench.frames import Frame
from labctl.cli.runs import app
from labctl.errors import RunError
from labctl.procedures.messages import Exposure
from labctl.runs.compact import compact_run
from labctl.runs.engine import Engine
from labctl.runs.lock import FolderLock
from labctl.runs.store import RunFolder, RunStore, open_run
from labctl.runs.verify import verify_run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with six frames, a checkpoint and arrays in its result. Copy it before you damage it."""
    engine = Engine(Rig().bench, store=RunStore(tmp_path_factory.mktemp("runs"), keep_input_patterns=True))
    engine.run(Pairs(batches=4))
    return engine.folder


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "runs" / recorded.name))


def where(path: Path, dataset: str) -> tuple[int, int]:
    """Address and size of a dataset's first chunk, or of all of it."""
    with h5py.File(path / "frames.h5") as file:
        data = file[dataset]
        if data.chunks is None:
            return data.id.get_offset(), data.nbytes
        return data.id.get_chunk_info(0).byte_offset, data.nbytes


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_whole_run_is_whole(run: Path) -> None:
    found = verify_run(run)
    assert (found.whole, found.damages, found.notes) == (True, (), ())
    assert (found.frames, found.patterns, found.bytes) == (24, 5, 24 * 96)
    done = command("verify", run.name, "--runs", str(run.parent))
    assert done.exit_code == 0
    assert "24 frames" in done.output
    assert "all is as it was written" in done.output


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_byte_of_the_frames_is_found_and_named(recorded: Path, data: st.DataObject) -> None:
    start, size = where(recorded, "frames/6x8-uint16")
    at, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7))
    flip(recorded / "frames.h5", start + at, bit)
    try:
        found = verify_run(recorded)
    finally:
        flip(recorded / "frames.h5", start + at, bit)
    (line,) = found.damages
    assert line.startswith(f"frames.h5: frame {at // 96} (6x8-uint16): pixels")


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_byte_of_table_and_tags_is_found(recorded: Path, data: st.DataObject) -> None:
    dataset = data.draw(st.sampled_from(["table", "tags"]))
    start, size = where(recorded, dataset)
    at, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7))
    flip(recorded / "frames.h5", start + at, bit)
    try:
        found = verify_run(recorded)
    finally:
        flip(recorded / "frames.h5", start + at, bit)
    assert any(f"frame {at // (size // 24)}" in line or "cannot be read" in line for line in found.damages)


@pytest.mark.parametrize("panel", ["slm", "input"])
def test_a_flipped_byte_of_a_pattern_is_found(run: Path, panel: str) -> None:
    name = open_run(run).patterns(panel)[0]
    start, size = where(run, f"patterns/{panel}/{name}")
    flip(run / "frames.h5", start + size - 1, 7)
    assert verify_run(run).damages == (f"frames.h5: {panel} pattern {name}: gray levels not as written",)


@pytest.mark.parametrize("name", ["run.json", "events.jsonl", "result.json", "manifest.json"])
def test_any_flipped_byte_of_the_small_files_is_found(recorded: Path, name: str) -> None:
    size = (recorded / name).stat().st_size
    for at in {*range(0, size, max(1, size // 25)), size - 1}:
        flip(recorded / name, at, at % 7)
        try:
            found = verify_run(recorded)
        finally:
            flip(recorded / name, at, at % 7)
        assert any(line.startswith(name) for line in found.damages), at
    assert verify_run(recorded).whole


def test_damage_is_one_line_each_and_exit_code_1(run: Path) -> None:
    start, _ = where(run, "frames/6x8-uint16")
    flip(run / "frames.h5", start + 5 * 96 + 3)
    (run / "result.json").unlink()
    done = command("verify", "last", "--runs", str(run.parent))
    assert done.exit_code == 1
    assert done.output.splitlines()[:2] == [
        "DAMAGED  result.json: is missing",
        "DAMAGED  frames.h5: frame 5 (6x8-uint16): pixels not as written",
    ]
    document = json.loads(command("verify", "last", "--json", "--runs", str(run.parent)).output)
    assert (document["whole"], len(document["damages"]), document["frames"]) == (False, 2, 24)


def test_missing_frames_and_a_cut_file_are_found(run: Path) -> None:
    size = (run / "frames.h5").stat().st_size
    with (run / "frames.h5").open("r+b") as file:
        file.truncate(size // 2)
    assert any("frames.h5" in line for line in verify_run(run).damages)
    (run / "frames.h5").unlink()
    assert verify_run(run).damages == ("frames.h5: is missing, and should hold 24 frames",)


def test_a_run_that_was_cut_off_has_no_manifest_and_is_whole(rig: Rig, runs_dir: Path) -> None:
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        folder.event("log", text="x")
        with pytest.raises(RunError, match="verify it when it has ended"):
            verify_run(folder.path)
    with (folder.path / "events.jsonl").open("ab") as events:
        events.write(b'{"torn')
    found = verify_run(folder.path)
    assert found.whole
    assert "no manifest" in found.notes[0]
    with RunFolder.reopen(folder.path) as again:
        again.finish("done")
    assert verify_run(folder.path).whole


def test_a_compacted_run_is_smaller_and_reads_as_before(run: Path) -> None:
    before, patterns = list(open_run(run).frames(check=True)), open_run(run).patterns("input")
    table = open_run(run).frame_table
    done = command("compact", "last", "--runs", str(run.parent))
    assert done.exit_code == 0, done.output
    assert "24 frames compared with the original" in done.output
    after = list(open_run(run).frames(check=True))
    assert [f.data.tolist() for f in after] == [f.data.tolist() for f in before]
    assert [(f.tag, f.slm, f.started) for f in after] == [(f.tag, f.slm, f.started) for f in before]
    assert np.array_equal(open_run(run).frame_table, table)
    assert open_run(run).patterns("input") == patterns
    assert verify_run(run).whole
    with h5py.File(run / "frames.h5") as file:
        stack = file["frames/6x8-uint16"]
        assert (stack.compression, stack.shuffle) == ("gzip", True)
    with pytest.raises(RunError, match="is compact already"):
        compact_run(run)
    assert not list(run.glob("*.part")) + list(run.glob("*.journal"))


def test_noise_and_zeros_shrink_as_they_should(rig: Rig, runs_dir: Path) -> None:
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        for n in range(8):
            data = np.random.default_rng(n).poisson(100, (212, 704)).astype(np.uint16)
            folder.write_frame(Frame(data, n, n, n, 0.1, "", ""), Exposure())
        folder.finish("aborted")
    done = compact_run(folder.path)
    assert done.ratio < 0.6
    assert verify_run(folder.path).whole
    with pytest.raises(RunError, match="was compacted: it can be read, but the run cannot be continued"):
        RunFolder.reopen(folder.path)


def test_compacting_refuses_a_running_and_a_damaged_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FolderLock(run)
    assert lock.take()
    with pytest.raises(RunError, match="compact it when it has ended"):
        compact_run(run)
    lock.release()
    start, _ = where(run, "frames/6x8-uint16")
    flip(run / "frames.h5", start + 96)
    original = (run / "frames.h5").read_bytes()
    with pytest.raises(RunError, match="frame 1 does not fit its checksum"):
        compact_run(run)
    assert (run / "frames.h5").read_bytes() == original
    assert not (run / "frames.h5.part").exists()
    with pytest.raises(RunError, match="has no frames"):
        (run / "frames.h5").unlink()
        compact_run(run)


def test_a_copy_that_differs_never_replaces_the_original(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = (run / "frames.h5").read_bytes()
    write = compact_run.__globals__["_write"]

    def careless(source: Any, target: Any, *rest: Any) -> None:
        write(source, target, *rest)
        tokens = target["patterns/slm"]
        tokens[next(iter(tokens))][0, 0] ^= 1

    monkeypatch.setitem(compact_run.__globals__, "_write", careless)
    with pytest.raises(RunError, match="its copy is not what it should be"):
        compact_run(run)
    assert (run / "frames.h5").read_bytes() == original
