"""`labctl runs`: list, show and report, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs_fakes import Pairs, Rig
from typer.testing import CliRunner

from labctl.cli.runs import app
from labctl.errors import RunError
from labctl.runs.engine import Engine
from labctl.runs.store import RunStore


def test_list_show_report(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Pairs())
    where = ["--runs", str(runs_dir)]
    listed = CliRunner().invoke(app, ["list", *where])
    assert listed.exit_code == 0
    assert engine.run_id in listed.output
    assert "done" in listed.output
    (run,) = json.loads(CliRunner().invoke(app, ["list", "--json", *where]).output)
    assert (run["id"], run["frames"]) == (engine.run_id, 6)
    assert "fake (simulated)" in CliRunner().invoke(app, ["show", "last", *where]).output
    shown = json.loads(CliRunner().invoke(app, ["show", engine.run_id, "--json", *where]).output)
    assert shown["conclusion"]["outcome"] == "done"
    written = CliRunner().invoke(app, ["report", engine.run_id[-4:], *where])
    assert Path(written.output.strip()).is_file()


def test_no_run_is_one_line(runs_dir: Path) -> None:
    assert "no runs in" in CliRunner().invoke(app, ["list", "--runs", str(runs_dir)]).output
    result = CliRunner().invoke(app, ["show", "x", "--runs", str(runs_dir)])
    assert isinstance(result.exception, RunError)
    with pytest.raises(RunError, match="there are no runs"):
        CliRunner().invoke(app, ["report", "--runs", str(runs_dir)], catch_exceptions=False)
