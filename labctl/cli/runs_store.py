"""`labctl runs verify` and `compact`: whether a run is still what was written, and the same run in less room."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from labctl.cli.runs_where import RunId, RunsDir, folder_of


def verify(
    run: RunId = "last",
    runs: RunsDir = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Compare every frame, pattern and file of a run with the hashes written with it; exit code 1 if one differs."""
    from labctl.runs.catalogue import find_run
    from labctl.runs.verify import verify_run

    path = find_run(folder_of(runs), run)
    with _bar("verify", quiet=json) as progress:
        found = verify_run(path, progress)
    if json:
        typer.echo(json_module.dumps(found.as_json(), indent=2))
    else:
        for line in found.damages:
            typer.echo(f"DAMAGED  {line}")
        for line in found.notes:
            typer.echo(f"note     {line}")
        counts = f"{found.frames:,} frames ({found.bytes / 1e6:,.0f} MB) and {found.patterns:,} patterns compared"
        verdict = "all is as it was written" if found.whole else f"{len(found.damages)} damaged"
        typer.echo(f"{found.run}: {counts}, {verdict}")
    if not found.whole:
        raise typer.Exit(1)


def compact(
    run: RunId,
    runs: RunsDir = None,
    level: Annotated[int, typer.Option(min=1, max=9, help="Of gzip: 1 is fastest, 9 smallest.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Compress the frames of a run that has ended, without loss; the copy is compared before the original goes."""
    from labctl.runs.catalogue import find_run
    from labctl.runs.compact import compact_run

    path = find_run(folder_of(runs), run)
    with _bar("compact", quiet=json) as progress:
        done = compact_run(path, level=level, progress=progress)
    if json:
        document = {"run": done.run, "frames": done.frames, "before": done.before, "after": done.after}
        typer.echo(json_module.dumps(document | {"ratio": round(done.ratio, 4)}, indent=2))
        return
    typer.echo(
        f"{done.run}: {done.before / 1e6:,.1f} MB -> {done.after / 1e6:,.1f} MB ({100 * done.ratio:.0f} %), "
        f"{done.frames:,} frames compared with the original"
    )


@contextmanager
def _bar(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.progress import Progress

    from labctl.cli.console import console

    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
