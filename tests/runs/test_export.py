"""Exports: what comes out is what was recorded, explains itself, and is there in whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from runs_fakes import Pairs, Rig, Script, gray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.bench.soundness import Soundness
from labctl.cli.main import run as labctl
from labctl.devices.contract import RawFrame
from labctl.errors import RunError
from labctl.procedures.messages import Exposure, Measure, Steps
from labctl.runs import export_frames
from labctl.runs.engine import Engine
from labctl.runs.export import export_run
from labctl.runs.labels import label
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.store import RunStore


def two_sizes(facts: BenchFacts) -> Steps[list[int]]:
    frames = yield Measure([Exposure(gray(s), gray(1), t, {"level": s}) for s in (1, 2, 3) for t in (0.001, 0.002)])
    return [int(frame.data[0, 0]) for frame in frames]


@pytest.fixture
def recorded(rig: Rig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedRun:
    record = CalibrationRecord("dark", "fake", {"offset": np.arange(6.0)}, {"offset": "counts"})
    rig.bench.with_calibrations({"dark": record})
    grab = rig.camera.grab

    def other_sizes(exposure_s: float) -> RawFrame:
        """A camera whose every third frame is of another size, as after a change of window."""
        raw = grab(exposure_s)
        return raw if rig.camera.grabs % 3 else replace(raw, data=raw.data[:4, :5].astype(np.uint8), origin=(1, 2))

    rig.camera.grab = other_sizes  # type: ignore[method-assign]
    monkeypatch.setattr(Soundness, "check", lambda *_: None)
    engine = Engine(rig.bench, store=RunStore(runs_dir, keep_input_patterns=True))
    engine.run(
        Script(two_sizes, name="two-sizes"),
        provenance={"models": {"fashion": "abc123"}, "config": {"bench": {"name": "fake"}}, "tags": ["figure-2"]},
    )
    run = open_run(engine.folder)
    label(run.path, run.intent, note="lamp was on")
    return run


def frames_of(run: RecordedRun) -> list[np.ndarray]:
    return [frame.data for frame in run.frames(check=True)]


def test_a_zip_holds_the_run_and_explains_it(recorded: RecordedRun, tmp_path: Path) -> None:
    target = export_run(recorded, tmp_path / "out" / "run.zip", report=True)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        content = {name.removeprefix(f"{recorded.id}/"): archive.read(name) for name in archive.namelist()}
    for name in ("run.json", "result.json", "events.jsonl", "frames.h5"):
        assert content[name] == (recorded.path / name).read_bytes()
    sums = dict(reversed(line.split("  ")) for line in content["SHA256SUMS"].decode().splitlines())
    assert {name: hashlib.sha256(data).hexdigest() for name, data in content.items() if name != "SHA256SUMS"} == sums
    told = content["README.md"].decode()
    for word in (recorded.id, "fashion abc123", "figure-2", "lamp was on", "frames.h5", "calibrations.h5"):
        assert word in told
    for name in content:  # each file is explained, by itself or with its folder
        assert name == "README.md" or f"`{name}`" in told or f"`{name.rsplit('/', 1)[0]}/`" in told
    assert content["report.html"].startswith(b"<!doctype html>")
    for panel, tokens in (("slm", recorded.patterns("slm")), ("input", recorded.patterns("input"))):
        assert tokens
        for token in tokens:
            png = np.frombuffer(content[f"patterns/{panel}/{token}.png"], np.uint8)
            assert np.array_equal(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), recorded.pattern(panel, token))  # type: ignore[arg-type]
    with h5py.File(io.BytesIO(content["calibrations.h5"])) as file:
        assert np.array_equal(file["dark/values/offset"][()], np.arange(6.0))


def test_the_reading_example_of_the_readme_works(
    recorded: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(export_run(recorded, tmp_path / "run.zip")) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path / recorded.id)
    code = Path("README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    seen: list[Any] = []
    exec(code + "        seen.append((frame, tag, slm))\n", {"seen": seen})  # noqa: S102 - the text of our own README
    assert len(seen) == 6
    for (frame, tag, slm), expected in zip(seen, recorded.frames(), strict=True):
        assert np.array_equal(frame, expected.data)
        assert (tag, slm) == (expected.tag, expected.slm)


def test_tiff_pages_are_the_frames_with_what_is_known_of_them(recorded: RecordedRun, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(export_run(recorded, tmp_path / "frames.tiff")) as tiff:
        pages = [(page.asarray(), json.loads(page.description)) for page in tiff.pages]
    assert len(pages) == 6
    for (data, about), frame in zip(pages, recorded.frames(), strict=True):
        assert np.array_equal(data, frame.data)
        assert data.dtype == frame.data.dtype
        assert about["tag"] == frame.tag
        assert (about["exposure_s"], about["slm"], about["run"]) == (frame.exposure_s, frame.slm, recorded.id)


def test_tiff_into_a_folder_is_one_file_per_frame(recorded: RecordedRun, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    folder = export_run(recorded, tmp_path / "frames", "tiff")
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"frame-{number:06d}.tiff" for number in range(6)]
    for file, expected in zip(files, frames_of(recorded), strict=True):
        assert np.array_equal(tifffile.imread(file), expected)


def test_a_large_tiff_has_long_offsets(recorded: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(export_frames, "BIG_TIFF", 100)
    with tifffile.TiffFile(export_run(recorded, tmp_path / "frames.tif")) as tiff:
        assert tiff.is_bigtiff
        assert len(tiff.pages) == 6


READ_ZARR = """
import sys, numpy, zarr
root = zarr.open_group(sys.argv[1], mode="r")
assert root.attrs["run"] == sys.argv[3], dict(root.attrs)
found = {}
def collect(group, path):
    for name, array in group.arrays():
        found[path + name] = array[()]
    for name, inner in group.groups():
        collect(inner, path + name + "/")
collect(root, "")
numpy.savez(sys.argv[2], **{name.removeprefix("table/"): values for name, values in found.items()})
"""


def test_zarr_reads_back_equal(recorded: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the library, in a process of its own, because its threads never end."""
    pytest.importorskip("numcodecs")
    monkeypatch.setattr(export_frames, "CHUNK", 300)  # three large frames to a chunk, and the last one is not full
    folder = export_run(recorded, tmp_path / "run.zarr")
    command = [sys.executable, "-W", "error", "-c", READ_ZARR, str(folder), str(tmp_path / "copy.npz"), recorded.id]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "copy.npz", allow_pickle=False) as loaded:
        check_table({name: loaded[name] for name in loaded.files if "/" not in name}, loaded, recorded)


def test_npz_reads_back_equal_without_pickle(recorded: RecordedRun, tmp_path: Path) -> None:
    with np.load(export_run(recorded, tmp_path / "run.npz"), allow_pickle=False) as loaded:
        names = [name for name in loaded.files if "/" not in name and name != "README.txt"]
        check_table({name: loaded[name] for name in names}, loaded, recorded)
        assert recorded.id in loaded["README.txt"].decode()


def check_table(table: dict[str, np.ndarray], arrays: Any, run: RecordedRun) -> None:
    """Every frame, at its place and with what is known of it; every pattern."""

    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    frames = list(run.frames(check=True))
    assert all(len(column) == len(frames) for column in table.values())
    for number, frame in enumerate(frames):
        stack = arrays["frames/" + text(table["stack"][number])]
        assert stack.dtype == frame.data.dtype
        assert np.array_equal(stack[int(table["index"][number])], frame.data)
        assert json.loads(text(table["tag"][number])) == frame.tag
        assert text(table["slm"][number]) == frame.slm
        assert table["exposure_s"][number] == frame.exposure_s
        assert table["started"][number] == frame.started
        assert tuple(table["origin"][number]) == frame.origin
    for token in run.patterns("slm"):
        assert np.array_equal(arrays[f"patterns/slm/{token}"][:], run.pattern("slm", token))


FORMATS = [("run.zip", None), ("run.tiff", None), ("folder", "tiff"), ("run.zarr", None), ("run.npz", None)]


@pytest.mark.parametrize(("name", "kind"), FORMATS)
def test_nothing_is_overwritten_unless_asked(recorded: RecordedRun, tmp_path: Path, name: str, kind: Any) -> None:
    target = tmp_path / "out" / name
    target.parent.mkdir()
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="is there already: choose another name, or add --force"):
        export_run(recorded, target, kind)
    assert target.read_text(encoding="utf-8") == "precious"
    for _ in range(2):
        export_run(recorded, target, kind, force=True)
    assert [path.name for path in target.parent.iterdir()] == [name]
    assert target.is_dir() or target.read_bytes() != b"precious"


@pytest.mark.parametrize(("name", "kind"), FORMATS)
def test_a_damaged_frame_is_found_and_leaves_nothing(
    recorded: RecordedRun, tmp_path: Path, name: str, kind: Any
) -> None:
    with h5py.File(recorded.path / "frames.h5", "r+") as file:
        row = file["table"][4]
        file["frames"][row["stack"].decode()][row["index"], 0, 0] += 1
    target = tmp_path / "out" / name
    target.parent.mkdir()
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="frame 4 does not fit its checksum"):
        export_run(recorded, target, kind, force=True)
    assert [path.read_text(encoding="utf-8") for path in target.parent.iterdir()] == ["precious"]


def test_refusals_are_one_line(recorded: RecordedRun, rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not say its format"):
        export_run(recorded, tmp_path / "run.tar")
    with pytest.raises(RunError, match="lies in the run's own folder"):
        export_run(recorded, recorded.path / "run.zip")
    store = RunStore(tmp_path / "other")
    with store.create(Pairs(), rig.bench) as folder, pytest.raises(RunError, match="is still going on"):
        export_run(open_run(folder.path), tmp_path / "run.zip")
    cut_off = open_run(folder.path)
    with pytest.raises(RunError, match="ended before its first frame"):
        export_run(cut_off, tmp_path / "run.npz")
    with zipfile.ZipFile(export_run(cut_off, tmp_path / "run.zip")) as archive:  # what there is can be taken along
        assert "ended before its first frame" in archive.read(f"{cut_off.id}/README.md").decode()


def test_a_missing_library_is_one_line(recorded: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(RunError, match=r"TIFF needs the package tifffile: pip install 'labctl\[export\]'"):
        export_run(recorded, tmp_path / "out" / "run.tiff")
    assert list((tmp_path / "out").iterdir()) == []


def test_frames_are_never_all_in_memory(recorded: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Counted] = weakref.WeakSet()
    most: list[int] = []
    read = export_frames.Source.data

    class Counted(np.ndarray):
        __hash__ = object.__hash__

    def counted(source: export_frames.Source, number: int) -> Any:
        frame = read(source, number).view(Counted)
        alive.add(frame)
        most.append(len(list(alive.data)))
        return frame

    monkeypatch.setattr(export_frames.Source, "data", counted)
    for name in ("run.tiff", "run.npz", "run.zarr"):
        export_run(recorded, tmp_path / name)
    assert len(most) == 3 * 6
    assert max(most) <= 2


def test_the_command(recorded: RecordedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs", str(recorded.path.parent)]
    target = tmp_path / "x.zip"
    assert labctl(["runs", "export", "last", "--to", str(target), *where]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    with zipfile.ZipFile(target) as archive:
        assert f"{recorded.id}/frames.h5" in archive.namelist()
    assert labctl(["runs", "export", "last", "--to", str(target), *where]) == 1
    assert "add --force" in capsys.readouterr().err
    assert labctl(["runs", "export", "last", "--to", str(target), "--format", "npz", "--force", *where]) == 0
    assert labctl(["runs", "export", "last", "--format", "mat", *where]) == 1
    assert "there are zip, tiff, zarr, npz" in capsys.readouterr().err
