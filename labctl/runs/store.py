"""Run folders: intent first, frames and events as they come, outcome last.

``runs/<UTC time>-<procedure>-<4 hex>/`` holds ``run.json``, ``events.jsonl``, ``frames.h5``, maybe ``checkpoint.h5``,
and at the end ``result.json`` (and ``result.h5`` for big arrays). A folder without ``result.json`` was cut off.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from labctl.bench.bench import Bench
from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.procedures.messages import Exposure, Procedure
from labctl.runs import environment
from labctl.runs.facts import keep_facts
from labctl.runs.framefile import FrameFile
from labctl.runs.lock import FolderLock
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.values import ArrayFile, recorded_fields, sync_folder, to_json, write_json

__all__ = ["RecordedRun", "RunFolder", "RunStore", "open_run"]

FORMAT = "labctl run 1"
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What an operating system calls a full disk, or a used-up quota."""
RESERVE = 8 * 2**20
"""Bytes kept free on the disk, so that the last words of a run always fit and HDF5 never meets a full disk."""
BALLAST = ".ballast"
"""A file to throw overboard where the disk is full without saying so before (a quota, another writer): HDF5 then has
the room to end in order."""


class RunStore:
    """Makes run folders under one directory.

    Parameters
    ----------
    runs_dir : Path
        ``runs/`` of the workspace; made if absent.
    keep_input_patterns : bool
        Store every distinct input pattern too. SLM patterns are always stored, each once.
    """

    def __init__(self, runs_dir: Path, *, keep_input_patterns: bool = False) -> None:
        self.runs_dir = Path(runs_dir)
        self.keep_input_patterns = keep_input_patterns

    def create(
        self, procedure: Procedure[Any], bench: Bench, *, provenance: Mapping[str, Any] | None = None
    ) -> RunFolder:
        """Make the folder and write its intent, synced, before anything else happens.

        Parameters
        ----------
        provenance : mapping, optional
            What the caller knows: ``config`` (the full bench file), ``seeds``, ``models`` (hashes) ...

        Raises
        ------
        RunError
            If the folder cannot be made.
        """
        now = dt.datetime.now(dt.UTC)
        name = re.sub(r"[^a-z0-9]+", "-", procedure.name.lower()).strip("-") or "run"
        run_id = f"{now:%Y%m%dT%H%M%SZ}-{name}-{secrets.token_hex(2)}"
        path = self.runs_dir / run_id
        with disk_errors(f"the run folder {path} cannot be made"):
            self.runs_dir.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            sync_folder(self.runs_dir)
            kept = keep_facts(path, bench.facts)  # before run.json: what is a run has its calibrations
            intent = _intent(run_id, now, procedure, bench, kept, provenance or {})
            return RunFolder(path, intent, keep_input_patterns=self.keep_input_patterns)


class RunFolder:
    """One run being written. A context manager: its files are closed whatever happens.

    Attributes
    ----------
    id : str
    path : Path
    saved : int
        Frames on disk.
    """

    def __init__(self, path: Path, intent: Mapping[str, Any], *, keep_input_patterns: bool = False) -> None:
        self.id = path.name
        self.path = path
        self._keep_input = keep_input_patterns
        self._frames: FrameFile | None = None
        self._events: TextIO | None = None
        self._lock = FolderLock(path)
        self._lock.take()
        try:
            write_json(path / "run.json", intent)
            self._events = (path / "events.jsonl").open("a", encoding="utf-8", newline="\n")
        except BaseException:
            self.close()
            raise

    @property
    def saved(self) -> int:
        """Frames on disk."""
        return 0 if self._frames is None else self._frames.count

    def write_frame(self, frame: Frame, exposure: Exposure, *, batch: int = 0, position: int = 0) -> None:
        """Put one frame on disk, with the patterns of its exposure if they are new.

        Raises
        ------
        RunError
            If it cannot be saved; the frames before it stay readable.
        """
        patterns = {"slm": exposure.slm, "input": exposure.input if self._keep_input else None}
        needed = frame.data.nbytes + sum(pattern.nbytes for pattern in patterns.values() if pattern is not None)
        with disk_errors(
            f"run {self.id}: frame {self.saved} could not be saved; the {self.saved} before it are in {self.path}"
        ):
            if shutil.disk_usage(self.path).free < needed + RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._frames is None:
                (self.path / BALLAST).write_bytes(bytes(needed + 2**20))
                self._frames = FrameFile(self.path / "frames.h5")
            try:
                self._frames.append(frame, patterns, batch=batch, position=position)
            except (OSError, RuntimeError):
                (self.path / BALLAST).unlink(missing_ok=True)
                self._frames.give_up()
                raise

    def event(self, kind: str, **values: Any) -> None:
        """Append one line to ``events.jsonl``.

        Raises
        ------
        RunError
            If the disk does not take it.
        """
        if self._events is None:
            return
        line = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "kind": kind}
        with disk_errors(f"run {self.id}: the event log in {self.path} cannot be written"):
            self._events.write(json.dumps(line | to_json(values), ensure_ascii=False) + "\n")
            self._events.flush()

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep the state to resume from; the last one wins, and a half-written one never replaces a whole one.

        Raises
        ------
        RunError
            If the disk does not take it.
        """
        part = self.path / "checkpoint.h5.part"
        with disk_errors(f"run {self.id}: the checkpoint in {self.path} cannot be written"):
            with ArrayFile(part) as arrays:
                arrays.write_text("json", json.dumps(to_json(state, arrays)))
            Path(part).replace(self.path / "checkpoint.h5")

    def finish(self, outcome: str, result: Any = None, *, message: str = "", **facts: Any) -> None:
        """Write the outcome, last of all, and close.

        Parameters
        ----------
        outcome : {"done", "aborted", "failed"}
        result : any
            What the procedure returned.
        message : str
            Why it did not finish.
        **facts
            Further entries of ``result.json``.

        Raises
        ------
        RunError
            If the disk does not take it: the run then shows as cut off.
        """
        try:
            with disk_errors(f"run {self.id}: the result in {self.path} cannot be written"):
                part = self.path / "result.h5.part"
                with ArrayFile(part) as arrays:
                    tree = to_json(result, arrays)
                if arrays.used:
                    Path(part).replace(self.path / "result.h5")
                self._close_files()
                document = {
                    "outcome": outcome,
                    "message": message,
                    "finished": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
                    "frames": self.saved,
                    **to_json(facts),
                    "result": tree,
                }
                write_json(self.path / "result.json", document)
        finally:
            self.close()

    def close(self) -> None:
        """Close the files; without `finish` the run shows as cut off. Safe to call twice."""
        self._close_files()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_files(self) -> None:
        if self._frames is not None:
            self._frames.close()
            (self.path / BALLAST).unlink(missing_ok=True)
        if self._events is not None:
            events, self._events = self._events, None
            with disk_errors(f"run {self.id}: the event log in {self.path} cannot be written"):
                events.close()


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a refusal of the disk, whoever reports it, into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = str(error)
        full = getattr(error, "errno", None) in FULL or any(f"errno = {number}," in text for number in FULL)
        why = "the disk is full: free some space, then run again" if full else " ".join(text.split())[:300]
        raise RunError(f"{what} ({why})") from error


def _intent(
    run_id: str,
    now: dt.datetime,
    procedure: Procedure[Any],
    bench: Bench,
    kept: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if is_dataclass(procedure):
        parameters = recorded_fields(procedure)
    kind = type(procedure)
    return {
        "format": FORMAT,
        "id": run_id,
        "started": now.isoformat(timespec="milliseconds"),
        "procedure": {
            "name": procedure.name,
            "type": f"{kind.__module__}:{kind.__qualname__}",
            "exposures": int(procedure.exposures(bench.facts)),
            "parameters": parameters,
        },
        "bench": kept,
        "devices": bench.devices,
        "versions": environment.versions(),
        "git": environment.git_revision(),
        "machine": environment.machine(),
        "command": list(sys.argv),
        "provenance": to_json(dict(provenance)),
    }
