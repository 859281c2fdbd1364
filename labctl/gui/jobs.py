"""Procedures as jobs of the session: prepared, run, recorded and reported, all on the hardware thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labctl.bench.bench import Bench
from labctl.errors import LabctlError
from labctl.gui.session import Hooks
from labctl.gui.status import Outcome
from labctl.procedures.messages import Procedure
from labctl.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A procedure, and what its run's record says of where it came from."""

    procedure: Procedure[Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcedureJob:
    """Any procedure.

    Attributes
    ----------
    title : str
    workspace : Workspace
        Where runs and calibrations are kept.
    prepare : callable
        Makes the procedure for the open bench; may import what is slow, and raise `LabctlError`.
    """

    title: str
    workspace: Workspace
    prepare: Callable[[Bench], Prepared]

    def __call__(self, bench: Bench, hooks: Hooks) -> Outcome:
        """Run it; see `labctl.gui.session.Job`."""
        from labctl.runs.session import execute, make_engine

        hooks.stage(f"Preparing the {self.title} ...")
        prepared = self.prepare(bench)
        hooks.check()
        runs_dir = self.workspace.runs
        engine = make_engine(bench, runs_dir=runs_dir, observer=hooks.observe, answer=hooks.ask)
        hooks.attach(engine)
        try:
            ended = execute(
                prepared.procedure,
                bench,
                runs_dir=runs_dir,
                calibration_dir=self.workspace.calibration,
                provenance=prepared.provenance,
                engine=engine,
            )
        finally:
            hooks.detach()
        hooks.stage("Writing the report ...")
        content = getattr(ended.result, "report", None)
        return Outcome(
            self.title,
            "done",
            table=getattr(content, "table", ()),
            folder=ended.folder,
            report=_report(ended.folder),
        )


def _report(folder: Path | None) -> Path | None:
    """The run's page; a run whose page cannot be written has still gone well."""
    if folder is None:
        return None
    from labctl.runs.report import write_report

    try:
        return write_report(folder)
    except LabctlError as error:
        log.warning("%s", error)
        return None


def calibrate(workspace: Workspace) -> ProcedureJob:
    """All calibrations, in their order."""

    def prepare(_bench: Bench) -> Prepared:
        from labctl.procedures.calibrations import Calibrate

        return Prepared(Calibrate())

    return ProcedureJob("calibration", workspace, prepare)


def demo(workspace: Workspace, bench: str, model: str, images: int) -> ProcedureJob:
    """Calibrate, deploy, capture test images, refit: the table of arms."""

    def prepare(_bench: Bench) -> Prepared:
        from labctl.config import load_bench
        from labctl.procedures.demo import Demo
        from labctl.runs.preparing import prepare_task, provenance

        task = prepare_task(model, workspace.models, images=images)
        return Prepared(Demo(task), provenance(load_bench(bench, workspace), task, seed=0))

    return ProcedureJob("demo", workspace, prepare)
