"""`labctl runs tag`, `note` and `index`: what people write on a run, and the index that finds it again."""

from __future__ import annotations

from typing import Annotated

import typer

from labctl.cli.runs_where import RunId, RunsDir, folder_of


def tag(
    run: RunId,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="One word each.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take them away instead.")] = False,
    runs: RunsDir = None,
) -> None:
    """Put tags on a run, or take them away; `labctl runs list --tag TAG` finds it."""
    from labctl.runs.catalogue import find_run
    from labctl.runs.labels import label
    from labctl.runs.recorded import open_run

    recorded = open_run(find_run(folder_of(runs), run))
    now = label(recorded.path, recorded.intent, add=() if remove else tags, remove=tags if remove else ())
    typer.echo(f"{recorded.id}: {', '.join(now.tags) or 'no tags'}")


def note(
    run: RunId,
    text: Annotated[str, typer.Argument(help='The note; "" takes it away.')],
    runs: RunsDir = None,
) -> None:
    """Write a note on a run, in place of the one it has; `labctl runs list --text WORD` finds it."""
    from labctl.runs.catalogue import find_run
    from labctl.runs.labels import label
    from labctl.runs.recorded import open_run

    recorded = open_run(find_run(folder_of(runs), run))
    label(recorded.path, recorded.intent, note=text)
    typer.echo(f"{recorded.id}: {'noted' if text.strip() else 'no note'}")


def index(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read every run folder again.")] = False,
    runs: RunsDir = None,
) -> None:
    """Bring the index of the runs up to date. It makes lists fast; the run folders alone are the truth."""
    from labctl.runs.catalogue import list_runs, rebuild_index

    folder = folder_of(runs)
    count = rebuild_index(folder) if rebuild else len(list_runs(folder))
    typer.echo(f"{count:,} run{'' if count == 1 else 's'} in {folder}")
