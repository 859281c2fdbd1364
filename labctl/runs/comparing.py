"""Whether two results are the same, bit for bit, and where they are not."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

TIMES = {"CalibrationRecord": ("taken",)}
"""Fields that tell when something was measured: not part of what was measured."""


def differences(one: Any, other: Any) -> list[str]:
    """Where two results as `RecordedRun.result` gives them differ; empty if they are equal bit for bit.

    Arrays must agree in type, shape and bytes, and floats in their bits (a NaN equals itself, 0.0 is not -0.0). Times
    at which calibrations were taken are not compared.

    Returns
    -------
    list of str
        One line each, such as ``arms[2].correct: 31, 32``.
    """
    return list(_differences(one, other, ""))


def _differences(one: Any, other: Any, path: str) -> Iterator[str]:
    where = path.lstrip(".") or "the result"
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left_out = TIMES.get(str(one.get("$type")), ())
        for key in dict.fromkeys([*one, *other]):
            if key in left_out:
                continue
            if key not in one or key not in other:
                yield f"{where}.{key}: only in the {'second' if key not in one else 'first'}"
            else:
                yield from _differences(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{where}: {len(one)} entries, {len(other)}"
        for index, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from _differences(a, b, f"{path}[{index}]")
    elif isinstance(one, np.ndarray | np.generic) and isinstance(other, np.ndarray | np.generic):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            yield f"{where}: {one.dtype} {one.shape}, {other.dtype} {other.shape}"
        elif one.tobytes() != other.tobytes():
            yield f"{where}: {_how_far(np.asarray(one), np.asarray(other))}"
    elif type(one) is not type(other) or _bits(one) != _bits(other):
        yield f"{where}: {one!r:.60}, {other!r:.60}"


def _bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else value


def _how_far(one: np.ndarray, other: np.ndarray) -> str:
    differs = int((one != other).sum())
    if one.dtype.kind not in "iuf":
        return f"{differs} of {one.size} elements differ"
    largest = np.nanmax(np.abs(one.astype(np.float64) - other.astype(np.float64)))
    return f"{differs} of {one.size} elements differ, by {largest:.3g} at most"
