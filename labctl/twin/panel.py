"""What a liquid-crystal panel makes of what it is sent: phase from gray levels, and its spread between pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

REACH = 2
"""Pixels over which phase spreads, to each side."""


class _LookUp(torch.autograd.Function):
    """``table[index]`` whose gradient is counted instead of scattered."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.levels = len(table)
        return torch.take(table, index)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        grad = torch.bincount(index.ravel(), weights=grads[0].ravel().double(), minlength=ctx.levels)
        return grad.to(grads[0].dtype), None


def look_up(table: Float[Tensor, " levels"], gray: Integer[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values of a table at gray levels; differentiable in the table."""
    return torch.as_tensor(_LookUp.apply(table, gray.long()))


def look_between(table: Float[Tensor, " levels"], gray: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values of a table at any gray from 0 up to the number of levels, linear between levels and beyond the last.

    Differentiable in both.
    """
    low = gray.detach().floor().clamp(0, len(table) - 2).long()
    start, end = look_up(table, low), look_up(table, low + 1)
    return start + (gray - low) * (end - start)


def wrapped_gray(phase: Float[Tensor, "*shape"], levels: int) -> Float[Tensor, "*shape"]:
    """Continuous gray of phase commands (rad), as `labctl.optics.encoders.gray_from_phase` without its rounding.

    From 0 up to `levels`; what lies above ``levels - 1`` is the last step before the wrap.
    """
    return torch.remainder(levels - 1 - phase * (levels / (2 * np.pi)), levels)


def spread_phase(phase: Float[Tensor, "row column"], fwhm: Tensor) -> Float[Tensor, "row column"]:
    """Phase after fringing fields have spread it between pixels, a Gaussian of this full width at half maximum.

    Parameters
    ----------
    phase : float tensor [row, column], rad
        As the pixels' drive would give it each by itself, wraps included.
    fwhm : scalar tensor, SLM pixels
        0 spreads nothing.

    Notes
    -----
    Moser et al., Opt. Express 27, 25046 (2019).
    """
    sigma2 = (fwhm / 2.3548).square().clamp(min=1e-6)
    n = torch.arange(REACH + 1, dtype=phase.dtype)
    weight = torch.exp(-n.square() / (2 * sigma2))
    weight = weight / (weight[0] + 2 * weight[1:].sum())
    for axis in (0, 1):
        size = phase.shape[axis]
        edge = [phase.narrow(axis, 0, 1)] * REACH, [phase.narrow(axis, size - 1, 1)] * REACH
        wide = torch.cat([*edge[0], phase, *edge[1]], dim=axis)
        total = weight[0] * phase
        for k in range(1, REACH + 1):
            total = total + weight[k] * (wide.narrow(axis, REACH - k, size) + wide.narrow(axis, REACH + k, size))
        phase = total
    return phase
