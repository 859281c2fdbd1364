"""A mark that a process is writing a run folder, which the operating system takes away when that process dies."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

NAME = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""What an operating system calls a lock that another process has."""


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

    def take(self) -> bool:
        """Mark the folder.

        Returns
        -------
        bool
            False if a living process has marked it. On a file system without locks there is no mark, and the run shows
            as cut off meanwhile.
        """
        while True:
            file = self._path.open("ab")
            try:
                _lock(file)
            except OSError as error:
                file.close()
                return error.errno not in HELD
            if self._is_mine(file):
                self._file = file
                return True
            file.close()  # whoever had it took the file away between our opening and our locking it

    def release(self) -> None:
        """Take the mark away. Safe to call twice."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            if sys.platform != "win32":  # while it is still ours: a mark that another takes now must stay
                self._path.unlink()
            file.close()
            if sys.platform == "win32":
                self._path.unlink()
        except OSError:  # a reader on Windows is just looking; the file without a lock says the same
            return
        finally:
            file.close()

    def _is_mine(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


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
