"""Frame files whose writer ends at any moment: what was reported as saved is there, and the file can be continued."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_fakes import Pairs, Rig

from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.procedures.messages import Exposure
from labctl.runs import framefile, journal, slots
from labctl.runs.catalogue import list_runs
from labctl.runs.framefile import FrameFile, read_frames, read_table
from labctl.runs.journal import journal_of
from labctl.runs.store import RunFolder, RunStore, open_run
from labctl.runs.verify import verify_run

HERE = Path(__file__).parent
SMALL, WIDE = (3, 4), (40, 50)


def a_frame(number: int, shape: tuple[int, int] = SMALL, **more: Any) -> Frame:
    data = np.random.default_rng(number).integers(0, 4096, shape, np.uint16)
    return Frame(
        data, number, number, number + 0.5, 0.5, f"{number % 3:016x}", "i" * 16, **({"tag": {"n": number}} | more)
    )


def add(file: FrameFile, frame: Frame) -> None:
    file.append(frame, {"slm": np.full(SHAPES[frame.number % 3], frame.number % 3, np.uint8)}, position=frame.number)


SHAPES = [(5, 6), (70, 80), (5, 6)]


def the_frames(count: int) -> list[Frame]:
    """Of two sizes, with a tag that grows twice."""
    return [
        a_frame(
            n, WIDE if n % 7 == 5 else SMALL, tag={"n": n, "long": "x" * (100 if n > 30 else 0) + "y" * 40 * (n > 60)}
        )
        for n in range(count)
    ]


def same(back: Frame, frame: Frame) -> bool:
    return np.array_equal(back.data, frame.data) and (back.number, back.tag) == (frame.number, frame.tag)


class Disk:
    """Keeps what is written, write by write, so that the disk of any moment can be made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[tuple[str, str, Any, int]] = []
        self.saved_at: list[int] = []

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        write, cut = journal.write_at, journal.set_size

        def write_at(handle: int, data: Any, at: int) -> None:
            self.steps.append(("write", self.name(handle), bytes(memoryview(data).cast("B")), at))
            write(handle, data, at)

        def set_size(handle: int, size: int) -> None:
            self.steps.append(("size", self.name(handle), b"", size))
            cut(handle, size)

        with monkeypatch.context() as patch:
            for module in (journal, slots):
                patch.setattr(module, "write_at", write_at)
            patch.setattr(journal, "set_size", set_size)
            patch.setattr(slots.os, "posix_fallocate", lambda *_: None, raising=False)
            yield

    def name(self, handle: int) -> str:
        return "main" if os.path.samestat(os.fstat(handle), self.path.stat()) else "journal"

    def states(self, start: bytes, pages: bool) -> Iterator[tuple[int, dict[str, bytearray]]]:
        """The two files after every step; with `pages` also after every page of a step that writes several."""
        files = {"main": bytearray(start), "journal": bytearray()}
        yield 0, files
        for number, (kind, name, data, at) in enumerate(self.steps, 1):
            file = files[name]
            if kind == "size":
                file[:] = file[:at].ljust(at, b"\0")
                yield number, files
                continue
            edges = range(at - at % 4096 + 4096, at + len(data), 4096) if pages and len(data) < 2**18 else []
            for edge in [*edges, at + len(data)]:
                file.extend(bytes(max(0, edge - len(file))))
                file[at:edge] = data[: edge - at]
                yield (number if edge == at + len(data) else number - 1), files


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_single_write_loses_nothing_that_was_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(slots, "ROOM", 4096)  # so that room is added all the time
    monkeypatch.setattr(framefile, "CHUNK", 2048)
    path = tmp_path / "frames.h5"
    disk, frames = Disk(path), the_frames(66)
    FrameFile(path).close()
    start = path.read_bytes()
    with disk.watched(monkeypatch):
        file = FrameFile(path)
        for frame in frames:
            add(file, frame)
            disk.saved_at.append(len(disk.steps))
        file.close()
    killed = tmp_path / "killed" / "frames.h5"
    killed.parent.mkdir()
    looked, seen = 0, set()
    for moment, (number, files) in enumerate(disk.states(start, pages=True)):
        if moment % every:
            continue
        killed.write_bytes(files["main"])
        journal_of(killed).write_bytes(files["journal"])
        saved = sum(at <= number for at in disk.saved_at)
        seen.add(saved)
        with framefile.open_frames(killed) as file:
            rows = framefile.rows_of(file)
            assert len(rows) in (saved, saved + 1), f"after step {number}: {disk.steps[number - 1][:2]}"
            for n in range(len(rows)) if looked % 40 == 0 else {0, len(rows) // 2, len(rows) - 1} & {*range(len(rows))}:
                assert same(framefile.frame_at(file, n, rows[n], check=True), frames[n])
        looked += 1
    assert {name for _, name, _, _ in disk.steps} == {"main", "journal"}  # frames, and changes of the structure
    assert (
        moment >= len(disk.steps) >= 3 * len(frames) + len(frames)
    )  # pixels, tag and row, and room added all the time
    assert looked == moment // every + 1
    assert every > 1 or seen == set(range(len(frames) + 1))  # killed before and after each frame


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_file_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(slots, "ROOM", 4096)
    monkeypatch.setattr(framefile, "CHUNK", 2048)
    path = tmp_path / "frames.h5"
    disk, frames = Disk(path), the_frames(80)
    FrameFile(path).close()
    start = path.read_bytes()
    with disk.watched(monkeypatch):
        file = FrameFile(path)
        for frame in frames:
            add(file, frame)
        file.close()
    picked = random.Random(seed).randrange(len(disk.steps))
    files = next(files for number, files in disk.states(start, pages=False) if number == picked)
    path.write_bytes(files["main"])
    journal_of(path).write_bytes(files["journal"])
    file = FrameFile(path)
    assert not any(journal_of(path).read_bytes()[:28])
    for frame in frames[file.count :]:
        add(file, frame)
    file.close()
    back = list(read_frames(path, check=True))
    assert len(back) == 80
    assert all(same(b, f) for b, f in zip(back, frames, strict=True))
    assert not journal_of(path).exists()
    with h5py.File(path) as plain:  # any tool sees just the frames
        assert len(plain["table"]) == len(plain["tags"]) == 80
        assert sum(len(stack) for stack in plain["frames"].values()) == 80
        assert len(plain["patterns/slm"]) == 3


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["frame", "wide", "again", "pattern", "longer"]), st.integers(1, 6)), max_size=14
    )
)
def test_any_order_of_writing_closing_and_going_on(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    path = tmp_path_factory.mktemp("file") / "frames.h5"
    file, frames = FrameFile(path), []
    for what, count in steps:
        for _ in range(count):
            n = len(frames)
            match what:
                case "again":
                    file.close()
                    file = FrameFile(path)
                    continue
                case "longer":
                    frame = a_frame(n, tag={"text": "é" * 30 * count})
                case "pattern":
                    frame = a_frame(n + 1, tag={"n": n})
                case _:
                    frame = a_frame(n, WIDE if what == "wide" else SMALL)
            frames.append(frame)
            add(file, frame)
    assert len(read_table(path)) == len(frames)  # while it is open
    file.close()
    assert all(same(b, f) for b, f in zip(read_frames(path, check=True), frames, strict=True))


def test_every_field_of_a_frame_comes_back(tmp_path: Path) -> None:
    frame = a_frame(
        3,
        origin=(7, 8),
        shown_slm=1.25,
        shown_input=1.5,
        slm_before="b" * 16,
        repeats=2,
        proof=41,
        tag={"ö": [1, None]},
    )
    file = FrameFile(tmp_path / "frames.h5")
    file.append(frame, {}, batch=4, position=5)
    file.append(a_frame(4), {})
    file.close()
    back, plain = read_frames(tmp_path / "frames.h5", check=True)
    for name in ("number", "started", "ended", "exposure_s", "slm", "input", "origin", "shown_slm", "shown_input",
                 "slm_before", "repeats", "proof", "tag"):  # fmt: skip
        assert getattr(back, name) == getattr(frame, name), name
    assert np.isnan(plain.shown_slm)
    assert (plain.proof, plain.repeats, plain.slm_before) == (-1, 0, "")
    assert read_table(tmp_path / "frames.h5")[["batch", "position"]].tolist() == [(4, 5), (0, 0)]


def test_the_first_format_is_read_and_not_continued(tmp_path: Path) -> None:
    row = np.dtype([
        ("stack", "S32"), ("index", "i8"), ("number", "i8"), ("started", "f8"), ("ended", "f8"), ("exposure_s", "f8"),
        ("slm", "S32"), ("input", "S32"), ("batch", "i4"), ("position", "i4"), ("crc32", "u4"),
    ])  # fmt: skip
    path, frame = tmp_path / "frames.h5", a_frame(9)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = framefile.OLD_FORMAT
        file["frames/3x4-uint16"] = frame.data[None]
        crc = zlib.crc32(frame.data.tobytes())
        file["table"] = np.array(
            [(b"3x4-uint16", 0, 9, 9, 9.5, 0.5, b"s", b"i", 1, 2, crc), (b"",) + (0,) * 5 + (b"", b"", 0, 0, 0)], row
        )
        file.create_dataset("tags", data=[json.dumps({"n": 9})], dtype=h5py.string_dtype())
    (back,) = read_frames(path, check=True)
    assert same(back, frame)
    assert (back.origin, back.repeats) == ((0, 0), 0)
    with pytest.raises(RunError, match="earlier labctl: it can be read, but the run cannot be continued"):
        FrameFile(path)
    with h5py.File(path, "r+") as file:
        file["frames/3x4-uint16"][0, 1, 1] ^= 1
    with pytest.raises(RunError, match=r"frame 0 does not fit its checksum.*pixels"):
        list(read_frames(path, check=True))


def test_a_run_is_continued(rig: Rig, runs_dir: Path) -> None:
    frames = the_frames(9)

    def save(folder: RunFolder, frame: Frame) -> None:
        folder.write_frame(frame, Exposure(np.full((5, 6), frame.number % 3, np.uint8)))

    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        for frame in frames[:4]:
            save(folder, frame)
        folder.event("log", text="before")
        with pytest.raises(RunError, match=r"is being written by another process"):
            RunFolder.reopen(folder.path)
        folder.finish("aborted", message="enough", result=np.arange(30_000))
    intent = (folder.path / "run.json").read_bytes()
    assert open_run(folder.path).outcome == "aborted"
    with (folder.path / "events.jsonl").open("a", encoding="utf-8") as events:
        events.write('{"kind": "torn')
    again = RunFolder.reopen(folder.path)
    assert again.saved == 4
    assert open_run(folder.path).outcome == "running"
    for name in ("result.json", "result.h5", "manifest.json"):
        assert not (folder.path / name).exists()
    for frame in frames[4:]:
        save(again, frame)
    assert again.saved == 9
    again.finish("done")
    run = open_run(folder.path)
    assert (folder.path / "run.json").read_bytes() == intent
    assert (run.outcome, run.frame_count, run.patterns()) == ("done", 9, [f"{n:016x}" for n in range(3)])
    assert all(same(b, f) for b, f in zip(run.frames(check=True), frames, strict=True))
    (resumed,) = [event for event in run.events if event["kind"] == "resumed"]
    assert (resumed["outcome"], resumed["message"], resumed["frames"]) == ("aborted", "enough", 4)
    assert next(event["kind"] for event in run.events) == "log"
    assert run.pattern("slm", f"{2:016x}").tolist() == np.full((5, 6), 2).tolist()
    with pytest.raises(RunError, match="is complete: there is nothing to continue"):
        RunFolder.reopen(folder.path)
    assert not (folder.path / ".lock").exists()
    with pytest.raises(RunError, match="is not a run folder"):
        RunFolder.reopen(runs_dir / "nothing")


def test_a_run_without_a_frame_is_continued(rig: Rig, runs_dir: Path) -> None:
    RunStore(runs_dir).create(Pairs(), rig.bench).close()
    (run,) = list_runs(runs_dir)
    with RunFolder.reopen(run.path) as folder:
        assert folder.saved == 0
        folder.finish("done")
    assert open_run(run.path).outcome == "done"


# -- real kills ------------------------------------------------------------------------------------------------------


@pytest.fixture
def kill(tmp_path: Path) -> Iterator[Callable[[int, float], tuple[Path, int]]]:
    """Kills a real run so long (s) after it reported so many frames; says where it was, and what it had reported."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])}
    with subprocess.Popen(
        [sys.executable, str(HERE / "killed_run.py"), "--fork"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environment,
    ) as nursery:  # fmt: skip
        if nursery.stdin is None or nursery.stdout is None:
            pytest.fail("no pipes")
        count = 0

        def one(frames: int, seconds: float) -> tuple[Path, int]:
            nonlocal count
            count += 1
            runs = tmp_path / f"runs-{count}"
            nursery.stdin.write(f"{runs} {frames} {seconds}\n")
            nursery.stdin.flush()
            return runs, int(nursery.stdout.readline())

        yield one
        nursery.stdin.close()


def looks_whole(runs: Path, told: int) -> int:
    (summary,) = list_runs(runs)
    assert summary.outcome == "cut off"
    saved = list(open_run(summary.path).frames(check=True)) if (summary.path / "frames.h5").exists() else []
    assert len(saved) >= told
    assert summary.frames == len(saved)
    for frame in saved:
        slm, inp = frame.tag["pair"]
        assert frame.data[0, 0] == 16 * slm + inp
    assert verify_run(summary.path).damages == ()
    with RunFolder.reopen(summary.path) as folder:  # and it can go on
        assert folder.saved == len(saved)
    return len(saved)


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_of_a_run(kill: Callable[[int, float], tuple[Path, int]], kills: int) -> None:
    moments = random.Random(kills)
    saved = [looks_whole(*kill(moments.randrange(40), moments.uniform(0, 4e-3))) for _ in range(kills)]
    assert max(saved) > min(saved)
