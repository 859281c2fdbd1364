"""What a bench does to kernels, tiles and maps, drawn afresh while a student is trained: a recipe's [robustness]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from labctl.learning.recipe import RobustnessSection
from labctl.learning.sharing import count_of_all, mean_of_all, mine
from labctl.optics.detection import Detection

EVERY = 4
"""Pixels along each axis between the places where a tile's rms is taken."""


def shaken(
    kernels: Float[Tensor, "maps channels ky kx"], robustness: RobustnessSection
) -> Float[Tensor, "maps channels ky kx"]:
    """Kernels as a bench might deliver them: white errors of `robustness.kernels` times the norm of each."""
    if not robustness.kernels:
        return kernels
    rms = kernels.square().mean((-2, -1), keepdim=True).sqrt()
    return kernels + robustness.kernels * rms * torch.randn_like(kernels)


def tile_noise(
    images: Float[Tensor, "n channels y x"],
    kernels: Float[Tensor, "maps channels ky kx"],
    detection: Detection,
    robustness: RobustnessSection,
) -> Float[Tensor, "1 maps 1 1"] | None:
    """Standard deviation that `robustness.tiles` of every tile's rms leave in a map; None where there is none.

    It hangs on the kernels, and its gradient flows: a map that is the small difference of two bright tiles pays for
    both. Taken at every `EVERY`-th pixel of these images.
    """
    if not robustness.tiles:
        return None
    bank = kernels.transpose(0, 1)
    if detection is not Detection.INTENSITY:
        bank = torch.cat([bank.clamp(min=0), (-bank).clamp(min=0)], dim=1)
    channels, tiles, ky, kx = bank.shape
    seen = conv2d(
        images, bank.reshape(channels * tiles, 1, ky, kx), stride=EVERY, padding=(ky // 2, kx // 2), groups=channels
    )
    if detection is Detection.INTENSITY:
        seen = seen.square()
    power = mean_of_all(seen.square()).unflatten(1, (channels, detection.tiles_per_map, -1)).sum((1, 2))
    return robustness.tiles * power.clamp(min=1e-20).sqrt()


def jittered(
    features: Float[Tensor, "n maps y x"],
    robustness: RobustnessSection,
    tiles: Float[Tensor, "1 maps 1 1"] | None = None,
) -> Float[Tensor, "n maps y x"]:
    """Feature maps as a bench might read them; draws from torch's global generator, for the rows of all processes.

    `tiles` is the standard deviation of what noise in the tiles leaves in a map, of `tile_noise`.
    """
    if tiles is None and not (robustness.gain or robustness.offset or robustness.noise):
        return features
    shape = (count_of_all(features), *features.shape[1:])
    rms = mean_of_all(features.detach().square()).sqrt()

    def normal(*shape: int) -> Tensor:
        return mine(torch.randn(*shape, device=features.device))

    if robustness.gain:
        features = features * (1 + robustness.gain * normal(*shape[:2], 1, 1))
    if robustness.offset:
        features = features + robustness.offset * rms * normal(*shape[:2], 1, 1)
    if robustness.noise:
        features = features + robustness.noise * rms * _noise_like(features, shape[0])
    if tiles is not None:
        features = features + tiles * _noise_like(features, shape[0])
    return features


def _noise_like(features: Tensor, count: int) -> Tensor:
    """White noise for this process's rows of `count`; drawn in the memory order of the maps, as ever."""
    if count == len(features):
        return torch.randn_like(features)
    last = features.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    drawn = torch.empty(count, *features.shape[1:], device=features.device, memory_format=order)
    return mine(drawn.normal_())
