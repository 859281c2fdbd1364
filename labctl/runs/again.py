"""A recorded run on its bench once more: going on where it was cut off, or from the start as a new run."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, load_record, save_record
from labctl.config.schema import BenchConfig
from labctl.errors import ConfigError, RunError
from labctl.runs import environment
from labctl.runs.facts import facts_of, record_digest
from labctl.runs.past import Past
from labctl.runs.session import Outcome, execute
from labctl.runs.store import RunFolder
from labctl.runs.values import from_json

if TYPE_CHECKING:
    from labctl.bench.bench import Bench
    from labctl.runs.engine import Engine
    from labctl.runs.offers import Prepared
    from labctl.runs.recorded import RecordedRun
    from labctl.workspace import Workspace

log = logging.getLogger(__name__)


def config_of(recorded: RecordedRun) -> BenchConfig:
    """The bench file that a run was recorded with, as it was then.

    Raises
    ------
    RunError
        If the run did not keep it, or this labctl does not understand it any more.
    """
    kept = recorded.intent.get("provenance", {}).get("config")
    if not kept:
        raise RunError(f"run {recorded.id} did not keep its bench file: its bench cannot be opened as it was then")
    try:
        return BenchConfig.model_validate_json(json.dumps(from_json(kept)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"run {recorded.id}: this labctl does not understand the bench file that it kept ({where}: {first['msg']})"
        ) from error


def config_to_use(recorded: RecordedRun, workspace: Workspace) -> tuple[BenchConfig, str]:
    """The bench file of a run, and in what it differs from the workspace's present one.

    Returns
    -------
    BenchConfig
        The one recorded, always; that of the workspace if it says the same, so that its path is known.
    str
        One line to tell the person; "" if there is nothing to tell.
    """
    from labctl.config.load import load_bench

    then = config_of(recorded)
    try:
        now = load_bench(then.bench.name, workspace)
    except ConfigError:
        return then, f"bench '{then.bench.name}' has no file in {workspace.benches} now: the recorded one is used"
    if now.digest() == then.digest():
        return now, ""
    keys = ", ".join(_changed_keys(then.model_dump(mode="json"), now.model_dump(mode="json")))
    return then, f"the file of bench '{then.bench.name}' has changed since ({keys}): the recorded one is used"


def may_resume(recorded: RecordedRun) -> None:
    """Refuse a run that is not there to be resumed.

    Raises
    ------
    RunError
        If it is done, is running, or is itself a replay, which had no bench.
    """
    if "training" in recorded.intent.get("provenance", {}):
        raise RunError(f"run {recorded.id} is a training: the command that began it (`labctl train`) goes on with it")
    if recorded.outcome == "done":
        raise RunError(f"run {recorded.id} is done: there is nothing to resume (`labctl runs repeat` runs it anew)")
    if recorded.outcome == "running":
        raise RunError(f"run {recorded.id} is being written by another process: it is not cut off")
    if recorded.intent.get("provenance", {}).get("replay_of"):
        raise RunError(f"run {recorded.id} is a replay, with no bench to go on with: replay it anew")


def as_it_was(recorded: RecordedRun, bench: Bench) -> None:
    """Put the calibrations in force that were in force when a run started, whatever was learned since.

    Raises
    ------
    RunError
        If the bench is not the one of the run: it has other devices, or another file.
    """
    then, now = facts_of(recorded), bench.facts
    for field in fields(BenchFacts):
        before, after = getattr(then, field.name), getattr(now, field.name)
        if field.name != "calibrations" and before != after:
            raise RunError(
                f"run {recorded.id} cannot go on with bench '{now.name}', which is not what it was: "
                f"{field.name} was {before!r:.80}, and is {after!r:.80}"
            )
    bench.facts = replace(now, calibrations=then.calibrations)


def resume(recorded: RecordedRun, prepared: Prepared, engine: Engine, *, calibration_dir: Path) -> Outcome[Any]:
    """Go on with a run that was cut off, aborted or failed, in its own folder.

    Its procedure starts anew and is fed what was recorded; where that ends, the bench takes over.

    Parameters
    ----------
    prepared : Prepared
        From `labctl.runs.offers.prepare_again`, with no change.
    engine : Engine
        Of the bench, opened with `config_to_use`.
    calibration_dir : Path
        Where calibration records of the result are saved.

    Raises
    ------
    RunError
        If the run is not there to be resumed, or its procedure asks for something else than it did then.
    Aborted, LabctlError
        As `labctl.runs.session.execute`; the run can be resumed once more.
    """
    may_resume(recorded)
    as_it_was(recorded, engine.bench)
    if had_proof(recorded) and engine.proof is None:
        raise RunError(f"run {recorded.id} asked a proof of pairing of its frames: learn one before it is resumed")
    with Past(recorded, "live") as past:
        return execute(
            prepared.procedure,
            engine.bench,
            runs_dir=recorded.path.parent,
            calibration_dir=calibration_dir,
            engine=engine,
            past=past,
            folder=RunFolder.reopen(recorded.path),
        )


def had_proof(recorded: RecordedRun) -> bool:
    """Whether a run asked a proof of pairing of its frames; its patterns then had marks that others have not."""
    if not (recorded.path / "frames.h5").exists():
        return False
    table = recorded.frame_table
    return "proof" in (table.dtype.names or ()) and bool((table["proof"] >= 0).any())


def changes_since(recorded: RecordedRun, prepared: Prepared, facts: BenchFacts) -> list[str]:
    """What is not as it was when a run was recorded, one line each: versions, revision, calibrations, model, images.

    Parameters
    ----------
    prepared : Prepared
        Its procedure, made again now.
    facts : BenchFacts
        Of its bench, opened now.
    """
    intent = recorded.intent
    lines = []
    for package, now in environment.versions().items():
        then = intent.get("versions", {}).get(package, "")
        if then != now:
            lines.append(f"{package} {then or 'none'} then, {now or 'none'} now")
    revision, before = environment.git_revision(), intent.get("git") or {}
    if (revision.get("revision"), revision.get("dirty")) != (before.get("revision"), before.get("dirty")):
        lines.append(f"labctl's revision {_revision(before)} then, {_revision(revision)} now")
    elif revision.get("dirty"):
        lines.append("labctl has local changes, then and now: whether the same ones is not known")
    kept = intent.get("bench", {}).get("calibrations", {})
    for kind in dict.fromkeys([*kept, *facts.calibrations]):
        if kind not in kept:
            lines.append(f"calibration '{kind}' is new: there was none then")
        elif kind not in facts.calibrations:
            lines.append(f"calibration '{kind}' is gone, which was taken {kept[kind]['taken']}")
        elif record_digest(facts.calibrations[kind]) != kept[kind]["digest"]:
            lines.append(f"calibration '{kind}' was taken anew, {facts.calibrations[kind].taken}")
    provenance = intent.get("provenance", {})
    for what, name in (("models", "model"), ("data", "images of")):
        for key, digest in prepared.provenance.get(what, {}).items():
            then = provenance.get(what, {}).get(key, "")
            if then != digest:
                lines.append(f"the {name} '{key}': {then[:12] or 'none'} then, {digest[:12]} now")
    return lines


def _revision(git: Mapping[str, Any]) -> str:
    if not git.get("revision"):
        return "unknown"
    return f"{git['revision'][:12]}{' with local changes' if git.get('dirty') else ''}"


def _changed_keys(one: Any, other: Any, path: str = "") -> list[str]:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return [] if one == other else [path]
    keys = []
    for key in dict.fromkeys([*one, *other]):
        keys += _changed_keys(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    return keys


def keep_what_was_learned(recorded: RecordedRun, calibration_dir: Path) -> list[str]:
    """Save the calibration records of a run that is done, but whose process died before it had saved them.

    Returns
    -------
    list of str
        The kinds that were saved; those of which the bench has a newer record, or this one, are left alone.
    """
    place = calibration_dir / str(recorded.intent.get("bench", {}).get("name", ""))
    saved = []
    for record in _records_in(recorded.result):
        file = place / f"{record.kind}.h5"
        if not file.exists() or _moment(load_record(file).taken) < _moment(record.taken):
            save_record(place, replace(record, run=recorded.id))
            saved.append(record.kind)
    return saved


def _records_in(tree: Any) -> Iterator[CalibrationRecord]:
    if isinstance(tree, Mapping) and tree.get("$type") == "CalibrationRecord":
        yield CalibrationRecord(**{name: value for name, value in tree.items() if name != "$type"})
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _records_in(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _records_in(value)


def _moment(taken: str) -> dt.datetime:
    return dt.datetime.fromisoformat(taken).astimezone(dt.UTC)
