"""Whether a run folder is still what was written: every frame, row, pattern and file against its hash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.bench.bench import token
from labctl.errors import RunError
from labctl.runs import manifest
from labctl.runs.framefile import open_frames, rows_of
from labctl.runs.framerow import damage
from labctl.runs.lock import is_held

UNREADABLE = (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError)
"""What h5py and json make of damaged bytes."""


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what was found.

    Attributes
    ----------
    run : str
    frames, patterns : int
        How many were compared with their hashes.
    bytes : int
        Of frame data that was read.
    damages : tuple of str
        One line each, which names what is damaged; empty if all is whole.
    notes : tuple of str
        What could not be compared, and why.
    """

    run: str
    frames: int
    patterns: int
    bytes: int
    damages: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing was found."""
        return not self.damages

    def as_json(self) -> dict[str, Any]:
        """The same as a plain dict."""
        return asdict(self) | {"whole": self.whole}


def verify_run(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Compare everything in a run folder with the hashes that were written with it.

    Parameters
    ----------
    path : Path
        A run folder.
    progress : callable
        Told how many frames of how many have been read.

    Raises
    ------
    RunError
        If it is no run folder, or is being written.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        raise RunError(f"{path} is not a run folder: it has no run.json")
    if is_held(path):
        raise RunError(f"run {path.name} is being written: verify it when it has ended")
    damages, notes = list(_files(path)), []
    listed = manifest.differences(path)
    if listed is not None:
        named = {line.split(":")[0] for line in damages}
        damages += [line for line in listed if line.split(":")[0] not in named]
    else:
        notes.append("no manifest (the run was cut off, or is of an earlier labctl): its small files can only be read")
    said = _said_frames(path)
    frames = _Frames(path / "frames.h5", said, progress)
    if (path / "frames.h5").exists():
        damages += frames.look()
        if frames.old:
            notes.append("frames.h5 is of an earlier labctl: its table has no hashes")
    elif said:
        damages.append(f"frames.h5: is missing, and should hold {said} frames")
    return Verification(path.name, frames.frames, frames.patterns, frames.bytes, tuple(damages), tuple(notes))


class _Frames:
    """One look through ``frames.h5``."""

    def __init__(self, path: Path, said: int | None, progress: Callable[[int, int], None]) -> None:
        self._path, self._said, self._progress = path, said, progress
        self.frames = self.patterns = self.bytes = 0
        self.old = False

    def look(self) -> Iterator[str]:
        try:
            with open_frames(self._path) as file:
                yield from self._look(file)
        except (*UNREADABLE, RunError) as error:
            yield f"frames.h5: cannot be read ({_short(error)})"

    def _look(self, file: h5py.File) -> Iterator[str]:
        rows = rows_of(file)
        self.old = "xxh3" not in (rows.dtype.names or ())
        if not self.old:
            yield from self._behind(file, len(rows))
        if self._said is not None and len(rows) != self._said:
            yield f"frames.h5: holds {len(rows)} frames, and result.json says {self._said}"
        yield from self._places(file, rows)
        tags = file["tags"].asstr()[: len(rows)]
        for number, row in enumerate(rows):
            self._progress(number, len(rows))
            name = f"frames.h5: frame {number} ({row['stack'].decode(errors='replace')})"
            try:
                data = file["frames"][row["stack"].decode()][int(row["index"])]
                wrong = damage(row, data, tags[number])
                if wrong:
                    yield f"{name}: {wrong} not as written"
                self.bytes += data.nbytes
            except UNREADABLE as error:
                yield f"{name}: cannot be read ({_short(error)})"
            self.frames += 1
        self._progress(len(rows), len(rows))
        yield from self._patterns(file)

    def _behind(self, file: h5py.File, count: int) -> Iterator[str]:
        """Behind the last whole row there is nothing but zeros, whether the writer was killed or not."""
        table: NDArray[Any] = file["table"][count:]
        for place in np.flatnonzero(table.view(f"V{table.itemsize}") != np.void(bytes(table.itemsize))):
            yield f"frames.h5: frame {count + int(place)}: row of the table or tag not as written"

    def _places(self, file: h5py.File, rows: NDArray[Any]) -> Iterator[str]:
        """Frames of one size lie one after the other, each once."""
        stacks = set(rows["stack"].tolist())
        for stack in sorted(stacks):
            index = rows["index"][rows["stack"] == stack]
            if not np.array_equal(index, np.arange(len(index))):
                yield f"frames.h5: the table's places in {stack.decode(errors='replace')} are not one after the other"
        for name, dataset in file["frames"].items():
            shape, _, kind = name.partition("-")
            if f"{'x'.join(map(str, dataset.shape[1:]))}-{dataset.dtype.name}" != f"{shape}-{kind}":
                yield f"frames.h5: {name} holds {dataset.shape[1:]} {dataset.dtype.name}"

    def _patterns(self, file: h5py.File) -> Iterator[str]:
        for kind, tokens in file.get("patterns", {}).items():
            for name in tokens:
                try:
                    if token(tokens[name][()]) != name:
                        yield f"frames.h5: {kind} pattern {name}: gray levels not as written"
                except UNREADABLE as error:
                    yield f"frames.h5: {kind} pattern {name}: cannot be read ({_short(error)})"
                self.patterns += 1


def _files(path: Path) -> Iterator[str]:
    """Files beside the frames that cannot be read at all."""
    for name in ("run.json", "result.json"):
        try:
            if not isinstance(json.loads((path / name).read_text(encoding="utf-8")), dict):
                yield f"{name}: does not hold what it should"
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            yield f"{name}: cannot be read ({_short(error)})"
    for name in ("result.h5", "checkpoint.h5", "calibrations.h5"):
        try:
            if (path / name).exists():
                with h5py.File(path / name, "r") as file:
                    file.visititems(lambda _, item: item[()] is None if isinstance(item, h5py.Dataset) else None)
        except UNREADABLE as error:
            yield f"{name}: cannot be read ({_short(error)})"
    try:
        lines = (path / "events.jsonl").read_bytes().split(b"\n")
    except OSError as error:
        yield f"events.jsonl: cannot be read ({_short(error)})"
        return
    for number, line in enumerate(lines[:-1], 1):  # the last may be torn in a run that was cut off
        try:
            json.loads(line or b"{}")
        except ValueError:
            # A torn line is closed by the run that goes on after it.
            if b'"resumed"' not in lines[number]:
                yield f"events.jsonl: line {number} cannot be read"


def _said_frames(path: Path) -> int | None:
    """How many frames ``result.json`` counts; None if it does not say."""
    try:
        return int(json.loads((path / "result.json").read_text(encoding="utf-8"))["frames"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
