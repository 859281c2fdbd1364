"""What the commands about recorded runs have in common: which folder, and which run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunsDir = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: runs/ of the workspace.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="A run: its id, the beginning or end of it, or last.")]


def folder_of(runs: Path | None) -> Path:
    """The folder of the runs: the one given, or the workspace's."""
    if runs is not None:
        return runs
    from labctl.workspace import find

    return Path(find().runs)
