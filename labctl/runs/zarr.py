"""Writing zarr, format 2: folders of raw chunks described by JSON, which zarr 2 and 3, dask, napari and Fiji read.

Source: the specification of the Zarr storage format, version 2. Nothing is compressed, so that no codec is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def group(folder: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """An empty group, with attributes."""
    folder.mkdir(parents=True)
    _write(folder / ".zgroup", {"zarr_format": 2})
    if attributes:
        _write(folder / ".zattrs", attributes)


def array(folder: Path, values: NDArray[Any]) -> None:
    """An array in one chunk."""
    values = np.asarray(values, values.dtype.newbyteorder("<"))
    _describe(folder, values.shape, values.shape, values.dtype)
    (folder / ".".join("0" * max(1, values.ndim))).write_bytes(np.ascontiguousarray(values).tobytes())


def stack(
    folder: Path, slices: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any], together: int
) -> None:
    """An array [slice, ...] from its slices, so many together in a chunk.

    Parameters
    ----------
    slices : iterable of array
        Consumed one by one; there is never more than one chunk of them in memory.
    shape : tuple of int
        Of the whole.
    together : int
        Slices in one chunk.
    """
    dtype = dtype.newbyteorder("<")
    _describe(folder, shape, (together, *shape[1:]), dtype)
    rest = iter(slices)
    for number in range(-(-shape[0] // together)):
        with (folder / ".".join([str(number), *"0" * (len(shape) - 1)])).open("wb") as file:
            left = together
            for values in islice(rest, together):
                file.write(np.ascontiguousarray(values, dtype).data)
                left -= 1
            # A chunk is whole even where the array has ended.
            file.write(bytes(left * dtype.itemsize * int(np.prod(shape[1:]))))


def _describe(folder: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    folder.mkdir(parents=True)
    description = {
        "zarr_format": 2, "shape": list(shape), "chunks": [max(1, n) for n in chunks], "dtype": dtype.str,
        "compressor": None, "fill_value": "" if dtype.kind in "SU" else 0, "order": "C", "filters": None,
    }  # fmt: skip
    _write(folder / ".zarray", description)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
