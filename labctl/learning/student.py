"""The SCLC student: spectral convolution layers without nonlinearity between them, then electronics.

Source: Xiang, Colburn, Majumdar, Shlizerman, "Knowledge distillation circumvents nonlinearity for optical
convolutional neural networks", arXiv:2102.13323. The layers multiply in the Fourier domain, sum over input channels,
and are linear, so that the cascade fuses exactly into one kernel (one optical mask) per output map.

Contract with the optics: feature maps follow `torch.nn.functional.conv2d`, a cross-correlation. With K the odd fused
kernel size, `conv2d(images, fused_kernels(), padding=K // 2)` equals the cascade's maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

from labctl.errors import ModelError
from labctl.learning.backend import Backend, image_size
from labctl.optics.detection import Detection
from labctl.optics.masks import fuse

ENOUGH_PATCHES = 600_000
"""Patches of images from which whitening learns."""
DIRECT_UP_TO = 13
"""Fused kernels up to this size run as direct convolution, which is slower by a jump from 15 on. Measured on one busy
CPU core by tests/benchmarks/spectral_crossover.py, ms per image, forward and backward, 8 maps, direct against spectral:
28x28 pixels 13x13 0.08 / 0.25, 15x15 0.25 / 0.28, 23x23 0.55 / 0.35; 64x64 13x13 0.44 / 1.10, 15x15 1.15 / 0.74."""


class SpectralConv(nn.Module):
    """One linear layer: real kernels of odd size, applied as products in the Fourier domain.

    Parameters
    ----------
    out_channels, in_channels
        Maps out and in.
    kernel_size
        Odd, pixels.
    """

    def __init__(self, out_channels: int, in_channels: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ModelError(
                f"kernel size is {kernel_size}, expected an odd number: the map would shift by half a pixel"
            )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def mask(self, grid: tuple[int, int]) -> Complex[Tensor, "out in y half_x"]:
        """The layer's mask on a spectrum of `grid` (y, x), in `torch.fft.rfft2` layout, centred on kernel pixel K // 2.

        The conjugate makes the product a cross-correlation, as conv2d is.
        """
        size = self.weight.shape[-1]
        padded = nn.functional.pad(self.weight, (0, grid[1] - size, 0, grid[0] - size))
        mask: Tensor = torch.fft.rfft2(padded.roll((-(size // 2), -(size // 2)), (-2, -1))).conj()
        return mask

    def extra_repr(self) -> str:
        out, in_, size, _ = self.weight.shape
        return f"{in_} -> {out}, {size}x{size}"


class _Whitened(nn.Module):
    """Kernels [out, in, y, x] times a fixed matrix [in y x, in y x]."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, weight: Tensor) -> Tensor:
        return (weight.flatten(1) @ cast(Tensor, self.matrix)).view_as(weight)


class SpectralCascade(nn.Module):
    """The optical front: spectral convolutions in a row, nothing between them.

    Parameters
    ----------
    maps
        Output maps (signed).
    in_channels
        Channels of the image.
    kernel_sizes
        One odd size per layer; (3, 3, 3) fuses into 7x7, (7,) is the single-layer variant.
    hidden
        Channels between the layers, one fewer than `kernel_sizes`; default `maps` everywhere.
    image
        Height and width (y, x) of the image, pixels; a number stands for a square.
    detection
        How the camera will read the maps. Under `INTENSITY`, kernels of several channels give
        ``sum_c abs(a_c * k_c)^2``: channels are shown one after the other, and only intensities can be added up.
    spectral_pool
        Keeps the middle ``1 / spectral_pool`` of the spectrum along each axis (an aperture in the Fourier plane) and
        one map pixel in so many: pooling without aliasing, and linear (arXiv:1506.03767). 1 keeps all.

    Attributes
    ----------
    kernel : int
        Fused kernel size K, pixels.
    grid : (int, int)
        Height and width of the Fourier grid, image + K - 1: the smallest that wraps nothing around; with spectral
        pooling, the next multiple of it.
    map_size : (int, int)
        Height and width of the feature maps, pixels.
    """

    def __init__(
        self,
        maps: int = 8,
        in_channels: int = 1,
        kernel_sizes: Sequence[int] = (3, 3, 3),
        hidden: Sequence[int] | None = None,
        image: int | Sequence[int] = 28,
        detection: Detection = Detection.PAIRED,
        spectral_pool: int = 1,
    ) -> None:
        super().__init__()
        hidden = (maps,) * (len(kernel_sizes) - 1) if hidden is None else tuple(hidden)
        if not kernel_sizes or len(hidden) != len(kernel_sizes) - 1:
            raise ModelError(
                f"{len(kernel_sizes)} layers need {len(kernel_sizes) - 1} hidden widths, got {len(hidden)}"
            )
        widths = (in_channels, *hidden, maps)
        self.image = image_size(image)
        if min(widths) < 1 or min(self.image) < 1:
            raise ModelError(f"channels {widths} and image size {self.image} must be 1 or more")
        self.maps, self.in_channels, self.detection = maps, in_channels, detection
        self.layers = nn.ModuleList(
            SpectralConv(out, in_, size) for in_, out, size in zip(widths[:-1], widths[1:], kernel_sizes, strict=True)
        )
        self.kernel = sum(kernel_sizes) - len(kernel_sizes) + 1
        if spectral_pool < 1 or spectral_pool > min(self.image):
            raise ModelError(f"spectral pooling by {spectral_pool} does not fit images of {list(self.image)}")
        self.spectral_pool = spectral_pool
        rows, columns = (-(-(side + self.kernel - 1) // spectral_pool) * spectral_pool for side in self.image)
        self.grid = (rows, columns)
        self.map_size = (-(-self.image[0] // spectral_pool), -(-self.image[1] // spectral_pool))

    def whiten(self, images: Float[Tensor, "n channels y x"], *, floor: float = 1e-3) -> None:
        """Train the first layer in coordinates in which patches of `images` have unit covariance; `settle` ends it.

        Neighbouring pixels are so alike that plain gradients hardly reach the finer details of a kernel. With the
        patches' covariance C, the kernel becomes ``(C + floor)^(-1/2) v`` and v is trained (ZCA whitening as in Coates,
        Lee, Ng, AISTATS 2011, moved from the image to the kernel, which is the same by linearity).

        Parameters
        ----------
        images
            Some hundred training images, 0 to 1; of large ones not every patch is looked at.
        floor
            Added to the variances, in units of the image's square: keeps noise from being blown up.
        """
        first = self._layers()[0]
        size = first.weight.shape[-1]
        places = len(images) * images.shape[-2] * images.shape[-1]
        step = math.ceil((places / ENOUGH_PATCHES) ** 0.5)  # large images have more than memory holds
        patches = nn.functional.unfold(images, size, stride=step).transpose(1, 2).flatten(0, 1).double()
        patches = patches - patches.mean(0)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        matrix = vectors @ torch.diag((values.clamp_min(0) + floor).rsqrt()) @ vectors.T
        with torch.no_grad():
            first.weight.normal_(std=first.weight[0].numel() ** -0.5)
        register_parametrization(first, "weight", _Whitened(matrix.to(first.weight.dtype)))

    def settle(self) -> None:
        """End `whiten`: keep the kernels as they are, as plain weights again."""
        first = self._layers()[0]
        if is_parametrized(first, "weight"):
            remove_parametrizations(first, "weight", leave_parametrized=True)

    def freeze(self, *, identity: bool = False) -> SpectralCascade:
        """Keep the kernels out of training: as they were drawn, or each map showing one channel as it is.

        The controls: random masks, and no optical layer in front of the same electronics.
        """
        with torch.no_grad():
            for layer in self._layers() if identity else ():
                out, in_, size, _ = layer.weight.shape
                layer.weight.zero_()
                for index in range(out):
                    layer.weight[index, index % in_, size // 2, size // 2] = 1
        self.requires_grad_(False)
        return self

    def _layers(self) -> list[SpectralConv]:
        return [cast(SpectralConv, layer) for layer in self.layers]

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != (self.in_channels, *self.image):
            raise ModelError(
                f"images are {list(images.shape)}, "
                f"this student takes [n, {self.in_channels}, {self.image[0]}, {self.image[1]}]"
            )

    def _spectrum(self, images: Tensor) -> Tensor:
        self._check(images)
        spectrum: Tensor = torch.fft.rfft2(images, s=self.grid)
        return spectrum

    def _cropped(self, spectrum: Tensor) -> Tensor:
        """The centred part of a spectrum that spectral pooling keeps, in `rfft2` layout; all of it without."""
        if self.spectral_pool == 1:
            return spectrum
        rows, columns = (side // self.spectral_pool for side in self.grid)
        # the highest frequency of an even grid has no partner of its own: it goes, so that maps stay real and linear
        above, below, right = (rows + 1) // 2, (rows - 1) // 2, (columns + 1) // 2
        kept = spectrum.new_zeros(*spectrum.shape[:-2], rows, columns // 2 + 1)
        kept[..., :above, :right] = spectrum[..., :above, :right]
        kept[..., rows - below :, :right] = spectrum[..., self.grid[0] - below :, :right]
        return kept / self.spectral_pool**2

    def _maps(self, spectrum: Tensor) -> Tensor:
        """Maps of a spectrum on the grid, or on the part of it that spectral pooling keeps."""
        size = (self.grid[0] // self.spectral_pool, self.grid[1] // self.spectral_pool)
        maps: Tensor = torch.fft.irfft2(spectrum, s=size)
        return maps[..., : self.map_size[0], : self.map_size[1]]

    def masks(self) -> Complex[Tensor, "maps in y half_x"]:
        """One fused mask per output map and input channel on the `grid`, in `rfft2` layout."""
        first, *rest = self._layers()
        fused: Tensor = first.mask(self.grid)
        for layer in rest:
            fused = torch.einsum("omyx,miyx->oiyx", layer.mask(self.grid), fused)
        return fused

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """What ideal detection reads of the fused network, by the faster of its two equal paths.

        Signed maps, linear in the images; under `INTENSITY` their squares, which are not.
        """
        if self.detection is Detection.INTENSITY:
            return self._intensity(images)
        if self._direct:
            self._check(images)
            return conv2d(images, self.fused_kernels(), padding=self.kernel // 2)
        return self.spectral(images)

    @property
    def _direct(self) -> bool:
        return self.kernel <= DIRECT_UP_TO and self.spectral_pool == 1

    def _intensity(self, images: Tensor) -> Tensor:
        """``sum_c abs(a_c * k_c)^2``: each channel through its own kernels, squared, then added."""
        if self._direct:
            self._check(images)
            apart = self.fused_kernels().transpose(0, 1).flatten(0, 1)[:, None]
            fields = conv2d(images, apart, padding=self.kernel // 2, groups=self.in_channels)
            fields = fields.unflatten(1, (self.in_channels, self.maps))
        else:
            fields = self._maps(self._cropped(torch.einsum("niyx,oiyx->nioyx", self._spectrum(images), self.masks())))
        return fields.square().sum(1)

    def spectral(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """The same maps through the fused masks, as the bench makes them: one product in the Fourier domain."""
        spectrum, masks = self._spectrum(images), self.masks()
        if self.in_channels == 1:
            return self._maps(self._cropped(spectrum * masks[:, 0]))
        return self._maps(self._cropped(torch.einsum("niyx,oiyx->noyx", spectrum, masks)))

    def cascade(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """The same maps layer by layer, unfused, as the paper draws it."""
        spectrum = self._spectrum(images)
        for layer in self._layers():
            spectrum = torch.einsum("niyx,oiyx->noyx", spectrum, layer.mask(self.grid))
        return self._maps(self._cropped(spectrum))

    def fused_kernels(self) -> Float[Tensor, "maps in ky kx"]:
        """The kernels that `conv2d(images, kernels, padding=K // 2)` needs to give the same maps.

        See `labctl.optics.masks.fuse`.
        """
        return fuse(*(layer.weight for layer in self._layers()))


class Student(nn.Module):
    """Optical front and electronic back end."""

    def __init__(self, front: SpectralCascade, backend: Backend) -> None:
        super().__init__()
        self.front, self.backend = front, backend
        self.hint: nn.Module | None = None

    def settle(self) -> None:
        """End of training: what only training needed is taken away, the network computes as before."""
        self.front.settle()
        self.hint = None

    def features(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """What the front's detection reads on an ideal bench."""
        return self.front(images)

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes"]:
        """Logits."""
        return self.backend(self.features(images))

    def fused_kernels(self) -> Float[Tensor, "maps in ky kx"]:
        """See `SpectralCascade.fused_kernels`."""
        return self.front.fused_kernels()
