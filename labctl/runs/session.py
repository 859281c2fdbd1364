"""What the command line and the window both do with a procedure: run it, record it, keep what it learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from labctl.bench.bench import Bench
from labctl.bench.records import CalibrationRecord, save_record
from labctl.clock import Clock
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.graph import attributed, refusal
from labctl.procedures.calibrations.sequence import Calibration, Incomplete
from labctl.procedures.messages import Procedure
from labctl.runs.engine import Answer, Engine, Observer
from labctl.runs.past import Past
from labctl.runs.store import RunFolder, RunStore, disk_errors

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """A run that ended well.

    Attributes
    ----------
    run_id : str
        "" if it was not recorded.
    folder : Path or None
    result : what the procedure returned
    records : sequence of CalibrationRecord
        Those that were saved, with their run.
    """

    run_id: str
    folder: Path | None
    result: Result
    records: Sequence[CalibrationRecord] = ()


def make_engine(
    bench: Bench,
    *,
    runs_dir: Path | None,
    observer: Observer | None = None,
    answer: Answer | None = None,
    clock: Clock | None = None,
    keep_input_patterns: bool = False,
) -> Engine:
    """An engine that records under `runs_dir` (None: nothing), to hand to `execute` and keep for pause and abort."""
    store = None if runs_dir is None else RunStore(runs_dir, keep_input_patterns=keep_input_patterns)
    return Engine(bench, observer=observer, store=store, clock=clock, answer=answer)


def execute(
    procedure: Procedure[Result],
    bench: Bench,
    *,
    runs_dir: Path,
    calibration_dir: Path,
    observer: Observer | None = None,
    store: bool = True,
    provenance: Mapping[str, Any] | None = None,
    answer: Answer | None = None,
    engine: Engine | None = None,
    past: Past | None = None,
    folder: RunFolder | None = None,
) -> Outcome[Result]:
    """Run a procedure, record it, and save the calibration records of its result.

    Parameters
    ----------
    runs_dir, calibration_dir : Path
        ``runs/`` and ``calibration/`` of the workspace.
    store : bool
        Record the run.
    provenance : mapping, optional
        ``config`` (the full bench file), ``seeds``, ``models`` (hashes): goes into ``run.json``.
    engine : Engine, optional
        One made by `make_engine` for this bench, so that the caller can pause and abort; it then brings its own
        observer, answer and store, and those given here are not looked at.
    past : Past, optional
        Of a run that is resumed: it answers as long as it can.
    folder : RunFolder, optional
        The resumed run's, reopened.

    Returns
    -------
    Outcome

    Raises
    ------
    Aborted
        After an abort or Ctrl-C; no calibration record is saved.
    CalibrationError
        If a calibration is refused that the bench cannot do without; records of the others have been saved.
    LabctlError
        If the run fails; no calibration record is saved.
    """
    if engine is None:
        engine = make_engine(bench, runs_dir=runs_dir if store else None, observer=observer, answer=answer)
    result = engine.run(procedure, provenance=provenance, past=past, folder=folder)
    records = [replace(record, run=engine.run_id) for record in _sound(result, procedure, bench)]
    place = calibration_dir / bench.facts.name
    with disk_errors(f"the calibration of bench '{bench.facts.name}' cannot be saved in {place}"):
        for record in records:
            save_record(place, record)
    if records:
        bench.with_calibrations({record.kind: record for record in records})
        log.info("calibration saved in %s: %s", place, ", ".join(record.kind for record in records))
    if isinstance(result, Calibration) and result.problems:  # what could be measured has been kept
        raise Incomplete(result)
    return Outcome(engine.run_id, engine.folder, result, tuple(records))


def _sound(result: Any, procedure: Procedure[Any], bench: Bench) -> list[CalibrationRecord]:
    """The records of a result that may be kept; a single calibration's says from here on what it was made from.

    Raises
    ------
    CalibrationError
        If a single calibration's is not sound, or out of limits.
    """
    if not isinstance(result, CalibrationRecord):
        return calibrations_in(result)  # `Calibrate` has judged them, one by one
    if wrong := refusal(result, procedure):
        raise CalibrationError(wrong)
    return [attributed(result, procedure, bench.facts)]


def calibrations_in(result: Any) -> list[CalibrationRecord]:
    """The records that a result carries: itself, or its attribute ``records``."""
    if isinstance(result, CalibrationRecord):
        return [result]
    found = getattr(result, "records", ())
    found = found.values() if isinstance(found, Mapping) else found
    return [record for record in found if isinstance(record, CalibrationRecord)]
