"""`labctl train`, `models` and `data`, through their own small app."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from labctl.cli import data, models
from labctl.cli import train as train_module
from labctl.errors import Aborted, DataError, ModelError, RunError
from labctl.learning.recipe import parse_recipe
from labctl.runs.again import may_resume
from labctl.runs.catalogue import list_runs
from labctl.runs.recorded import open_run
from labctl.runs.report import write_report
from labctl.runs.verify import verify_run
from labctl.workspace import Workspace

MODELS = Path(__file__).parents[2] / "models"
app = typer.Typer()
app.command("train")(train_module.train)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
run = CliRunner()


def test_train_writes_a_bundle_and_shows_a_bar(
    tmp_path: Path, tiny_recipe: Path, tiny_data: Path, workspace: Workspace
) -> None:
    args = ["train", str(tiny_recipe), "--out", str(tmp_path / "b"), "--data-dir", str(tiny_data), "--seed", "1"]
    result = run.invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "% on 60 test images" in result.output
    assert isinstance(run.invoke(app, args).exception, ModelError)
    again = run.invoke(app, [*args, "--force", "--json"])
    answer = json.loads(again.stdout)
    assert [r["seed"] for r in answer["metrics"]["arms"]["distilled"]["runs"]] == [1]


def test_a_training_is_a_run_and_one_that_goes_on_says_from_which(
    tmp_path: Path, tiny_recipe: Path, tiny_data: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    args = ["train", str(tiny_recipe), "--out", str(tmp_path / "b"), "--data-dir", str(tiny_data), "--seed", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("labctl.learning.train._train_student", interrupt)
        result = run.invoke(app, args)
    assert isinstance(result.exception, Aborted) and not (tmp_path / "b").exists()
    (cut,) = list_runs(workspace.runs)
    assert (cut.procedure, cut.outcome, cut.frames, cut.models) == ("train", "aborted", 0, ("tiny",))
    page = write_report(cut.path).read_text(encoding="utf-8")
    assert "Not finished: 1 networks were trained, the last of them teacher" in page and 'class="plot"' in page
    with pytest.raises(RunError, match="is a training: the command that began it"):
        may_resume(open_run(cut.path))

    done = json.loads(run.invoke(app, [*args, "--json"]).stdout)
    recorded = open_run(Path(done["run"]))
    intent = recorded.intent
    assert intent["provenance"]["continues"] == cut.id
    assert parse_recipe(intent["provenance"]["training"]).student.seeds == (0,), "the recipe as it was trained"
    assert intent["provenance"]["recipe_sha256"] == done["metrics"]["recipe_sha256"]
    assert intent["provenance"]["seeds"] == {"data": 0, "teacher": 0, "students": [0]}
    data = next(event for event in recorded.events if event["kind"] == "data")
    assert data["sha256"] == done["metrics"]["data"]["train_sha256"] and data["validation"] == 40
    with (recorded.path / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["epoch"], row["restored"]) for row in rows] == [
        ("teacher", "1", "True"), ("teacher", "2", "True"),
        *(("distilled seed 0", str(epoch), "False") for epoch in (1, 2, 3)),
    ]  # fmt: skip
    assert recorded.result["metrics"] == done["metrics"] and recorded.outcome == "done"
    page = write_report(recorded.path).read_text(encoding="utf-8")
    assert "Training of b" in page and "test score, %" in page and "on 60 test images of fashion-mnist" in page
    assert verify_run(recorded.path).whole
    (recorded.path / "curves.csv").write_text("", encoding="utf-8")
    assert not verify_run(recorded.path).whole, "the curves are among the files that a run is sealed with"
    assert isinstance(run.invoke(app, args).exception, ModelError), "the bundle is there"
    assert len(list_runs(workspace.runs)) == 2, "what is refused leaves no run"
    assert "none recorded" in run.invoke(app, [*args, "--force", "--no-run"]).stdout
    assert len(list_runs(workspace.runs)) == 2


def test_a_training_that_fails_or_dies_is_a_run_without_a_result(
    tmp_path: Path, tiny_recipe: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", str(tiny_recipe), "--out", str(tmp_path / "b"), "--data-dir", str(tmp_path / "nowhere")]
    assert isinstance(run.invoke(app, args).exception, DataError)
    (failed,) = list_runs(workspace.runs)
    assert failed.outcome == "failed" and "nowhere" in failed.message

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    monkeypatch.setattr("labctl.learning.train.splits_of", die)
    with pytest.raises(Died):
        run.invoke(app, args)
    assert [at.outcome for at in list_runs(workspace.runs)] in (["cut off", "failed"], ["failed", "cut off"])


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
