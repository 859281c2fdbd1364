"""How a camera, which sees intensity only, reads the maps of a linear layer.

========================  ==========================================================================  ================
mode                      reads                                                                       tiles per map
========================  ==========================================================================  ================
`Detection.PAIRED`        ``k = k+ - k-``, both >= 0 and the image >= 0, so                           2
                          ``sqrt(I+) - sqrt(I-) = a * k`` exactly: linear. Coherent light
`Detection.INTENSITY`     ``abs(a * k)^2`` as the map: a square-law nonlinearity, another student     1
                          than the linear one. Coherent light
`Detection.INCOHERENT`    Incoherent light adds intensities: the panel shows the amplitude            2
                          ``sqrt(image)``, the tiles' point spread functions are ``sqrt(k+)`` and
                          ``sqrt(k-)``, and ``I+ - I- = image * k`` exactly: linear
========================  ==========================================================================  ================

Several input channels are shown one after the other: each frame is an intensity of its own, so only what is read of
them can be summed, in electronics. Signed maps sum to the map of all channels; squares (`INTENSITY`) to the sum of
squares, which is not the square of the sum.

With `PAIRED` and `INCOHERENT` the optical layer is linear: together with batch norm and average pooling it adds no
expressive power, it takes multiplications off the computer.
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
    INCOHERENT = "incoherent"

    @property
    def tiles_per_map(self) -> int:
        """Tiles that one map takes, of one input channel."""
        return 1 if self is Detection.INTENSITY else 2

    @property
    def coherent(self) -> bool:
        """Whether it needs coherent light; else it needs incoherent light."""
        return self is not Detection.INCOHERENT

    @property
    def linear(self) -> bool:
        """Whether maps are linear in the image."""
        return self is not Detection.INTENSITY


def split(kernels: Float[Tensor, "maps ky kx"]) -> Float[Tensor, "tiles ky kx"]:
    """All positive parts of signed kernels, then all negative parts, none below zero."""
    return torch.cat([kernels.clamp(min=0), (-kernels).clamp(min=0)])


def tile_kernels(kernels: Float[Tensor, "maps channels ky kx"], mode: Detection) -> Float[Tensor, "tiles ky kx"]:
    """The amplitude kernels that the tiles show.

    Parameters
    ----------
    kernels : float tensor [maps, 1, ky, kx]
        Signed kernels in ``conv2d``'s convention.
    mode : Detection

    Returns
    -------
    float tensor [tiles, ky, kx]
        `PAIRED`: all positive parts, then all negative parts, none below zero. `INCOHERENT`: the square roots of these.

    Raises
    ------
    ModelError
        If the kernels have more than one input channel: a frame shows one.
    """
    if kernels.shape[1] != 1:
        raise ModelError(
            f"the kernels take {kernels.shape[1]} input channels: one frame shows one, each has tiles of its own"
        )
    bank = kernels[:, 0]
    if mode is Detection.INTENSITY:
        return bank
    return split(bank) if mode is Detection.PAIRED else split(bank).sqrt()


def shown_amplitude(images: Float[Tensor, "*batch y x"], mode: Detection) -> Float[Tensor, "*batch y x"]:
    """The amplitude that the input panel shows for images of values from 0 to 1."""
    return images.clamp(min=0).sqrt() if mode is Detection.INCOHERENT else images


def maps_from_intensity(
    intensity: Float[Tensor, "*batch tiles y x"], scale: Float[Tensor, " tiles"], mode: Detection
) -> Float[Tensor, "*batch maps y x"]:
    """Maps from what the tiles read.

    Parameters
    ----------
    intensity : float tensor [..., tiles, y, x]
        Intensity at the pixels of each tile, background removed. Below zero is read as zero, except for `INCOHERENT`,
        where nothing is lost by keeping it.
    scale : float tensor [tiles]
        Amplitude of the digital map per square root of intensity.
    mode : Detection

    Returns
    -------
    float tensor [..., maps, y, x]
        In the units of ``conv2d(image, kernels)`` (`INTENSITY`: of its square).
    """
    if mode is Detection.INCOHERENT:
        positive, negative = (intensity * scale[:, None, None] ** 2).chunk(2, dim=-3)
        return positive - negative
    amplitude = intensity.clamp(min=0).sqrt() * scale[:, None, None]
    if mode is Detection.INTENSITY:
        return amplitude**2
    positive, negative = amplitude.chunk(2, dim=-3)
    return positive - negative


def expected_tiles(
    images: Float[Tensor, "batch 1 y x"], kernels: Float[Tensor, "tiles ky kx"], mode: Detection = Detection.PAIRED
) -> Float[Tensor, "batch tiles y x"]:
    """Amplitudes (square roots of intensities) that ideal tiles would show, with "same" padding.

    Coherent: ``abs(conv2d(image, kernel))``; `INCOHERENT`: ``sqrt(conv2d(image, kernel^2))``.
    """
    ky, kx = kernels.shape[-2:]
    padded = torch.nn.functional.pad(images, ((kx - 1) // 2, kx // 2, (ky - 1) // 2, ky // 2))
    if mode is Detection.INCOHERENT:
        return torch.nn.functional.conv2d(padded, kernels[:, None] ** 2).clamp(min=0).sqrt()
    return torch.nn.functional.conv2d(padded, kernels[:, None]).abs()
