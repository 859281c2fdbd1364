"""Reading whole files of image sets, with errors that name the file."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from labctl.errors import DataError


def read_bytes(path: Path) -> bytes:
    """The content of `path`, decompressed when its name ends in .gz.

    Raises
    ------
    DataError
        It cannot be read, or is no whole gzip stream.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from error
    if path.suffix != ".gz":
        return raw
    if raw[:2] != b"\x1f\x8b":
        raise DataError(f"{path}: is named .gz but is no gzip file; fetch it again")
    try:
        return gzip.decompress(raw)
    except EOFError as error:
        raise DataError(
            f"{path}: is truncated (the gzip stream stops after {len(raw)} bytes); fetch it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: is damaged ({error}); fetch it again") from error
