"""A recorded run once more with no bench: its procedure, or another one, is fed the frames that were captured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from labctl.errors import RunError
from labctl.runs.engine import Engine, Observer
from labctl.runs.facts import facts_of
from labctl.runs.past import Past
from labctl.runs.session import Outcome
from labctl.runs.store import RunStore

if TYPE_CHECKING:
    from labctl.bench.bench import Bench
    from labctl.procedures.messages import Procedure
    from labctl.runs.recorded import RecordedRun

Result = TypeVar("Result")


class RecordedBench:
    """Stands where a bench would: knows what the recorded one knew of itself, and has no device.

    Attributes
    ----------
    facts : BenchFacts
        Bit for bit those of the run, calibrations included.
    devices : dict
        Who they were then.
    """

    def __init__(self, recorded: RecordedRun) -> None:
        self._id = recorded.id
        self.facts = facts_of(recorded)
        self.devices = dict(recorded.intent.get("devices", {}))

    def make_safe(self) -> list[str]:
        """There is nothing to be made safe."""
        return []

    def close(self) -> None:
        """Nothing to release."""

    def set(self, instrument: str, setting: str, _value: Any) -> NoReturn:
        """Raise `RunError`: there is no device."""
        self._refuse(f"{instrument}.{setting} cannot be set")

    def read(self, instrument: str, setting: str) -> NoReturn:
        """Raise `RunError`: there is no device."""
        self._refuse(f"{instrument}.{setting} cannot be read")

    def _refuse(self, what: str) -> NoReturn:
        raise RunError(f"{what}: run {self._id} is being replayed, with no bench")


def replay(
    recorded: RecordedRun,
    procedure: Procedure[Result],
    *,
    runs_dir: Path | None,
    provenance: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    engine: Engine | None = None,
) -> Outcome[Result]:
    """Run a procedure against what a run recorded. Calibration records that it makes are kept in its result only.

    Parameters
    ----------
    recorded : RecordedRun
    procedure : Procedure
        The run's own, from `labctl.runs.offers.prepare_again`, or any other that asks for no more than was captured.
    runs_dir : Path or None
        Where the new run is recorded: its outcome and result, and ``replay_of`` in its provenance; frames stay where
        they are. None records nothing.
    provenance : mapping, optional
        Goes into the new run's ``run.json``.
    engine : Engine, optional
        One made by `replay_engine`, so that the caller can abort.

    Raises
    ------
    RunError
        If the procedure asks for what was not recorded, or the run does not hold what a replay needs.
    """
    if recorded.outcome == "running":
        raise RunError(f"run {recorded.id} is being written by another process: wait until it has ended")
    if source := recorded.intent.get("provenance", {}).get("replay_of"):
        raise RunError(f"run {recorded.id} is itself a replay, without frames: replay run {source} instead")
    engine = engine or replay_engine(recorded, runs_dir=runs_dir, observer=observer)
    with Past(recorded, "refuse") as past:
        result = engine.run(procedure, provenance={**(provenance or {}), "replay_of": recorded.id}, past=past)
    return Outcome(engine.run_id, engine.folder, result)


def replay_engine(recorded: RecordedRun, *, runs_dir: Path | None, observer: Observer | None = None) -> Engine:
    """An engine that stands before a `RecordedBench`, to hand to `replay` and keep for abort."""
    bench = cast("Bench", RecordedBench(recorded))
    return Engine(bench, observer=observer, store=None if runs_dir is None else RunStore(runs_dir))
