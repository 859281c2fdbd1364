"""Which runs there are. The folders are the truth; ``index.sqlite`` only spares reading them again."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from labctl.errors import RunError
from labctl.runs.recorded import RecordedRun, open_run

log = logging.getLogger(__name__)
INDEX = "index.sqlite"
FORMAT = 1
SETTLED = ("done", "aborted", "failed")


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
    outcome : {"done", "aborted", "failed", "cut off", "running", "damaged"}
    frames : int
    message : str
        Why it did not finish.
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

    def as_json(self) -> dict[str, object]:
        """The same as a plain dict."""
        return asdict(self) | {"path": str(self.path)}


def list_runs(
    runs_dir: Path,
    *,
    procedure: str | None = None,
    bench: str | None = None,
    outcome: str | None = None,
    limit: int | None = None,
) -> list[RunSummary]:
    """The runs under a directory, newest first.

    Parameters
    ----------
    runs_dir : Path
        A directory that does not exist holds no runs.
    procedure, bench, outcome : str, optional
        Only those.
    limit : int, optional
        At most so many.
    """
    runs = [
        run
        for run in _summaries(runs_dir)
        if procedure in (None, run.procedure) and bench in (None, run.bench) and outcome in (None, run.outcome)
    ]
    return runs[:limit]


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
    )


def _folders(runs_dir: Path) -> list[Path]:
    """Run folders, newest first: their names begin with the time."""
    if not runs_dir.is_dir():
        return []
    return sorted((path for path in runs_dir.iterdir() if (path / "run.json").is_file()), reverse=True)


def _summaries(runs_dir: Path) -> list[RunSummary]:
    folders = _folders(runs_dir)
    known = _read_index(runs_dir) if folders else {}
    found, new = [], {}
    for folder in folders:
        stamp = _stamp(folder)
        cached = known.get(folder.name)
        if cached is not None and cached[0] == stamp:
            found.append(replace(cached[1], path=folder))
            continue
        try:
            summary = summarise(open_run(folder))
        except (RunError, ValueError, AttributeError) as error:  # one damaged folder must not hide the others
            summary = RunSummary(folder.name, folder, "", "", False, "", None, "damaged", 0, str(error))
        found.append(summary)
        if summary.outcome in SETTLED:
            new[folder.name] = (stamp, summary)
    gone = known.keys() - {folder.name for folder in folders}
    if new or gone:
        _write_index(runs_dir, new, gone)
    return found


def _stamp(folder: Path) -> str:
    """Changes when the outcome does; "" while there is none, which no index entry has."""
    try:
        status = (folder / "result.json").stat()
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}"


def _connect(runs_dir: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(runs_dir / INDEX, timeout=1.0)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, summary TEXT NOT NULL)")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _read_index(runs_dir: Path) -> dict[str, tuple[str, RunSummary]]:
    """What the index knows; nothing if there is none, or it is damaged, locked, or of another version."""
    try:
        with closing(_connect(runs_dir)) as connection:
            rows = connection.execute("SELECT id, stamp, summary FROM runs").fetchall()
        return {row[0]: (row[1], RunSummary(**json.loads(row[2]))) for row in rows}
    except sqlite3.OperationalError as error:  # locked, or a folder that may only be read: the folders still tell
        log.debug("%s: %s", runs_dir / INDEX, error)
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        log.warning("%s is damaged (%s): made again from the run folders", runs_dir / INDEX, error)
        try:
            (runs_dir / INDEX).unlink(missing_ok=True)
        except OSError as refused:
            log.debug("%s: %s", runs_dir / INDEX, refused)
    return {}


def _write_index(runs_dir: Path, new: Mapping[str, tuple[str, RunSummary]], gone: set[str]) -> None:
    try:
        with closing(_connect(runs_dir)) as connection, connection:
            connection.executemany("DELETE FROM runs WHERE id = ?", [(run_id,) for run_id in gone])
            connection.executemany(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)",
                [(run_id, stamp, json.dumps(summary.as_json())) for run_id, (stamp, summary) in new.items()],
            )
    except sqlite3.Error as error:
        log.debug("%s is not updated: %s", runs_dir / INDEX, error)
