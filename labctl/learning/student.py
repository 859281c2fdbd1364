"""The SCLC student: spectral convolution layers without nonlinearity between them, then an electronic back end.

Source: Xiang, Colburn, Majumdar, Shlizerman, "Knowledge distillation circumvents nonlinearity for optical
convolutional neural networks", arXiv:2102.13323. The layers multiply in the Fourier domain, sum over input channels,
and are linear, so that the cascade fuses exactly into one kernel (one optical mask) per output map.

Contract with the optics: feature maps follow `torch.nn.functional.conv2d`, a cross-correlation. With K the odd fused
kernel size, `conv2d(images, fused_kernels(), padding=K // 2)` equals the cascade's maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

from labctl.errors import ModelError
from labctl.optics.masks import fuse

DIRECT_UP_TO = 11
"""Fused kernels up to this size run as direct convolution. Measured on one CPU core, forward and backward of 64 images,
8 maps of 28x28, direct against spectral: 7x7 2.9 / 11 ms, 11x11 4.5 / 17 ms, 15x15 16 / 10 ms, 21x21 26 / 13 ms."""


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

    def mask(self, grid: int) -> Complex[Tensor, "out in y half_x"]:
        """The layer's mask on a `grid` x `grid` spectrum, in `torch.fft.rfft2` layout, centred on kernel pixel K // 2.

        The conjugate makes the product a cross-correlation, as conv2d is.
        """
        size = self.weight.shape[-1]
        padded = nn.functional.pad(self.weight, (0, grid - size, 0, grid - size))
        mask: Tensor = torch.fft.rfft2(padded.roll((-(size // 2), -(size // 2)), (-2, -1))).conj()
        return mask

    def extra_repr(self) -> str:
        out, in_, size, _ = self.weight.shape
        return f"{in_} -> {out}, {size}x{size}"


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
        Height and width of the image, pixels.

    Attributes
    ----------
    kernel : int
        Fused kernel size K, pixels.
    grid : int
        Height and width of the Fourier grid, image + K - 1: the smallest that wraps nothing around.
    """

    def __init__(
        self,
        maps: int = 8,
        in_channels: int = 1,
        kernel_sizes: Sequence[int] = (3, 3, 3),
        hidden: Sequence[int] | None = None,
        image: int = 28,
    ) -> None:
        super().__init__()
        hidden = (maps,) * (len(kernel_sizes) - 1) if hidden is None else tuple(hidden)
        if not kernel_sizes or len(hidden) != len(kernel_sizes) - 1:
            raise ModelError(
                f"{len(kernel_sizes)} layers need {len(kernel_sizes) - 1} hidden widths, got {len(hidden)}"
            )
        widths = (in_channels, *hidden, maps)
        if min(widths) < 1 or image < 1:
            raise ModelError(f"channels {widths} and image size {image} must be 1 or more")
        self.maps, self.in_channels, self.image = maps, in_channels, image
        self.layers = nn.ModuleList(
            SpectralConv(out, in_, size) for in_, out, size in zip(widths[:-1], widths[1:], kernel_sizes, strict=True)
        )
        self.kernel = sum(kernel_sizes) - len(kernel_sizes) + 1
        self.grid = image + self.kernel - 1

    def _layers(self) -> list[SpectralConv]:
        return [cast(SpectralConv, layer) for layer in self.layers]

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != (self.in_channels, self.image, self.image):
            raise ModelError(
                f"images are {list(images.shape)}, "
                f"this student takes [n, {self.in_channels}, {self.image}, {self.image}]"
            )

    def _spectrum(self, images: Tensor) -> Tensor:
        self._check(images)
        spectrum: Tensor = torch.fft.rfft2(images, s=(self.grid, self.grid))
        return spectrum

    def _maps(self, spectrum: Tensor) -> Tensor:
        maps: Tensor = torch.fft.irfft2(spectrum, s=(self.grid, self.grid))
        return maps[..., : self.image, : self.image]

    def masks(self) -> Complex[Tensor, "maps in y half_x"]:
        """One fused mask per output map and input channel on the `grid`, in `rfft2` layout."""
        first, *rest = self._layers()
        fused: Tensor = first.mask(self.grid)
        for layer in rest:
            fused = torch.einsum("omyx,miyx->oiyx", layer.mask(self.grid), fused)
        return fused

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """Signed feature maps of the fused network, by the faster of its two equal paths. Linear in the images."""
        if self.kernel <= DIRECT_UP_TO:
            self._check(images)
            return conv2d(images, self.fused_kernels(), padding=self.kernel // 2)
        return self.spectral(images)

    def spectral(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """The same maps through the fused masks, as the bench makes them: one product in the Fourier domain."""
        spectrum, masks = self._spectrum(images), self.masks()
        if self.in_channels == 1:
            return self._maps(spectrum * masks[:, 0])
        return self._maps(torch.einsum("niyx,oiyx->noyx", spectrum, masks))

    def cascade(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """The same maps layer by layer, unfused, as the paper draws it."""
        spectrum = self._spectrum(images)
        for layer in self._layers():
            spectrum = torch.einsum("niyx,oiyx->noyx", spectrum, layer.mask(self.grid))
        return self._maps(spectrum)

    def fused_kernels(self) -> Float[Tensor, "maps in ky kx"]:
        """The kernels that `conv2d(images, kernels, padding=K // 2)` needs to give the same maps.

        See `labctl.optics.masks.fuse`.
        """
        return fuse(*(layer.weight for layer in self._layers()))


class Backend(nn.Module):
    """The electronics after the camera: batch norm, average pool, fully connected, ReLU, fully connected.

    Parameters
    ----------
    maps, image
        Feature maps and their height and width, pixels.
    classes
        Logits out.
    pool
        Window and stride of the average pool, pixels.
    hidden
        Units of the first fully connected layer.
    relu_after_detection
        False: strictly linear up to and including the first fully connected layer (the paper's SCLC).
        True: an electronic ReLU on the normalised maps, as the authors' released one-layer network has.
    """

    def __init__(
        self,
        maps: int = 8,
        image: int = 28,
        classes: int = 10,
        *,
        pool: int = 2,
        hidden: int = 128,
        relu_after_detection: bool = False,
    ) -> None:
        super().__init__()
        if pool < 1 or pool > image or hidden < 1:
            raise ModelError(f"back end with pool {pool} and hidden {hidden} does not fit maps of {image}x{image}")
        self.maps, self.image, self.classes = maps, image, classes
        self.relu_after_detection = relu_after_detection
        self.norm = nn.BatchNorm2d(maps)
        self.pool = nn.AvgPool2d(pool)
        self.fc1 = nn.Linear(maps * (image // pool) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n classes"]:
        """Logits of signed feature maps (simulated, or read from the camera in the units of conv2d)."""
        if features.shape[1:] != (self.maps, self.image, self.image):
            raise ModelError(
                f"features are {list(features.shape)}, this back end takes [n, {self.maps}, {self.image}, {self.image}]"
            )
        normed = self.norm(features)
        if self.relu_after_detection:
            normed = normed.relu()
        return self.fc2(self.fc1(self.pool(normed).flatten(1)).relu())


class Student(nn.Module):
    """Optical front and electronic back end."""

    def __init__(self, front: SpectralCascade, backend: Backend) -> None:
        super().__init__()
        self.front, self.backend = front, backend

    def features(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n maps y x"]:
        """Signed feature maps: what `paired` detection reads on an ideal bench."""
        return self.front(images)

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes"]:
        """Logits."""
        return self.backend(self.features(images))

    def fused_kernels(self) -> Float[Tensor, "maps in ky kx"]:
        """See `SpectralCascade.fused_kernels`."""
        return self.front.fused_kernels()
