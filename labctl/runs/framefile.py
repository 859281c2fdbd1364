"""``frames.h5``: every frame of a run, readable by any HDF5 tool, and whole up to the last frame after a ``kill -9``.

=============================  ============================================================================
``/frames/ROWSxCOLS-DTYPE``    [frame, row, column], uncompressed unless the run was compacted
``/table``                     one row per frame, in the order captured (see `ROW`)
``/tags``                      one JSON text per frame
``/patterns/slm/TOKEN``        each gray pattern once [row, column]
``/patterns/input/TOKEN``      the same, if the run keeps input patterns
=============================  ============================================================================

How a frame is saved: the file has room for more frames than it holds, and labctl knows where in the file that room is
(`labctl.runs.slots`). A frame is one write of its pixels there, one of its tag, and last one of its row; the structure
of the file does not change, and a row that is not yet written is all zeros. A file whose writer was killed has such
rows at its end; one that was closed has none. Room and patterns are added by changes that happen whole or not at all
(`labctl.runs.journal`).
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.runs.framerow import ROW, ROW_BYTES, STORAGE, as_text, checksum, damage, pack, row_is_whole
from labctl.runs.journal import JournaledFile, pending_pieces
from labctl.runs.lock import is_held
from labctl.runs.slots import Helper, Slots

__all__ = ["ROW", "STORAGE", "FrameFile", "checksum", "frame_at", "open_frames", "read_frames", "read_table", "rows_of"]

log = logging.getLogger(__name__)
FORMAT = "labctl frames 2"
OLD_FORMAT = "labctl frames 1"
"""Still read: ``crc32`` of the frame in place of ``xxh3``, and none of the columns that came later."""
RESERVE = 8 * 2**20
"""Bytes kept free on the disk, so that the last words of a run always fit."""
CHUNK = 4 * 2**20
"""Bytes of a chunk of frames, at most, unless one frame is more."""
TAG_BYTES = 64
"""Room for a tag in a new file; it doubles when a longer one comes."""


class FrameFile:
    """The writer: begins a file, or goes on with one that a closed or killed writer left. For one thread at a time.

    Every `append` is in the hands of the operating system when it returns.

    Raises
    ------
    RunError
        If the file is of an earlier format, was compacted, or is damaged: it can perhaps be read, but not continued.
    OSError
        If the disk does not take it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._broken = False
        self._helper = Helper()
        self._stacks: dict[tuple[tuple[int, ...], np.dtype[Any]], Slots] = {}
        rows = rows_to_continue(path) if path.exists() else _begin(path)
        self._io = JournaledFile(path, "r+")
        try:
            # No cache for chunks: what is in the places of `Slots` is none of HDF5's business.
            self._file = h5py.File(self._io, "r+", alignment_threshold=4096, alignment_interval=4096, rdcc_nbytes=0)
            self._patterns = {(kind, token) for kind, tokens in self._file["patterns"].items() for token in tokens}
            with self._change():
                self._go_on(rows)
        except BaseException:
            self._io.abandon()
            self._io.close()
            raise

    def append(
        self, frame: Frame, patterns: dict[str, NDArray[Any] | None], *, batch: int = 0, position: int = 0
    ) -> None:
        """Write one frame, and the patterns ("slm", "input") that are not yet in the file.

        Raises
        ------
        OSError, RuntimeError
            Of a full or vanished disk. The frames before stay as they are.
        """
        if self._broken:
            raise OSError(errno.EIO, "the file could not be extended for an earlier frame")
        if not self.count & 7 and os.fstat(self._io.fd).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the folder was deleted while the run was going on")
        for kind, pattern in patterns.items():
            if pattern is not None and (token := getattr(frame, kind)) and (kind, token) not in self._patterns:
                self._keep(kind, token, pattern)
        data = frame.data if frame.data.flags.c_contiguous else np.ascontiguousarray(frame.data)
        stack = self._stacks.get((data.shape, data.dtype)) or self._new_stack(data)
        tag = as_text(frame.tag)
        if len(tag) > self._tags.item_bytes:
            self._widen(len(tag))
        slots = (stack, self._tags, self._table)
        for each in slots:
            if each.used == each.room:
                self._grow(each)
        digest = stack.write_summed(data, self._helper)
        row = pack(stack.name, stack.used, frame, batch=batch, position=position, digest=digest, tag=tag)
        self._tags.write(tag)
        self._table.write(row)
        for each in slots:
            each.used += 1
        self.count += 1

    def close(self) -> None:
        """Give unused room back and close; a file that the disk has failed stays as it was before. Twice is fine."""
        if not self._file:
            return
        try:
            if not self._broken:
                with self._change():
                    for slots in (*self._stacks.values(), self._tags, self._table):
                        slots.trim()
            self._file.close()  # gives free space at the end of the file back, after all else
            self._io.commit()
        except (OSError, RuntimeError) as error:
            log.warning("closing %s: %s", self.path, error)
        finally:
            self._io.abandon()
            self._file.close()
            self._io.close()
            self._helper.close()

    # -- changes of the file's structure ------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[None]:
        """What is done inside becomes part of the file whole; where that fails, the file is not changed any more."""
        try:
            yield
            self._file.flush()
            self._io.commit()
        except BaseException:
            self._broken = True
            self._io.abandon()
            raise

    def _go_on(self, rows: NDArray[Any]) -> None:
        """Take up the file after its last whole frame, and clear what lies behind it."""
        self.count = len(rows)
        self._table = Slots(self._file["table"], self._io, used=self.count)
        self._tags = Slots(self._file["tags"], self._io, used=self.count)
        self._table.clear()
        self._tags.clear()
        for name, dataset in self._file["frames"].items():
            used = int(np.max(rows["index"][rows["stack"] == name.encode()], initial=-1)) + 1
            slots = Slots(dataset, self._io, used=used, reserve=True)
            self._stacks[dataset.shape[1:], dataset.dtype] = slots

    def _new_stack(self, data: NDArray[Any]) -> Slots:
        name = f"frames/{'x'.join(str(n) for n in data.shape)}-{data.dtype.name}"
        per_chunk = max(1, min(64, CHUNK // data.nbytes))
        with self._change():
            dataset = Slots.create(self._file, name, data.shape, data.dtype, per_chunk=per_chunk, zeros=False)
            stack = self._stacks[data.shape, data.dtype] = Slots(dataset, self._io, reserve=True)
        return stack

    def _grow(self, slots: Slots) -> None:
        free = self._room_for(slots.chunk_bytes)
        with self._change():
            slots.grow(least=free < slots.growth)

    def _keep(self, kind: str, token: str, pattern: NDArray[Any]) -> None:
        self._room_for(pattern.nbytes)
        with self._change():
            self._file.create_dataset(f"patterns/{kind}/{token}", data=pattern)
        self._patterns.add((kind, token))

    def _widen(self, length: int) -> None:
        """Make room for a longer tag in every row."""
        with open_frames(self.path) as file:
            texts: list[bytes] = file["tags"][: self.count].tolist()
        width = 1 << length.bit_length()
        self._room_for(2 * width * (self.count + 1))
        with self._change():
            del self._file["tags"]
            self._tags = Slots(_new_tags(self._file, width), self._io)
            while self._tags.room < self.count:
                self._tags.grow()
            self._tags.fill(texts)

    def _room_for(self, size: int) -> int:
        free = shutil.disk_usage(self.path.parent).free - RESERVE
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return free


def _begin(path: Path) -> NDArray[Any]:
    """Make an empty frame file, whole or not at all."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["format"] = FORMAT
        Slots.create(file, "table", (), ROW, per_chunk=256, zeros=True)
        _new_tags(file, TAG_BYTES)
        for name in ("frames", "patterns/slm", "patterns/input"):
            file.create_group(name)
    part = path.with_name(path.name + ".part")
    part.write_bytes(memory.getvalue())
    part.replace(path)
    return np.zeros(0, ROW)


def rows_to_continue(path: Path) -> NDArray[Any]:
    """The rows of a file that is to be continued.

    Raises
    ------
    RunError
        If it cannot be: it was compacted, is of an earlier format, or is damaged.
    """
    with open_frames(path) as file:
        reason = "was compacted" if "compacted" in file.attrs else "was written by an earlier labctl"
        if file.attrs.get("format") != FORMAT or "compacted" in file.attrs:
            raise RunError(f"{path} {reason}: it can be read, but the run cannot be continued")
        return rows_of(file)


def _new_tags(file: h5py.File, width: int) -> h5py.Dataset:
    kind = h5py.string_dtype("utf-8", width)
    return Slots.create(file, "tags", (), kind, per_chunk=max(1, 2**16 // width), zeros=True)


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
        If it cannot be read; with `check`, also if it does not fit its checksum.
    """
    optional = set(row.dtype.names) & {"slm_before", "shown_slm", "shown_input", "repeats", "proof"}
    try:
        data = file["frames"][row["stack"].decode()][int(row["index"])]
        text = file["tags"].asstr()[number]
        more = {name: row[name].decode() if name == "slm_before" else row[name].item() for name in optional}
        frame = Frame(
            data=data,
            number=int(row["number"]),
            started=float(row["started"]),
            ended=float(row["ended"]),
            exposure_s=float(row["exposure_s"]),
            slm=row["slm"].decode(),
            input=row["input"].decode(),
            origin=(int(row["origin"][0]), int(row["origin"][1])) if "origin" in row.dtype.names else (0, 0),
            tag=json.loads(text),
            **more,
        )
    except (KeyError, IndexError, ValueError, OSError) as error:
        where = f"{_path_of(file)}: frame {number}"
        raise RunError(f"{where} cannot be read ({error}): the file was damaged after the run") from error
    wrong = damage(row, data, text) if check else ""
    if wrong:
        where = f"{_path_of(file)}: frame {number}"
        raise RunError(f"{where} does not fit its checksum: the file was damaged after the run ({wrong})")
    return frame


def open_frames(path: Path) -> h5py.File:
    """Open ``frames.h5`` for reading, or say in one line why not. A file that is being written may be read as well."""
    try:
        return h5py.File(JournaledFile(path, "r") if pending_pieces(path) else path, "r")
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run ended before its first frame") from None
    except (OSError, RuntimeError) as error:
        text = "is being written by another process: wait until the run has ended"
        if not is_held(path.parent):
            text = f"cannot be read ({error})"
        raise RunError(f"{path} {text}") from error


def rows_of(file: h5py.File) -> NDArray[Any]:
    """One row of type `ROW` per readable frame of an open file, in the order captured."""
    try:
        table: NDArray[Any] = file["table"][()]
        if "xxh3" not in (table.dtype.names or ()):
            old: NDArray[Any] = table[table["stack"] != b""][: len(file["tags"])]
            return old
        written = np.flatnonzero(table.view(f"V{ROW_BYTES}") != np.void(bytes(ROW_BYTES)))
        count = int(written[-1]) + 1 if len(written) else 0
        if count and not row_is_whole(table[count - 1], file["tags"][count - 1]):
            count -= 1  # its writer was killed meanwhile
    except (KeyError, OSError, ValueError, IndexError) as error:
        raise RunError(f"{_path_of(file)} cannot be read ({error}): it was damaged after the run") from error
    return table[:count]


def _path_of(file: h5py.File) -> str:
    name = file.filename
    return name if isinstance(name, str) else name.decode(errors="replace")
