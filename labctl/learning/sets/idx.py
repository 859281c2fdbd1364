"""Reader of IDX files of unsigned bytes (MNIST, Fashion-MNIST and their kin).

A file that is not what its name says is one `DataError` that names the file, says what is wrong and what to do.
Source: http://yann.lecun.com/exdb/mnist, section "file formats".
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError
from labctl.learning.sets.files import read_bytes

IDX_UINT8 = 0x08


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
    content = read_bytes(path)
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
