"""The command line's frame: every end has its exit code and its one line."""

from __future__ import annotations

import errno
import importlib
import json
from pathlib import Path

import pytest
import typer

from labctl import __version__
from labctl.cli import main
from labctl.cli.lazy import Lazy
from labctl.errors import Aborted, DeviceError, LabctlError
from labctl.workspace import Workspace


def put_command(monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    """Let `labctl data` be this function."""
    monkeypatch.setattr("labctl.cli.data.app", function)


def raising(error: BaseException) -> object:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LabctlError("the bench is on fire"), 1, "labctl: the bench is on fire\n"),
        (DeviceError("camera: no answer", device="camera"), 1, "labctl: camera: no answer\n"),
        (Aborted("after 12 frames"), 130, "labctl: stopped; after 12 frames\n"),
        (KeyboardInterrupt(), 130, "labctl: stopped\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/1/frames.h5"), 1, "labctl: the disk is full (runs/1/frames.h5): see to it and start again\n"),
        (typer.Exit(3), 3, ""),
    ],
)  # fmt: skip
def test_every_end_has_its_exit_code_and_one_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_command(monkeypatch, raising(error))
    assert main.run(["data"]) == code
    assert capsys.readouterr().err == said


def test_a_defect_leaves_a_log_to_send_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    put_command(monkeypatch, raising(ValueError("two\nlines")))
    monkeypatch.setattr("platformdirs.user_log_path", lambda *_, **__: tmp_path / "log")
    assert main.run(["data"]) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    (log,) = (tmp_path / "log").iterdir()
    assert str(log) in said
    assert "Traceback" not in said
    text = log.read_text(encoding="utf-8")
    assert "ValueError: two" in text
    assert "command: labctl data" in text


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    put_command(monkeypatch, raising(LabctlError("broken")))
    assert main.run(["--debug", "data"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["nonsense"], ["demo", "--images", "0"], ["demo", "--imges", "3"], ["init"]])
def test_a_command_line_that_makes_no_sense_is_one_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(line) == 2
    said = capsys.readouterr().err
    assert said.startswith("labctl: ")
    assert said.count("\n") == 1


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("demo", "init", "doctor", "gui", "bench", "runs", "models", "data", "train", "calibrate", "deploy", "evaluate", "run"):  # fmt: skip
        assert f" {name} " in shown
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"labctl {__version__}\n"


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_every_command_of_the_overview_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([name, "--help"]) == 0
    assert "Usage: labctl " + name in capsys.readouterr().out


def test_a_command_that_is_missing_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main.Commands, "lazy", {"data": Lazy("labctl.cli.nowhere:app", "")})
    assert main.run(["data"]) == 1
    assert "lacks the command 'data'" in capsys.readouterr().err


def test_a_returned_number_is_no_exit_code_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    put_command(monkeypatch, lambda: None)
    assert main.run(["data"]) == 0


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ([], []),
        (["gui"], []),
        (["gui", "--bench", "b", "--quit-after", "1"], ["--bench", "b", "--quit-after", "1"]),
        (["demo", "--gui"], ["--demo", "--bench", "sim-4f", "--model", "fashion-mnist-sclc", "--images", "500"]),
    ],
)
def test_the_window_opens_with_the_options_that_were_given(
    line: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def window(given: list[str]) -> int:
        asked.append(given)
        return 4

    monkeypatch.setattr(importlib.import_module("labctl.gui.app"), "main", window)
    assert main.run(line) == 4
    assert asked == [options]


def test_init_makes_a_workspace_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init", str(tmp_path / "lab")]) == 0
    assert "labctl demo" in capsys.readouterr().out
    assert main.run(["init", str(tmp_path / "lab")]) == 1
    assert "would be overwritten" in capsys.readouterr().err


def test_bench_list_shows_the_good_and_the_damaged(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.benches / "broken.toml").write_text("[bench", encoding="utf-8")
    assert main.run(["bench", "list"]) == 0
    shown = capsys.readouterr().out
    assert "sim-4f  simulated" in shown
    assert "broken  DAMAGED" in shown
    assert main.run(["bench", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["sim-4f"]["kind"] == "simulated"
    assert "problem" in rows["broken"]


def test_bench_check_fails_for_a_damaged_file(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.benches / "sim-4f.toml"
    assert main.run(["bench", "check", "sim-4f", "--file-only"]) == 0
    assert "is fine" in capsys.readouterr().out
    path.write_text(path.read_text(encoding="utf-8").replace("settle_ms", "setle_ms"), encoding="utf-8")
    assert main.run(["bench", "check", "sim-4f", "--file-only"]) == 1
    assert "did you mean settle_ms?" in capsys.readouterr().err


def test_bench_check_notes_a_name_that_differs_from_the_files(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.benches / "sim-4f.toml").rename(workspace.benches / "copy.toml")
    assert main.run(["bench", "check", "copy", "--json", "--file-only"]) == 0
    assert "calibrations are kept under sim-4f" in json.loads(capsys.readouterr().out)["notes"][0]


def test_bench_show_says_what_load_reads(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    from labctl.config import load_bench, parse_bench

    assert main.run(["bench", "show", "sim-4f"]) == 0
    assert parse_bench(capsys.readouterr().out).digest() == load_bench("sim-4f").digest()
