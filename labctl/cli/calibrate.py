"""`labctl calibrate`: measure what is missing, stale or out of limits; check, compare and put back records."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from labctl.cli.console import console, output
from labctl.cli.dry import say_procedure
from labctl.cli.session import opened, perform
from labctl.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from labctl.bench.facts import BenchFacts
    from labctl.bench.records import CalibrationRecord
    from labctl.config.schema import BenchConfig
    from labctl.procedures.calibrations.graph import Standing, Status
    from labctl.workspace import Workspace

Pair = tuple[str, str]


def calibrate(
    bench: Annotated[str, typer.Argument(help="Bench, by name or file.")] = "sim-4f",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="KIND", help="This kind, and what it needs; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every calibration, whatever the records are.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Is the bench still what its records say? Under 20 frames.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", "--list", help="Where each record stands; no device is opened.")
    ] = False,
    history: Annotated[
        str, typer.Option("--history", metavar="KIND", help="Records of a kind, the one in force and earlier ones.")
    ] = "",
    compare: Annotated[
        Pair | None, typer.Option("--compare", metavar="A B", help="Two records: KIND, KIND~1, a file of history/.")
    ] = None,
    restore: Annotated[str, typer.Option("--restore", metavar="A", help="Put an earlier record back in force.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; use no device.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before using real devices.")] = False,
    json: Annotated[bool, typer.Option("--json", help="No bars; the result as JSON on standard output.")] = False,
) -> None:
    """Measure what is missing, stale or out of limits, in order, and keep the records; say why for each."""
    asked = {"--check": check, "--status": status, "--history": history, "--compare": compare, "--restore": restore}
    chosen = [name for name, given in asked.items() if given]
    if len(chosen) > 1 or (chosen and (only or everything)):
        extra = "--only" if only else "--all"
        raise ConfigError(f"{chosen[0]} and {chosen[1] if len(chosen) > 1 else extra} are two commands: choose one")
    wanted = {"only": list(only or ()), "everything": everything}
    if dry_run:
        if not json and not check:
            _say_plan(bench, wanted)
        name = "check" if check else "calibrate"
        say_procedure(bench, name, {} if check else wanted, yes=yes, as_json=json)
    elif status:
        config, workspace = _read(bench)
        _say_status(config.bench.name, _survey(_standing(config, workspace)), workspace, as_json=json)
    elif history or compare or restore:
        config, workspace = _read(bench)
        folder = workspace.calibration / config.bench.name
        if history:
            _say_history(folder, history, as_json=json)
        elif compare:
            _say_comparison(folder, *compare, as_json=json)
        else:
            _restore(folder, restore, as_json=json)
    elif check:
        _check(bench, yes=yes, as_json=json)
    else:
        _calibrate(bench, wanted, yes=yes, as_json=json)


def _calibrate(bench: str, wanted: Mapping[str, Any], *, yes: bool, as_json: bool) -> None:
    from labctl.bench.records import read_folder
    from labctl.procedures.calibrations.graph import Standing, plan, registry
    from labctl.procedures.calibrations.sequence import Incomplete
    from labctl.runs.offers import prepare

    with opened(bench, yes=yes) as (device_bench, config, workspace):
        _, refused_files = read_folder(workspace.calibration / config.bench.name)
        prepared = prepare("calibrate", wanted, workspace, config)
        before = _survey(Standing.of(device_bench.facts, refused_files))
        why = plan(before, registry(), **wanted)
        if not as_json:
            _say_plan_of(why, before)
        run, problem, refused = "", None, dict[str, str]()
        if why:
            try:
                outcome = perform(prepared, device_bench, workspace, quiet=as_json)
                run, refused = outcome.run_id, dict(outcome.result.refused)
            except Incomplete as error:  # what could be measured has been kept
                problem, refused = error, dict(error.calibration.refused)
        after = _survey(Standing.of(device_bench.facts, refused_files))
    rows = []
    for kind, state in after.items():
        done = "refused" if kind in refused else "measured" if kind in why else "kept" if state.record else "none"
        rows.append({**state.as_json(), "done": done, "why": refused.get(kind, why.get(kind, state.why))})
    if as_json:
        typer.echo(json_module.dumps({"run": run, "records": rows, "problem": str(problem or "")}, indent=1))
    elif why:
        _print_rows(f"calibrations of {config.bench.name}", rows, "done")
        output.print(f"kept in {escape(str(workspace.calibration / config.bench.name))}")
    if problem is not None:
        raise problem


def _check(bench: str, *, yes: bool, as_json: bool) -> None:
    with opened(bench, yes=yes) as (device_bench, config, workspace):
        from labctl.runs.offers import prepare

        prepared = prepare("check", {}, workspace, config)
        outcome = perform(prepared, device_bench, workspace, quiet=as_json)
    found = outcome.result
    if as_json:
        told = [
            {"what": f.name, "off": f.value, "limit": f.limit, "unit": f.unit, "good": f.good, "record": f.record}
            for f in found.findings
        ]
        told_all = {"run": outcome.run_id, "good": found.good, "redo": list(found.redo), "findings": told}
        typer.echo(json_module.dumps(told_all | {"notes": list(found.notes)}, indent=1))
    else:
        table = Table(title=f"{escape(config.bench.name)} against its records", title_justify="left")
        for heading in ("", "", "found", "record"):
            table.add_column(heading)
        for f in found.findings:
            good = "[green]holds[/green]" if f.good else "[red]changed[/red]"
            table.add_row(f.name, good, escape(f.text), f.record)
        output.print(table)
        for note in found.notes:
            output.print(escape(note))
        if found.good:
            output.print("the bench is what its records say")
        else:
            again = " ".join(f"--only {kind}" for kind in found.redo)
            output.print(f"no longer holds: {', '.join(found.redo)}. Measure again: labctl calibrate {bench} {again}")
    if not found.good:
        raise typer.Exit(1)


def warn_of_stale(facts: BenchFacts) -> None:
    """Say on standard error which of a bench's records no longer hold, and why."""
    from labctl.procedures.calibrations.graph import Standing, State

    for status in _survey(Standing.of(facts)).values():
        if status.record is not None and status.state is not State.GOOD:
            console.print(f"calibration {status.kind} is {status.state.value}: {escape(status.why)}", highlight=False)


def _read(bench: str) -> tuple[BenchConfig, Workspace]:
    from labctl.config.load import load_bench
    from labctl.workspace import find

    workspace = find()
    return load_bench(bench, workspace), workspace


def _standing(config: BenchConfig, workspace: Workspace) -> Standing:
    """What is known of a bench without opening it: devices as its last run met them."""
    from labctl.bench.records import read_folder
    from labctl.procedures.calibrations.graph import Standing
    from labctl.runs.dry import known_facts

    known = known_facts(config, workspace.runs) if config.real else None
    records, refused = read_folder(workspace.calibration / config.bench.name)
    return Standing(records, {} if known is None else known.devices, config.sections(), refused)


def _survey(standing: Standing) -> dict[str, Status]:
    from labctl.bench.records import now_iso
    from labctl.procedures.calibrations.graph import registry, survey

    return survey(standing, registry(), now_iso())


def _say_plan(bench: str, wanted: Mapping[str, Any]) -> None:
    from labctl.procedures.calibrations.graph import plan, registry

    config, workspace = _read(bench)
    before = _survey(_standing(config, workspace))
    _say_plan_of(plan(before, registry(), **wanted), before)


def _say_plan_of(why: Mapping[str, str], before: Mapping[str, Status]) -> None:
    if not why:
        output.print("every calibration holds: nothing to measure (--all measures all the same)")
        return
    held = [kind for kind in before if kind not in why and before[kind].record is not None]
    for kind, reason in why.items():
        output.print(f"{kind}: {escape(reason)}", highlight=False)
    if held:
        output.print(f"left as they are: {', '.join(held)}", highlight=False)


def _say_status(name: str, found: Mapping[str, Status], workspace: Workspace, *, as_json: bool) -> None:
    rows = [status.as_json() for status in found.values()]
    if as_json:
        typer.echo(json_module.dumps({"bench": name, "records": rows}, indent=1))
        return
    _print_rows(f"calibrations of {name}", rows, "state")
    output.print(f"in {escape(str(workspace.calibration / name))}")


def _print_rows(title: str, rows: list[dict[str, Any]], state: str) -> None:
    table = Table(title=escape(title), title_justify="left")
    for heading in ("kind", state, "age", "quality", "why"):
        table.add_column(heading)
    colours = {"good": "green", "measured": "green", "kept": "green", "none": "yellow", "stale": "yellow"}
    for row in rows:
        quality = ", ".join(f"{name} {figure:.3g}" for name, figure in row["quality"].items())
        colour = colours.get(str(row[state]), "red")
        table.add_row(
            str(row["kind"]), f"[{colour}]{row[state]}[/{colour}]", _age(row["age_h"]), quality, escape(str(row["why"]))
        )
    output.print(table)


def _age(hours: float | None) -> str:
    if hours is None:
        return ""
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _say_history(folder: Path, kind: str, *, as_json: bool) -> None:
    from labctl.bench.history import history

    found = history(folder, kind)
    if not found:
        raise CalibrationError(f"{folder} has no record of '{kind}': `labctl calibrate {folder.name} --status` lists")
    rows: list[dict[str, Any]] = [
        {
            "file": kept.path.stem, "in_force": kept.in_force, "taken": kept.record.taken if kept.record else "",
            "run": kept.record.run if kept.record else "", "quality": dict(kept.record.quality) if kept.record else {},
            "refused": kept.reason,
        }
        for kept in found
    ]  # fmt: skip
    if as_json:
        typer.echo(json_module.dumps({"kind": kind, "records": rows}, indent=1))
        return
    table = Table(title=f"records of {escape(kind)}, {escape(folder.name)}", title_justify="left")
    for heading in ("file", "taken", "quality", "run"):
        table.add_column(heading)
    for row in rows:
        quality = row["refused"] or ", ".join(f"{name} {figure:.3g}" for name, figure in row["quality"].items())
        name = f"{row['file']} (in force)" if row["in_force"] else row["file"]
        table.add_row(escape(name), row["taken"], escape(quality), row["run"])
    output.print(table)


def _say_comparison(folder: Path, one: str, other: str, *, as_json: bool) -> None:
    from labctl.bench.history import compare, find_record

    a, b = find_record(folder, one), find_record(folder, other)
    found = compare(a, b)
    if as_json:
        rows = [{k: _plain(v) for k, v in vars(difference).items()} for difference in found]
        told = {
            name: {"taken": record.taken, "run": record.run, "digest": record.digest, "quality": dict(record.quality)}
            for name, record in (("one", a), ("other", b))
        }
        typer.echo(json_module.dumps({"kind": a.kind, **told, "values": rows}, indent=1))
        return
    table = Table(title=f"{escape(a.kind)}: {_named(one, a)} against {_named(other, b)}", title_justify="left")
    for heading in ("value", "one", "other", "largest difference", "rms", "in sigma", "unit"):
        table.add_column(heading)
    for d in found:
        figures = [_short(d.largest), _short(d.rms), _short(d.sigmas)] if not d.note else [d.note, "", ""]
        table.add_row(d.name, _short(d.one), _short(d.other), *figures, escape(d.unit))
    output.print(table)
    for name in dict.fromkeys([*a.quality, *b.quality]):
        output.print(f"{name}: {_short(a.quality.get(name, ''))} and {_short(b.quality.get(name, ''))}")


def _restore(folder: Path, name: str, *, as_json: bool) -> None:
    from labctl.bench.history import restore
    from labctl.procedures.calibrations.graph import dependants, registry

    record = restore(folder, name)
    below = dependants([record.kind], registry())
    if as_json:
        typer.echo(json_module.dumps({"kind": record.kind, "taken": record.taken, "digest": record.digest}, indent=1))
        return
    console.print(f"{record.kind} of {record.taken} is in force again; the other one is in {folder / 'history'}")
    if below:
        console.print(f"made from another one, and stale now unless they were made from this: {', '.join(below)}")


def _named(name: str, record: CalibrationRecord) -> str:
    return escape(f"{name} ({record.taken})")


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return escape(value)
    return "" if value != value else f"{value:.5g}"


def _plain(value: Any) -> Any:
    """A number that JSON has a word for, or None."""
    return None if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))) else value
