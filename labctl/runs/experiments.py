"""Experiments: the runs that a file describes, one after another on one bench, and queues of such files.

Everything that can be checked without light is checked before the first exposure: files, procedures, parameters, models
and images of every run of the queue. After that, one experiment that fails does not keep the next from running.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from labctl.bench.bench import Bench
from labctl.config.experiment import ExperimentConfig, PlannedRun, as_written
from labctl.config.load import load_bench
from labctl.config.schema import BenchConfig
from labctl.errors import Aborted, LabctlError, RunError
from labctl.runs.engine import Engine
from labctl.runs.offers import Prepared, prepare
from labctl.runs.recorded import open_run
from labctl.runs.session import execute
from labctl.workspace import Workspace

log = logging.getLogger(__name__)
Outcome = Literal["done", "failed", "aborted", "not run"]
KEPT = 32
"""Prepared procedures that are kept from the check until they run; of more, each is prepared twice."""

OpenBench = Callable[[BenchConfig], AbstractContextManager[Bench]]
Watch = Callable[[Bench], AbstractContextManager[Engine]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """What became of one planned run.

    Attributes
    ----------
    plan : PlannedRun
    outcome : {"done", "failed", "aborted", "not run"}
    run : str
        Its id; "" if it was never begun.
    folder : Path or None
    message : str
        Why it was not done.
    seconds : float
        Wall time.
    figures : mapping
        The last value of every number that the procedure published.
    """

    plan: PlannedRun
    outcome: Outcome
    run: str = ""
    folder: Path | None = None
    message: str = ""
    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "number": self.plan.number, "step": self.plan.label, "procedure": self.plan.procedure,
            "parameters": self.plan.parameters, "sweep": self.plan.sweep, "repeat": self.plan.repeat,
            "outcome": self.outcome, "run": self.run, "folder": str(self.folder) if self.folder else None,
            "message": self.message, "seconds": round(self.seconds, 3), "figures": dict(self.figures),
        }  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of one experiment: `outcome` is "done" only if every run is."""

    experiment: Experiment
    made: tuple[Made, ...]
    outcome: Outcome
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        config = self.experiment.config
        return {
            "experiment": config.experiment.name, "file": str(config.path) if config.path else None,
            "bench": self.experiment.bench.bench.name, "outcome": self.outcome, "message": self.message,
            "runs": [made.as_json() for made in self.made],
        }  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """An experiment file with its bench file, checked.

    Attributes
    ----------
    config : ExperimentConfig
    bench : BenchConfig
    runs : tuple of PlannedRun
    """

    config: ExperimentConfig
    bench: BenchConfig
    runs: tuple[PlannedRun, ...]


class Kitchen:
    """Prepares the procedures of planned runs, and keeps some of them until they are wanted."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: dict[str, Prepared] = {}

    def prepare(self, experiment: Experiment, plan: PlannedRun) -> Prepared:
        """The procedure of one run, with the bench file as its provenance.

        Raises
        ------
        LabctlError
            As `labctl.runs.offers.prepare`, with file and step in front.
        """
        key = repr((experiment.bench.digest(), plan.procedure, sorted(plan.parameters.items(), key=lambda kv: kv[0])))
        if key not in self._kept:
            try:
                made = prepare(plan.procedure, plan.parameters, self._workspace, experiment.bench)
            except LabctlError as error:
                which = f" (with {as_written(plan.sweep)})" if plan.sweep else ""
                raise experiment.config.fault(plan.step, f"{error}{which}") from error
            if len(self._kept) >= KEPT:
                return made
            self._kept[key] = made
        return self._kept[key]


def check(config: ExperimentConfig, workspace: Workspace, kitchen: Kitchen, *, tell: Tell = log.info) -> Experiment:
    """Everything about an experiment that can be wrong before there is light.

    Raises
    ------
    LabctlError
        In one line, with file and step: there is no such bench, procedure, parameter, model ...
    """
    experiment = Experiment(config, load_bench(config.experiment.bench, workspace), tuple(config.runs()))
    for plan in experiment.runs:
        tell(f"{config.experiment.name}: checking {plan} ({plan.number} of {len(experiment.runs)})")
        kitchen.prepare(experiment, plan)
    return experiment


def run_queue(
    experiments: Sequence[Experiment],
    workspace: Workspace,
    kitchen: Kitchen,
    *,
    open_bench: OpenBench,
    watch: Watch,
    tell: Tell = log.info,
) -> list[Result]:
    """Run experiments one after another; one that fails does not stop the next, Ctrl-C stops all.

    Parameters
    ----------
    experiments : sequence of Experiment
        From `check`.
    open_bench : callable
        A context manager that opens a bench and leaves it safe and closed.
    watch : callable
        A context manager that gives an engine for an open bench.
    tell : callable
        Told in a line what begins and how it ended.

    Returns
    -------
    list of Result
        One for each experiment, the ones that were not begun included.
    """
    results: list[Result] = []
    for experiment in experiments:
        if any(result.outcome == "aborted" for result in results):
            left = tuple(Made(plan, "not run") for plan in experiment.runs)
            results.append(Result(experiment, left, "not run", "the queue was ended"))
            continue
        results.append(_run(experiment, workspace, kitchen, open_bench, watch, tell))
        tell(f"{experiment.config.experiment.name}: {results[-1].outcome}")
    return results


def _run(
    experiment: Experiment, workspace: Workspace, kitchen: Kitchen, open_bench: OpenBench, watch: Watch, tell: Tell
) -> Result:
    execution, made = secrets.token_hex(4), []
    stop: tuple[Outcome, str] | None = None
    with _Setup(experiment.bench, open_bench, watch) as setup:
        for plan in experiment.runs:
            if stop is not None:
                made.append(Made(plan, "not run"))
                continue
            tell(f"{experiment.config.experiment.name}: {plan} ({plan.number} of {len(experiment.runs)})")
            made.append(_make(experiment, plan, workspace, kitchen, setup, execution))
            last = made[-1]
            if last.outcome == "aborted" or (last.outcome == "failed" and plan.on_failure == "stop"):
                stop = (last.outcome, f"{plan}: {last.message}")
            if last.outcome == "failed":
                tell(f"{plan} failed: {last.message}")
                setup.put_away()  # whatever is wrong with it, the next run gets a bench that was opened afresh
    if stop is not None:
        return Result(experiment, tuple(made), *stop)
    failed = [one for one in made if one.outcome == "failed"]
    message = f"{len(failed)} of {len(made)} runs failed" if failed else ""
    return Result(experiment, tuple(made), "failed" if failed else "done", message)


def _make(
    experiment: Experiment, plan: PlannedRun, workspace: Workspace, kitchen: Kitchen, setup: _Setup, execution: str
) -> Made:
    begun = time.monotonic()
    engine: Engine | None = None
    outcome: Outcome = "failed"
    message = ""
    try:
        prepared = kitchen.prepare(experiment, plan)
        bench, engine = setup.get()
        execute(
            prepared.procedure, bench, runs_dir=workspace.runs, calibration_dir=workspace.calibration,
            provenance=_provenance(experiment, plan, prepared, execution), engine=engine,
        )  # fmt: skip
        outcome = "done"
    except (Aborted, KeyboardInterrupt) as error:
        outcome, message = "aborted", str(error) or "stopped with Ctrl-C"
    except LabctlError as error:
        message = str(error)
    except Exception as error:  # a defect in one procedure is no reason to lose the night's other runs
        log.exception("%s failed", plan)
        message = f"{type(error).__name__}: {error}"
    run, folder = ("", None) if engine is None else (engine.run_id, engine.folder)
    return Made(plan, outcome, run, folder, message, time.monotonic() - begun, _figures(folder))


def _provenance(experiment: Experiment, plan: PlannedRun, prepared: Prepared, execution: str) -> dict[str, Any]:
    about = experiment.config.experiment
    return prepared.provenance | {
        "experiment": {
            "name": about.name, "description": about.description, "file": str(experiment.config.path or ""),
            "execution": execution, "step": plan.step + 1, "label": plan.label, "sweep": plan.sweep,
            "repeat": plan.repeat, "number": plan.number, "of": len(experiment.runs),
        },
        "tags": list(plan.tags),
    }  # fmt: skip


def _figures(folder: Path | None) -> dict[str, float]:
    """The last value of every number that a run published."""
    if folder is None:
        return {}
    try:
        events = open_run(folder).events
    except RunError as error:  # the folder was taken away meanwhile
        log.warning("%s", error)
        return {}
    return {
        str(event["name"]): float(event["value"])
        for event in events
        if event.get("kind") == "published"
        and isinstance(event.get("value"), int | float)
        and not isinstance(event["value"], bool)
    }


class _Setup:
    """The bench and engine of one experiment: opened when first wanted, and again after they were put away."""

    def __init__(self, config: BenchConfig, open_bench: OpenBench, watch: Watch) -> None:
        self._config, self._open, self._watch = config, open_bench, watch
        self._stack = ExitStack()
        self._now: tuple[Bench, Engine] | None = None

    def get(self) -> tuple[Bench, Engine]:
        if self._now is None:
            bench = self._stack.enter_context(self._open(self._config))
            self._now = bench, self._stack.enter_context(self._watch(bench))
        return self._now

    def put_away(self) -> None:
        self._now = None
        try:
            self._stack.close()
        except LabctlError as error:  # a device that cannot even be closed; what is next to come says more
            log.warning("%s", error)

    def __enter__(self) -> _Setup:
        return self

    def __exit__(self, *_: object) -> None:
        self.put_away()
