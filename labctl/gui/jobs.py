"""Procedures as jobs of the session: prepared, run, recorded and reported, all on the hardware thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.bench.bench import Bench
from labctl.config.schema import BenchConfig
from labctl.errors import LabctlError
from labctl.gui.session import Hooks
from labctl.gui.status import Outcome
from labctl.runs.offers import Prepared
from labctl.workspace import Workspace

log = logging.getLogger(__name__)


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


ConfigOf = Callable[[Bench], BenchConfig]
"""Tells what bench file an open bench was opened with."""


def calibrate(workspace: Workspace, config_of: ConfigOf) -> ProcedureJob:
    """All calibrations, in their order."""
    return _offered("calibration", "calibrate", {}, workspace, config_of)


def demo(workspace: Workspace, config_of: ConfigOf, model: str, images: int) -> ProcedureJob:
    """Calibrate, deploy, capture test images, refit: the table of arms."""
    return _offered("demo", "demo", {"model": model, "images": images}, workspace, config_of)


def _offered(
    title: str, name: str, parameters: Mapping[str, Any], workspace: Workspace, config_of: ConfigOf
) -> ProcedureJob:
    def make(bench: Bench) -> Prepared:
        from labctl.runs.offers import prepare

        return prepare(name, parameters, workspace, config_of(bench))

    return ProcedureJob(title, workspace, make)
