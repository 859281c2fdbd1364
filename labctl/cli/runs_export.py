"""`labctl runs export`: a run, or its frames, for other people and other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labctl.cli.runs_where import RunId, RunsDir, folder_of
from labctl.errors import LabctlError

FORMATS = ("zip", "tiff", "zarr", "npz")


def export(
    run: RunId = "last",
    to: Annotated[
        Path | None,
        typer.Option(help="What to write; .zip, .tiff, .zarr or .npz says the format. Default: ID.zip, here."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="zip: the whole run. tiff, zarr, npz: its frames."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="zip: with the report.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    runs: RunsDir = None,
) -> None:
    """Write a run as one zip that explains itself, or its frames as TIFF, zarr or npz.

    A TIFF has one page per frame; a name without .tiff, with --format tiff, becomes a folder with one file per frame.
    """
    from labctl.cli.console import console
    from labctl.runs.catalogue import find_run
    from labctl.runs.recorded import open_run

    if kind not in (None, *FORMATS):
        raise LabctlError(f"'{kind}' is no format: there are {', '.join(FORMATS)}")
    recorded = open_run(find_run(folder_of(runs), run))
    target = to or Path(f"{recorded.id}.{kind or 'zip'}")
    with console.status(f"exporting {recorded.id}"):
        from labctl.runs.export import export_run

        written = export_run(recorded, target, kind, force=force, report=report)  # type: ignore[arg-type]
    typer.echo(str(written))
