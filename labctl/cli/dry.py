"""`--dry-run`: what a command would take, before anything moves. Nothing is written, and no device is opened without
need: a bench that was never used, with drivers that do not say their sizes, is asked for them once.
"""

from __future__ import annotations

import json as json_module
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from labctl.cli.console import console, duration, output

if TYPE_CHECKING:
    from labctl.bench.facts import BenchFacts
    from labctl.config.schema import BenchConfig
    from labctl.runs.dry import Estimate
    from labctl.runs.experiments import Experiment, Kitchen
    from labctl.workspace import Workspace


def say_procedure(bench: str, name: str, parameters: Mapping[str, Any], *, yes: bool, as_json: bool) -> None:
    """Print what one procedure would take on a bench."""
    with console.status("following the procedure"), _quiet():
        from labctl.config.load import load_bench
        from labctl.runs.dry import DryRun
        from labctl.runs.offers import prepare
        from labctl.runs.standin import stand_in
        from labctl.workspace import find

        workspace = find()
        config = load_bench(bench, workspace)
        procedure = prepare(name, parameters, workspace, config).procedure
    facts = _facts(config, workspace, yes=yes)
    with console.status("following the procedure"), _quiet():
        standin = stand_in(config, workspace.calibration, facts)
        try:
            estimates = [DryRun(standin, config).follow(procedure)]
        finally:
            standin.bench.close()
    _say([_account(name, config, [name], estimates, workspace)], as_json=as_json)


def say_experiments(
    experiments: Sequence[Experiment], workspace: Workspace, kitchen: Kitchen, *, yes: bool, as_json: bool
) -> None:
    """Print what checked experiments would take, run by run."""
    from labctl.runs.dry import DryRun
    from labctl.runs.standin import stand_in

    accounts = []
    for experiment in experiments:
        about = experiment.config.experiment
        facts = _facts(experiment.bench, workspace, yes=yes)
        estimates: list[Estimate] = []
        with console.status("following") as status, _quiet():
            standin = stand_in(experiment.bench, workspace.calibration, facts)
            try:
                dry = DryRun(standin, experiment.bench)
                for plan in experiment.runs:
                    status.update(escape(f"following {about.name}: {plan} ({plan.number} of {len(experiment.runs)})"))
                    # Another seed draws other images, and takes as long.
                    kind = (plan.procedure, {key: value for key, value in plan.parameters.items() if key != "seed"})
                    estimates.append(dry.follow(kitchen.prepare(experiment, plan).procedure, kind=repr(kind)))
            finally:
                standin.bench.close()
        labels = [str(plan) for plan in experiment.runs]
        accounts.append(_account(about.name, experiment.bench, labels, estimates, workspace))
    _say(accounts, as_json=as_json)


def _facts(config: BenchConfig, workspace: Workspace, *, yes: bool) -> BenchFacts | None:
    """What is known of a bench with real devices: from its last run, else from the devices themselves."""
    if not config.real:
        return None
    from labctl.cli.session import opened_as
    from labctl.runs.dry import known_facts

    known = known_facts(config, workspace.runs)
    if known is not None:
        return known
    console.print(
        f"no run on '{escape(config.bench.name)}' tells the sizes of its devices yet: they are opened to ask for them, "
        "and nothing is shown or switched on"
    )
    with opened_as(config, workspace, yes=yes) as bench:
        return bench.facts


def _account(
    name: str, config: BenchConfig, labels: Sequence[str], estimates: Sequence[Estimate], workspace: Workspace
) -> dict[str, Any]:
    from labctl.runs.dry import free_bytes, limits

    free = free_bytes(workspace.runs)
    return {
        "name": name,
        "bench": config.bench.name,
        "runs": [{"run": label} | estimate.as_json() for label, estimate in zip(labels, estimates, strict=True)],
        "exposures": sum(estimate.exposures for estimate in estimates),
        "slm_changes": sum(estimate.slm_changes for estimate in estimates),
        "input_changes": sum(estimate.input_changes for estimate in estimates),
        "seconds": round(sum(estimate.seconds for estimate in estimates), 3),
        "bench_seconds": round(sum(estimate.bench_seconds for estimate in estimates), 3),
        "bytes": sum(estimate.bytes for estimate in estimates),
        "free_bytes": free,
        "longest_exposure_s": max((estimate.longest_s for estimate in estimates), default=0.0),
        "allowed_exposure_s": None if config.safety.max_exposure_ms is None else config.safety.max_exposure_ms / 1e3,
        "allowed_laser_power": config.safety.max_laser_power,
        "rough": config.real,
        "limits": limits(estimates, config, free),
    }


def _say(accounts: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_module.dumps({"dry_run": list(accounts)}, indent=1))
    else:
        for account in accounts:
            _print(account)
    if any(account["limits"] for account in accounts):
        raise typer.Exit(1)


def _print(account: dict[str, Any]) -> None:
    title = f"{escape(account['name'])} on {escape(account['bench'])}, dry: nothing was moved or written"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    for heading in ("exposures", "SLM", "input", "time", "disk"):
        table.add_column(heading, justify="right")
    total = {**account, "run": "together"}
    for row in [*account["runs"], *([total] if len(account["runs"]) > 1 else [])]:
        table.add_row(
            escape(row["run"]), f"{row['exposures']:,}", f"{row['slm_changes']:,}", f"{row['input_changes']:,}",
            duration(row["seconds"]), _size(row["bytes"]),
        )  # fmt: skip
    output.print(table)
    longest = f"longest exposure {account['longest_exposure_s'] * 1e3:.3g} ms"
    if account["allowed_exposure_s"] is not None:
        longest += f" of {account['allowed_exposure_s'] * 1e3:.3g} ms allowed"
    power = account["allowed_laser_power"]
    output.print(longest + (f", laser power at most {power:g}" if power is not None else ""))
    output.print(f"disk: {_size(account['bytes'])} of {_size(account['free_bytes'])} free")
    if account["rough"]:
        output.print("exposure times are those of an ideal bench: on yours they follow its light")
    elif account["bench_seconds"] > 1.1 * account["seconds"]:
        output.print(f"this bench is simulated in virtual time; on its own clock {duration(account['bench_seconds'])}")
    for line in account["limits"]:
        output.print(f"[red]{escape(line)}[/red]")


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def _quiet() -> Iterator[None]:
    """What a stand-in says of its calibrations is no news of the bench."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
