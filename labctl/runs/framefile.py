"""``frames.h5``: every frame of a run, readable by any HDF5 tool, and whole up to the last flush after a ``kill -9``.

=============================  ============================================================================
``/frames/ROWSxCOLS-DTYPE``    [frame, row, column]; one chunk per frame, uncompressed
``/table``                     one row per frame, in the order captured (see `ROW`)
``/tags``                      one JSON text per frame
``/patterns/slm/TOKEN``        each gray pattern once [row, column]
``/patterns/input/TOKEN``      the same, if the run keeps input patterns
=============================  ============================================================================
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.runs.values import to_json

log = logging.getLogger(__name__)
FORMAT = "labctl frames 1"
ROW = np.dtype(
    [
        ("stack", "S32"),  # name under /frames; empty: the row was never written
        ("index", "i8"),  # frame index within the stack
        ("number", "i8"),
        ("started", "f8"),
        ("ended", "f8"),
        ("exposure_s", "f8"),
        ("slm", "S32"),
        ("input", "S32"),
        ("origin", "i4", (2,)),  # row and column of the frame's corner on the sensor
        ("batch", "i4"),  # which Measure of the run
        ("position", "i4"),  # which exposure of that Measure
        ("crc32", "u4"),  # of the frame's bytes, C order, as stored
    ]
)


class FrameFile:
    """The writer. Every `append` is on disk, as far as the operating system goes, when it returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file = h5py.File(path, "w")  # default mode: with a flush per frame it survives kill -9
        self._file.attrs["format"] = FORMAT
        self._table = self._file.create_dataset("table", (0,), ROW, maxshape=(None,), chunks=(64,))
        self._tags = self._file.create_dataset("tags", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(64,))
        self._stacks: dict[str, h5py.Dataset] = {}
        self._patterns: set[tuple[str, str]] = set()
        self._file.flush()

    def append(
        self, frame: Frame, patterns: dict[str, NDArray[Any] | None], *, batch: int = 0, position: int = 0
    ) -> None:
        """Write one frame, and the patterns ("slm", "input") that are not yet in the file, and flush.

        Raises
        ------
        OSError, RuntimeError
            Whatever HDF5 makes of a full or vanished disk.
        """
        for kind, pattern in patterns.items():
            key = (kind, getattr(frame, kind))
            if pattern is not None and key[1] and key not in self._patterns:
                self._file.create_dataset(f"patterns/{key[0]}/{key[1]}", data=pattern)
                self._patterns.add(key)
        data = np.ascontiguousarray(frame.data)
        stack = self._stack(data)
        index, row = len(stack), self.count
        stack.resize(index + 1, axis=0)
        stack[index] = data
        self._tags.resize(row + 1, axis=0)
        self._tags[row] = json.dumps(to_json(frame.tag))
        self._table.resize(row + 1, axis=0)
        self._table[row] = (
            stack.name.rsplit("/", 1)[1], index, frame.number, frame.started, frame.ended, frame.exposure_s,
            frame.slm, frame.input, frame.origin, batch, position, checksum(data),
        )  # fmt: skip
        self._file.flush()
        self.count = row + 1

    def give_up(self) -> None:
        """After an `append` that failed, and with some room made on the disk: back to the last whole frame.

        HDF5 keeps what it could not write and tries again at close; where that fails too, it takes the process down.
        """
        try:
            self._table.resize(self.count, axis=0)
            self._tags.resize(self.count, axis=0)
            self._file.flush()
        except (OSError, RuntimeError) as error:
            log.warning("%s: %s", self.path, error)

    def close(self) -> None:
        """Close; a file that cannot be closed properly any more is left as the last flush left it."""
        try:
            self._file.close()
        except (OSError, RuntimeError) as error:
            log.warning("closing %s: %s", self.path, error)

    def _stack(self, data: NDArray[Any]) -> h5py.Dataset:
        name = "x".join(str(n) for n in data.shape) + f"-{data.dtype.name}"
        if name not in self._stacks:
            self._stacks[name] = self._file.create_dataset(
                f"frames/{name}", (0, *data.shape), data.dtype, maxshape=(None, *data.shape), chunks=(1, *data.shape)
            )
        return self._stacks[name]


def checksum(data: NDArray[Any]) -> int:
    """CRC-32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(data).data)


def read_table(path: Path) -> NDArray[Any]:
    """One row of type `ROW` per readable frame.

    Raises
    ------
    RunError
        If the file is not there, is being written, or is damaged.
    """
    with open_frames(path) as file:
        return rows_of(file)


def read_frames(path: Path, *, check: bool = False) -> Iterator[Frame]:
    """The frames one by one, in the order captured.

    Parameters
    ----------
    check : bool
        Compare each frame with its checksum.

    Raises
    ------
    RunError
        As `read_table`; or if a checksum does not fit.
    """
    with open_frames(path) as file:
        for number, row in enumerate(rows_of(file)):
            yield frame_at(file, number, row, check=check)


def frame_at(file: h5py.File, number: int, row: Any, *, check: bool = False) -> Frame:
    """One frame of an open file: the `number`-th of `rows_of`, whose row is `row`.

    Raises
    ------
    RunError
        With `check`, if it does not fit its checksum.
    """
    data = file["frames"][row["stack"].decode()][int(row["index"])]
    if check and checksum(data) != row["crc32"]:
        raise RunError(f"{file.filename}: frame {number} does not fit its checksum: the file was damaged after the run")
    return Frame(
        data=data,
        number=int(row["number"]),
        started=float(row["started"]),
        ended=float(row["ended"]),
        exposure_s=float(row["exposure_s"]),
        slm=row["slm"].decode(),
        input=row["input"].decode(),
        origin=(int(row["origin"][0]), int(row["origin"][1])) if "origin" in row.dtype.names else (0, 0),
        tag=json.loads(file["tags"].asstr()[number]),
    )


def open_frames(path: Path) -> h5py.File:
    """Open ``frames.h5`` for reading, or say in one line why not."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run ended before its first frame") from None
    except OSError as error:
        text = "is being written by another process: wait until the run has ended"
        if "lock" not in str(error):
            text = f"cannot be read ({error})"
        raise RunError(f"{path} {text}") from error


def rows_of(file: h5py.File) -> NDArray[Any]:
    """One row of type `ROW` per readable frame of an open file, in the order captured."""
    table: NDArray[Any] = file["table"][()]
    written: NDArray[Any] = table[table["stack"] != b""][: len(file["tags"])]
    return written
