"""The list of runs: true to the folders, whatever happened to its index."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from runs_fakes import Pairs, Rig

from labctl.errors import RunError
from labctl.runs import catalogue
from labctl.runs.catalogue import find_run, list_runs
from labctl.runs.engine import Engine
from labctl.runs.store import RunStore


@pytest.fixture
def three(rig: Rig, runs_dir: Path) -> list[Path]:
    """Runs a (done), b (cut off), c (done)."""
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Pairs(name="a"))
    made = [engine.folder]
    with RunStore(runs_dir).create(Pairs(name="b"), rig.bench) as cut_off:
        made.append(cut_off.path)
    engine.run(Pairs(name="c"))
    renamed = []
    for k, path in enumerate([*made, engine.folder]):
        renamed.append(path.rename(path.with_name(f"2026010{k}T000000Z-{path.name.split('-', 1)[1]}")))
    return renamed


def test_newest_first_with_filters(three: list[Path], runs_dir: Path) -> None:
    runs = list_runs(runs_dir)
    assert [run.procedure for run in runs] == ["c", "b", "a"]
    assert [run.outcome for run in runs] == ["done", "cut off", "done"]
    assert [run.frames for run in runs] == [6, 0, 6]
    assert runs[0].simulated
    assert runs[0].duration_s is not None
    assert runs[0].duration_s >= 0
    assert [run.procedure for run in list_runs(runs_dir, outcome="done", limit=1)] == ["c"]
    assert [run.procedure for run in list_runs(runs_dir, procedure="b")] == ["b"]
    assert list_runs(runs_dir, bench="other") == []
    assert list_runs(runs_dir / "absent") == []


def test_the_index_spares_reading_settled_runs(
    three: list[Path], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list_runs(runs_dir)
    read: list[str] = []
    original = catalogue.open_run
    monkeypatch.setattr(catalogue, "open_run", lambda path: read.append(path.name) or original(path))
    assert list_runs(runs_dir) == first
    assert read == [three[1].name]


@pytest.mark.parametrize("harm", ["absent", "garbage", "empty", "other table", "locked", "bad row", "a folder"])
def test_a_harmed_index_never_blocks(three: list[Path], runs_dir: Path, harm: str) -> None:
    before = list_runs(runs_dir)
    index = runs_dir / "index.sqlite"
    holder: sqlite3.Connection | None = None
    if harm == "absent":
        index.unlink()
    elif harm == "garbage":
        index.write_bytes(b"not a database" * 1000)
    elif harm == "empty":
        index.write_bytes(b"")
    elif harm == "a folder":
        index.unlink()
        index.mkdir()
    elif harm == "locked":
        shutil.rmtree(three[0])
        holder = sqlite3.connect(index)
        holder.execute("BEGIN EXCLUSIVE")
        before = before[:2]
    else:
        with closing(sqlite3.connect(index)) as connection, connection:
            if harm == "other table":
                connection.execute("DROP TABLE runs")
            else:
                connection.execute("UPDATE runs SET summary = '{\"id\": 1}'")
    try:
        assert list_runs(runs_dir) == before
    finally:
        if holder is not None:
            holder.close()
    assert list_runs(runs_dir) == before


def test_a_deleted_or_damaged_folder_is_noticed(three: list[Path], runs_dir: Path) -> None:
    list_runs(runs_dir)
    shutil.rmtree(three[2])
    (three[0] / "result.json").write_text('{"outcome": "do', encoding="utf-8")
    (three[1] / "run.json").write_text("[]", encoding="utf-8")
    assert [(run.id, run.outcome) for run in list_runs(runs_dir)] == [
        (three[1].name, "damaged"),
        (three[0].name, "damaged"),
    ]


def test_find_by_id_beginning_end_or_last(three: list[Path], runs_dir: Path) -> None:
    assert find_run(runs_dir, "last") == three[2]
    assert find_run(runs_dir, three[1].name) == three[1]
    assert find_run(runs_dir, "20260101") == three[1]
    assert find_run(runs_dir, three[0].name[-4:]) == three[0]
    with pytest.raises(RunError, match="could be any of 3 runs"):
        find_run(runs_dir, "2026")
    with pytest.raises(RunError, match="there is no run 'xyz'"):
        find_run(runs_dir, "xyz")
    with pytest.raises(RunError, match="there are no runs"):
        find_run(runs_dir / "absent", "last")
