"""Where things are, and a new workspace that is made whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labctl import workspace as module
from labctl.errors import ConfigError, LabctlError
from labctl.workspace import Workspace, find, init


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_init_makes_what_the_design_says(tmp_path: Path) -> None:
    made = init(tmp_path / "lab")
    assert {path.name for path in made.root.iterdir()} == {"configs", "models", "calibration", "runs"}
    assert "sim-4f" in made.bench_names()
    assert made.root.is_absolute()


def test_init_leaves_what_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    mine = tmp_path / "configs" / "mine.toml"
    mine.write_text("mine", encoding="utf-8")
    assert "sim-4f" in init(tmp_path).bench_names()
    assert mine.read_text(encoding="utf-8") == "mine"


def test_init_overwrites_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    theirs = tmp_path / "configs" / "benches" / "sim-4f.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs", encoding="utf-8")
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"sim-4f\.toml.* would be overwritten"):
        init(tmp_path)
    assert files(tmp_path) == before
    assert theirs.read_text(encoding="utf-8") == "theirs"


def test_a_file_is_no_place_for_a_workspace(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        init(target)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("breaks", ["copyfile", "rename"])
def test_an_init_that_is_cut_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, breaks: str
) -> None:
    last = len(module._files(module.example()))
    real = shutil.copyfile if breaks == "copyfile" else Path.rename
    calls = 0

    def cut_off(source: Path, target: Path) -> object:
        nonlocal calls
        calls += 1
        if calls == last:
            if breaks == "copyfile":
                target.write_bytes(b"half")
            raise error
        return real(source, target)

    monkeypatch.setattr(shutil if breaks == "copyfile" else Path, breaks, cut_off)
    with pytest.raises((LabctlError, KeyboardInterrupt)):
        init(tmp_path / "new" / "lab")
    assert not (tmp_path / "new").exists()


def test_a_workspace_is_found_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = init(tmp_path / "lab")
    below = made.configs / "deep" / "deeper"
    below.mkdir(parents=True)
    assert find(below) == made
    monkeypatch.delenv(module.ENVIRONMENT)
    monkeypatch.chdir(below)
    assert find() == made


def test_what_the_variable_names_comes_before_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    monkeypatch.chdir(init(tmp_path / "other").root)
    assert find() == workspace


def test_a_variable_that_names_no_workspace_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(module.ENVIRONMENT, str(tmp_path))
    with pytest.raises(ConfigError, match=r"LABCTL_WORKSPACE names .*labctl init"):
        find()


def test_a_folder_in_no_workspace_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is in no workspace"):
        find(tmp_path)


def test_outside_of_any_workspace_the_users_own_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.platformdirs, "user_data_path", lambda *_, **__: tmp_path / "data")
    made = find()
    assert made.root == tmp_path / "data" / "workspace"
    (made.benches / "mine.toml").write_text("", encoding="utf-8")
    assert "mine" in find().bench_names()


def test_neither_hidden_files_nor_caches_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    (source / "configs" / "benches").mkdir(parents=True)
    (source / "configs" / "benches" / "a.toml").write_text("a", encoding="utf-8")
    (source / "configs" / ".hidden").write_text("", encoding="utf-8")
    (source / "models" / ".m.training").mkdir(parents=True)
    (source / "models" / ".m.training" / "half").write_text("", encoding="utf-8")
    monkeypatch.setattr(module, "example", lambda: source)
    made = init(tmp_path / "lab")
    assert {path.name for path in made.root.rglob("*") if path.is_file()} == {"a.toml"}
