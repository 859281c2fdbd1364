"""A kernel bank shown as fewer basis kernels, and mixed in electronics.

Maps are linear in the kernels, so that a bank ``k_mc = sum_r W_mcr b_r`` is read by showing the R basis kernels b_r to
every channel and mixing what they read: ``map_m = sum_c sum_r W_mcr (a_c * b_r)``. Channels are shown one after the
other and one frame's light is squared before it can be added, so each channel needs its own captures; but all channels
share the basis, and with it one SLM pattern. Truncating the singular value decomposition of the bank as a matrix
[maps x channels, ky x kx] gives the basis of rank R with the least squared error, which is the energy of the singular
values left out (Eckart and Young, Psychometrika 1, 1936). Under `images` the error is counted in the maps instead of
the kernels: the same with the kernels' axes stretched by the covariance of image patches.

A camera sees intensity, so that a tile's kernel must not be negative to be read linearly (images are not negative):

=============  ==============================================================  ==============
split          tiles show                                                      tiles of rank R
=============  ==============================================================  ==============
`PAIRS`        ``b_r+`` and ``b_r-``                                           2 R
`PEDESTAL`     ``b_r + p_r g`` and once ``g``, a smooth non-negative kernel    R + 1
=============  ==============================================================  ==============

`PEDESTAL` needs about half the tiles and reads small differences of large values: it pays in noise (`noise_gain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from labctl.errors import ModelError
from labctl.optics.detection import split as signed_parts


class Split(Enum):
    """How a signed basis is shown on tiles that are not negative."""

    PAIRS = "pairs"
    PEDESTAL = "pedestal"

    def tiles(self, rank: int) -> int:
        """Tiles that a basis of this rank takes."""
        return 2 * rank if self is Split.PAIRS else rank + 1


@dataclass(frozen=True, eq=False)
class LowRank:
    """Basis kernels and the mixing that makes a bank of them.

    Attributes
    ----------
    basis : float tensor [rank, ky, kx]
        Signed, in ``conv2d``'s convention.
    mixing : float tensor [maps, channels, rank]
    singular_values : float tensor [full rank]
        Of the whole bank, in the metric of the fit, largest first.
    """

    basis: Float[Tensor, "rank ky kx"]
    mixing: Float[Tensor, "maps channels rank"]
    singular_values: Float[Tensor, " full"]

    @property
    def rank(self) -> int:
        """Basis kernels."""
        return len(self.basis)

    @property
    def kept(self) -> float:
        """Share of the bank's energy that the basis holds, 0 to 1, in the metric of the fit."""
        energy = self.singular_values.double() ** 2
        return float(energy[: self.rank].sum() / energy.sum())

    def kernels(self) -> Float[Tensor, "maps channels ky kx"]:
        """The bank that basis and mixing amount to."""
        return torch.einsum("mcr,ryx->mcyx", self.mixing, self.basis)

    def mix(self, read: Float[Tensor, "n channels rank y x"]) -> Float[Tensor, "n maps y x"]:
        """Maps of what the basis kernels read of each channel."""
        return torch.einsum("mcr,ncryx->nmyx", self.mixing, read)

    def mixing_macs(self, image: tuple[int, int]) -> int:
        """MACs per image of mixing maps of (y, x) pixels; average pooling before it divides them."""
        return self.mixing.numel() * image[0] * image[1]

    def tiled(self, split: Split = Split.PAIRS) -> Tiled:
        """The non-negative kernels that the tiles show, and the mixing from tiles to maps."""
        if split is Split.PAIRS:
            return Tiled(signed_parts(self.basis), torch.cat([self.mixing, -self.mixing], dim=-1))
        smooth = pedestal(self.basis.shape[-2:]).to(self.basis)
        lift = (-self.basis / smooth).flatten(1).amax(1).clamp(min=0)
        shown = torch.cat([self.basis + lift[:, None, None] * smooth, smooth[None]]).clamp(min=0)
        return Tiled(shown, torch.cat([self.mixing, -(self.mixing @ lift)[..., None]], dim=-1))


@dataclass(frozen=True, eq=False)
class Tiled:
    """What is shown and how it is mixed.

    Attributes
    ----------
    kernels : float tensor [tiles, ky, kx]
        None below zero.
    mixing : float tensor [maps, channels, tiles]
    """

    kernels: Float[Tensor, "tiles ky kx"]
    mixing: Float[Tensor, "maps channels tiles"]

    def amplitudes(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n channels tiles y x"]:
        """What ideal tiles read of each channel, with "same" padding."""
        ky, kx = self.kernels.shape[-2:]
        padded = torch.nn.functional.pad(images, ((kx - 1) // 2, kx // 2, (ky - 1) // 2, ky // 2))
        read = conv2d(padded.flatten(0, 1)[:, None], self.kernels[:, None])
        return read.unflatten(0, images.shape[:2])

    def maps(self, amplitudes: Float[Tensor, "n channels tiles y x"]) -> Float[Tensor, "n maps y x"]:
        """Maps of what the tiles read."""
        return torch.einsum("mct,nctyx->nmyx", self.mixing, amplitudes)

    def scale(self) -> Float[Tensor, " tiles"]:
        """Digital amplitude per unit of optical amplitude: every mask is scaled to the same rms.

        By Parseval the mask's rms is the kernel's norm; see `labctl.optics.tiles.slm_field`.
        """
        return self.kernels.flatten(1).norm(dim=1)

    def noise_gain(self) -> Float[Tensor, " maps"]:
        """Standard deviation of each map's noise for unit white noise on every optical amplitude."""
        weighted = self.mixing * self.scale()
        return weighted.flatten(1).norm(dim=1)


def pedestal(size: tuple[int, int] | torch.Size) -> Float[Tensor, "ky kx"]:
    """The kernel that lifts a basis above zero: flat, so that no tap needs more of it than another. Its norm is 1."""
    ky, kx = size
    return torch.full((ky, kx), (ky * kx) ** -0.5)


def patch_covariance(images: Float[Tensor, "n channels y x"], size: tuple[int, int]) -> Float[Tensor, "taps taps"]:
    """Mean product of any two pixels of a (ky, kx) patch, over all patches of images padded with zeros.

    What the squared error of a kernel must be weighed with to be that of its map: ``|a * k|^2 = k^T C k`` on average.
    """
    ky, kx = size
    patches = torch.nn.functional.unfold(images.flatten(0, 1)[:, None], size, padding=(ky // 2, kx // 2))
    columns = patches.transpose(0, 1).flatten(1).double()
    return columns @ columns.T / columns.shape[1]


def low_rank(
    bank: Float[Tensor, "maps channels ky kx"],
    rank: int,
    *,
    covariance: Float[Tensor, "taps taps"] | None = None,
) -> LowRank:
    """The best basis of `rank` kernels for a bank, shared by its channels.

    Parameters
    ----------
    bank : float tensor [maps, channels, ky, kx]
    rank : int
        From 1; the full rank, ``min(maps channels, ky kx)``, gives the bank back exactly.
    covariance : float tensor [ky kx, ky kx], optional
        Of image patches, see `patch_covariance`: the error is then that of the maps of such images.

    Raises
    ------
    ModelError
        If the rank is not between 1 and the full rank, or the covariance does not fit.
    """
    maps, channels, ky, kx = bank.shape
    full = min(maps * channels, ky * kx)
    if not 1 <= rank <= full:
        raise ModelError(f"a bank of {maps} x {channels} kernels of {ky}x{kx} has ranks 1 to {full}, not {rank}")
    matrix = bank.detach().double().reshape(maps * channels, ky * kx)
    root, back = _roots(covariance, ky * kx)
    left, values, right = torch.linalg.svd(matrix @ root, full_matrices=False)
    basis = right[:rank] @ back
    norms = basis.norm(dim=1, keepdim=True).clamp(min=1e-300)
    mixing = left[:, :rank] * values[:rank] * norms[:, 0]
    return LowRank(
        basis=(basis / norms).reshape(rank, ky, kx).to(bank.dtype),
        mixing=mixing.reshape(maps, channels, rank).to(bank.dtype),
        singular_values=values.to(bank.dtype),
    )


def _roots(covariance: Tensor | None, taps: int) -> tuple[Tensor, Tensor]:
    """Square root of the covariance and its inverse; a floor keeps taps that images hardly excite invertible."""
    if covariance is None:
        return (torch.eye(taps, dtype=torch.float64),) * 2
    if covariance.shape != (taps, taps):
        raise ModelError(f"the covariance is {list(covariance.shape)}, kernels of {taps} taps need [{taps}, {taps}]")
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp(min=1e-6 * float(values.max())).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
