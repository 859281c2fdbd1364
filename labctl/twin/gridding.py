"""Between points and regular grids: panel pixels onto the grid of a Fourier transform, a grid onto camera pixels.

Both are sparse matrices whose weights depend smoothly on where the points are, so that gradients reach the geometry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.special import i0, i1
from torch import Tensor

OVERSAMPLING = 1.25
"""Band of the transform over the band that is used."""
WIDTH = 8
"""Grid points (per axis) onto which a panel pixel is spread."""
BETA = float(np.pi * np.sqrt((WIDTH / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8))
"""Shape of the Kaiser-Bessel window for this width and oversampling (Beatty et al., IEEE Trans. Med. Imag. 24, 799)."""

Sparse = tuple[NDArray[np.int32], list[NDArray[np.float32]]]


def window_transform(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fourier transform of the spreading window, at frequencies in cycles per grid spacing."""
    root = np.sqrt(BETA**2 - (np.pi * WIDTH * frequency) ** 2 + 0j)
    return np.asarray((WIDTH * np.sinh(root) / root).real, np.float64)


def _kaiser_bessel(t: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    s = np.sqrt(np.clip(1 - (2 * t / WIDTH) ** 2, 1e-12, None))
    return i0(BETA * s), -4 * BETA * t / WIDTH**2 * i1(BETA * s) / s


def _keys(t: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, sign = np.abs(t), np.sign(t)
    near = a < 1
    value = np.where(near, (1.5 * a - 2.5) * a * a + 1, np.where(a < 2, ((-0.5 * a + 2.5) * a - 4) * a + 2, 0.0))
    slope = np.where(near, (4.5 * a - 5) * a, np.where(a < 2, (-1.5 * a + 5) * a - 4, 0.0))
    return value, sign * slope


def _weights(
    places: NDArray[np.float64], shape: tuple[int, int], taps: int, kernel: Any, slopes: bool
) -> tuple[NDArray[np.int32], list[NDArray[np.float32]]]:
    """Cells [point, taps * taps] and weights: value, and on demand its derivatives by y and x."""
    first = np.ceil(places - taps / 2).astype(np.int64)
    values, derivatives, index = [], [], []
    for axis in (0, 1):
        cells = first[:, axis, None] + np.arange(taps)
        value, slope = kernel(places[:, axis, None] - cells)
        values.append(value.astype(np.float32))
        derivatives.append(slope.astype(np.float32))
        index.append(np.clip(cells, 0, shape[axis] - 1))
    cells = (index[0][:, :, None] * shape[1] + index[1][:, None, :]).reshape(len(places), -1).astype(np.int32)

    def product(y: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
        return (y[:, :, None] * x[:, None, :]).reshape(len(places), -1)

    found = [product(values[0], values[1])]
    if slopes:
        found += [product(derivatives[0], values[1]), product(values[0], derivatives[1])]
    return cells, found


def _matrix(cells: NDArray[np.int32], weights: NDArray[np.float32], size: int) -> scipy.sparse.csr_matrix:
    """Sparse [point, cell]."""
    count = len(cells)
    start = np.arange(count + 1, dtype=np.int32) * cells.shape[1]
    return scipy.sparse.csr_matrix((weights.ravel(), cells.ravel(), start), shape=(count, size))


def _columns(values: Tensor) -> NDArray[np.float32]:
    """Batch [batch, n], complex or real, as columns [n, batch (and part)] for a real sparse matrix."""
    array = values.detach()
    if array.is_complex():
        array = torch.view_as_real(array).permute(1, 0, 2).reshape(array.shape[1], -1)
    else:
        array = array.T
    return np.ascontiguousarray(array.numpy())


def _batch(columns: NDArray[np.float32], like_complex: bool) -> Tensor:
    found = torch.from_numpy(np.ascontiguousarray(columns))
    if like_complex:
        return torch.view_as_complex(found.reshape(len(found), -1, 2).contiguous()).T.contiguous()
    return found.T.contiguous()


class _Spread(torch.autograd.Function):
    """``grid[b, cell] = sum_n w[n, cell](places) values[b, n]``."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
        slopes = bool(ctx.needs_input_grad[0])
        cells, weights = _weights(places.detach().numpy(), shape, WIDTH, _kaiser_bessel, slopes)
        size = shape[0] * shape[1]
        ctx.matrices = [_matrix(cells, w, size) for w in weights]
        ctx.shape = shape
        ctx.save_for_backward(values)
        found = _batch(ctx.matrices[0].T @ _columns(values), values.is_complex())
        return found.reshape(-1, *shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (values,) = ctx.saved_tensors
        grad = _columns(grads[0].reshape(len(values), -1))
        by_values = _batch(ctx.matrices[0] @ grad, values.is_complex()) if ctx.needs_input_grad[1] else None
        by_places = None
        if ctx.needs_input_grad[0]:
            columns = _columns(values)
            slopes = [((matrix @ grad) * columns).sum(1) for matrix in ctx.matrices[1:]]
            by_places = torch.from_numpy(np.stack(slopes, axis=1)).double()
        return by_places, by_values, None


class _Read(torch.autograd.Function):
    """``out[b, n] = sum_cell w[n, cell](places) plane[b, cell]``: cubic interpolation."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, plane: Tensor) -> Tensor:
        shape = plane.shape[-2], plane.shape[-1]
        slopes = bool(ctx.needs_input_grad[0])
        cells, weights = _weights(places.detach().numpy(), shape, 4, _keys, slopes)
        flat = _columns(plane.reshape(len(plane), -1))
        matrices = [_matrix(cells, w, shape[0] * shape[1]) for w in weights]
        ctx.matrix, ctx.shape = matrices[0], plane.shape
        ctx.slopes = [matrix @ flat for matrix in matrices[1:]]
        return _batch(matrices[0] @ flat, False)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None]:
        grad = _columns(grads[0])
        by_plane = _batch(ctx.matrix.T @ grad, False).reshape(ctx.shape) if ctx.needs_input_grad[1] else None
        by_places = None
        if ctx.needs_input_grad[0]:
            by_places = torch.from_numpy(np.stack([(s * grad).sum(1) for s in ctx.slopes], axis=1)).double()
        return by_places, by_plane


def spread(places: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Points onto a regular grid, each over `WIDTH` x `WIDTH` cells; differentiable in both.

    Parameters
    ----------
    places : float64 tensor [n, 2], cells (row, column)
        At least half of `WIDTH` from the edges.
    values : complex64 tensor [batch, n]
    shape : (rows, columns)

    Returns
    -------
    complex64 tensor [batch, row, column]
    """
    return torch.as_tensor(_Spread.apply(places, values, shape))


def read(places: Tensor, plane: Tensor) -> Tensor:
    """Values of a plane at points, by cubic interpolation (Keys 1981); differentiable in both.

    Parameters
    ----------
    places : float64 tensor [n, 2], cells (row, column)
    plane : float32 tensor [batch, row, column]

    Returns
    -------
    float32 tensor [batch, n]
    """
    return torch.as_tensor(_Read.apply(places, plane))
