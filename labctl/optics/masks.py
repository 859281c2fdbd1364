"""Kernels in image space become complex masks in the Fourier plane.

Three flips stand between `torch.nn.functional.conv2d` and a 4f bench, and this module owns them:

1. ``conv2d`` is a cross-correlation, light convolves: `kernel_masks` mirrors the kernel;
2. the second lens transforms forward, so the camera sees the image inverted: every field and tile of `labctl.optics`
   is kept in *image orientation*, and `labctl.optics.geometry` maps it to camera pixels with the minus of ``-f2 / f1``;
3. a kernel of even size has no middle: its anchor is ``(size - 1) // 2``, as in "same" padding of ``(size - 1) // 2``
   before and ``size // 2`` after.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from labctl.errors import ModelError
from labctl.optics.geometry import Pair


def anchor(size: int) -> int:
    """The tap of a kernel of this size that sits on the output pixel."""
    return (size - 1) // 2


def kernel_masks(
    kernels: Float[Tensor, "maps ky kx"],
    nu_y: Float[Tensor, " row"],
    nu_x: Float[Tensor, " column"],
    pixel: Pair,
) -> Complex[Tensor, "maps row column"]:
    """The masks with which a 4f system computes ``conv2d(image, kernel)``.

    With the image sampled at pitch `w`, output pixel i of a cross-correlation is ``sum_n k[n] a[i + n - anchor]``, a
    convolution with ``h[q] = k[anchor - q]``, so ``m(nu) = sum_n k[n] exp(+2 pi i nu (n - anchor) w)``. The mask is
    periodic in ``1 / w``; a real kernel has a Hermitian one.

    Parameters
    ----------
    kernels : float tensor [maps, ky, kx]
        Kernels in ``conv2d``'s convention, one input channel.
    nu_y, nu_x : float tensors [row], [column], 1/m
        Spatial frequencies of the mask's rows and columns, in any order.
    pixel : (y, x), m
        Pitch of the image's pixels on the input plane.

    Returns
    -------
    complex64 tensor [maps, row, column]
    """
    phasors = []
    for size, nu, width in ((kernels.shape[-2], nu_y, pixel[0]), (kernels.shape[-1], nu_x, pixel[1])):
        offset = (torch.arange(size, dtype=torch.float64) - anchor(size)) * width
        turns = torch.outer(nu.to(torch.float64), offset)
        phasors.append(torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(torch.complex64))
    return torch.einsum("yn,tnm,xm->tyx", phasors[0], kernels.to(torch.complex64), phasors[1])


def fuse(*cascade: Float[Tensor, "out in ky kx"]) -> Float[Tensor, "out in ky kx"]:
    """The one kernel bank that does what a cascade of linear ``conv2d`` layers does, exactly.

    Sums over the hidden channels and grows the support: three 3x3 layers give 7x7. Exact where the cascade's own
    padding does not cut, that is with zero padding of the whole fused support (or on a spectral grid that holds it).

    Parameters
    ----------
    *cascade : float tensors [out, in, ky, kx]
        Weights, first layer first; odd kernel sizes.

    Returns
    -------
    float tensor [out, in, ky, kx]
    """
    fused = cascade[0].to(torch.float64)
    for layer in cascade[1:]:
        if layer.shape[1] != fused.shape[0]:
            raise ModelError(
                f"a layer with {layer.shape[1]} input channels cannot follow one with {fused.shape[0]} output channels"
            )
        # correlating twice is correlating once with the convolution of the two kernels
        grown = torch.nn.functional.conv_transpose2d(
            fused.transpose(0, 1), layer.to(torch.float64).transpose(0, 1), bias=None
        )
        fused = grown.transpose(0, 1)
    return fused.to(cascade[0].dtype)


def pixel_compensation(nu: Float[Tensor, " n"], pixel: float, fill: float = 1.0) -> Float[Tensor, " n"]:
    """Weight over frequency that turns square image pixels into Nyquist samples.

    An image pixel is a square of light of side ``fill * pixel``: its spectrum carries ``s(nu) = sinc(nu * side)``. The
    camera is read at the pixels' centres, where aliases ``nu + m / pixel`` fold together. The weight
    ``s / sum_m s(nu + m / pixel)^2`` (the sum over the orders that the SLM catches) makes the folded response flat, so
    that neighbours do not leak into each other's centres, and it collects the most light that can do so.

    Parameters
    ----------
    nu : float tensor [n], 1/m
        Frequencies that the SLM holds along one axis, ascending.
    pixel : float, m
        Pitch of the image's pixels.
    fill : float
        Lit side of an image pixel over its pitch.

    Returns
    -------
    float32 tensor [n]
    """
    nu = nu.to(torch.float64)
    lowest, highest = float(nu.min()), float(nu.max())
    orders = int((highest - lowest) * pixel) + 2
    folded = torch.zeros_like(nu)
    for order in range(-orders, orders + 1):
        alias = nu + order / pixel
        caught = (alias >= lowest) & (alias <= highest)
        folded += torch.where(caught, torch.sinc(alias * pixel * fill) ** 2, torch.zeros_like(nu))
    return (torch.sinc(nu * pixel * fill) / folded.clamp_min(0.1)).to(torch.float32)
