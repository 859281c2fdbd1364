"""A mark that a process is writing a run folder, which the operating system takes away when that process dies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

NAME = ".lock"


def _lock(file: BinaryIO) -> None:
    """Take the lock or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """Held from `take` to `release`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: BinaryIO | None = None

    def take(self) -> None:
        """Mark the folder; on a file system without locks there is no mark, and the run shows as cut off meanwhile."""
        file = self._path.open("wb")
        try:
            _lock(file)
        except OSError:
            file.close()
            return
        self._file = file

    def release(self) -> None:
        """Take the mark away. Safe to call twice."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        try:
            Path(self._path).unlink()
        except OSError:  # a reader on Windows is just looking; the file without a lock says the same
            return


def is_held(folder: Path) -> bool:
    """Whether a living process is writing this run folder."""
    try:
        with (folder / NAME).open("rb+") as file:
            _lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
