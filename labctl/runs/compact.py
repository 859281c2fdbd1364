"""A run's frames compressed, on request and after the run: nothing is lost, and the original goes last."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.errors import RunError
from labctl.runs.framefile import RESERVE, frame_at, open_frames, rows_of
from labctl.runs.journal import JournaledFile
from labctl.runs.lock import FolderLock
from labctl.runs.store import disk_errors
from labctl.runs.values import sync_folder

LEVEL = 4
"""Of gzip: beyond it the time grows faster than the file shrinks."""
SMALL = 2**16
"""Frames of fewer bytes than this share a chunk."""


@dataclass(frozen=True)
class Compaction:
    """What it brought.

    Attributes
    ----------
    run : str
    frames : int
    before, after : int
        Bytes of ``frames.h5``.
    """

    run: str
    frames: int
    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Size after over size before."""
        return self.after / self.before if self.before else 1.0


def compact_run(
    path: Path, *, level: int = LEVEL, progress: Callable[[int, int], None] = lambda done, total: None
) -> Compaction:
    """Write ``frames.h5`` anew with gzip and byte shuffle, compare all of it with the original, and replace that.

    Both are filters that every HDF5 library has. Hashes are those of the pixels and stay what they are; whatever reads
    the run reads it as before, only more slowly. The run cannot be continued afterwards.

    Parameters
    ----------
    level : int
        Of gzip, 1 to 9.
    progress : callable
        Told how many frames of how many are done; each counts twice, written and compared.

    Raises
    ------
    RunError
        If the run is being written, has no frames, was compacted before, is damaged, or the disk has no room for both.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        raise RunError(f"{path} is not a run folder: it has no run.json")
    original = path / "frames.h5"
    if not original.exists():
        raise RunError(f"run {path.name} has no frames to compact")
    with disk_errors(f"run {path.name} cannot be compacted"):
        lock = FolderLock(path)
        if not lock.take():
            raise RunError(f"run {path.name} is being written: compact it when it has ended")
        try:
            return _replace(path.name, original, level, progress)
        finally:
            lock.release()


def _replace(run: str, original: Path, level: int, progress: Callable[[int, int], None]) -> Compaction:
    JournaledFile(original, "r+").close()  # what a killed writer left is part of the file, not of the next one
    before = original.stat().st_size
    if shutil.disk_usage(original.parent).free < before + RESERVE:
        raise RunError(
            f"run {run} cannot be compacted: until the copy has been compared, the disk needs room for it as well, "
            f"{before / 1e6:.0f} MB"
        )
    part = original.with_name(original.name + ".part")
    try:
        with open_frames(original) as source:
            if "compacted" in source.attrs:
                raise RunError(f"run {run} is compact already")
            rows = rows_of(source)
            with h5py.File(part, "w") as target:
                _write(source, target, rows, level, lambda done: progress(done, 2 * len(rows)))
            with h5py.File(part, "r") as target:
                _compare(run, source, target, rows, lambda done: progress(len(rows) + done, 2 * len(rows)))
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        after = part.stat().st_size
        part.replace(original)
        sync_folder(original.parent)
    finally:
        part.unlink(missing_ok=True)
    return Compaction(run, len(rows), before, after)


def _write(
    source: h5py.File, target: h5py.File, rows: NDArray[Any], level: int, progress: Callable[[int], None]
) -> None:
    packed: dict[str, Any] = {"compression": "gzip", "compression_opts": level, "shuffle": True}
    target.attrs.update(source.attrs)
    target.attrs["compacted"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    if len(rows):
        target.create_dataset("table", data=rows, **packed)
        target.create_dataset("tags", data=source["tags"][: len(rows)], dtype=source["tags"].dtype, **packed)
    else:
        target.create_dataset("table", (0,), rows.dtype)
        target.create_dataset("tags", (0,), source["tags"].dtype)
    target.create_group("frames")
    for name in ("patterns/slm", "patterns/input"):
        for token, pattern in source.get(name, {}).items():
            target.create_dataset(f"{name}/{token}", data=pattern[()], chunks=pattern.shape, **packed)
        target.require_group(name)
    for name, dataset in source["frames"].items():
        count, shape = int(np.count_nonzero(rows["stack"] == name.encode())), dataset.shape[1:]
        together = max(1, min(count, SMALL // max(1, dataset.dtype.itemsize * int(np.prod(shape)))))
        if count:
            target["frames"].create_dataset(
                name, (count, *shape), dataset.dtype, chunks=(together, *shape), maxshape=(None, *shape), **packed
            )
    for number, row in enumerate(rows):
        frame = frame_at(source, number, row, check=True)
        target["frames"][row["stack"].decode()][int(row["index"])] = frame.data
        progress(number + 1)


def _compare(
    run: str, source: h5py.File, target: h5py.File, rows: NDArray[Any], progress: Callable[[int], None]
) -> None:
    same = np.array_equal(rows_of(target).view(np.uint8), rows.view(np.uint8))
    same = same and np.array_equal(target["tags"][()], source["tags"][: len(rows)])
    for name in ("patterns/slm", "patterns/input"):
        tokens = source.get(name, {})
        same = same and list(tokens) == list(target[name])
        same = same and all(np.array_equal(tokens[token][()], target[name][token][()]) for token in tokens)
    for number, row in enumerate(rows):
        was, now = (frame_at(file, number, row, check=True).data for file in (source, target))
        same = same and was.dtype == now.dtype and np.array_equal(was, now)
        progress(number + 1)
    if not same:
        raise RunError(f"run {run}: its copy is not what it should be, and was thrown away; the original is untouched")
