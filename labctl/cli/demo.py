"""`labctl demo`: the main job on one bench, from the bare bench file to a table and a report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.table import Table

from labctl.cli.console import console, output, progress_observer


def run_demo(*, bench: str, model: str, images: int, seed: int, yes: bool, as_json: bool) -> None:
    """Run the demo and print its table.

    Raises
    ------
    LabctlError
        One line; the bench is left safe.
    """
    started = time.monotonic()
    with console.status("loading labctl, the model and the images"):
        from labctl.bench import open_bench
        from labctl.runs.preparing import prepare_task, provenance
        from labctl.config.load import load_bench
        from labctl.procedures.demo import Demo
        from labctl.runs.interrupt import interruptible
        from labctl.runs.report import write_report
        from labctl.runs.session import execute, make_engine
        from labctl.workspace import find

        workspace = find()
        config = load_bench(bench, workspace)
        task = prepare_task(model, workspace.models, images=images, seed=seed)
    if not config.simulated and not yes:
        typer.confirm(f"bench '{config.bench.name}' has real devices, and the laser will be switched on. Go on?", abort=True)
    with console.status(f"opening bench {config.bench.name}"):
        opened = open_bench(config, calibration_dir=workspace.calibration)
    try:
        with progress_observer(quiet=as_json) as observer:
            engine = make_engine(opened, runs_dir=workspace.runs, observer=observer)
            with interruptible(engine):
                outcome = execute(
                    Demo(task, seed=seed),
                    opened,
                    runs_dir=workspace.runs,
                    calibration_dir=workspace.calibration,
                    provenance=provenance(config, task, seed=seed),
                    engine=engine,
                )
    finally:
        opened.close()
    report = write_report(outcome.folder) if outcome.folder else None
    rows = outcome.result.report.table
    seconds = time.monotonic() - started
    if as_json:
        result: dict[str, Any] = {
            "run": outcome.run_id,
            "folder": str(outcome.folder),
            "report": str(report),
            "seconds": round(seconds, 1),
            "table": list(rows),
            "twin_r": outcome.result.twin_r,
            "tile_r": {
                "uncalibrated": outcome.result.tile_r_uncalibrated.tolist(),
                "calibrated": outcome.result.tile_r_calibrated.tolist(),
            },
        }
        typer.echo(json.dumps(result, indent=1))
        return
    title = f"{task.model} on {config.bench.name}" + (" (simulated bench)" if config.simulated else "")
    output.print(results_table(title, rows))
    output.print(outcome.result.report.summary)
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
