"""`labctl deploy` and `evaluate`: single steps of the main job on one bench."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any, Literal

import typer

from labctl.cli.calibrate import warn_of_stale
from labctl.cli.console import console, output
from labctl.cli.dry import say_procedure
from labctl.cli.session import opened, perform

BenchOption = Annotated[str, typer.Option(help="Bench, by name or file.")]
Model = Annotated[str, typer.Argument(help="Model bundle, by name or folder.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before using real devices.")]
AsJson = Annotated[bool, typer.Option("--json", help="No bars; the result as JSON on standard output.")]
EncoderName = Annotated[str, typer.Option(help="double-phase, off-axis or phase-only.")]
WatchPolicy = Literal["off", "log", "correct", "recalibrate"]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take; use no device, write nothing.")]
Correct = Annotated[
    bool | None,
    typer.Option(
        "--correct/--plain", help="Whether to make the masks through the bench's twin; default: if it has one."
    ),
]
Ceiling = Annotated[float, typer.Option(min=0.05, max=1.0, help="Modulus shown as full depth, of the largest.")]


def deploy(
    model: Model = "fashion-mnist-sclc",
    bench: BenchOption = "sim-4f",
    encoder: EncoderName = "double-phase",
    ceiling: Ceiling = 0.8,
    uncalibrated: Annotated[bool, typer.Option("--uncalibrated", help="Trust the bench file alone.")] = False,
    correct: Correct = None,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Compile a model into the gray pattern for a calibrated bench, or several; needs no light."""
    with opened(bench, yes=yes) as (device_bench, _, workspace):
        facts = device_bench.facts
    with console.status("compiling"):
        from labctl.optics.encoders import EncoderSpec
        from labctl.procedures.patterns import check_fit, compile_model, digest_of, fidelity_of
        from labctl.runs.deployments import keep_deployment
        from labctl.runs.preparing import prepare_task

        task = prepare_task(model, workspace.models, images=1, train=4)
        costs = check_fit(task.bundle, facts)
        made = compile_model(
            task.kernels, facts, image=task.image, detection=task.detection, encoder=EncoderSpec(encoder, ceiling),
            calibrated=not uncalibrated, corrected=correct,
        )  # fmt: skip
        fidelity = fidelity_of(made, task.train.images, facts)
        folders = [keep_deployment(workspace.root / ".labctl" / "deployments", part) for part in made]
    found: dict[str, Any] = {
        "deployment": digest_of(made),
        "folder": str(folders[0]),
        "folders": [str(folder) for folder in folders],
        "tiles": sum(len(part.kernels) for part in made),
        "patterns": len(made),
        "encoder": f"{encoder}, ceiling {ceiling}",
        "detection": task.detection.value,
        "ideal_tile_r_mean": None if fidelity is None else fidelity.mean,
        "ideal_tile_r_worst": None if fidelity is None else fidelity.worst,
        "efficiency": None if fidelity is None else fidelity.efficiency,
        "clearances_footprints": made[0].layout.clearances(),
        "warnings": costs,
    }
    if json:
        typer.echo(json_module.dumps(found, indent=1))
        return
    for cost in costs:
        output.print(f"warning: {cost}")
    ideal = "" if fidelity is None else (
        f"; on an ideal bench their Pearson r is {fidelity.mean:.4f} mean, {fidelity.worst:.4f} worst, "
        f"with {100 * fidelity.efficiency:.0f} % of the light"
    )  # fmt: skip
    several = f" in {len(made)} patterns, so many captures per image," if len(made) > 1 else ""
    output.print(f"{task.model} on {facts.name}: {found['tiles']} tiles{several} by {found['encoder']}{ideal}")
    for folder in folders:
        output.print(f"pattern  {folder / 'pattern.png'}")


def evaluate(
    model: Model = "fashion-mnist-sclc",
    bench: BenchOption = "sim-4f",
    images: Annotated[int, typer.Option(min=1, help="How many test images to capture.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Which images are drawn.")] = 0,
    encoder: EncoderName = "double-phase",
    ceiling: Ceiling = 0.8,
    uncalibrated: Annotated[bool, typer.Option("--uncalibrated", help="Trust the bench file alone.")] = False,
    correct: Correct = None,
    proof: Annotated[bool, typer.Option("--proof", help="Each frame must prove its patterns by a code.")] = False,
    watch: Annotated[
        WatchPolicy, typer.Option(help="About a bench that changes: off, log, correct, recalibrate.")
    ] = "off",
    watch_every: Annotated[int, typer.Option(min=1, help="Frames between two check exposures.")] = 100,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Show a model on a bench as it is calibrated now, and count its right answers on test images."""
    wanted = {
        "model": model, "images": images, "seed": seed, "encoder": encoder, "ceiling": ceiling,
        "calibrated": not uncalibrated, "watch": watch, "watch_every": watch_every, "corrected": correct,
    }  # fmt: skip
    if dry_run:
        say_procedure(bench, "evaluate", wanted, yes=yes, as_json=json)
        return
    with opened(bench, yes=yes) as (device_bench, config, workspace):
        if not uncalibrated:
            warn_of_stale(device_bench.facts)
        with console.status("loading the model and the images"):
            from labctl.runs.offers import prepare

            prepared = prepare("evaluate", wanted, workspace, config)
        outcome = perform(prepared, device_bench, workspace, quiet=json, proof=proof)
    row = outcome.result.arm.row()
    tile_r = [float(r) for r in outcome.result.tile_r if r == r]
    if json:
        typer.echo(json_module.dumps({"run": outcome.run_id, "tile_r": tile_r, **row}, indent=1))
        return
    output.print(
        f"{model} on {config.bench.name}: {row['accuracy (%)']:.1f} % of {row['images']} images "
        f"({row['accuracy (%) low']:.1f} to {row['accuracy (%) high']:.1f} %), "
        f"tiles r {sum(tile_r) / len(tile_r):.3f} mean, {min(tile_r):.3f} worst\nrun      {outcome.folder}"
    )
