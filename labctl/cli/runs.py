"""`labctl runs`: what was run, how it ended, and a page about it."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from labctl.cli.runs_again import repeat, replay, resume
from labctl.cli.runs_export import export
from labctl.cli.runs_labels import index, note, tag
from labctl.cli.runs_store import compact, verify
from labctl.cli.runs_where import RunId, RunsDir, folder_of
from labctl.errors import LabctlError

app = typer.Typer(help="Recorded runs: list them, look into one, write its report.", no_args_is_help=True)
app.command()(tag)
app.command()(note)
app.command()(index)
app.command()(export)
app.command()(verify)
app.command()(compact)
app.command()(resume)
app.command()(replay)
app.command()(repeat)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
COLOURS = {"done": "green", "running": "cyan", "aborted": "yellow", "cut off": "yellow"}


@app.command("list")
def list_all(
    runs: RunsDir = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 30,
    procedure: Annotated[str | None, typer.Option(help="Only runs of this procedure.")] = None,
    bench: Annotated[str | None, typer.Option(help="Only runs on this bench.")] = None,
    model: Annotated[str | None, typer.Option(help="Only runs that showed this model.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only runs that ended so, e.g. done.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only runs with this tag; several: with all of them.")] = None,
    since: Annotated[str | None, typer.Option(help="Started then or later: 2026-11-21, today, 12h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Started before then; a day counts in full.")] = None,
    text: Annotated[str, typer.Option(help="Only runs with this in id, note or message.")] = "",
    json: AsJson = False,
) -> None:
    """Show the runs, newest first; all conditions have to hold."""
    from rich.markup import escape
    from rich.table import Table

    from labctl.cli.console import duration, output
    from labctl.cli.dates import moment
    from labctl.runs.catalogue import OUTCOMES, list_runs

    if outcome not in (None, *OUTCOMES):
        raise LabctlError(f"no run ends '{outcome}': the outcomes are {', '.join(OUTCOMES)}")
    folder = folder_of(runs)
    found = list_runs(
        folder, procedure=procedure, bench=bench, model=model, outcome=outcome, tags=tag or (), text=text, limit=limit,
        since=moment(since) if since else None, until=moment(until, end=True) if until else None,
    )  # fmt: skip
    if json:
        typer.echo(json_module.dumps([run.as_json() for run in found], indent=2))
        return
    if not found:
        asked = any((procedure, bench, model, outcome, tag, since, until, text))
        output.print(f"no {'such ' if asked else ''}runs in {escape(str(folder))}")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "bench", "outcome", "frames", "took", "tags"):
        table.add_column(heading, justify="right" if heading in ("frames", "took") else "left", no_wrap=True)
    for run in found:
        colour = COLOURS.get(run.outcome, "red")
        took = "" if run.duration_s is None else duration(run.duration_s)
        table.add_row(
            escape(run.id), escape(run.bench), f"[{colour}]{run.outcome}[/{colour}]", f"{run.frames:,}", took,
            escape(" ".join(run.tags)),
        )  # fmt: skip
    output.print(table)


@app.command()
def show(run: RunId = "last", runs: RunsDir = None, json: AsJson = False) -> None:
    """Show one run: what was asked, on what, and how it ended."""
    from rich.markup import escape

    from labctl.cli.console import duration, output
    from labctl.runs.catalogue import find_run, summarise
    from labctl.runs.recorded import open_run

    recorded = open_run(find_run(folder_of(runs), run))
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
        "models": ", ".join(summary.models),
        "tags": " ".join(summary.tags),
        "note": summary.note,
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

    path = write_report(find_run(folder_of(runs), run))
    typer.echo(str(path))
    if open_it:
        webbrowser.open(path.resolve().as_uri())
