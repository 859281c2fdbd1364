"""Smooth curves and maps with few coefficients: polynomials, splines, and Zernikes as products of the two axes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from labctl.optics.zernike import noll_to_nm, zernike

HIGHEST_POWER = 7
"""Of y and x in the Zernike polynomials up to Noll's j = 36."""


def spline_matrix(knots: NDArray[np.float64], points: NDArray[np.float64]) -> Tensor:
    """Matrix [point, knot] that interpolates values at knots with a cubic spline; constant beyond the last knots.

    Parameters
    ----------
    knots : float array [knot], ascending, at least 2
    points : float array [point]
    """
    inside = np.clip(points, knots[0], knots[-1])
    if len(knots) < 4:
        return torch.from_numpy(np.stack([np.interp(inside, knots, row) for row in np.eye(len(knots))], axis=1)).float()
    return torch.from_numpy(np.asarray(CubicSpline(knots, np.eye(len(knots)))(inside))).float()


def even_knots(size: int, count: int) -> NDArray[np.float64]:
    """`count` places spread evenly over `size` pixels, the first and last on the edges."""
    return np.linspace(-0.5, size - 0.5, count)


def unit(size: int) -> NDArray[np.float64]:
    """Pixel centres from -1 to 1 over `size` pixels, the edges at -1 and 1."""
    return np.asarray((2 * np.arange(size) + 1) / size - 1, np.float64)


def legendre_matrix(points: NDArray[np.float64], order: int) -> Tensor:
    """Matrix [point, degree] of Legendre polynomials up to `order`."""
    return torch.from_numpy(legendre.legvander(points, order)).float()


def powers(size: int, radius: float) -> Tensor:
    """Matrix [pixel, power] of the powers 0 to 7 of the distance from the middle, in units of `radius` pixels."""
    place = (np.arange(size) - (size - 1) / 2) / radius
    return torch.from_numpy(np.vander(place, HIGHEST_POWER + 1, increasing=True)).float()


@lru_cache(maxsize=2)
def zernike_powers(highest: int = 36) -> Tensor:
    """Zernike polynomials as sums of powers.

    Returns
    -------
    float tensor [polynomial, power of y, power of x]
        Noll's j = 1 to `highest`.
    """
    count = HIGHEST_POWER + 1
    grid = np.cos(np.pi * (np.arange(24) + 0.5) / 24)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    vander = np.vander(grid, count, increasing=True)
    inverse = np.linalg.pinv(vander)
    found = np.stack([inverse @ zernike(j, y, x) @ inverse.T for j in range(1, highest + 1)])
    degrees = np.arange(count)[:, None] + np.arange(count)[None]
    for j in range(1, highest + 1):
        found[j - 1][degrees > noll_to_nm(j)[0]] = 0.0
    found[np.abs(found) < 1e-9] = 0.0
    return torch.from_numpy(found).float()


def keys_integral(t: Tensor) -> Tensor:
    """Integral from -infinity to t of the cubic interpolation kernel (Keys, IEEE Trans. ASSP 29, 1153 (1981))."""
    a = t.abs().clamp(max=2.0)
    near = 0.375 * a**4 - (2.5 / 3) * a**3 + a
    at_one = 0.375 - 2.5 / 3 + 1
    far = -0.125 * a**4 + (2.5 / 3) * a**3 - 2 * a**2 + 2 * a
    far_at_one = -0.125 + 2.5 / 3 - 2 + 2
    half = torch.where(a < 1, near, at_one + far - far_at_one)
    return 0.5 + torch.sign(t) * half


def box_taps(width: Tensor, half: int) -> Tensor:
    """Weights of ``2 half + 1`` samples that average an interpolated signal over `width` samples; differentiable."""
    n = torch.arange(-half, half + 1, dtype=width.dtype)
    wide = width.clamp(min=1e-3)
    return (keys_integral(n + wide / 2) - keys_integral(n - wide / 2)) / wide
