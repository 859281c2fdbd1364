"""How a camera, which sees intensity only, reads the maps of a linear layer.

======================  =================================================================  ============================
mode                    reads                                                              tiles per signed map
======================  =================================================================  ============================
`Detection.PAIRED`      ``k = k+ - k-``, both >= 0 and the image >= 0, so                  2
                        ``sqrt(I+) - sqrt(I-) = a * k`` exactly: linear
`Detection.INTENSITY`   ``abs(a * k)^2`` as the map: a square-law nonlinearity, another    1
                        student than the linear one
======================  =================================================================  ============================

With `PAIRED` the optical layer is linear: together with batch norm and average pooling it adds no expressive power, it
takes multiplications off the computer.
"""

from __future__ import annotations

from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from labctl.errors import ModelError


class Detection(Enum):
    """How the camera's intensities are read as maps."""

    PAIRED = "paired"
    INTENSITY = "intensity"

    @property
    def tiles_per_map(self) -> int:
        """Tiles that one signed map takes."""
        return 2 if self is Detection.PAIRED else 1


def tile_kernels(kernels: Float[Tensor, "maps channels ky kx"], mode: Detection) -> Float[Tensor, "tiles ky kx"]:
    """The kernels that the tiles show.

    Parameters
    ----------
    kernels : float tensor [maps, 1, ky, kx]
        Signed kernels in ``conv2d``'s convention.
    mode : Detection

    Returns
    -------
    float tensor [tiles, ky, kx]
        `PAIRED`: all positive parts, then all negative parts, none below zero.

    Raises
    ------
    ModelError
        If the kernels have more than one input channel.
    """
    if kernels.shape[1] != 1:
        raise ModelError(
            f"the student's kernels take {kernels.shape[1]} input channels: one frame shows one channel, "
            "so only single-channel students can be deployed"
        )
    bank = kernels[:, 0]
    return torch.cat([bank.clamp(min=0), (-bank).clamp(min=0)]) if mode is Detection.PAIRED else bank


def maps_from_intensity(
    intensity: Float[Tensor, "*batch tiles y x"], scale: Float[Tensor, " tiles"], mode: Detection
) -> Float[Tensor, "*batch maps y x"]:
    """Maps from what the tiles read.

    Parameters
    ----------
    intensity : float tensor [..., tiles, y, x]
        Intensity at the pixels of each tile, background removed; below zero is read as zero.
    scale : float tensor [tiles]
        Amplitude of the digital map per square root of intensity.
    mode : Detection

    Returns
    -------
    float tensor [..., maps, y, x]
        In the units of ``conv2d(image, kernels)`` (`INTENSITY`: of its square).
    """
    amplitude = intensity.clamp(min=0).sqrt() * scale[:, None, None]
    if mode is Detection.INTENSITY:
        return amplitude**2
    positive, negative = amplitude.chunk(2, dim=-3)
    return positive - negative


def expected_tiles(
    images: Float[Tensor, "batch 1 y x"], kernels: Float[Tensor, "tiles ky kx"]
) -> Float[Tensor, "batch tiles y x"]:
    """Amplitudes that ideal tiles would show: ``abs(conv2d(image, kernel))`` with "same" padding."""
    ky, kx = kernels.shape[-2:]
    padded = torch.nn.functional.pad(images, ((kx - 1) // 2, kx // 2, (ky - 1) // 2, ky // 2))
    return torch.nn.functional.conv2d(padded, kernels[:, None]).abs()
