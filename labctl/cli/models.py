"""`labctl models`: the bundles of the workspace, and what is in one."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labctl.cli.models_cost import cost

if TYPE_CHECKING:
    from labctl.learning.bundle import Bundle

app = typer.Typer(help="Trained networks: list them, look into one.", no_args_is_help=True)
app.command("cost")(cost)

ModelsDir = Annotated[Path | None, typer.Option(help="Folder of the bundles; default: models/ of the workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


def _models_dir(models_dir: Path | None) -> Path:
    if models_dir is not None:
        return models_dir
    from labctl.workspace import find

    return Path(find().models)


def _facts(bundle: Bundle) -> dict[str, Any]:
    """What one line about a bundle says."""
    chosen, student = bundle.metrics.chosen().test, bundle.recipe.student
    return {
        "name": bundle.name,
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "data": bundle.metrics.data.name,
        "detection": bundle.metrics.detection,
        "maps": student.maps,
        "kernel": bundle.student.front.kernel,
        "accuracy": chosen.accuracy,
        "interval95": list(chosen.interval95),
        "n": chosen.n,
        "teacher_accuracy": bundle.metrics.arms["teacher"].runs[0].test.accuracy,
        "macs": bundle.metrics.macs,
    }


@app.command("list")
def list_models(models_dir: ModelsDir = None, json: AsJson = False) -> None:
    """Show every bundle with its accuracy and size; a damaged one is shown as such."""
    from labctl.errors import ModelError
    from labctl.learning.bundle import list_bundles, load_bundle

    folder = _models_dir(models_dir)
    rows: list[dict[str, Any]] = []
    for path in list_bundles(folder):
        try:
            rows.append(_facts(load_bundle(path)))
        except ModelError as error:
            rows.append({"name": path.name, "path": str(path), "problem": str(error)})
    if json:
        typer.echo(json_module.dumps(rows))
        return
    if not rows:
        typer.echo(f"no models in {folder}; `labctl train RECIPE` makes one")
    for row in rows:
        if "problem" in row:
            typer.echo(f"{row['name']}  DAMAGED: {row['problem']}")
            continue
        low, high = (100 * bound for bound in row["interval95"])
        typer.echo(
            f"{row['name']}  {row['data']}, {row['maps']} signed {row['kernel']}x{row['kernel']} maps, "
            f"{row['detection']}: {100 * row['accuracy']:.2f} % ({low:.1f} to {high:.1f}), "
            f"teacher {100 * row['teacher_accuracy']:.2f} %"
        )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    models_dir: ModelsDir = None,
    json: AsJson = False,
) -> None:
    """Show a bundle's card, or all its metrics with --json."""
    from labctl.learning.bundle import find_bundle, load_bundle

    bundle = load_bundle(find_bundle(name, Path(name) if Path(name).is_dir() else _models_dir(models_dir)))
    if json:
        facts = _facts(bundle) | {"metrics": bundle.metrics.model_dump(mode="json")}
        typer.echo(json_module.dumps(facts))
        return
    card = bundle.path / "README.md"
    if card.is_file():
        typer.echo(card.read_text(encoding="utf-8"))
    typer.echo(f"folder  {bundle.path}\nsha256  {bundle.sha256}")
