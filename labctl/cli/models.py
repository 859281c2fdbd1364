"""`labctl models`: the bundles of the workspace, and what is in one."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labctl.cli.models_cost import cost
from labctl.cli.models_export import export
from labctl.cli.models_import import import_model

if TYPE_CHECKING:
    from labctl.learning.bundle import Bundle

app = typer.Typer(help="Trained networks: list them, look into one, import and export.", no_args_is_help=True)
app.command("cost")(cost)
app.command("import")(import_model)
app.command("export")(export)

ModelsDir = Annotated[Path | None, typer.Option(help="Folder of the bundles; default: models/ of the workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


def _models_dir(models_dir: Path | None) -> Path:
    if models_dir is not None:
        return models_dir
    from labctl.workspace import find

    return Path(find().models)


def _facts(bundle: Bundle) -> dict[str, Any]:
    """What one line about a bundle says."""
    measured, student = bundle.metrics.measured, bundle.recipe.student
    chosen = bundle.metrics.chosen().test if measured else None
    teacher = bundle.metrics.arms.get("teacher")
    return {
        "name": bundle.name,
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "data": bundle.metrics.data.name,
        "detection": bundle.metrics.detection,
        "maps": student.maps,
        "kernel": bundle.student.front.kernel,
        "accuracy": chosen.accuracy if chosen else None,
        "interval95": list(chosen.interval95) if chosen else None,
        "n": chosen.n if chosen else 0,
        "teacher_accuracy": teacher.runs[0].test.accuracy if teacher else None,
        "imported": bundle.recipe.imported.file if bundle.recipe.imported else None,
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
        typer.echo(
            f"{row['name']}  {row['data'] or 'no image set'}, "
            f"{row['maps']} signed {row['kernel']}x{row['kernel']} maps, "
            f"{row['detection']}: {_figures(row)}"
        )


def _figures(row: dict[str, Any]) -> str:
    """Accuracy, interval and where the weights come from."""
    said = "accuracy not measured"
    if row["accuracy"] is not None:
        low, high = (100 * bound for bound in row["interval95"])
        said = f"{100 * row['accuracy']:.2f} % ({low:.1f} to {high:.1f})"
    if row["teacher_accuracy"] is not None:
        return f"{said}, teacher {100 * row['teacher_accuracy']:.2f} %"
    return f"{said}, imported from {row['imported']}" if row["imported"] else said


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    models_dir: ModelsDir = None,
    bench: Annotated[str, typer.Option(help="Say also whether it fits this bench, by name or file.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before opening real devices.")] = False,
    json: AsJson = False,
) -> None:
    """Show a bundle's card and what it asks of a bench, or all its metrics with --json."""
    from labctl.cli.models_fit import facts_of_bench, fit_lines, fit_of
    from labctl.learning.bundle import find_bundle, load_bundle
    from labctl.learning.fits import requirements

    bundle = load_bundle(find_bundle(name, Path(name) if Path(name).is_dir() else _models_dir(models_dir)))
    fit = fit_of(bundle, facts_of_bench(bench, yes=yes)) if bench else None
    if json:
        facts = _facts(bundle) | {"metrics": bundle.metrics.model_dump(mode="json")}
        facts |= {"needs": requirements(bundle).lines()} | ({"fit": fit} if fit else {})
        typer.echo(json_module.dumps(facts))
        return
    card = bundle.path / "README.md"
    if card.is_file():
        typer.echo(card.read_text(encoding="utf-8"))
    for number, line in enumerate(requirements(bundle).lines()):
        typer.echo(f"{'' if number else 'needs':8}{line}")
    for number, line in enumerate(fit_lines(fit) if fit else []):
        typer.echo(f"{'' if number else 'bench':8}{line}")
    typer.echo(f"folder  {bundle.path}\nsha256  {bundle.sha256}")
