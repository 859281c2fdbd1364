"""Which runs there are. The folders are the truth; `labctl.runs.index` only spares reading them again."""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from labctl.errors import RunError
from labctl.runs.index import discard_index, read_index, update_index
from labctl.runs.labels import FILE as LABELS
from labctl.runs.labels import labels_of
from labctl.runs.lock import is_held
from labctl.runs.recorded import RecordedRun, open_run

log = logging.getLogger(__name__)
OUTCOMES = ("done", "aborted", "failed", "cut off", "running", "damaged")
NOT_SETTLED = ("running", "damaged")
"""Never taken from the index."""


@dataclass(frozen=True)
class RunSummary:
    """One line of the list.

    Attributes
    ----------
    id, path : str, Path
    procedure, bench : str
    simulated : bool
    started : str
        ISO 8601, UTC.
    duration_s : float or None
        None if the run was cut off.
    outcome : one of `OUTCOMES`
    frames : int
    message : str
        Why it did not finish.
    models : tuple of str
        Names of the models that it showed.
    tags : tuple of str
    note : str
    """

    id: str
    path: Path
    procedure: str
    bench: str
    simulated: bool
    started: str
    duration_s: float | None
    outcome: str
    frames: int
    message: str = ""
    models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The same as a plain dict."""
        return asdict(self) | {"path": str(self.path), "models": list(self.models), "tags": list(self.tags)}


def list_runs(
    runs_dir: Path,
    *,
    procedure: str | None = None,
    bench: str | None = None,
    model: str | None = None,
    outcome: str | None = None,
    tags: Sequence[str] = (),
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    text: str = "",
    limit: int | None = None,
) -> list[RunSummary]:
    """The runs under a directory, newest first.

    Parameters
    ----------
    runs_dir : Path
        A directory that does not exist holds no runs.
    procedure, bench, model, outcome : str, optional
        Only those.
    tags : sequence of str
        Only runs that have all of these.
    since, until : datetime with time zone, optional
        Only runs that started from `since` on, and before `until`.
    text : str
        Only runs whose id, message or note holds it, whatever the case.
    limit : int, optional
        At most so many.
    """
    wanted, words = set(tags), text.casefold()

    def fits(run: RunSummary) -> bool:
        return (
            procedure in (None, run.procedure)
            and bench in (None, run.bench)
            and (model is None or model in run.models)
            and outcome in (None, run.outcome)
            and wanted.issubset(run.tags)
            and (not words or words in f"{run.id}\0{run.message}\0{run.note}".casefold())
            and ((since is None and until is None) or _is_between(run.started, since, until))
        )

    with closing(_summaries(runs_dir)) as runs:
        return list(islice(filter(fits, runs), limit))


def rebuild_index(runs_dir: Path) -> int:
    """Forget what was read before and read every run folder again; returns how many there are."""
    discard_index(runs_dir)
    with closing(_summaries(runs_dir)) as runs:
        return sum(1 for _ in runs)


def find_run(runs_dir: Path, key: str) -> Path:
    """The folder of one run.

    Parameters
    ----------
    key : str
        An id, its beginning or its end (the four hexadecimal digits), or "last".

    Raises
    ------
    RunError
        If no run, or more than one, answers to it.
    """
    folders = _folders(runs_dir)
    if not folders:
        raise RunError(f"there are no runs in {runs_dir}")
    if key == "last":
        return folders[0]
    for matches in (
        [folder for folder in folders if folder.name == key],
        [folder for folder in folders if folder.name.startswith(key)],
        [folder for folder in folders if folder.name.endswith(key)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(folder.name for folder in matches[:4])
            raise RunError(f"'{key}' could be any of {len(matches)} runs ({names}): give more of the id")
    raise RunError(f"there is no run '{key}' in {runs_dir}: `labctl runs list` shows what there is")


def summarise(run: RecordedRun) -> RunSummary:
    """One line about a run folder."""
    started = str(run.intent.get("started", ""))
    finished = run.conclusion.get("finished")
    duration = None
    if finished:
        duration = (dt.datetime.fromisoformat(finished) - dt.datetime.fromisoformat(started)).total_seconds()
    outcome: str = run.outcome
    try:
        frames, message = run.frame_count, str(run.conclusion.get("message", ""))
    except RunError as error:  # being written, or the first frame never came
        frames, message = 0, "" if outcome == "running" else str(error)
    bench = run.intent.get("bench", {})
    labels = labels_of(run.path, run.intent)
    return RunSummary(
        id=run.id,
        path=run.path,
        procedure=str(run.intent.get("procedure", {}).get("name", "")),
        bench=str(bench.get("name", "")),
        simulated=bool(bench.get("simulated", False)),
        started=started,
        duration_s=duration,
        outcome=outcome,
        frames=frames,
        message=message,
        models=tuple(map(str, run.intent.get("provenance", {}).get("models", {}))),
        tags=labels.tags,
        note=labels.note,
    )


def _is_between(started: str, since: dt.datetime | None, until: dt.datetime | None) -> bool:
    try:
        when = dt.datetime.fromisoformat(started)
    except ValueError:  # a damaged run has no date
        return False
    return (since is None or when >= since) and (until is None or when < until)


def _folders(runs_dir: Path) -> list[Path]:
    """Run folders, newest first: their names begin with the time."""
    return [Path(runs_dir, name) for name in _names(runs_dir) if Path(runs_dir, name, "run.json").is_file()]


def _names(runs_dir: Path) -> list[str]:
    """What may be run folders, newest first."""
    if not runs_dir.is_dir():
        return []
    with os.scandir(runs_dir) as entries:
        return sorted((entry.name for entry in entries if entry.is_dir()), reverse=True)


def _summaries(runs_dir: Path) -> Generator[RunSummary, None, None]:
    """Newest first. The index learns what was read when the last one, or the last one asked for, was given."""
    names = _names(runs_dir)
    known = read_index(runs_dir) if names else {}
    new: dict[str, tuple[str, dict[str, Any]]] = {}
    try:
        for name in names:
            stamp = _stamp(f"{runs_dir}{os.sep}{name}")
            if not stamp:
                continue
            summary = _known(known.get(name), stamp, runs_dir, name)
            if summary is None:
                summary = _read(runs_dir / name)
                if summary.outcome not in NOT_SETTLED:
                    new[name] = (stamp, summary.as_json())
            yield summary
    finally:
        gone = known.keys() - set(names)
        if new or gone:
            update_index(runs_dir, new, gone)


def _known(entry: tuple[str, dict[str, Any]] | None, stamp: str, runs_dir: Path, name: str) -> RunSummary | None:
    """A summary from the index, unless the folder says otherwise."""
    if entry is None or entry[0] != stamp:
        return None
    values = entry[1]
    if values.get("outcome") == "cut off" and is_held(runs_dir / name):
        return None
    try:
        summary = RunSummary(**{key: values[key] for key in _FIELDS})
    except (KeyError, TypeError):
        return None
    return replace(summary, path=runs_dir / name, models=tuple(summary.models), tags=tuple(summary.tags))


_FIELDS = tuple(field.name for field in fields(RunSummary))


def _read(folder: Path) -> RunSummary:
    try:
        return summarise(open_run(folder))
    except (RunError, ValueError, AttributeError, TypeError) as error:  # one damaged folder must not hide the others
        return RunSummary(folder.name, folder, "", "", False, "", None, "damaged", 0, str(error))


def _stamp(folder: str) -> str:
    """Changes whenever a summary of the folder would; "" if it is no run folder."""
    if not (intent := _mark(folder, "run.json")):
        return ""
    if result := _mark(folder, "result.json"):
        return f"{intent} {result} {_mark(folder, LABELS)}"
    # It was cut off, or is being written: then its frames tell.
    return f"{intent} - {_mark(folder, 'frames.h5')} {_mark(folder, 'events.jsonl')} {_mark(folder, LABELS)}"


def _mark(folder: str, name: str) -> str:
    try:
        status = os.stat(f"{folder}{os.sep}{name}")  # noqa: PTH116 - Path.stat takes thrice as long, times 15,000
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}"
