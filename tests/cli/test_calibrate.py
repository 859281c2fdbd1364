"""`labctl calibrate`: what is measured and why, status, check, history, comparison, and putting records back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest

from labctl.bench.records import load_records
from labctl.cli.main import run
from labctl.runs.catalogue import list_runs
from labctl.workspace import Workspace

BENCH = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [320, 320], pitch_um = 8.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [112, 112], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [448, 448], pitch_um = 8.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "typical"
seed = 3
"""
Told = pytest.CaptureFixture[str]


@pytest.fixture
def lab(workspace: Workspace) -> Workspace:
    (workspace.benches / "small.toml").write_text(BENCH, encoding="utf-8")
    return workspace


def change(lab: Workspace, old: str, new: str) -> None:
    path = lab.benches / "small.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def told(capsys: Told, *line: str, code: int = 0) -> Any:
    """What a command says as JSON."""
    assert run(["calibrate", "small", *line, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def state(capsys: Told, kind: str) -> tuple[str, str]:
    (row,) = (row for row in told(capsys, "--status")["records"] if row["kind"] == kind)
    return row["state"], row["why"]


def test_status_says_what_holds_and_why_not_and_opens_nothing(lab: Workspace, capsys: Told) -> None:
    assert state(capsys, "dark") == ("missing", "never measured")
    (row,) = (row for row in told(capsys, "--only", "dark")["records"] if row["kind"] == "dark")
    assert (row["done"], row["state"]) == ("measured", "good")
    assert state(capsys, "dark") == ("good", "")
    runs = len(list_runs(lab.runs))
    assert run(["calibrate", "small", "--status"]) == 0
    said = capsys.readouterr().out
    assert "registration" in said
    assert "never measured" in said
    change(lab, "settle_ms = 150", "settle_ms = 200")
    assert state(capsys, "dark") == ("good", "")
    change(lab, "pitch_um = 8.0 }\nexposure_ms", "pitch_um = 7.0 }\nexposure_ms")
    assert state(capsys, "dark") == ("stale", "[camera] of the bench file has changed")
    assert len(list_runs(lab.runs)) == runs
    file = lab.calibration / "small" / "dark.h5"
    with h5py.File(file, "r+") as opened:
        opened["values/read_noise"][()] = 0.0
    found, why = state(capsys, "dark")
    assert found == "refused"
    assert "dark.h5 was edited or damaged" in why


def test_history_is_kept_compared_and_put_back(lab: Workspace, capsys: Told) -> None:
    for _ in range(2):
        assert run(["calibrate", "small", "--only", "dark"]) == 0
    said = capsys.readouterr().out
    assert "dark: asked for (missing: never measured)\n" in said
    assert "dark: asked for\n" in said
    place = lab.calibration / "small"
    second = load_records(place)["dark"]
    listed = told(capsys, "--history", "dark")["records"]
    assert [row["in_force"] for row in listed] == [True, False]
    found = told(capsys, "--compare", "dark~1", "dark")
    by_name = {row["name"]: row for row in found["values"]}
    assert found["other"]["digest"] == second.digest
    noise = by_name["read_noise"]
    assert noise["unit"] == "counts"
    assert noise["largest"] == pytest.approx(abs(noise["one"] - noise["other"]))
    assert noise["sigmas"] < 6
    assert by_name["offset"]["sigmas"] is None  # no uncertainty is known of it
    assert run(["calibrate", "small", "--compare", "dark", listed[1]["file"]]) == 0
    assert "read_noise" in capsys.readouterr().out
    assert run(["calibrate", "small", "--restore", "dark~1"]) == 0
    capsys.readouterr()
    back = load_records(place)["dark"]
    assert (back.digest, back.run) == (found["one"]["digest"], found["one"]["run"])
    rows = told(capsys, "--history", "dark")["records"]
    assert rows[1]["run"] == second.run, rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--only", "drak"], "no calibration is called 'drak': there are dark"),
        (["--check", "--status"], "--check and --status are two commands: choose one"),
        (["--check", "--all"], "--check and --all are two commands: choose one"),
        (["--history", "dark"], "has no record of 'dark'"),
        (["--restore", "dark~1"], "has 0 earlier records of 'dark': there is no dark~1"),
        (["--compare", "dark", "gain"], "no record is called 'dark'"),
        (["--check"], "no 'registration' calibration: run `labctl calibrate small`"),
    ],
)
def test_a_mistake_is_one_line(lab: Workspace, capsys: Told, line: list[str], said: str) -> None:
    assert run(["calibrate", "small", *line]) == 1
    heard = capsys.readouterr().err
    assert said in heard
    assert len([text for text in heard.splitlines() if text.startswith("labctl: ")]) == 1


def test_a_dry_run_says_why_and_how_much(lab: Workspace, capsys: Told) -> None:
    before = sorted(lab.root.rglob("*"))
    assert run(["calibrate", "small", "--only", "dark", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "dark: asked for (missing: never measured)" in said
    assert "12" in said
    assert sorted(lab.root.rglob("*")) == before


def test_what_is_refused_is_said_and_the_rest_is_kept(lab: Workspace, capsys: Told) -> None:
    """Hardly any light: there is a dark frame, and no registration, without which a bench shows no model."""
    change(lab, "seed = 3", "seed = 3\neffects = { flux_e_per_s = 1.0 }")
    found = told(capsys, "--only", "dark", "--only", "fourier-centre", code=1)
    done = {row["kind"]: row["done"] for row in found["records"]}
    assert (done["dark"], done["registration"], done["fourier-centre"]) == ("measured", "refused", "refused")
    why = {row["kind"]: row["why"] for row in found["records"]}
    assert "too little light" in why["registration"]
    assert "needs 'registration', which was refused" in why["fourier-centre"]
    assert list(load_records(lab.calibration / "small")) == ["dark"]
    assert "too little light" in found["problem"]


def test_calibrate_then_check_then_move_the_camera(lab: Workspace, capsys: Told) -> None:
    """The whole way, as one types it: the second time there is nothing to do, and the check's exit code tells."""
    kinds = [part for kind in ("dark", "gain", "reference") for part in ("--only", kind)]
    assert run(["calibrate", "small", *kinds]) == 0
    capsys.readouterr()
    assert run(["calibrate", "small", "--check"]) == 0
    said = capsys.readouterr().out
    assert "the bench is what its records say" in said
    place = lab.calibration / "small"
    assert {path.stem for path in place.glob("*.h5")} == {"dark", "gain", "registration", "fourier-centre", "reference"}
    change(lab, "seed = 3", "seed = 3\neffects = { camera_shift_px = 16 }")
    assert state(capsys, "registration") == ("stale", "[simulation] of the bench file has changed")
    found = told(capsys, "--check", code=1)
    assert found["redo"] == ["registration"]
    assert run(["calibrate", "small", "--check"]) == 1
    assert "labctl calibrate small --only registration" in " ".join(capsys.readouterr().out.split())


def test_records_can_be_read_with_nothing_but_h5py(lab: Workspace, capsys: Told) -> None:
    """As calibration/README.md says."""
    told(capsys, "--only", "dark")
    text = (Path(__file__).resolve().parents[2] / "calibration" / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    lines: list[tuple[Any, ...]] = []
    exec(  # noqa: S102 - the page's own example
        code.replace("calibration/my-bench/registration.h5", (lab.calibration / "small" / "dark.h5").as_posix()),
        {"print": lambda *said: lines.append(said)},
    )
    assert any(said[0] == "offset" and said[-1] == "counts" for said in lines)
    assert any(isinstance(said[0], dict) and said[0].get("kind") == "dark" for said in lines)
