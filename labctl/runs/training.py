"""A training as a run: its recipe first, every epoch as it is done, the arms' scores last. It has no frames.

Beside the files of every run stands ``curves.csv``, one row an epoch, for whoever plots them elsewhere.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from labctl.errors import LabctlError, RunError
from labctl.procedures.report_data import Curve, ReportData
from labctl.runs import environment
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.store import FORMAT, RunFolder, disk_errors
from labctl.runs.values import sync_folder, to_json, write_json

if TYPE_CHECKING:
    from labctl.learning.bundle import Bundle
    from labctl.learning.metrics import Metrics
    from labctl.learning.progress import Told

NAME = "train"
CURVES = "curves.csv"
COLUMNS = ("stage", "arm", "seed", "epoch", "loss_nats", "validation", "seconds", "restored")


@dataclass(frozen=True)
class TrainingResult:
    """``result.json`` of a training: where the bundle is, its hash and metrics, and what the report shows."""

    bundle: str
    sha256: str
    metrics: Mapping[str, Any]
    report: ReportData


class TrainingRun:
    """A training's run folder while it is written: a context manager, and what `labctl.learning.train.train` calls.

    Parameters
    ----------
    runs_dir : Path
        ``runs/`` of the workspace.
    recipe_text, recipe_sha256 : str
        The recipe as it was asked for, and its hash.
    name : str
        Of the recipe.
    out : Path
        The bundle that it is to become.
    seeds : mapping of name to numbers
    options : mapping
        The rest of what was asked for: arms, device, ...

    Raises
    ------
    RunError
        If the folder cannot be made.
    """

    def __init__(
        self,
        runs_dir: Path,
        *,
        recipe_text: str,
        recipe_sha256: str,
        name: str,
        out: Path,
        seeds: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        now = dt.datetime.now(dt.UTC)
        run_id = f"{now:%Y%m%dT%H%M%SZ}-{NAME}-{secrets.token_hex(2)}"
        out = Path(out).absolute()
        self.continues = cut_off_before(runs_dir, out)
        self.path = runs_dir / run_id
        self._folder: RunFolder | None = None
        with disk_errors(f"the run folder {self.path} cannot be made"):
            runs_dir.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
            sync_folder(runs_dir)
            write_json(
                self.path / "run.json",
                {
                    "format": FORMAT,
                    "id": run_id,
                    "started": now.isoformat(timespec="milliseconds"),
                    "procedure": {
                        "name": NAME,
                        "type": "labctl.learning.train:train",
                        "exposures": 0,
                        "parameters": {"out": str(out), **to_json(dict(options))},
                    },
                    "bench": {},
                    "devices": {},
                    "versions": environment.versions(),
                    "git": environment.git_revision(),
                    "machine": environment.machine(),
                    "command": list(sys.argv),
                    "provenance": {
                        "training": recipe_text,
                        "recipe_sha256": recipe_sha256,
                        "seeds": to_json(dict(seeds)),
                        "models": {name: recipe_sha256},
                        "continues": self.continues,
                    },
                },
            )
            self._folder = RunFolder(self.path)
            self._write_row(COLUMNS)
        if self.continues:
            self._event("log", text=f"goes on from run {self.continues}", level="info")

    def __call__(self, told: Told) -> None:
        """Record that the images were read, or that an epoch is done.

        Raises
        ------
        RunError
            If the disk does not take it.
        """
        stage = getattr(told, "stage", None)
        if stage is None:
            self._event("data", **to_json(told))
            return
        values = {key: value for key, value in to_json(told).items() if key != "$type"}
        self._event("epoch", **values)
        row = [values[key] for key in ("stage", "group", "seed", "epoch", "loss", "validation", "seconds", "restored")]
        with disk_errors(f"the curves in {self.path} cannot be written"):
            self._write_row([f"{value:.6g}" if isinstance(value, float) else value for value in row])

    def finish(self, bundle: Bundle) -> None:
        """The training is complete."""
        report = _report(bundle.path.name, _events(self.path), bundle.metrics)
        result = TrainingResult(str(bundle.path), bundle.sha256, bundle.metrics.model_dump(mode="json"), report)
        self._end("done", result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without `finish`: aborted by Ctrl-C, failed by anything else."""
        if self._folder is None:
            return
        if error is None or isinstance(error, KeyboardInterrupt):
            self._end("aborted", None, "stopped; the same command goes on from the last whole epoch")
        elif isinstance(error, Exception):
            said = str(error) if isinstance(error, LabctlError) else f"{type(error).__name__}: {error}"
            self._end("failed", None, said)
        else:
            self._folder.close()

    def _end(self, outcome: str, result: TrainingResult | None, message: str = "") -> None:
        if self._folder is not None:
            folder, self._folder = self._folder, None
            folder.finish(outcome, result, message=message)

    def _event(self, kind: str, **values: Any) -> None:
        if self._folder is not None:
            self._folder.event(kind, **{key: value for key, value in values.items() if key != "$type"})

    def _write_row(self, row: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        with (self.path / CURVES).open("a", encoding="utf-8", newline="\n") as file:
            file.write(text.getvalue())


def is_training(recorded: RecordedRun) -> bool:
    """Whether a run is a training."""
    return "training" in recorded.intent.get("provenance", {})


def cut_off_before(runs_dir: Path, out: Path) -> str:
    """Id of the last training of this bundle, if it was not finished; "" if it was, or there is none."""
    for folder in sorted(runs_dir.glob(f"*-{NAME}-????"), reverse=True) if runs_dir.is_dir() else ():
        try:
            recorded = open_run(folder)
        except RunError:  # damaged: says nothing
            continue
        if recorded.intent.get("procedure", {}).get("parameters", {}).get("out") == str(out):
            return "" if recorded.outcome == "done" else recorded.id
    return ""


def report_so_far(recorded: RecordedRun) -> ReportData:
    """What can be said of a training that was not finished: its curves."""
    name = next(iter(recorded.intent.get("provenance", {}).get("models", {})), "")
    return _report(name, recorded.events, None)


def _events(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def _report(name: str, events: Sequence[Mapping[str, Any]], metrics: Metrics | None) -> ReportData:
    """Curves of every arm, the mean over its seeds; the scores where there are any."""
    epochs = [event for event in events if event.get("kind") == "epoch"]
    arms = list(dict.fromkeys(str(event["group"]) for event in epochs))
    curves = []
    for key, label in (("loss", "training loss (nats)"), ("validation", "score on held-back images")):
        for arm in arms:
            found: dict[int, list[float]] = {}
            for event in epochs:
                if event["group"] == arm:
                    found.setdefault(int(event["epoch"]), []).append(float(event[key]))
            x = sorted(found)
            curves.append(Curve(arm, np.asarray(x), np.asarray([np.mean(found[epoch]) for epoch in x]), "epoch", label))
    stages = list(dict.fromkeys(str(event["stage"]) for event in epochs))
    done = [s for s in stages if any(e["stage"] == s and e["epoch"] == e["epochs"] for e in epochs)]
    if metrics is None:
        text = f"Not finished: {len(done)} networks were trained" + (f", the last of them {done[-1]}." if done else ".")
        return ReportData(f"Training of {name}", text, curves=curves)
    chosen = metrics.chosen().test
    text = (
        f"{metrics.selected.arm}, seed {metrics.selected.seed}, was chosen on {metrics.data.validation:,} held-back "
        f"images: {chosen.measure} {100 * chosen.accuracy:.2f} % on {chosen.n:,} test images of {metrics.data.name}. "
        "Intervals of an arm are those of its mean over seeds (95 %); with one seed, those of its score. "
        "Curves are means over the seeds of an arm."
    )
    return ReportData(f"Training of {name}", text, table=[_row(arm, metrics) for arm in metrics.arms], curves=curves)


def _row(name: str, metrics: Metrics) -> dict[str, str | float]:
    arm = metrics.arms[name]
    low, high = arm.interval95 or arm.runs[0].test.interval95
    return {
        "arm": name,
        "test score, %": round(100 * arm.mean_test, 2),
        "test score, % low": round(100 * low, 2),
        "test score, % high": round(100 * high, 2),
        "seeds": len(arm.runs),
        "epochs": arm.runs[0].epochs,
        "minutes each": round(sum(run.seconds for run in arm.runs) / len(arm.runs) / 60, 1),
    }
