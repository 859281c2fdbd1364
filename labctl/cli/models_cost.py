"""`labctl models cost`: what a student takes per image on a bench, and what electronics alone would take."""

from __future__ import annotations

import json as json_module
import math
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from labctl.cli.console import output

if TYPE_CHECKING:
    from labctl.bench.facts import BenchFacts
    from labctl.learning.cost import Cost
    from labctl.learning.figures import DeviceFigures


class Devices(StrEnum):
    """`labctl.learning.figures.DEVICE_PRESETS`, known here without torch."""

    LCOS = "lcos"
    DMD = "dmd"
    MASK = "mask"


class Digital(StrEnum):
    """`labctl.learning.figures.DIGITAL_PRESETS`, known here without torch."""

    GPU = "gpu"
    EDGE = "edge"
    CPU = "cpu"


def cost(
    name: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    figures: Annotated[Devices, typer.Option(help="Stated figures of panels and camera.")] = Devices.LCOS,
    bench: Annotated[str | None, typer.Option(help="A bench, by name or file: its geometry and times instead.")] = None,
    run: Annotated[str | None, typer.Option(help="A recorded run: its bench, at the rate that it reached.")] = None,
    rate: Annotated[float | None, typer.Option(help="Captures per second, instead of what the figures say.")] = None,
    digital: Annotated[Digital, typer.Option(help="The computer beside it.")] = Digital.EDGE,
    batch: Annotated[int, typer.Option(min=1, help="Images shown to one SLM pattern before the next.")] = 1,
    models_dir: Annotated[
        Path | None, typer.Option(help="Folder of the bundles; default: models/ of the workspace.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with every figure's source.")] = False,
) -> None:
    """Say what one image costs: MACs, captures, latency and energy, and the rate at which optics would pay."""
    from labctl.learning.accounting import count_macs
    from labctl.learning.bundle import find_bundle, load_bundle
    from labctl.learning.cost import break_even, digital_cost, optical_cost, plan_captures
    from labctl.learning.figures import DEVICE_PRESETS, DIGITAL_PRESETS

    bundle = load_bundle(find_bundle(name, Path(name) if Path(name).is_dir() else _models_dir(models_dir)))
    devices, computer = DEVICE_PRESETS[figures.value], DIGITAL_PRESETS[digital.value]
    if run is not None:
        devices = _of_run(devices, run)
    elif bench is not None:
        devices = _of_bench(devices, bench)
    if rate is not None:
        devices = devices.at_rate(rate)
    front = bundle.student.front
    maps, channels, ky, kx = front.fused_kernels().shape
    plan = plan_captures(
        devices, image=front.image, kernel=(ky, kx), maps=maps, channels=channels, detection=front.detection
    )
    macs = count_macs(bundle.student, bundle.teacher)
    costs = {
        "teacher, digital": (macs.teacher, digital_cost(macs.teacher, computer)),
        "student, digital": (macs.cheapest, digital_cost(macs.cheapest, computer)),
        "student, on the bench": (
            macs.electronic,
            optical_cost(plan, devices, macs.electronic, computer, batch=batch),
        ),
    }
    rivals = {
        "teacher": break_even(plan, devices, macs.electronic, macs.teacher, computer),
        "student": break_even(plan, devices, macs.electronic, macs.cheapest, computer),
    }
    if json:
        found = {
            "model": bundle.name, "devices": devices.name, "digital": computer.name, "batch": batch,
            "macs": macs.as_dict() | {"cheapest": macs.cheapest}, "plan": asdict(plan),
            "costs": {key: {"macs": count} | _finite(asdict(value)) for key, (count, value) in costs.items()},
            "break_even": {key: _finite(asdict(value)) for key, value in rivals.items()},
            "sources": {"devices": dict(devices.sources), "digital": dict(computer.sources)},
        }  # fmt: skip
        typer.echo(json_module.dumps(found, indent=1))
        return
    fits = f"{plan.captures} capture{'s' if plan.captures > 1 else ''} of {plan.rows} rows per image"
    changing = f", {plan.patterns} SLM patterns" if plan.patterns > 1 else ", one SLM pattern that stays"
    output.print(f"{bundle.name} on {devices.name}, beside {computer.name}")
    output.print(f"{plan.tiles} tiles of each channel, {plan.tiles_per_frame} to a frame: {fits}{changing}")
    output.print(_table(costs))
    for rival, found_rates in rivals.items():
        output.print(f"against the {rival} in electronics: {_verdict(found_rates.energy_fps, found_rates.speed_fps)}")
    assumed = sorted(key for key, source in devices.sources.items() if source.startswith("assumption"))
    output.print(f"assumed, not sourced: {', '.join(assumed)}; --json says where the other figures come from")


def _models_dir(models_dir: Path | None) -> Path:
    from labctl.workspace import find

    return models_dir if models_dir is not None else Path(find().models)


def _table(costs: dict[str, tuple[int, Cost]]) -> Table:
    table = Table("", "MACs left", "latency", "images/s", "energy at the plug", "converters alone")
    for column in table.columns[1:]:
        column.justify = "right"
    for title, (macs, value) in costs.items():
        possible = math.isfinite(value.latency_s)
        table.add_row(
            title,
            f"{macs:,}",
            _si(value.latency_s, "s") if possible else "cannot be shown",
            f"{1 / value.period_s:,.4g}" if possible and value.period_s > 0 else "",
            _si(value.energy_j, "J") if possible else "",
            _si(value.converters_j, "J"),
        )
    return table


def _verdict(energy_fps: float, speed_fps: float) -> str:
    parts = []
    for what, value in (("saves energy at the plug", energy_fps), ("is faster", speed_fps)):
        parts.append(
            f"{what} from {value:,.3g} captures/s on"
            if math.isfinite(value)
            else f"at no rate {what}: no MACs are saved"
        )
    return "; ".join(parts)


def _si(value: float, unit: str) -> str:
    """A value with three digits and a prefix."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: null is what no rate reaches."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _with_facts(figures: DeviceFigures, facts: BenchFacts, name: str, source: str) -> DeviceFigures:
    """The stated powers, with geometry and times of a bench. Its read-out is of any window: no rows are counted."""
    times = {
        "input_period_s": 0.0, "input_settle_s": facts.input_settle_s, "slm_settle_s": facts.slm_settle_s,
        "exposure_s": facts.exposure_s, "row_s": 0.0, "overlapped": False,
    }  # fmt: skip
    step = facts.input_settle_s + facts.exposure_s + facts.readout_s
    known = dict.fromkeys((*times, "geometry", "block", "frames_per_s"), source)
    made = replace(figures, name=name, geometry=facts.geometry, sources=dict(figures.sources) | known)
    return replace(made, **times, frames_per_s=1 / step if step > 0 else None)  # type: ignore[arg-type]


def _of_bench(figures: DeviceFigures, bench: str) -> DeviceFigures:
    """Settling, exposure and read-out as the bench file and the camera state them, one after the other."""
    from labctl.config.load import load_bench
    from labctl.errors import ConfigError
    from labctl.runs.dry import known_facts
    from labctl.runs.standin import stand_in
    from labctl.workspace import find

    workspace = find()
    config = load_bench(bench, workspace)
    if config.real:
        facts = known_facts(config, workspace.runs)
        if facts is None:
            raise ConfigError(
                f"bench '{config.bench.name}': no run on it tells the sizes of its devices yet; run "
                f"`labctl calibrate {bench}` first, or leave --bench out"
            )
    else:
        standin = stand_in(config, workspace.calibration, None)
        try:
            facts = standin.bench.facts
        finally:
            standin.bench.close()
    return _with_facts(figures, facts, f"bench '{config.bench.name}' as its file states it", "the bench file")


def _of_run(figures: DeviceFigures, key: str) -> DeviceFigures:
    """The bench of a run, at the median time between frames of its longest batch of exposures with one SLM pattern."""
    import numpy as np

    from labctl.errors import RunError
    from labctl.runs.catalogue import find_run
    from labctl.runs.facts import facts_of
    from labctl.runs.recorded import open_run
    from labctl.workspace import find

    recorded = open_run(find_run(find().runs, key))
    table = recorded.frame_table
    patterns, counts = np.unique(table["slm"], return_counts=True)
    started = np.sort(table["started"][table["slm"] == patterns[counts.argmax()]]) if len(patterns) else np.zeros(0)
    if len(started) < 10:
        raise RunError(f"run {recorded.id} holds {len(started)} frames with one SLM pattern: too few to tell a rate")
    source = f"run {recorded.id}"
    facts = facts_of(recorded)
    made = _with_facts(figures, facts, f"bench '{facts.name}' as {source} found it", source)
    return made.at_rate(1 / float(np.median(np.diff(started))), made.name)
