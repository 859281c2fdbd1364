"""`labctl runs`: what was run, how it ended, and a page about it."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Recorded runs: list them, look into one, write its report.", no_args_is_help=True)

RunsDir = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: runs/ of the workspace.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="A run: its id, the beginning or end of it, or last.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
COLOURS = {"done": "green", "running": "cyan", "aborted": "yellow", "cut off": "yellow"}


def _runs_dir(runs: Path | None) -> Path:
    if runs is not None:
        return runs
    from labctl.workspace import find

    return Path(find().runs)


@app.command("list")
def list_all(
    runs: RunsDir = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 30,
    procedure: Annotated[str | None, typer.Option(help="Only runs of this procedure.")] = None,
    bench: Annotated[str | None, typer.Option(help="Only runs on this bench.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only runs that ended so, e.g. done.")] = None,
    json: AsJson = False,
) -> None:
    """Show the runs, newest first."""
    from rich.markup import escape
    from rich.table import Table

    from labctl.cli.console import duration, output
    from labctl.runs.catalogue import list_runs

    folder = _runs_dir(runs)
    found = list_runs(folder, procedure=procedure, bench=bench, outcome=outcome, limit=limit)
    if json:
        typer.echo(json_module.dumps([run.as_json() for run in found], indent=2))
        return
    if not found:
        output.print(f"no runs in {escape(str(folder))}")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "bench", "outcome", "frames", "took"):
        table.add_column(heading, justify="right" if heading in ("frames", "took") else "left", no_wrap=True)
    for run in found:
        colour = COLOURS.get(run.outcome, "red")
        took = "" if run.duration_s is None else duration(run.duration_s)
        table.add_row(escape(run.id), escape(run.bench), f"[{colour}]{run.outcome}[/{colour}]", f"{run.frames:,}", took)
    output.print(table)


@app.command()
def show(run: RunId = "last", runs: RunsDir = None, json: AsJson = False) -> None:
    """Show one run: what was asked, on what, and how it ended."""
    from rich.markup import escape

    from labctl.cli.console import duration, output
    from labctl.runs.catalogue import find_run, summarise
    from labctl.runs.recorded import open_run

    recorded = open_run(find_run(_runs_dir(runs), run))
    summary = summarise(recorded)
    if json:
        document = {"summary": summary.as_json(), "intent": recorded.intent, "conclusion": recorded.conclusion}
        typer.echo(json_module.dumps(document, indent=2))
        return
    git = recorded.intent.get("git") or {}
    lines = {
        "run": summary.id,
        "outcome": summary.outcome + (f": {summary.message}" if summary.message else ""),
        "procedure": summary.procedure,
        "bench": summary.bench + (" (simulated)" if summary.simulated else ""),
        "started": summary.started,
        "took": "" if summary.duration_s is None else duration(summary.duration_s),
        "frames": f"{summary.frames:,}",
        "devices": ", ".join(f"{role}: {name}" for role, name in recorded.intent.get("devices", {}).items()),
        "revision": git.get("revision", "")[:12] + (" + local changes" if git.get("dirty") else ""),
        "folder": str(recorded.path),
    }
    for name, text in lines.items():
        if text:
            output.print(f"[dim]{name:>10}[/dim]  {escape(text)}")


@app.command()
def report(
    run: RunId = "last",
    runs: RunsDir = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a run, one HTML file, and say where it is."""
    import webbrowser

    from labctl.runs.catalogue import find_run
    from labctl.runs.report import write_report

    path = write_report(find_run(_runs_dir(runs), run))
    typer.echo(str(path))
    if open_it:
        webbrowser.open(path.resolve().as_uri())
