"""`labctl run`: experiment files, one or a queue of them."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from labctl.cli.console import console, duration, output
from labctl.cli.session import opened_as, watched

if TYPE_CHECKING:
    from labctl.bench.bench import Bench
    from labctl.runs.engine import Engine
    from labctl.runs.experiments import Made, Result
    from labctl.workspace import Workspace

FAILED, STOPPED = 1, 130
COLOURS = {"done": "green", "failed": "red", "aborted": "yellow", "not run": "dim"}


def run(
    experiments: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT...", help="Experiment files, by name or path, in this order.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; use no device.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before using real devices.")] = False,
    json: Annotated[bool, typer.Option("--json", help="No bars; what happened as JSON on standard output.")] = False,
) -> None:
    """Run experiments one after another. All are checked before the first exposure; one that fails later does not keep
    the next from running, and the exit code is 0 only if everything was done. Ctrl-C ends the queue.
    """
    with console.status("checking") as status:
        from labctl.config.experiment import load_experiment
        from labctl.runs.experiments import Kitchen, check, run_queue
        from labctl.workspace import find

        workspace = find()
        configs = [load_experiment(name, workspace) for name in experiments]
        kitchen = Kitchen(workspace)
        checked = [check(config, workspace, kitchen, tell=status.update) for config in configs]
    if dry_run:
        from labctl.cli.dry import say_experiments

        say_experiments(checked, workspace, kitchen, yes=yes, as_json=json)
        return
    real = sorted({experiment.bench.bench.name for experiment in checked if experiment.bench.real})
    if real and not yes:
        typer.confirm(f"real devices of {', '.join(real)} will be used, and lasers switched on. Go on?", abort=True)
    results = run_queue(
        checked, workspace, kitchen,
        open_bench=lambda config: opened_as(config, workspace, yes=True),
        watch=lambda bench: _watch(bench, workspace, quiet=json),
        tell=(lambda _: None) if json else lambda text: console.print(text, markup=False),
    )  # fmt: skip
    if json:
        typer.echo(json_module.dumps({"experiments": [result.as_json() for result in results]}, indent=1))
    else:
        _print(results)
    if any(result.outcome == "aborted" for result in results):
        raise typer.Exit(STOPPED)
    if any(result.outcome != "done" for result in results):
        raise typer.Exit(FAILED)


def _watch(bench: Bench, workspace: Workspace, *, quiet: bool) -> AbstractContextManager[Engine]:
    return watched(bench, workspace.runs, quiet=quiet)


def _print(results: Sequence[Result]) -> None:
    from rich.markup import escape
    from rich.table import Table

    for result in results:
        about = result.experiment.config.experiment
        table = Table(title=f"{escape(about.name)} on {escape(about.bench)}", title_justify="left", box=None)
        widths = {"run": max(len(made.run) for made in result.made), "outcome": 7, "took": 5}
        for heading in ("", "step", "outcome", "took", "run", "figures"):
            table.add_column(heading, min_width=widths.get(heading), no_wrap=heading == "run")
        for made in result.made:
            colour = COLOURS[made.outcome]
            table.add_row(
                str(made.plan.number), escape(str(made.plan)), f"[{colour}]{made.outcome}[/{colour}]",
                duration(made.seconds) if made.seconds else "", escape(made.run), escape(_told(made)),
            )  # fmt: skip
        output.print(table)
        if result.message:
            output.print(f"[yellow]{escape(about.name)}: {escape(result.message)}[/yellow]")


def _told(made: Made) -> str:
    """Why it failed, or the numbers that it published."""
    return made.message or ", ".join(f"{name} {value:.4g}" for name, value in made.figures.items())
