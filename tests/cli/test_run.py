"""`labctl run`: experiment files on a simulated bench, from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from labctl.cli.main import run
from labctl.runs.catalogue import list_runs
from labctl.workspace import Workspace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))

SMALL = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [96, 96], pitch_um = 16.0 }
settle_ms = 20
[input]
driver = "simulated"
options = { resolution = [48, 48], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [96, 96], pitch_um = 5.5 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "typical"
seed = 7
"""
DARK = '[[step]]\nprocedure = "dark"\n[step.sweep]\nframes = [2, 3]\n'
FAILING = '[[step]]\nprocedure = "fourier-centre"\n'  # there is no registration


@pytest.fixture
def lab(workspace: Workspace) -> Workspace:
    (workspace.benches / "small.toml").write_text(SMALL, encoding="utf-8")
    for name, steps in (("good", DARK), ("bad", FAILING), ("late", DARK)):
        text = f'[experiment]\nname = "{name}"\nbench = "small"\n{steps}'
        (workspace.configs / "experiments" / f"{name}.toml").write_text(text, encoding="utf-8")
    return workspace


def test_a_queue_survives_a_failure_and_says_what_happened(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "good", "bad", "late"]) == 1
    said = capsys.readouterr().out
    assert "good on small" in said
    assert "has no 'registration' calibration" in said
    assert said.count("done") == 4
    assert len(list_runs(lab.runs, outcome="done")) == 4
    assert len(list_runs(lab.runs, tags=["experiment:late", "frames=3"])) == 1
    assert (lab.calibration / "small" / "dark.h5").is_file()


def test_what_happened_as_json(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "good", "--json"]) == 0
    said = capsys.readouterr()
    (told,) = json.loads(said.out)["experiments"]
    assert (told["experiment"], told["bench"], told["outcome"]) == ("good", "small", "done")
    assert [made["parameters"] for made in told["runs"]] == [{"frames": 2}, {"frames": 3}]
    assert {made["run"] for made in told["runs"]} == {summary.id for summary in list_runs(lab.runs)}
    assert all(made["figures"]["dark level (counts)"] > 0 for made in told["runs"])
    assert said.err == ""


def test_a_mistake_in_any_file_is_one_line_before_anything_runs(
    lab: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = lab.root / "wrong.toml"
    wrong.write_text('[experiment]\nname = "w"\nbench = "smal"\n' + DARK, encoding="utf-8")
    assert run(["run", "good", str(wrong)]) == 1
    said = capsys.readouterr().err
    assert "did you mean small?" in said
    assert said.count("\n") == 1
    assert not list_runs(lab.runs)


def test_a_dry_run_says_what_it_would_take_and_does_nothing(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in lab.root.rglob("*"))
    assert run(["run", "good", "--dry-run", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["dry_run"]
    assert [entry["exposures"] for entry in told["runs"]] == [4, 6]
    assert (told["exposures"], told["slm_changes"], told["limits"]) == (10, 0, [])
    assert told["bytes"] > 10 * 96 * 96 * 2
    assert told["free_bytes"] > told["bytes"]
    assert told["seconds"] > 0
    assert run(["run", "good", "bad", "--dry-run"]) == 1  # the second would fail: better known now
    said = capsys.readouterr().out
    assert "dry: nothing was moved or written" in said
    assert "longest exposure 20 ms" in said
    assert "has no 'registration' calibration" in said
    assert sorted(path for path in lab.root.rglob("*")) == before


def test_single_commands_have_a_dry_run(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(lab.root.rglob("*"))
    assert run(["calibrate", "small", "--dry-run", "--json"]) == 1  # the panel is too small to be registered
    (told,) = json.loads(capsys.readouterr().out)["dry_run"]
    assert told["name"] == told["runs"][0]["procedure"] == "calibrate"
    assert told["exposures"] >= 60  # those that it never came to are counted like those that were followed
    assert told["limits"][0].startswith("calibrate: ")
    # Without calibrations, a model cannot be shown: better known before a night of exposures.
    assert run(["evaluate", "--bench", "small", "--images", "5", "--dry-run"]) == 1
    assert "evaluate: " in capsys.readouterr().out
    assert sorted(lab.root.rglob("*")) == before
