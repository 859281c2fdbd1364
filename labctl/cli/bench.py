"""`labctl bench`: the bench files of the workspace, and what is wrong with one."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from labctl.config import BenchConfig

app = typer.Typer(help="Bench files: list, check, show.", no_args_is_help=True)

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
def check(bench: Bench, json: AsJson = False) -> None:
    """Check a bench file; what is wrong with it is one line, and the exit code is not 0."""
    from labctl.config import load_bench

    config = load_bench(bench)
    notes = _notes(config)
    if json:
        typer.echo(json_module.dumps({"name": config.bench.name, "path": str(config.path), "notes": notes}))
        return
    typer.echo(f"{config.path} is fine")
    for note in notes:
        typer.echo(f"note: {note}")


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
    return notes
