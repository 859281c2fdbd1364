"""`labctl train`: a recipe into a model bundle, with a progress bar; go on with one that was cut off."""

from __future__ import annotations

import json as json_module
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from labctl.learning.recipe import Recipe
    from labctl.learning.train import TrainProgress
    from labctl.runs.training import TrainingRun


def default_out(recipe: Path, data_dir: Path | None = None) -> Path:
    """models/NAME of the workspace, NAME as the recipe says."""
    from labctl.learning.recipe import load_recipe
    from labctl.workspace import find

    return Path(find().models) / load_recipe(recipe, data_dir).name


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (TOML), or a bundle folder whose recipe to train again.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the new bundle; default: models/NAME.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data set; default: see `labctl data list`.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Train the students with this seed only, not the recipe's.")] = None,
    arms: Annotated[
        bool,
        typer.Option("--arms", help="Train every arm and variant of the recipe, not only the student of the bundle."),
    ] = False,
    compile_step: Annotated[
        bool, typer.Option("--compile", help="Compile the training step: faster; needs a C++ compiler.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1 (the second GPU) or mps; auto takes a GPU where there is one.")
    ] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Train on so many GPUs from --device on, or in so many processes on the CPU.")
    ] = 1,
    no_run: Annotated[bool, typer.Option("--no-run", help="Record no run in runs/ of the workspace.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="No bar; the metrics as JSON on standard output.")] = False,
) -> None:
    """Train a recipe into a model bundle.

    Ctrl-C stops it; the same command goes on from the last whole epoch. The controls (labels alone, random masks, no
    optical layer, ...) are trained with --arms, and stand in metrics.json beside the student.
    """
    from labctl.errors import Aborted
    from labctl.learning.recipe import Recipe, load_recipe
    from labctl.learning.train import train as run

    target = out if out is not None else default_out(recipe, data_dir)
    what: Recipe | Path = recipe
    asked = load_recipe(recipe, data_dir)
    if seed is not None:
        values = asked.model_dump(exclude_none=True)
        values["student"]["seeds"] = (seed,)
        what = asked = Recipe.model_validate(values)
    options = {
        "arms": arms, "compiled": compile_step, "device": device, "devices": devices, "data_dir": data_dir,
        "overwrite": force,
    }  # fmt: skip
    folder: Path | None = None
    try:
        with ExitStack() as stack:
            # the bar goes up last and down first, so that a run's end is recorded whatever the terminal does
            record = None if no_run else stack.enter_context(_recorded(recipe, asked, target, options))
            folder = record.path if record is not None else None
            update = None if json else stack.enter_context(_Bar())
            bundle = run(what, target, progress=update, watch=record, **options)  # type: ignore[arg-type]
            if record is not None:
                record.finish(bundle)
    except KeyboardInterrupt as error:
        raise Aborted("the same command goes on from the last whole epoch") from error
    if json:
        metrics = bundle.metrics.model_dump(mode="json")
        answer = {"path": str(bundle.path), "sha256": bundle.sha256, "run": str(folder or ""), "metrics": metrics}
        typer.echo(json_module.dumps(answer))
        return
    chosen = bundle.metrics.chosen().test
    low, high = chosen.interval95
    typer.echo(
        f"{bundle.path}: {chosen.measure} {100 * chosen.accuracy:.2f} % on {chosen.n} test images "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    )
    typer.echo(f"run      {folder}" if folder is not None else "run      none recorded (--no-run)")


def _recorded(path: Path, recipe: Recipe, out: Path, options: Mapping[str, Any]) -> TrainingRun:
    """A run in runs/ of the workspace, with the recipe as it is trained."""
    from labctl.errors import ModelError
    from labctl.learning.recipe import parse_recipe, recipe_text
    from labctl.learning.train import as_toml
    from labctl.runs.training import TrainingRun
    from labctl.workspace import find

    if out.exists() and not options["overwrite"]:  # no run for what will be refused
        raise ModelError(f"{out}: exists already; choose another place, or say to overwrite it")
    text = recipe_text(path)
    return TrainingRun(
        find().runs,
        recipe_text=text if parse_recipe(text, path=path) == recipe else as_toml(recipe),
        recipe_sha256=recipe.sha256,
        name=recipe.name,
        out=out,
        seeds={"data": recipe.data.seed, "teacher": recipe.teacher.seed, "students": recipe.student.seeds},
        options=options,
    )


class _Bar:
    """A rich progress bar on standard error, with the time left as the training itself reckons it."""

    def __enter__(self) -> Callable[[TrainProgress], None]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._bar.start()
        task = self._bar.add_task("reading data", total=1.0, note="")

        def update(at: TrainProgress) -> None:
            left = "" if at.eta_s is None else f"  {_duration(at.eta_s)} left"
            accuracy = "" if at.validation is None else f"  held back {100 * at.validation:.1f} %"
            self._bar.update(
                task,
                completed=at.fraction,
                description=f"{at.stage} ({at.stage_index + 1} of {at.stages}), epoch {at.epoch} of {at.epochs}",
                note=f"loss {at.loss:.3f}{accuracy}{left}",
            )

        return update

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
