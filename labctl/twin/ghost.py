"""Looking for a second, weaker image: light reflected twice on its way comes out tilted and defocused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.fft import fft2

from labctl.twin.fit import Captured, amplitude_error, choose
from labctl.twin.model import Twin

FURTHER_THAN = 0.006
"""Tilt (cycles per SLM pixel) below which the free-form part describes it already."""
CURVATURES = tuple(np.linspace(-7.0, 7.0, 15))
"""Defocus tried, rad at the edge of the SLM's inscribed disk."""


def find_ghost(
    twin: Twin, captured: Captured, patterns: Sequence[int], *, pixels: int = 60_000, seed: int = 0
) -> float:
    """Set the twin's first ghost to the tilted and defocused copy that would lower the error most.

    The gradient of the error by a change of the SLM's complex field, times the field, is correlated with every tilt (a
    Fourier transform) for some curvatures; the largest correlation is the ghost, if it stands out.

    Parameters
    ----------
    patterns : sequence of int
        Whose captures are looked at.

    Returns
    -------
    float
        Height of the largest correlation over the median of all: it is set where this exceeds 8.
    """
    rng = np.random.default_rng(seed)
    total = torch.zeros(twin.geometry.slm.shape, dtype=torch.complex64)
    for pattern in patterns:
        with torch.no_grad():
            field = twin.slm_field(captured.patterns[pattern])
        leaf = field.clone().requires_grad_(True)
        captures = captured.of(pattern)[:2]
        loss = amplitude_error(
            twin, captured, pattern, captures, choose(captured.windows[pattern], pixels, rng), field=leaf
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
        total += gradient.conj() * field
    rows, columns = twin.geometry.slm.shape
    y, x = (np.arange(n) - (n - 1) / 2 for n in (rows, columns))
    radius = min(rows, columns) / 2
    near = (np.abs(np.fft.fftfreq(rows))[:, None] < FURTHER_THAN) & (
        np.abs(np.fft.fftfreq(columns))[None] < FURTHER_THAN
    )
    best, found, heights = 0.0, (0.0, 0.0, 0.0, 0j), []
    for curvature in CURVATURES:
        bend = np.exp(1j * curvature * (y**2 / radius**2))[:, None] * np.exp(1j * curvature * (x**2 / radius**2))[None]
        # sum of total . exp(i (2 pi tilt . j + bend)): the transform at minus the tilt
        waves = fft2((total.numpy() * bend).astype(np.complex64))
        height = np.where(near, 0.0, np.abs(waves))
        heights.append(float(np.median(height)))
        r, c = np.unravel_index(int(height.argmax()), height.shape)
        if height[r, c] > best:
            best = float(height[r, c])
            tilt = -np.fft.fftfreq(rows)[r], -np.fft.fftfreq(columns)[c]
            turned = waves[r, c] * np.exp(2j * np.pi * (tilt[0] * y[0] + tilt[1] * x[0]))
            found = float(tilt[0]), float(tilt[1]), float(curvature), complex(turned)
    stands_out = best / max(float(np.median(heights)), 1e-30)
    if stands_out > 8:
        start = -0.02 * np.conj(found[3]) / abs(found[3])
        with torch.no_grad():
            twin.ghosts[0] = torch.tensor([start.real, start.imag])
            twin.ghost_paths[0] = torch.tensor([2 * np.pi * radius * tilt for tilt in found[:2]] + [found[2]])
    return stands_out
