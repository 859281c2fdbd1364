"""Small operations on planes of the twin: cutting, averaging, coefficients as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from labctl.twin.parts import low_degrees

Window = tuple[int, int, int, int]


def wide(pattern: Any) -> type[Any]:
    return np.int64 if np.issubdtype(np.asarray(pattern).dtype, np.integer) else np.float32


def filled(coefficients: Tensor, order: int) -> Tensor:
    """Coefficients of low degree as a matrix [degree of y, degree of x]."""
    where = torch.from_numpy(low_degrees(order))
    return torch.zeros(order + 1, order + 1).masked_scatter(where, coefficients)


def lit_box(light: Tensor) -> Window:
    """Rows and columns (first, end, first, end) outside which it is dark; one pixel if it is all dark."""
    box = []
    for axis in (0, 1):
        lit = torch.nonzero((light.detach() != 0).any(dim=1 - axis)).ravel()
        box += [int(lit[0]), int(lit[-1]) + 1] if len(lit) else [0, 1]
    return box[0], box[1], box[2], box[3]


def periodic(lines: Tensor, wanted: Tensor) -> Tensor:
    """Columns `wanted` (consecutive) of a periodic array."""
    count = lines.shape[1]
    first, size = int(wanted[0]) % count, len(wanted)
    if first + size <= count:
        return lines[:, first : first + size]
    if size <= count:
        return torch.cat([lines[:, first:], lines[:, : first + size - count]], dim=1)
    return lines[:, wanted % count]


def convolved(a: Tensor, b: Tensor) -> Tensor:
    """Two symmetric sets of taps as one."""
    return torch.nn.functional.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)[0, 0]


def filtered(plane: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Average along an axis; the ends, for which there are too few samples, are not meant to be read."""
    half, size = len(taps) // 2, plane.shape[axis]
    keep = [k for k in range(len(taps)) if abs(float(taps.detach()[k])) > 1e-6]
    total = torch.zeros_like(plane)
    inner = size - 2 * half
    part = sum(taps[k] * plane.narrow(axis, k, inner) for k in keep)
    if not isinstance(part, Tensor):
        return total
    widths = [0, 0, half, half] if axis == 0 else [half, half, 0, 0]
    return torch.nn.functional.pad(part, widths)


def places(y: Tensor, x: Tensor) -> Tensor:
    """All places (y, x) of two axes, float64 [n, 2], row by row."""
    return torch.stack(torch.meshgrid(y.double(), x.double(), indexing="ij"), -1).reshape(-1, 2)


def between(nodes: Tensor, matrices: list[Tensor]) -> Tensor:
    """A map [row, column] from its nodes, by a matrix [pixel, node] for each axis."""
    return torch.as_tensor(matrices[0] @ nodes @ matrices[1].T)
