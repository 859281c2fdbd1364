"""`labctl train`, `models` and `data`, through their own small app."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from labctl.cli import data, models
from labctl.cli import train as train_module
from labctl.errors import Aborted, ModelError

MODELS = Path(__file__).parents[2] / "models"
app = typer.Typer()
app.command("train")(train_module.train)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
run = CliRunner()


def test_train_writes_a_bundle_and_shows_a_bar(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    args = ["train", str(tiny_recipe), "--out", str(tmp_path / "b"), "--data-dir", str(tiny_data), "--seed", "1"]
    result = run.invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "% on 60 test images" in result.output
    assert isinstance(run.invoke(app, args).exception, ModelError)
    again = run.invoke(app, [*args, "--force", "--json"])
    answer = json.loads(again.stdout)
    assert [r["seed"] for r in answer["metrics"]["arms"]["distilled"]["runs"]] == [1]


def test_ctrl_c_is_aborted_and_leaves_no_bundle(
    tmp_path: Path, tiny_recipe: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("labctl.learning.train._train_student", interrupt)
    args = ["train", str(tiny_recipe), "--out", str(tmp_path / "b"), "--data-dir", str(tiny_data)]
    result = run.invoke(app, args)
    assert isinstance(result.exception, Aborted) and not (tmp_path / "b").exists()


def test_models_list_and_show() -> None:
    listed = run.invoke(app, ["models", "list", "--models-dir", str(MODELS), "--json"])
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert rows["fashion-mnist-sclc"]["maps"] == 8
    assert "fashion-mnist-sclc" in run.invoke(app, ["models", "list", "--models-dir", str(MODELS)]).stdout
    shown = run.invoke(app, ["models", "show", "fashion-mnist-sclc", "--models-dir", str(MODELS)])
    assert "Intended bench" in shown.stdout and "sha256" in shown.stdout
    assert isinstance(run.invoke(app, ["models", "show", "nope", "--models-dir", str(MODELS)]).exception, ModelError)


def test_a_damaged_bundle_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.toml").write_text('name = "broken"', encoding="utf-8")
    result = run.invoke(app, ["models", "list", "--models-dir", str(tmp_path)])
    assert result.exit_code == 0 and "broken  DAMAGED" in result.stdout


def test_data_list_shows_what_is_there_and_how_to_get_the_rest(tiny_data: Path) -> None:
    result = run.invoke(app, ["data", "list", "--data-dir", str(tiny_data.parent)])
    assert "fashion-mnist  full set, 200 train, 60 test" in result.stdout
    assert "cifar10  not found; to get it" in result.stdout
    found = json.loads(run.invoke(app, ["data", "list", "--data-dir", str(tiny_data.parent), "--json"]).stdout)["found"]
    assert [place["name"] for place in found] == ["fashion-mnist"]
    assert "zalandoresearch" in run.invoke(app, ["data", "fetch-hint", "fashion-mnist"]).stdout


def test_torch_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, labctl.cli.train, labctl.cli.models, labctl.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
