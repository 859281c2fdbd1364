"""Zernike polynomials in Noll's order (Noll, J. Opt. Soc. Am. 66, 207 (1976)), of unit rms over the unit disk."""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.typing import NDArray


def noll_to_nm(j: int) -> tuple[int, int]:
    """Radial order n and signed azimuthal order m of Noll's index j >= 1 (m < 0: sine)."""
    n = 0
    while (n + 1) * (n + 2) // 2 < j:
        n += 1
    place = j - n * (n + 1) // 2 - 1
    m = 2 * ((place + 1) // 2) if n % 2 == 0 else 2 * (place // 2) + 1
    return n, m if j % 2 == 0 else -m


def zernike(j: int, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Polynomial j at normalised coordinates; extended beyond the unit disk as the polynomial it is.

    Parameters
    ----------
    j : int
        Noll index, from 1 (piston).
    y, x : float arrays, same or broadcasting shapes
        In units of the disk's radius; x to the right, y down.
    """
    n, m = noll_to_nm(j)
    rho, theta = np.hypot(y, x), np.arctan2(y, x)
    radial = np.zeros_like(rho)
    for k in range((n - abs(m)) // 2 + 1):
        weight = (-1) ** k * factorial(n - k)
        weight //= factorial(k) * factorial((n + abs(m)) // 2 - k) * factorial((n - abs(m)) // 2 - k)
        radial += weight * rho ** (n - 2 * k)
    if m == 0:
        return np.sqrt(n + 1) * radial
    return np.sqrt(2 * (n + 1)) * radial * (np.cos(m * theta) if m > 0 else np.sin(-m * theta))
