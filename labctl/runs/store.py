"""Run folders: intent first, frames and events as they come, outcome last.

``runs/<UTC time>-<procedure>-<4 hex>/`` holds ``run.json``, ``events.jsonl``, ``frames.h5``, maybe ``checkpoint.h5``,
and at the end ``result.json`` (and ``result.h5`` for big arrays) and ``manifest.json``. A folder without
``result.json`` was cut off.

What a run costs on disk: its frames, uncompressed, because compressing takes longer than a camera waits (the demo's are
0.6 GB), 320 bytes for each frame's row and tag, and each SLM pattern once. `labctl runs compact` makes it smaller after
the run, without loss.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import logging
import os
import re
import secrets
import shutil
import sys
import threading
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
from labctl.runs import environment, manifest
from labctl.runs.facts import keep_facts
from labctl.runs.framefile import RESERVE, FrameFile, rows_to_continue
from labctl.runs.lock import FolderLock
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.values import ArrayFile, recorded_fields, sync_folder, to_json, write_json

__all__ = ["RecordedRun", "RunFolder", "RunStore", "open_run"]

log = logging.getLogger(__name__)
FORMAT = "labctl run 1"
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What an operating system calls a full disk, or a used-up quota."""
BALLAST = ".ballast"
"""A file to throw overboard where the disk is full without saying so before (a quota, another writer): there is then
room for the run's last words."""
BALLAST_BYTES = 4 * 2**20


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
            write_json(path / "run.json", intent | {"keep_input_patterns": self.keep_input_patterns})
            return RunFolder(path, keep_input_patterns=self.keep_input_patterns)


class RunFolder:
    """One run being written. A context manager: its files are closed whatever happens.

    `write_frame` may be called from one thread while `event` and `checkpoint` are called from another: frames, events
    and checkpoints are three files, and each of the first two has a lock of its own, so that neither waits for the
    other. `saved` may be read from anywhere.

    Attributes
    ----------
    id : str
    path : Path
    saved : int
        Frames on disk.

    Raises
    ------
    RunError
        If a living process is writing this folder.
    OSError
        If the disk does not take it.
    """

    def __init__(self, path: Path, *, keep_input_patterns: bool = False) -> None:
        self.id = path.name
        self.path = path
        self._keep_input = keep_input_patterns
        self._saved_before = 0
        self._refused: RunError | None = None
        self._frames: FrameFile | None = None
        self._events: TextIO | None = None
        self._frames_lock, self._events_lock = threading.RLock(), threading.Lock()
        self._lock = FolderLock(path)
        if not self._lock.take():
            raise RunError(f"run {self.id} is being written by another process: wait until that has ended, or end it")
        try:
            self._events = (path / "events.jsonl").open("a", encoding="utf-8", newline="\n")
        except BaseException:
            self.close()
            raise

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Go on with a run that was cut off, aborted, or has failed.

        The end that it had is noted in the events ("resumed") and taken away; ``run.json`` stays. Frames that were only
        half written when it was cut off are dropped.

        Raises
        ------
        RunError
            If it is no run folder, is complete, is being written by a living process, was compacted, or is damaged.
        """
        path = Path(path)
        recorded = open_run(path)
        with disk_errors(f"run {path.name} cannot be continued in {path}"):
            folder = cls(path, keep_input_patterns=bool(recorded.intent.get("keep_input_patterns", False)))
            try:
                folder._go_on(recorded.conclusion)
            except BaseException:
                folder.close()
                raise
        return folder

    def _go_on(self, ended: Mapping[str, Any]) -> None:
        if ended.get("outcome") == "done":
            raise RunError(f"run {self.id} is complete: there is nothing to continue")
        frames = self.path / "frames.h5"
        self._saved_before = len(rows_to_continue(frames)) if frames.exists() else 0
        events = self.path / "events.jsonl"
        if events.stat().st_size and not events.read_bytes().endswith(b"\n") and self._events is not None:
            self._events.write("\n")  # after a line that was torn
        self.event(
            "resumed",
            outcome=ended.get("outcome", "cut off"),
            message=ended.get("message", ""),
            finished=ended.get("finished", ""),
            frames=self.saved,
        )
        for name in ("result.json", "result.h5", manifest.NAME):
            (self.path / name).unlink(missing_ok=True)
        for part in self.path.glob("*.part"):
            part.unlink()
        sync_folder(self.path)

    @property
    def saved(self) -> int:
        """Frames on disk."""
        return self._saved_before if self._frames is None else self._frames.count

    def write_frame(self, frame: Frame, exposure: Exposure, *, batch: int = 0, position: int = 0) -> None:
        """Put one frame on disk, with the patterns of its exposure if they are new.

        Raises
        ------
        RunError
            If it cannot be saved; the frames before it stay readable, and no further one is taken: what room is left
            is for the run's last words.
        """
        if self._refused is not None:
            raise RunError(str(self._refused))
        patterns = {"slm": exposure.slm, "input": exposure.input if self._keep_input else None}
        try:
            with self._frames_lock:
                if self._frames is None:
                    self._begin_frames(frame.data.nbytes)
                self._frames.append(frame, patterns, batch=batch, position=position)  # type: ignore[union-attr]
        except (OSError, RuntimeError) as error:
            (self.path / BALLAST).unlink(missing_ok=True)
            what = f"frame {self.saved} could not be saved; the {self.saved} before it are in {self.path}"
            self._refused = refusal(f"run {self.id}: {what}", error)
            raise self._refused from error

    def event(self, kind: str, **values: Any) -> None:
        """Append one line to ``events.jsonl``.

        Raises
        ------
        RunError
            If the disk does not take it.
        """
        line = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "kind": kind}
        text = json.dumps(line | to_json(values), ensure_ascii=False) + "\n"
        with disk_errors(f"run {self.id}: the event log in {self.path} cannot be written"), self._events_lock:
            if self._events is not None:
                self._events.write(text)
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
            try:
                manifest.write(self.path)
            except OSError as error:  # the run is whole without it
                log.warning(
                    "run %s: no manifest, `labctl runs verify` will look at the frames only: %s", self.id, error
                )
        finally:
            self.close()

    def close(self) -> None:
        """Close the files; without `finish` the run shows as cut off. Safe to call twice."""
        try:
            self._close_files()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin_frames(self, size: int) -> None:
        if shutil.disk_usage(self.path).free < size + BALLAST_BYTES + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (self.path / BALLAST).write_bytes(bytes(BALLAST_BYTES))
        self._frames = FrameFile(self.path / "frames.h5")

    def _close_files(self) -> None:
        with self._frames_lock:
            if self._frames is not None:
                self._frames.close()
            (self.path / BALLAST).unlink(missing_ok=True)
        with self._events_lock:
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
        raise refusal(what, error) from error


def refusal(what: str, error: Exception) -> RunError:
    """One line about what the disk, or HDF5 in its name, refused."""
    text = str(error)
    full = getattr(error, "errno", None) in FULL or any(f"errno = {number}," in text for number in FULL)
    why = "the disk is full: free some space, then run again" if full else " ".join(text.split())[:300]
    return RunError(f"{what} ({why})")


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
