"""`labctl bench`: the bench files of the workspace, what is wrong with one, and what its devices can do."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labctl.cli.bench_new import new
from labctl.errors import LabctlError

if TYPE_CHECKING:
    from labctl.bench.checking import Row
    from labctl.config import BenchConfig

app = typer.Typer(help="Bench files: list, new, check, show.", no_args_is_help=True)

Bench = Annotated[str, typer.Argument(help="Bench, by name or file.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


@app.command("list")
def list_benches(json: AsJson = False) -> None:
    """Show every bench of the workspace; a damaged file is shown as such."""
    from labctl.config import load_bench
    from labctl.errors import ConfigError
    from labctl.workspace import find

    workspace = find()
    rows: list[dict[str, Any]] = []
    for name in workspace.bench_names():
        try:
            config = load_bench(name, workspace)
            kind = "mixed" if config.simulated and config.real else "simulated" if config.simulated else "real"
            rows.append({"name": name, "kind": kind, "description": config.bench.description})
        except ConfigError as error:
            rows.append({"name": name, "problem": str(error)})
    if json:
        typer.echo(json_module.dumps(rows))
        return
    if not rows:
        typer.echo(f"no benches in {workspace.benches}")
    for row in rows:
        if "problem" in row:
            typer.echo(f"{row['name']}  DAMAGED: {row['problem']}")
        else:
            typer.echo("  ".join(part for part in (row["name"], row["kind"], row["description"]) if part))


@app.command()
def check(
    bench: Bench,
    file_only: Annotated[bool, typer.Option("--file-only", help="Read the file; open no device.")] = False,
    frames: Annotated[int, typer.Option(min=2, help="Frames to take for the frame rate.")] = 20,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before using real devices.")] = False,
    json: AsJson = False,
) -> None:
    """Check a bench file, open every device, and measure what each can do; the exit code is 0 only if all work.

    Says also which models of the workspace fit it.
    """
    from labctl.cli.models_fit import fit_lines
    from labctl.config import load_bench

    config = load_bench(bench)
    notes = _notes(config)
    content: dict[str, Any] = {"name": config.bench.name, "path": str(config.path), "notes": notes}
    rows: list[Row] = []
    fits: list[dict[str, Any]] = []
    if not file_only:
        rows, fits = _measure(bench, frames=frames, yes=yes)
        content |= {"devices": [asdict(row) for row in rows], "good": all(row.good for row in rows), "models": fits}
    if json:
        typer.echo(json_module.dumps(content, indent=1))
    else:
        typer.echo(f"{config.path} is fine")
        for note in notes:
            typer.echo(f"note: {note}")
        if rows:
            _show_rows(rows)
        for fit in fits:
            for line in fit_lines(fit):
                typer.echo(f"model {fit['model']}: {line}")
    bad = [row for row in rows if not row.good]
    if bad:
        raise LabctlError(f"{bad[0].device}, {bad[0].what}: {bad[0].note}" + _more(len(bad) - 1))


def _measure(bench: str, *, frames: int, yes: bool) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows of an opened bench, and which models fit it."""
    from labctl.bench.checking import check_devices
    from labctl.cli.console import console
    from labctl.cli.models_fit import fits_of_models
    from labctl.cli.session import opened

    with opened(bench, yes=yes) as (device_bench, config, workspace), console.status("exercising the devices"):
        options = {name: section.options for name, section in config.instruments.items()}
        rows = check_devices(device_bench, frames=frames, options=options)
        facts = device_bench.facts
    return rows, fits_of_models(facts, workspace)


def _show_rows(rows: list[Row]) -> None:
    from rich.table import Table

    from labctl.cli.console import output

    table = Table("device", "", "measured", "bench file", "", "", title_justify="left")
    for row in rows:
        table.add_row(
            row.device, row.what, _figure(row.measured, row.unit), _figure(row.claimed, row.unit),
            "ok" if row.good else "FAILS", row.note,
        )  # fmt: skip
    output.print(table)


def _figure(value: float | None, unit: str) -> str:
    return (
        "" if value is None else f"{value:,.4g} {unit}".strip() if abs(value) < 1e4 else f"{value:,.0f} {unit}".strip()
    )


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""


app.command("new")(new)


@app.command()
def show(bench: Bench, json: AsJson = False) -> None:
    """Show what a bench file says, defaults filled in."""
    from labctl.config import load_bench

    config = load_bench(bench)
    content = config.model_dump(mode="json", exclude_none=True)
    if json:
        typer.echo(json_module.dumps(content | {"path": str(config.path), "digest": config.digest()}))
        return
    import tomlkit

    typer.echo(f"# {config.path}\n# digest {config.digest()[:16]}\n\n{tomlkit.dumps(content).strip()}")


def _notes(config: BenchConfig) -> list[str]:
    """What is allowed, but worth a second look."""
    notes = []
    name = config.bench.name
    if config.path is not None and config.path.stem != name:
        notes.append(
            f"the file is called {config.path.stem}, the bench {name}: calibrations are kept under {name}, "
            "also those of any other file that says so"
        )
    if config.simulation is not None and not config.simulated:
        notes.append("no device is simulated, so [simulation] has no effect")
    if not config.simulated and not any(part.role in {"laser", "shutter"} for part in config.instruments.values()):
        notes.append("there is no laser or shutter to switch off: the light stays on when a run ends")
    if config.faults is not None and config.faults.plan:
        notes.append(f"faults are armed, nothing measured is to be trusted: {'; '.join(map(str, config.faults.plan))}")
    return notes
