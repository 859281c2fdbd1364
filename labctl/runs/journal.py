"""A file whose structure changes whole or not at all, however the process that changes it ends.

HDF5 changes its structure (sizes, trees, headers) at several places of a file, one write after the other, and a file
whose writer is killed between two of them may be lost with all that is in it. A `JournaledFile` stands between HDF5 and
the disk. What HDF5 writes beyond the end of the file as it was last committed goes straight there: nothing refers to it
yet. What it writes over the committed part waits in memory. `JournaledFile.commit` writes those pages to a journal
beside the file, copies them to their places, and empties the journal; who opens the file after a crash finds either no
whole journal (nothing was changed) or a whole one (and does the copying again).

What is written to places that the committed structure already reserves (`JournaledFile.fd`) needs none of this.

Nothing is synced: this is about killed processes, not about power cuts.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Buffer

PAGE = 4096
SUFFIX = ".journal"
_MAGIC = b"labctl journal 1"
_HEAD = struct.Struct("<16sIQ")  # magic, CRC-32 of the body, its bytes
_EMPTY = bytes(_HEAD.size)
_PIECE = struct.Struct("<QI")  # where a piece goes, its bytes
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)


def journal_of(path: Path) -> Path:
    """Where the journal of a file is."""
    return path.with_name(path.name + SUFFIX)


def write_at(handle: int, data: Buffer, at: int) -> None:
    """Write all of `data` at a place of an open file.

    Raises
    ------
    OSError
        If the system does not take all of it.
    """
    written = _write_some(handle, data, at)
    if (view := memoryview(data)).nbytes != written:
        view = view.cast("B")
        while written < len(view):
            written += _write_some(handle, view[written:], at + written)


def set_size(handle: int, size: int) -> None:
    """Cut or lengthen an open file."""
    os.ftruncate(handle, size)


if sys.platform == "win32":

    def _write_some(handle: int, data: Buffer, at: int) -> int:
        os.lseek(handle, at, os.SEEK_SET)
        return os.write(handle, data)

    def _read_some(handle: int, size: int, at: int) -> bytes:
        os.lseek(handle, at, os.SEEK_SET)
        return os.read(handle, size)

else:

    def _write_some(handle: int, data: Buffer, at: int) -> int:
        return os.pwrite(handle, data, at)

    def _read_some(handle: int, size: int, at: int) -> bytes:
        return os.pread(handle, size, at)


class JournaledFile:
    """The file as HDF5 sees it: pass it to ``h5py.File`` in place of a name. For one thread at a time.

    Parameters
    ----------
    path : Path
        Must exist.
    mode : {"r+", "r"}
        With "r+" a journal that a killed writer left is carried out first; with "r" it is only taken into account.

    Attributes
    ----------
    fd : int
        For `write_at` to places that the committed structure reserves.
    """

    def __init__(self, path: Path, mode: Literal["r+", "r"]) -> None:
        self._path = path
        self._pages: dict[int, bytearray] = {}
        self._at = 0
        self._abandoned = mode == "r"
        self._journal = -1
        self.fd = os.open(path, (os.O_RDWR if mode == "r+" else os.O_RDONLY) | _FLAGS)
        try:
            pending = pending_pieces(path)
            if mode == "r+":
                for at, data in pending:
                    write_at(self.fd, data, at)
                self._journal = os.open(journal_of(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o666)
            self._size = self._committed = os.fstat(self.fd).st_size
            if mode == "r":
                for at, data in pending:
                    self._overlay(at, memoryview(data))
        except BaseException:
            self.close()
            raise

    # -- what HDF5 calls ----------------------------------------------------------------------------------------------

    def seek(self, at: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, counted from the start, from here, or from the end."""
        self._at = at + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer from the place on."""
        view = memoryview(buffer).cast("B")
        view[:] = self.read(len(view))
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Read from the place on, and what waits in memory where that is newer; zeros beyond the end."""
        start, end = self._at, self._size if size < 0 else self._at + size
        found = self._from_disk(start, end - start)
        for number in range(start // PAGE, -(-end // PAGE)) if self._pages else ():
            if (page := self._pages.get(number)) is not None:
                first, last = max(start, number * PAGE), min(end, number * PAGE + len(page))
                if first < last:
                    found[first - start : last - start] = page[first - number * PAGE : last - number * PAGE]
        self._at = end
        return bytes(found)

    def write(self, data: Buffer) -> int:
        """Write at the place: to the disk beyond the committed end, else to memory."""
        view = memoryview(data).cast("B")
        at, end = self._at, self._at + len(view)
        waiting = len(view) if self._abandoned else max(0, min(end, self._committed) - at)
        self._overlay(at, view[:waiting])
        if waiting < len(view):
            write_at(self.fd, view[waiting:], at + waiting)
        self._at = end
        self._size = max(self._size, end)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Note the size that the file is to have after the next `commit`."""
        self._size = self._at if size is None else size
        return self._size

    def flush(self) -> None:
        """Nothing: see `commit`."""

    # -- what its owner calls -----------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make all that HDF5 has written since the last time part of the file.

        Raises
        ------
        OSError
            If the disk does not take it: the file is as it was, or will be as it should when it is next opened.
        """
        if self._abandoned:
            return
        if self._size > os.fstat(self.fd).st_size:
            set_size(self.fd, self._size)
        if self._pages:
            pieces = [(number * PAGE, bytes(page)) for number, page in sorted(self._pages.items())]
            body = b"".join(_PIECE.pack(at, len(data)) + data for at, data in pieces)
            write_at(self._journal, _HEAD.pack(_MAGIC, zlib.crc32(body), len(body)) + body, 0)
            for at, data in pieces:
                write_at(self.fd, data, at)
            write_at(self._journal, _EMPTY, 0)
            self._pages.clear()
        if self._size < os.fstat(self.fd).st_size:
            set_size(self.fd, self._size)
        self._committed = self._size

    def abandon(self) -> None:
        """Leave the file as it was last committed; what HDF5 writes from now on stays in memory."""
        self._abandoned = True

    def close(self) -> None:
        """Close, and take an empty journal away. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
            if not pending_pieces(self._path):
                journal_of(self._path).unlink(missing_ok=True)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            self.close()

    # -- pages --------------------------------------------------------------------------------------------------------

    def _from_disk(self, at: int, size: int) -> bytearray:
        found = bytearray()
        while len(found) < size and (more := _read_some(self.fd, size - len(found), at + len(found))):
            found += more
        return found + bytes(size - len(found))

    def _overlay(self, at: int, view: memoryview) -> None:
        while view:
            number, within = divmod(at, PAGE)
            part = view[: PAGE - within]
            page = self._pages.setdefault(number, bytearray())
            # Up to the committed end only: what lies beyond it is written to the disk, and read from there.
            length = PAGE if self._abandoned else min(PAGE, self._committed - number * PAGE)
            page += self._from_disk(number * PAGE + len(page), length - len(page))
            page[within : within + len(part)] = part
            at, view = at + len(part), view[len(part) :]


def pending_pieces(path: Path) -> list[tuple[int, bytes]]:
    """What a writer has put into the journal and maybe not into the file; empty if the journal is not whole."""
    try:
        text = journal_of(path).read_bytes()
    except FileNotFoundError:
        return []
    if len(text) < _HEAD.size:
        return []
    magic, crc, size = _HEAD.unpack_from(text)
    body = text[_HEAD.size : _HEAD.size + size]
    if magic != _MAGIC or len(body) != size or zlib.crc32(body) != crc:
        return []
    pieces, at = [], 0
    while at < len(body):
        where, length = _PIECE.unpack_from(body, at)
        at += _PIECE.size + length
        pieces.append((where, body[at - length : at]))
    return pieces
