"""Shot noise and square roots with slopes that stay finite, fused: tiles are many, and memory is what costs time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Root(torch.autograd.Function):
    """``sqrt(max(x, 0))``, whose slope stays below that at `floor`."""

    @staticmethod
    def forward(context: Any, x: Tensor, floor: float) -> Tensor:
        root = x.clamp(min=0).sqrt_()
        context.save_for_backward(root)
        context.floor = floor**0.5
        return root

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (root,) = context.saved_tensors
        return (gradients[0] / (2 * root.clamp(min=context.floor))).mul_(root > 0), None


class Noisy(torch.autograd.Function):
    """``x + sqrt(light x + dark) e`` with e normal; fused, since tiles are many."""

    @staticmethod
    def forward(context: Any, x: Tensor, light: float, dark: float, floor: float) -> Tensor:
        spread = x.clamp(min=0).mul_(light).add_(dark).sqrt_()
        dice = torch.randn_like(x)
        noisy = (dice * spread).add_(x)
        context.save_for_backward(dice.div_(spread.clamp_(min=floor**0.5)).mul_(light / 2).add_(1))
        return noisy

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = context.saved_tensors
        return gradients[0] * slope, None, None, None


def root(x: Tensor, floor: float) -> Tensor:
    """``sqrt(max(x, 0))``, whose slope stays below that at `floor`."""
    found: Tensor = Root.apply(x, floor)
    return found


def noisy(x: Tensor, light: float, dark: float, floor: float) -> Tensor:
    """Draw with mean x and variance ``light x + dark``, from torch's global generator; `floor`: of the variance."""
    found: Tensor = Noisy.apply(x, light, dark, floor)
    return found
