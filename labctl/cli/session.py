"""One recorded procedure on one bench, from the command line: opening, progress, Ctrl-C, closing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from labctl.cli.console import console, progress_observer
from labctl.errors import LabctlError

if TYPE_CHECKING:
    from labctl.bench.bench import Bench
    from labctl.config.schema import BenchConfig
    from labctl.procedures.messages import Prompt
    from labctl.runs.engine import Engine
    from labctl.runs.offers import Prepared
    from labctl.runs.session import Outcome
    from labctl.workspace import Workspace


def ask(prompt: Prompt) -> str:
    """Put a procedure's question to the person at the terminal.

    Raises
    ------
    LabctlError
        If nobody can answer, because the input is no terminal.
    """
    if not sys.stdin.isatty():
        raise LabctlError(
            f"the procedure asks: {prompt.text!r}, and nobody can answer: run it in a terminal or the window"
        )
    console.print(f"\n[bold]{prompt.text}[/bold]")
    choice = typer.prompt("  " + " / ".join(prompt.options), default=prompt.options[0], err=True)
    while choice not in prompt.options:
        choice = typer.prompt("  one of " + " / ".join(prompt.options), default=prompt.options[0], err=True)
    return str(choice)


@contextmanager
def opened(bench: str, *, yes: bool, seed: int | None = None) -> Iterator[tuple[Bench, BenchConfig, Workspace]]:
    """An open bench, its file and the workspace; closed and left safe at the end.

    Parameters
    ----------
    bench : str
        By name or file.
    yes : bool
        Do not ask before real devices are used.
    seed : int, optional
        Of the simulated world, in place of the bench file's.

    Raises
    ------
    ConfigError, DeviceError
    """
    with console.status(f"opening bench {bench}"):
        from labctl.config.load import load_bench
        from labctl.workspace import find

        workspace = find()
        config = load_bench(bench, workspace)
        if seed is not None and config.simulation is not None:
            config = config.model_copy(update={"simulation": config.simulation.model_copy(update={"seed": seed})})
    with opened_as(config, workspace, yes=yes) as device_bench:
        yield device_bench, config, workspace


@contextmanager
def opened_as(config: BenchConfig, workspace: Workspace, *, yes: bool) -> Iterator[Bench]:
    """A bench opened with a bench file that has been read already; as `opened`."""
    if config.real and not yes:
        typer.confirm(
            f"bench '{config.bench.name}' has real devices, and its laser may be switched on. Go on?", abort=True
        )
    with console.status(f"opening bench {config.bench.name}"):
        from labctl.bench import open_bench

        device_bench = open_bench(config, calibration_dir=workspace.calibration)
    try:
        yield device_bench
    finally:
        device_bench.close()


@contextmanager
def watched(bench: Bench, runs_dir: Path, *, quiet: bool) -> Iterator[Engine]:
    """An engine with a progress bar; Ctrl-C stops it at a frame, a second one at once."""
    from labctl.runs.interrupt import interruptible
    from labctl.runs.session import make_engine

    with progress_observer(quiet=quiet) as observer:
        engine = make_engine(bench, runs_dir=runs_dir, observer=observer, answer=ask)
        with interruptible(engine):
            yield engine


def perform(
    prepared: Prepared,
    bench: Bench,
    workspace: Workspace,
    *,
    quiet: bool,
    proof: bool = False,
) -> Outcome[Any]:
    """Run a prepared procedure with a progress bar; Ctrl-C stops it at a frame, a second one at once.

    With `proof`, every frame must show a code that says which patterns made it, or is taken again.

    Raises
    ------
    Aborted, LabctlError
    """
    from labctl.runs.session import execute

    with watched(bench, workspace.runs, quiet=quiet) as engine:
        if proof:
            from labctl.runs.proving import prove

            prove(engine, prepared.procedure, provenance=prepared.provenance)
        outcome = execute(
            prepared.procedure,
            bench,
            runs_dir=workspace.runs,
            calibration_dir=workspace.calibration,
            provenance=prepared.provenance,
            engine=engine,
        )
        if proof and not quiet:
            seen = engine.snapshot()
            console.print(f"proof of pairing: {seen.mismatches} of {seen.captured} frames had to be taken again for it")
        return outcome
