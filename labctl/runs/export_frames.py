"""The frames of a run in the formats of other programs, one frame in memory at a time."""

from __future__ import annotations

import importlib
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl import __version__
from labctl.errors import RunError
from labctl.runs import zarr
from labctl.runs.framefile import frame_at, open_frames, rows_of
from labctl.runs.recorded import RecordedRun

BIG_TIFF = 3 * 2**30
"""From this many bytes on, a TIFF gets offsets of 64 bits: long before its 4 GiB, as readers count differently."""
CHUNK = 8 * 2**20
"""Bytes of frames that make one chunk of a zarr array."""
STORAGE = ("stack", "index", "crc32", "xxh3", "row_crc32")
"""Columns of a run's table that say where a frame is stored in HDF5, and nothing about the frame."""
ABOUT_ZARR = "frames: [frame, row, column], counts; table: one entry per frame in the order captured, times in s"
ABOUT_NPZ = """\
Frames of labctl run {run}.

numpy.load(FILE) gives, in the order captured:
    number, started, ended, exposure_s, origin, batch, position, slm, input ...   one entry per frame (times in s)
    tag        what each frame was for, as JSON text
    stack      name of the array below that holds the frame
    index      its place in that array
    frames/ROWSxCOLUMNS-TYPE   [frame, row, column], counts
    patterns/slm/TOKEN         gray pattern [row, column] of each token in slm

    f = numpy.load(FILE)
    frame = f["frames/" + f["stack"][k]][f["index"][k]]
"""


class Source:
    """The open ``frames.h5`` of a run.

    Attributes
    ----------
    rows : structured array
        One row per frame, in the order captured.
    """

    def __init__(self, run: RecordedRun, file: h5py.File) -> None:
        self.run, self._file = run, file
        self.rows = rows_of(file)
        if not len(self.rows):
            raise RunError(f"run {run.id} has no frames to export")

    @property
    def stacks(self) -> dict[str, list[int]]:
        """Numbers of the frames of each size and type."""
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self.rows["stack"]):
            found.setdefault(name.decode(), []).append(number)
        return found

    def shape(self, stack: str) -> tuple[tuple[int, int], np.dtype[Any]]:
        """Shape (rows, columns) and type of a stack's frames."""
        data = self._file["frames"][stack]
        return (int(data.shape[1]), int(data.shape[2])), data.dtype

    def data(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """One frame, compared with its checksum.

        Raises
        ------
        RunError
            If it is damaged.
        """
        frame: NDArray[np.unsignedinteger[Any]] = frame_at(self._file, number, self.rows[number], check=True).data
        return frame

    def tag(self, number: int) -> str:
        """What a frame was for, as JSON text."""
        return str(self._file["tags"].asstr()[number])

    def columns(self) -> dict[str, NDArray[Any]]:
        """What is known of the frames, name to one entry per frame."""
        return {name: self.rows[name] for name in self.rows.dtype.names or () if name not in STORAGE}

    def facts(self, number: int) -> dict[str, Any]:
        """What is known of one frame, as plain values."""
        row = self.rows[number]
        values = {name: _plain(row[name].tolist()) for name in self.columns()}
        return {"run": self.run.id, "frame": number, **values, "tag": json.loads(self.tag(number))}

    def patterns(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name (``slm/TOKEN``) and gray pattern of each that was kept."""
        for panel, tokens in self._file.get("patterns", {}).items():
            for token, pattern in tokens.items():
                yield f"{panel}/{token}", pattern[()]


@contextmanager
def opened(run: RecordedRun) -> Iterator[Source]:
    """The frames of a run, for as long as the context lasts.

    Raises
    ------
    RunError
        If there are none, or they cannot be read.
    """
    with open_frames(run.path / "frames.h5") as file:
        yield Source(run, file)


def write_tiff(run: RecordedRun, part: Path) -> None:
    """All frames as pages of one TIFF; each page's description is JSON about the frame."""
    tifffile = _tifffile()
    with opened(run) as source:
        size = sum(len(numbers) * _frame_bytes(source, stack) for stack, numbers in source.stacks.items())
        with tifffile.TiffWriter(part, bigtiff=size > BIG_TIFF) as tiff:
            for number in range(len(source.rows)):
                _write_page(tiff, source, number)


def write_tiffs(run: RecordedRun, part: Path) -> None:
    """A folder with one TIFF per frame, ``frame-000000.tiff`` on, each described as in `write_tiff`."""
    tifffile = _tifffile()
    with opened(run) as source:
        part.mkdir()
        for number in range(len(source.rows)):
            with tifffile.TiffWriter(part / f"frame-{number:06d}.tiff") as tiff:
                _write_page(tiff, source, number)


def write_zarr(run: RecordedRun, part: Path) -> None:
    """A zarr group (format 2): ``frames/ROWSxCOLUMNS-TYPE``, what is known of the frames under ``table``, patterns."""
    with opened(run) as source:
        zarr.group(
            part, {"format": "labctl frames as zarr 1", "run": run.id, "labctl": __version__, "about": ABOUT_ZARR}
        )
        for name in ("frames", "table", "patterns", "patterns/slm", "patterns/input"):
            zarr.group(part / name)
        for stack, numbers in source.stacks.items():
            shape, dtype = source.shape(stack)
            together = max(1, min(len(numbers), CHUNK // _frame_bytes(source, stack)))
            frames = (source.data(number) for number in numbers)
            zarr.stack(part / "frames" / stack, frames, (len(numbers), *shape), dtype, together)
        for name, values in _table(source).items():
            zarr.array(part / "table" / name, values)
        for name, pattern in source.patterns():
            zarr.array(part / "patterns" / name, pattern)


def write_npz(run: RecordedRun, part: Path) -> None:
    """An npz that `numpy.load` reads without pickle; a text inside says what its arrays are."""
    with opened(run) as source, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("README.txt", ABOUT_NPZ.format(run=run.id))
        for name, values in _table(source).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        for stack, numbers in source.stacks.items():
            shape, dtype = source.shape(stack)
            with archive.open(f"frames/{stack}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
                np.lib.format.write_array_header_2_0(member, {**header, "shape": (len(numbers), *shape)})
                for number in numbers:
                    member.write(np.ascontiguousarray(source.data(number), dtype).data)
        for name, pattern in source.patterns():
            with archive.open(f"patterns/{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, pattern, allow_pickle=False)


def _plain(value: Any) -> Any:
    """A value of a row as JSON knows it: text for bytes, nothing for what is not a number."""
    if isinstance(value, bytes):
        return value.decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(source: Source) -> dict[str, NDArray[Any]]:
    """The columns with text as text, and where each frame is among those of its stack."""
    table = {
        name: np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        for name, values in source.columns().items()
    }
    place = np.zeros(len(source.rows), np.int64)
    for numbers in source.stacks.values():
        place[numbers] = np.arange(len(numbers))
    table["stack"], table["index"] = np.char.decode(source.rows["stack"], "utf-8"), place
    table["tag"] = np.array([source.tag(number) for number in range(len(source.rows))])
    return table


def _write_page(tiff: Any, source: Source, number: int) -> None:
    tiff.write(
        source.data(number), photometric="minisblack", metadata=None, contiguous=False,
        description=json.dumps(source.facts(number)), software=f"labctl {__version__}",
    )  # fmt: skip


def _frame_bytes(source: Source, stack: str) -> int:
    shape, dtype = source.shape(stack)
    return max(1, shape[0] * shape[1] * dtype.itemsize)


def _tifffile() -> Any:
    try:
        return importlib.import_module("tifffile")
    except ImportError as error:
        raise RunError(
            "TIFF needs the package tifffile: pip install 'labctl[export]', or export to zip, zarr or npz"
        ) from error
