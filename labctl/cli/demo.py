"""`labctl demo`: the main job on one bench, from the bare bench file to a table and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.table import Table

from labctl.cli.console import console, output
from labctl.cli.session import opened, perform


def run_demo(*, bench: str, model: str, images: int, seed: int, yes: bool, as_json: bool) -> None:
    """Run the demo and print its table.

    Raises
    ------
    LabctlError
        One line; the bench is left safe.
    """
    started = time.monotonic()
    with opened(bench, yes=yes) as (device_bench, config, workspace):
        with console.status("loading the model and the images"):
            from labctl.runs.offers import prepare
            from labctl.runs.report import write_report

            prepared = prepare("demo", {"model": model, "images": images, "seed": seed}, workspace, config)
        outcome = perform(prepared, device_bench, workspace, quiet=as_json)
    report = write_report(outcome.folder) if outcome.folder else None
    result = outcome.result
    seconds = time.monotonic() - started
    if as_json:
        facts: dict[str, Any] = {
            "run": outcome.run_id,
            "folder": str(outcome.folder),
            "report": str(report),
            "seconds": round(seconds, 1),
            "table": list(result.report.table),
            "twin_r": result.twin_r,
            "tile_r": {
                "uncalibrated": result.tile_r_uncalibrated.tolist(),
                "calibrated": result.tile_r_calibrated.tolist(),
            },
        }
        typer.echo(json.dumps(facts, indent=1))
        return
    title = f"{model} on {config.bench.name}" + (" (simulated bench)" if config.simulated else "")
    output.print(results_table(title, result.report.table))
    output.print(result.report.summary)
    output.print(f"\n{seconds:.0f} s\nrun     {outcome.folder}\nreport  {report}")


def results_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The table of arms, with intervals."""
    made = Table(title=title, title_justify="left")
    made.add_column("")
    made.add_column("accuracy", justify="right")
    made.add_column("95 % interval", justify="right")
    made.add_column("images", justify="right")
    for row in rows:
        made.add_row(
            str(row["arm"]),
            f"{row['accuracy (%)']:.1f} %",
            f"{row['accuracy (%) low']:.1f} to {row['accuracy (%) high']:.1f} %",
            str(row["images"]),
        )
    return made
