"""`labctl align`: brings a bench into line, with the person who turns the screws, or a simulated hand."""

from __future__ import annotations

import json as json_module
import math
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labctl.cli.bench_runs import AsJson, DryRun, Yes
from labctl.cli.console import ProgressObserver, console, output
from labctl.cli.dry import say_procedure
from labctl.cli.keys import line_within
from labctl.cli.session import ask as ask_once
from labctl.cli.session import opened
from labctl.errors import LabctlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from labctl.procedures.align import Row
    from labctl.procedures.messages import Prompt
    from labctl.runs.events import Event

BenchName = Annotated[str, typer.Argument(help="Bench, by name or file.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="One step: light, slm, focus, input, camera or beam; may be repeated."),
]
BAR = 30
"""Characters of the bar of a figure of merit."""


def align(
    bench: BenchName = "sim-4f", only: Only = None, dry_run: DryRun = False, yes: Yes = False, json: AsJson = False
) -> None:
    """Find the light, centre it on the SLM, bring the input on axis, square and focus the camera: screw by screw."""
    wanted = {"only": list(only or ())}
    if dry_run:
        say_procedure(bench, "align", wanted, yes=yes, as_json=json)
        return
    with opened(bench, yes=yes) as (device_bench, config, workspace), AlignObserver(console, quiet=json) as observer:
        from labctl.runs.interrupt import interruptible
        from labctl.runs.offers import prepare
        from labctl.runs.session import execute, make_engine

        prepared = prepare("align", wanted, workspace, config)
        engine = make_engine(device_bench, runs_dir=workspace.runs, observer=observer, answer=observer.ask)
        with interruptible(engine):
            outcome = execute(
                prepared.procedure, device_bench, runs_dir=workspace.runs, calibration_dir=workspace.calibration,
                provenance=prepared.provenance, engine=engine,
            )  # fmt: skip
        frames = engine.snapshot().captured
    found = outcome.result
    if json:
        rows = [_plain(row) for row in found.rows]
        said = {"run": outcome.run_id, "ok": found.ok, "turns": found.turns, "frames": frames, "rows": rows}
        typer.echo(json_module.dumps(said, indent=1))
    else:
        output.print(_table(f"alignment of {config.bench.name}", found.rows))
        how = "was aligned already" if not found.turns and found.ok else "is aligned" if found.ok else "is not aligned"
        output.print(f"the bench {how}: {found.turns} turns, {frames} frames\nrun      {outcome.folder}")
    if not found.ok:
        raise typer.Exit(1)


class AlignObserver:
    """Shows progress, what is asked, and the figure of merit as it changes while a screw is turned.

    Parameters
    ----------
    target : Console
    quiet : bool
        Show what is asked, warnings and errors only.
    typed : callable, optional
        ``seconds -> line or None``, as `labctl.cli.keys.line_within`.
    """

    def __init__(
        self, target: Console, *, quiet: bool = False, typed: Callable[[float], str | None] = line_within
    ) -> None:
        self._console, self._typed = target, typed
        self._progress = ProgressObserver(target, quiet=quiet)
        self._asked: Prompt | None = None
        self._worst = 0.0

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        from labctl.runs.events import Progressed, Published

        match event:
            case Published(name=name, value=value) if self._asked is not None and name == self._asked.merit:
                self._worst = max(self._worst, float(value))
                self._console.print(bar(float(value), self._asked.target, self._worst), end="\r", markup=False)
            case Progressed() if self._asked is not None:
                return  # the figure is on the line where the bar would be
            case _:
                self._progress(event)

    def ask(self, prompt: Prompt) -> str:
        """Wait for an answer, but no longer than the prompt says.

        Raises
        ------
        LabctlError
            If nobody can answer, because the input is no terminal.
        """
        from labctl.procedures.messages import MEANWHILE

        if prompt.wait_s is None or not sys.stdin.isatty():
            return ask_once(prompt)
        if prompt != self._asked:  # the text itself has been told
            self._asked, self._worst = prompt, 0.0
            self._progress.hide()
            first, *others = prompt.options
            keys = ", ".join(f"{escape(option[0])} for '{escape(option)}'" for option in others)
            self._console.print(f"  Enter for '{escape(first)}'; {keys}, and Enter")
        try:
            line = self._typed(prompt.wait_s)
        except EOFError:
            raise LabctlError("the keyboard is gone, and nobody can answer: run it in a terminal") from None
        if line is None:
            return MEANWHILE
        choice = chosen(line, prompt.options)
        if choice is None:
            self._console.print(f"\n  '{escape(line)}' is none of {', '.join(prompt.options)}")
            return MEANWHILE
        self._console.print()
        self._asked = None
        self._progress.show()
        return choice


def chosen(line: str, options: tuple[str, ...]) -> str | None:
    """The option that a typed line stands for: the first for an empty one, else the one it begins; None for no one."""
    if not line:
        return options[0]
    fits = [option for option in options if option.startswith(line.lower())]
    return fits[0] if len(fits) == 1 else None


def bar(value: float, target: float | None, worst: float) -> str:
    """A figure of merit as a line: a bar as long as it is of the worst seen, with a mark at the target."""
    scale = max(worst, target or 0.0, 1e-12)
    cells = ["█" if n < round(BAR * value / scale) else "·" for n in range(BAR)]
    if target is not None:
        cells[min(round(BAR * target / scale), BAR - 1)] = "|"
    met = "  good" if target is not None and value <= target else "      "
    goal = "" if target is None else f"  target {target:.3g}"
    return f"  {''.join(cells)} {value:8.3g}{goal}{met}"


def _table(title: str, rows: tuple[Row, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading, side in (("step", "left"), ("figure of merit", "left"), ("before", "right"), ("after", "right"),
                          ("target", "right"), ("turns", "right"), ("", "left")):  # fmt: skip
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for row in rows:
        after = "" if math.isnan(row.after) else f"{row.after:.3g} ± {row.uncertainty:.1g} {row.unit}"
        said = "ok" if row.ok else f"NOT OK: {row.note}"
        table.add_row(
            row.step, row.merit, _figure(row.before), after, _figure(row.target), str(row.turns or ""), escape(said)
        )
    return table


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _plain(row: Row) -> Mapping[str, Any]:
    """A row for JSON, which has no word for nan."""
    from dataclasses import asdict

    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }
