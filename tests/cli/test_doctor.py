"""doctor: what is missing, and the line that installs it."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from labctl.cli import checks
from labctl.cli.checks import Check, Need
from labctl.cli.main import run
from labctl.workspace import Workspace

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux machines may lack these")


@pytest.fixture
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("imports", "qt"):
        monkeypatch.setattr(checks, name, list)


@pytest.mark.slow
def test_this_machine_is_fit(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--json"])
    shown = json.loads(capsys.readouterr().out)
    wrong = [check for part in shown["checks"].values() for check in part if not check["good"]]
    required = [check for check in wrong if check["need"] == "required"]
    assert not required
    assert code == 0
    assert shown["fit"] is True


@pytest.mark.usefixtures("nothing_slow")
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "requirements", lambda: ["rich>=14", "no-such-package>=2,<3", "x>=1; extra == 'dev'"])
    assert run(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "no-such-package" in shown.err
    assert f'"{sys.executable}" -m pip install' in shown.err
    assert '"no-such-package<3,>=2"' in shown.err
    assert "extra" not in shown.out


@pytest.mark.parametrize(
    ("version", "good"), [("6.8.3", True), ("6.9.1", False), ("6.11.1", False), ("6.11.3", True), ("6.12.0", False)]
)
def test_the_bad_versions_of_pyside_are_known(version: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: version if name.lower() == "pyside6-essentials" else real(name)
    )
    (check,) = (check for check in checks.dependencies() if check.name.lower() == "pyside6-essentials")
    assert check.good is good
    assert bool(check.fix) is not good


@LINUX
@pytest.mark.usefixtures("nothing_slow")
def test_missing_libraries_are_one_line_to_install(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "_loads", lambda name: name not in {"libGL.so.1", "libEGL.so.1"})
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    monkeypatch.setattr(checks, "_is_root", lambda: False)
    assert run(["doctor", "--libraries"]) == 1
    assert "sudo apt-get install libgl1 libegl1\n" in capsys.readouterr().err


@LINUX
def test_libraries_for_windows_on_x_are_required_only_where_there_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_loads", lambda name: name not in checks.WINDOWS_ON_X)
    for screen, need in ((":0", Need.REQUIRED), ("", Need.OPTIONAL)):
        monkeypatch.setenv("DISPLAY", screen)
        wrong = {check.need for check in checks.libraries() if not check.good}
        assert wrong == {need}


def test_a_broken_import_is_told_in_its_last_words() -> None:
    assert checks._try_python("import sys; sys.stderr.write('a\\nlast words\\n'); sys.exit(3)") == (False, "last words")
    assert checks._try_python("import os; os._exit(7)") == (False, "ended with code 7")
    assert checks._try_python("import sys; sys.stdout.write('fine')") == (True, "fine")


def test_little_space_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.disk(tmp_path / "not" / "yet").name == "disk space"
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6})())
    assert checks.disk(tmp_path) == Check(
        "disk space", False, f"0.0 GiB free for runs in {tmp_path}", "free 2 GiB or more"
    )


@pytest.mark.usefixtures("nothing_slow")
def test_a_workspace_that_is_none_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 1
    assert "LABCTL_WORKSPACE names" in capsys.readouterr().out
