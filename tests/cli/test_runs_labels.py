"""`labctl runs list`, `tag`, `note` and `index`: finding a run again."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

import pytest

from labctl.cli.dates import moment
from labctl.cli.main import run
from labctl.errors import LabctlError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))

from busy_catalogue import make_run

NOW = dt.datetime(2026, 11, 21, 15, 0, tzinfo=dt.timezone(dt.timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "end", "meant"),
    [
        ("12h", False, NOW - dt.timedelta(hours=12)),
        ("7d", True, NOW - dt.timedelta(days=7)),
        ("2026-11-20T10:00+01:00", False, NOW.replace(day=20, hour=10)),
        ("2026-11-20 10:00:00Z", True, NOW.replace(day=20, hour=11)),
    ],
)
def test_a_moment_as_people_write_it(text: str, end: bool, meant: dt.datetime) -> None:
    assert moment(text, end=end, now=NOW) == meant


def test_a_day_is_of_this_machine_and_until_includes_it() -> None:
    assert moment("2026-11-20", now=NOW) == dt.datetime(2026, 11, 20).astimezone()
    assert moment("2026-11-20", end=True, now=NOW) == dt.datetime(2026, 11, 21).astimezone()
    assert moment("today", now=NOW) == dt.datetime(2026, 11, 21).astimezone()
    assert moment("Yesterday", end=True, now=NOW) == dt.datetime(2026, 11, 21).astimezone()
    with pytest.raises(LabctlError, match="'soon' is no date"):
        moment("soon")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    make_run(folder, "dark", 1)
    make_run(folder, "evaluate", 2, provenance={"models": {"fashion": "ab"}, "tags": ["night"]})
    return folder


def listed(capsys: pytest.CaptureFixture[str], runs: Path, *options: str) -> list[str]:
    assert run(["runs", "list", "--json", "--runs", str(runs), *options]) == 0
    return [entry["procedure"] for entry in json.loads(capsys.readouterr().out)]


def test_runs_are_found_by_every_option(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--runs", str(runs))
    assert run(["runs", "tag", "0001", "figure-3", "good", *where]) == 0
    assert run(["runs", "note", "0001", "lamp was on", *where]) == 0
    assert run(["runs", "tag", "0001", "good", "--remove", *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("-0001: figure-3")
    assert listed(capsys, runs) == ["evaluate", "dark"]
    assert listed(capsys, runs, "--tag", "figure-3") == ["dark"]
    assert listed(capsys, runs, "--tag", "night", "--model", "fashion") == ["evaluate"]
    assert listed(capsys, runs, "--text", "LAMP") == ["dark"]
    assert listed(capsys, runs, "--since", "2026-01-01", "--until", "2026-01-02") == ["evaluate", "dark"]
    assert listed(capsys, runs, "--since", "2026-01-02T12:00Z") == []
    assert run(["runs", "list", "--tag", "figure-3", *where]) == 0
    assert "figure-3" in capsys.readouterr().out
    assert run(["runs", "list", "--tag", "nothing", *where]) == 0
    assert "no such runs" in capsys.readouterr().out
    assert run(["runs", "list", "--outcome", "well", *where]) == 1
    assert "no run ends 'well'" in capsys.readouterr().err
    assert run(["runs", "show", "0001", *where]) == 0
    assert "lamp was on" in capsys.readouterr().out


def test_the_index_is_rebuilt_on_demand(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "index.sqlite").write_text("garbage", encoding="utf-8")
    assert run(["runs", "index", "--rebuild", "--runs", str(runs)]) == 0
    assert run(["runs", "index", "--runs", str(runs)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"2 runs in {runs}"] * 2
    assert said.err == ""
