"""Readers of the original file formats: IDX (MNIST, Fashion-MNIST) and CIFAR-10 binary.

A file that is not what its name says is one `DataError` that names the file, says what is wrong and what to do.
Sources: IDX, http://yann.lecun.com/exdb/mnist (section "file formats"); CIFAR-10 binary,
https://www.cs.toronto.edu/~kriz/cifar.html ("binary version").
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError

IDX_UINT8 = 0x08
CIFAR_RECORD = 1 + 3 * 32 * 32


def _bytes_of(path: Path) -> bytes:
    """The content of `path`, decompressed when its name ends in .gz."""
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


def read_idx(path: Path, *, dims: int) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Parameters
    ----------
    path
        Plain, or gzip if its name ends in `.gz`.
    dims
        Dimensions that the file must have: 3 for images [n, y, x], 1 for labels [n].

    Raises
    ------
    DataError
        Not an IDX file of bytes, the wrong number of dimensions, or shorter or longer than its header says.
    """
    content = _bytes_of(path)
    if len(content) < 4:
        raise DataError(f"{path}: is truncated ({len(content)} bytes, too short for an IDX header); fetch it again")
    if content[0] != 0 or content[1] != 0 or content[2] != IDX_UINT8 or not 1 <= content[3] <= 8:
        raise DataError(
            f"{path}: is no IDX file of unsigned bytes (it starts with {content[:4].hex(' ')}, "
            f"expected 00 00 08 {dims:02x}); put the original file there"
        )
    if content[3] != dims:
        kinds = {1: "labels", 3: "images"}
        held = kinds.get(content[3], f"{content[3]}-dimensional data")
        raise DataError(f"{path}: holds {held}, expected {kinds.get(dims, dims)}; were two files swapped?")
    header = 4 + 4 * dims
    if len(content) < header:
        raise DataError(f"{path}: is truncated (its IDX header is cut off); fetch it again")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    expected = header + math.prod(shape)
    if len(content) != expected:
        what = "is truncated" if len(content) < expected else "has bytes after its end"
        raise DataError(
            f"{path}: {what} ({len(content)} bytes, its header {list(shape)} asks for {expected}); fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def read_cifar10(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one CIFAR-10 binary batch: images uint8 [n, 3, 32, 32] (red, green, blue) and labels uint8 [n].

    Raises
    ------
    DataError
        The size is no whole number of 3073-byte records, or a label is above 9.
    """
    content = _bytes_of(path)
    if not content or len(content) % CIFAR_RECORD:
        raise DataError(
            f"{path}: is truncated or no CIFAR-10 binary batch ({len(content)} bytes is not a whole number of "
            f"{CIFAR_RECORD}-byte records); fetch it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise DataError(f"{path}: is no CIFAR-10 binary batch (a label is {labels.max()}, expected 0 to 9)")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels
