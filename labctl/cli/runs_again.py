"""`labctl runs resume`, `replay` and `repeat`: a recorded run once more, with its bench or without one."""

from __future__ import annotations

import json as json_module
import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labctl.cli.runs_where import RunId, RunsDir, folder_of
from labctl.errors import ConfigError

if TYPE_CHECKING:
    from labctl.runs.engine import Engine
    from labctl.runs.offers import Prepared
    from labctl.runs.recorded import RecordedRun
    from labctl.runs.session import Outcome

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before using real devices.")]
AsJson = Annotated[bool, typer.Option("--json", help="No bars; the outcome as JSON on standard output.")]
Changed = Annotated[
    bool, typer.Option("--allow-changed", help="Go on though the model or its images are not what they were.")
]


def resume(
    run: RunId = "last", runs: RunsDir = None, yes: Yes = False, allow_changed: Changed = False, json: AsJson = False
) -> None:
    """Go on with a run that was cut off, aborted or failed, where it ended.

    Its procedure starts anew and is given what was recorded; from where that ends the bench goes on, with the bench
    file and the calibrations of then. The result stands in the same run folder.
    """
    from labctl.cli.console import console
    from labctl.cli.session import opened_as, watched
    from labctl.runs import again
    from labctl.runs.offers import prepare_again
    from labctl.workspace import find

    recorded, workspace = _recorded(run, runs), find()
    if recorded.outcome == "done" and (kinds := again.keep_what_was_learned(recorded, workspace.calibration)):
        _tell(f"run {recorded.id} is done; what it had learned was not kept, and is now: {', '.join(kinds)}")
        return
    again.may_resume(recorded)
    config, said = again.config_to_use(recorded, workspace)
    _tell(said)
    with console.status(f"preparing run {recorded.id} again"):
        prepared = prepare_again(recorded, workspace, config, allow_changed=allow_changed)
    with (
        opened_as(config, workspace, yes=yes) as bench,
        watched(bench, recorded.path.parent, quiet=json) as engine,
    ):
        again.as_it_was(recorded, bench)
        _prove_too(recorded, prepared, engine)
        outcome = again.resume(recorded, prepared, engine, calibration_dir=workspace.calibration)
    _show(outcome, json=json, resumed_from=recorded.outcome)


def replay(
    run: RunId = "last",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another analysis parameter; repeatable.")
    ] = None,
    runs: RunsDir = None,
    allow_changed: Changed = False,
    json: AsJson = False,
) -> None:
    """Run a recorded run's procedure again on its frames, with no bench; --set changes its analysis.

    A new run is recorded, with its own result and no frames. Whatever was not captured then is refused.
    """
    from labctl.cli.console import console, progress_observer
    from labctl.runs.again import config_of
    from labctl.runs.comparing import differences
    from labctl.runs.interrupt import interruptible
    from labctl.runs.offers import prepare_again
    from labctl.runs.recorded import open_run
    from labctl.runs.replay import replay as replay_run
    from labctl.runs.replay import replay_engine
    from labctl.workspace import find

    changes = dict(_parameter(text) for text in setting or ())
    recorded, workspace = _recorded(run, runs), find()
    with console.status(f"preparing run {recorded.id} again"):
        prepared = prepare_again(recorded, workspace, config_of(recorded), allow_changed=allow_changed, **changes)
    with progress_observer(quiet=json) as observer:
        engine = replay_engine(recorded, runs_dir=recorded.path.parent, observer=observer)
        with interruptible(engine):
            outcome = replay_run(
                recorded, prepared.procedure, runs_dir=recorded.path.parent, provenance=prepared.provenance,
                engine=engine,
            )  # fmt: skip
    found: dict[str, Any] = {"replay_of": recorded.id, "changes": changes}
    if recorded.outcome == "done" and outcome.folder is not None:
        found["differences"] = differences(recorded.result, open_run(outcome.folder).result)
    _show(outcome, json=json, **found)


def repeat(
    run: RunId = "last",
    runs: RunsDir = None,
    old_calibrations: Annotated[
        bool, typer.Option("--old-calibrations", help="Use the calibrations of then, not those of now.")
    ] = False,
    yes: Yes = False,
    allow_changed: Changed = False,
    json: AsJson = False,
) -> None:
    """Run a recorded run's procedure on its bench again, as a new run, and say what is not as it was then."""
    from labctl.cli.console import console
    from labctl.cli.session import opened_as, watched
    from labctl.runs import again
    from labctl.runs.comparing import differences
    from labctl.runs.offers import prepare_again
    from labctl.runs.recorded import open_run
    from labctl.runs.session import execute
    from labctl.workspace import find

    recorded, workspace = _recorded(run, runs), find()
    config, said = again.config_to_use(recorded, workspace)
    with console.status(f"preparing run {recorded.id} again"):
        prepared = prepare_again(recorded, workspace, config, allow_changed=allow_changed)
    with opened_as(config, workspace, yes=yes) as bench:
        if old_calibrations:
            again.as_it_was(recorded, bench)
        changed = [*([said] if said else []), *again.changes_since(recorded, prepared, bench.facts)]
        for line in changed:
            _tell(line)
        with watched(bench, recorded.path.parent, quiet=json) as engine:
            _prove_too(recorded, prepared, engine)
            outcome = execute(
                prepared.procedure, bench, runs_dir=recorded.path.parent, calibration_dir=workspace.calibration,
                provenance={**prepared.provenance, "repeat_of": recorded.id, "changed": changed}, engine=engine,
            )  # fmt: skip
    found: dict[str, Any] = {"repeat_of": recorded.id, "changed": changed}
    if recorded.outcome == "done" and outcome.folder is not None:
        found["differences"] = differences(recorded.result, open_run(outcome.folder).result)
    _show(outcome, json=json, **found)


def _prove_too(recorded: RecordedRun, prepared: Prepared, engine: Engine) -> None:
    """Learn a proof of pairing first, if the recorded run had one."""
    from labctl.runs.again import had_proof

    if had_proof(recorded):
        from labctl.runs.proving import prove

        prove(engine, prepared.procedure, provenance=prepared.provenance)


def _recorded(run: str, runs: Any) -> RecordedRun:
    from labctl.runs.catalogue import find_run
    from labctl.runs.recorded import open_run

    return open_run(find_run(folder_of(runs), run))


def _parameter(text: str) -> tuple[str, Any]:
    """``images=20`` as a key and a TOML value; what is no TOML value is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write KEY=VALUE, such as images=20")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _tell(text: str) -> None:
    from rich.markup import escape

    from labctl.cli.console import console

    if text:
        console.print(escape(text))


def _show(outcome: Outcome[Any], *, json: bool, **found: Any) -> None:
    from rich.markup import escape

    from labctl.cli.console import output
    from labctl.cli.demo import results_table

    report, arm = getattr(outcome.result, "report", None), getattr(outcome.result, "arm", None)
    rows = [dict(row) for row in report.table] if report is not None else [arm.row()] if arm is not None else []
    if json:
        facts = {"run": outcome.run_id, "folder": str(outcome.folder), **found, "table": rows}
        typer.echo(json_module.dumps(facts, indent=1))
        return
    if rows:
        output.print(results_table("", rows))
    differs = found.get("differences")
    if differs is not None:
        same = "the result is the recorded one, bit for bit"
        more = f"\n  and {len(differs) - 10} more" if len(differs) > 10 else ""
        lines = "".join(f"\n  {escape(line)}" for line in differs[:10])
        output.print(same if not differs else f"the result differs from the recorded one:{lines}{more}")
    output.print(f"run      {escape(str(outcome.folder))}")
