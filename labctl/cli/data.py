"""`labctl data`: which image sets are here, and how to get the others."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Image sets: where they are, how to get them.", no_args_is_help=True)


@app.command("list")
def list_sets(
    data_dir: Annotated[Path | None, typer.Option(help="Look here instead of the usual places.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Show every known set, where it was found and how many images it holds there, the one that `load` takes first."""
    from labctl.learning.data import FULL_SET, KNOWN, fetch_hint, find_sets

    found = find_sets(data_dir)
    if json:
        rows = [{**asdict(place), "folder": str(place.folder)} for place in found]
        typer.echo(json_module.dumps({"found": rows, "hints": {name: fetch_hint(name) for name in KNOWN}}))
        return
    for name in KNOWN:
        places = [place for place in found if place.name == name]
        for place in places:
            counts = f"{place.train} train, {place.test} test"
            typer.echo(f"{name}  {place.source}, {counts}, in {place.folder}")
            if place.problem:
                typer.echo(f"{name}  DAMAGED: {place.problem}")
        if not any(place.source == FULL_SET and not place.problem for place in places):
            typer.echo(f"{name}  {'full set ' if places else ''}not found; to get it, {fetch_hint(name)}")


@app.command("fetch-hint")
def hint(name: Annotated[str, typer.Argument(help="Name of a set.")]) -> None:
    """Say how to get the full set."""
    from labctl.learning.data import fetch_hint

    typer.echo(fetch_hint(name))
