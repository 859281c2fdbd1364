"""The list of runs: true to the folders, whatever happened to its index."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from runs_fakes import Pairs, Rig

from labctl.errors import RunError
from labctl.runs import catalogue
from labctl.runs.catalogue import find_run, list_runs, rebuild_index
from labctl.runs.engine import Engine
from labctl.runs.labels import label
from labctl.runs.recorded import open_run
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
    assert read == []
    with (three[1] / "events.jsonl").open("a", encoding="utf-8") as events:  # the one that was cut off goes on
        events.write("{}\n")
    list_runs(runs_dir)
    assert read == [three[1].name]


def test_the_newest_few_are_found_without_reading_the_others(
    three: list[Path], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = catalogue.open_run
    monkeypatch.setattr(catalogue, "open_run", lambda path: read.append(path.name) or original(path))
    assert [run.id for run in list_runs(runs_dir, limit=1)] == [three[2].name]
    assert read == [three[2].name]
    assert [run.id for run in list_runs(runs_dir)] == [path.name for path in reversed(three)]


@pytest.mark.parametrize(
    "harm",
    ["absent", "garbage", "empty", "other table", "locked", "bad row", "a folder", "flipped bit", "half", "journal"],
)
def test_a_harmed_index_never_blocks_and_is_not_spoken_of(
    three: list[Path], runs_dir: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    harms = {
        "bad row": "UPDATE runs SET summary = '{\"id\": 1}'",
        "flipped bit": "UPDATE runs SET summary = replace(summary, '\"frames\": 6', '\"frames\": 7')",
    }
    before = list_runs(runs_dir)
    index = runs_dir / "index.sqlite"
    holder: sqlite3.Connection | None = None
    if harm == "absent":
        index.unlink()
    elif harm == "garbage":
        index.write_bytes(b"not a database" * 1000)
    elif harm == "empty":
        index.write_bytes(b"")
    elif harm == "half":
        index.write_bytes(index.read_bytes()[:5000])
    elif harm == "journal":  # what a writer that was killed leaves
        (runs_dir / "index.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
        index.write_bytes(b"not a database" * 1000)
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
                connection.execute(harms[harm])
    try:
        assert list_runs(runs_dir) == before
    finally:
        if holder is not None:
            holder.close()
    assert list_runs(runs_dir) == before
    assert not [entry for entry in caplog.records if entry.levelname not in ("DEBUG", "INFO")]
    assert [path.name for path in runs_dir.iterdir() if path.name.endswith("-journal")] == []


def test_a_deleted_or_damaged_folder_is_noticed(three: list[Path], runs_dir: Path) -> None:
    list_runs(runs_dir)
    shutil.rmtree(three[2])
    (three[0] / "result.json").write_text('{"outcome": "do', encoding="utf-8")
    (three[1] / "run.json").write_text("[]", encoding="utf-8")
    assert [(run.id, run.outcome) for run in list_runs(runs_dir)] == [
        (three[1].name, "damaged"),
        (three[0].name, "damaged"),
    ]


def test_search_by_everything(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    ids = []
    for name, provenance in (
        ("evaluate", {"models": {"fashion": "ab12"}, "tags": ["night", "ceiling=0.8"]}),
        ("evaluate", {"models": {"digits": "cd34"}, "tags": ["night"]}),
        ("dark", {}),
    ):
        engine.run(Pairs(name=name), provenance=provenance)
        ids.append(engine.run_id)
    first = open_run(find_run(runs_dir, ids[0]))
    began = dt.datetime.fromisoformat(first.intent["started"])
    label(first.path, first.intent, note="the lamp was ON")

    def found(**query: Any) -> set[str]:
        answers = [{run.id for run in list_runs(runs_dir, **query)} for _ in range(2)]  # from the folders, and again
        assert answers[0] == answers[1]
        return answers[1]

    assert found(model="fashion") == {ids[0]}
    assert found(tags=["night"]) == {ids[0], ids[1]}
    assert found(tags=["night", "ceiling=0.8"]) == {ids[0]}
    assert found(procedure="dark", outcome="done") == {ids[2]}
    assert found(bench="fake", model="digits") == {ids[1]}
    assert found(text="lamp was on") == {ids[0]}
    assert found(since=began) == set(ids)
    assert found(until=began) == set()
    assert found(since=began + dt.timedelta(days=1)) == set()
    assert found(tags=["absent"]) == set()


def test_labels_are_kept_in_the_folder(three: list[Path], runs_dir: Path) -> None:
    run = open_run(three[0])
    label(run.path, run.intent, add=["good", "figure-3", "good"])
    label(run.path, run.intent, remove=["good"], note="  second try ")
    label(run.path, run.intent, add=["new"])
    (runs_dir / "index.sqlite").unlink(missing_ok=True)
    summary = list_runs(runs_dir)[-1]
    assert (summary.tags, summary.note) == (("figure-3", "new"), "second try")
    assert list_runs(runs_dir)[-1] == summary
    for tag in ("two words", "a,b", "", "x" * 81):
        with pytest.raises(RunError, match="is no tag"):
            label(run.path, run.intent, add=[tag])
    (run.path / "tags.json").write_text("[", encoding="utf-8")
    assert list_runs(runs_dir)[-1].outcome == "damaged"


def test_rebuild_reads_every_folder_again(three: list[Path], runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_runs(runs_dir)
    read: list[str] = []
    original = catalogue.open_run
    monkeypatch.setattr(catalogue, "open_run", lambda path: read.append(path.name) or original(path))
    assert rebuild_index(runs_dir) == 3
    assert len(read) == 3


def test_two_processes_write_and_list_at_once(runs_dir: Path) -> None:
    """Each lists after each folder that it makes, while the index is harmed under them; nobody misses a run."""
    runs_dir.mkdir()
    count = 40
    script = Path(__file__).parent / "busy_catalogue.py"
    both = [
        subprocess.Popen(
            [sys.executable, str(script), str(runs_dir), name, str(count)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )
        for name in ("alpha", "beta")
    ]  # fmt: skip
    harmed = 0
    while any(process.poll() is None for process in both):
        list_runs(runs_dir)
        if harmed < 5:
            (runs_dir / "index.sqlite").write_bytes(b"garbage" * 300)
            harmed += 1
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said == ["", ""]
    runs = list_runs(runs_dir)
    assert len(runs) == 2 * count
    assert {run.outcome for run in runs} == {"done"}
    with closing(sqlite3.connect(runs_dir / "index.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2 * count,)


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
