"""Semantic segmentation: the teacher, the electronics behind the camera, and losses, all with one decision per pixel.

The order of things is that of classification: a nonlinear teacher (`UNet`), an optical front
(`labctl.learning.student.SpectralCascade`) with lean electronics behind it (`SegmentationBackend`), and a loss that
carries what the teacher knows to the student. Logits are [n, classes, y, x] at the size of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, kl_div, log_softmax, max_pool2d

from labctl.errors import ModelError
from labctl.learning.backend import AfterDetection, Backend, PoolKind, image_size
from labctl.learning.data import NO_CLASS


def resized(maps: Float[Tensor, "n maps y x"], size: Sequence[int]) -> Float[Tensor, "n maps yy xx"]:
    """Maps at another size (y, x), bilinear between the middles of pixels."""
    return interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _convolution(in_: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class UNet(nn.Module):
    """The teacher: an encoder that halves the image step by step, and a decoder that takes each step's maps back in.

    After Ronneberger, Fischer, Brox (arXiv:1505.04597), thinner and for small images: the first convolution strides by
    two, batch norm throughout, and logits at half the image's size are resized to it, bilinear.

    Parameters
    ----------
    widths
        Channels at half the image's size, at a quarter of it, and so on.
    in_channels, image, classes
        Channels and size (y, x; a number stands for a square) of the images, number of logits per pixel.
    dropout
        Share of the channels before the last layer that are left out in training.
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96, 160),
        in_channels: int = 3,
        image: int | Sequence[int] = (120, 160),
        classes: int = 11,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.image, self.in_channels, self.widths = image_size(image), in_channels, tuple(widths)
        if not widths or min(self.image) >> len(widths) < 1:
            raise ModelError(f"a U-Net that halves {len(widths)} times does not fit images of {list(self.image)}")
        self.first = nn.Sequential(_convolution(in_channels, widths[0], 2), _convolution(widths[0], widths[0]))
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(_convolution(a, b), _convolution(b, b)) for a, b in steps)
        self.up = nn.ModuleList(_convolution(a + b, a) for a, b in reversed(steps))
        self.drop = nn.Dropout2d(dropout)
        self.last = nn.Conv2d(widths[0], classes, 1)

    def embed(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n width half_y half_x"]:
        """What the last layer is given, for images in 0..1, at half their size."""
        maps = [cast(Tensor, self.first(3 * images - 1.3))]
        for block in self.down:
            maps.append(block(max_pool2d(maps[-1], 2, ceil_mode=True)))
        embedded = maps.pop()
        for block in self.up:
            skip = maps.pop()
            embedded = block(torch.cat([interpolate(embedded, size=skip.shape[-2:], mode="nearest"), skip], dim=1))
        return embedded

    def decide(self, embedded: Float[Tensor, "n width half_y half_x"]) -> Float[Tensor, "n classes y x"]:
        """Logits of what `embed` gave."""
        return resized(self.last(self.drop(embedded)), self.image)

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes y x"]:
        """Logits of images in 0..1."""
        return self.decide(self.embed(images))


class _Separable(nn.Module):
    """x + a convolution of each channel by itself (5x5) and one across channels (1x1), then ReLU (arXiv:1704.04861)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.apart = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.across = nn.Conv2d(width, width, 1, bias=False)
        self.norm_out = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm_out(self.across(self.norm(self.apart(x)).relu()))).relu()


class _Across(nn.Sequential):
    """A 1x1 convolution and batch norm."""

    def __init__(self, in_: int, out: int) -> None:
        super().__init__(nn.Conv2d(in_, out, 1, bias=False), nn.BatchNorm2d(out))


class SegmentationBackend(Backend):
    """The electronics after the camera, for one decision per pixel: lean, and linear as far as `Backend` is.

    Batch norm, an optional elementwise ReLU and pooling as there; then a 1x1 convolution, which is the first fully
    connected layer, here of the maps at each place: with `after_detection` "linear" nothing up to its end is nonlinear.
    A learned bias per place follows it, as a fully connected layer has (sky is above, road below). Then separable
    convolutions at the pooled size and, for context, at half of it, a quarter and so on; a last 1x1 convolution; and
    bilinear resizing.

    Parameters
    ----------
    maps, image
        Feature maps, and their height and width (y, x), pixels; a number stands for a square.
    classes
        Logits per pixel out.
    hidden
        Channels at the pooled size, at half of it, and so on; a number stands for one size alone.
    pool, pool_kind, after_detection, norm, offset
        As in `labctl.learning.backend.Backend`.
    """

    def __init__(
        self,
        maps: int = 16,
        image: int | Sequence[int] = (120, 160),
        classes: int = 11,
        *,
        pool: int = 4,
        pool_kind: PoolKind = "average",
        hidden: int | Sequence[int] = (32, 64, 96),
        after_detection: AfterDetection = "linear",
        norm: bool = True,
        offset: bool = False,
    ) -> None:
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        size = image_size(image)
        if not widths or (pool > 0 and min(size) // pool >> (len(widths) - 1) < 1):
            raise ModelError(f"back end with pool {pool} and hidden {list(widths)} does not fit maps of {list(size)}")
        super().__init__(
            maps, size, classes,
            pool=pool, pool_kind=pool_kind, hidden=widths, after_detection=after_detection, norm=norm, offset=offset,
        )  # fmt: skip

    def _connect(self, sizes: Sequence[int]) -> None:
        """Make the layers behind the pooling, `sizes` (inputs, hidden, classes) being those of all places together."""
        inputs, *_, classes = sizes
        widths, pool = self.hidden, cast(int, self.pool.kernel_size)
        rows, columns = (side // pool for side in self.image)
        self._layers: list[str] = []
        self.first = _Across(inputs // (rows * columns), widths[0])
        self.place = nn.Parameter(torch.zeros(widths[0], rows, columns))
        self.encode = nn.ModuleList(_Separable(width) for width in widths)
        self.down = nn.ModuleList(_Across(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Across(b, a) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(_Separable(width) for width in widths[:-1])
        self.last = nn.Conv2d(widths[0], classes, 1)

    def pooled(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n inputs small_y small_x"]:
        """What the first 1x1 convolution is given."""
        return super().pooled(features).unflatten(1, (-1, *self.place.shape[1:]))

    def outputs(
        self, features: Float[Tensor, "n maps y x"]
    ) -> tuple[Float[Tensor, "n classes y x"], Float[Tensor, "n hidden small_y small_x"]]:
        """Logits, and what the last 1x1 convolution was given."""
        x: Tensor = (self.first(self.pooled(features)) + self.place).relu()
        x = self.encode[0](x)
        skips = []
        for down, block in zip(self.down, list(self.encode)[1:], strict=True):
            skips.append(x)
            x = block(down(avg_pool2d(x, 2, ceil_mode=True)).relu())
        for up, block in zip(reversed(self.up), reversed(self.decode), strict=True):
            skip = skips.pop()
            x = block((skip + resized(up(x), skip.shape[-2:])).relu())
        return resized(self.last(x), self.image), x


def augmented_pairs(
    images: UInt8[Tensor, "n channels y x"],
    labels: Int64[Tensor, "n ..."],
    seed: int,
    *,
    flip: bool = True,
    shift_px: int = 0,
    zoom: tuple[float, float] = (1.0, 1.0),
    colour: float = 0.0,
) -> tuple[UInt8[Tensor, "n channels y x"], Int64[Tensor, "n ..."]]:
    """One seeded draw of flips, zooms, shifts and exposures for every image; labels of pixels move along.

    Parameters
    ----------
    labels
        [n, y, x], or [n], which stay as they are.
    flip
        Left to right, for every second image.
    shift_px
        Greatest shift along each axis, either way and beside that of the zoom; pixels.
    zoom
        Least and greatest magnification, drawn evenly in its logarithm. An image larger than the frame is cut, a
        smaller one is placed within it, either at random; what lies outside is 0 and has no class.
    colour
        Standard deviation of the logarithm of an image's brightness and of its gamma; channels differ by 0.4 of it.
    """
    generator = torch.Generator().manual_seed(seed)
    count, channels = images.shape[:2]
    low, high = (math.log(factor) for factor in zoom)
    seen = torch.exp(-low - (high - low) * torch.rand(count, generator=generator))
    room = (1 - seen).abs()[:, None] + 2 * shift_px / torch.tensor([images.shape[-1], images.shape[-2]])
    places = (2 * torch.rand(count, 2, generator=generator) - 1) * room
    sign = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = seen * sign, seen, places
    gain = colour * torch.randn(count, 1, 1, 1, generator=generator)
    gain = torch.exp(gain + 0.4 * colour * torch.randn(count, channels, 1, 1, generator=generator))
    gamma = torch.exp(colour * torch.randn(count, 1, 1, 1, generator=generator))
    drawn, moved = torch.empty_like(images), labels.clone()
    for part in torch.arange(count).split(64):
        grid = affine_grid(maps[part], [len(part), channels, *images.shape[-2:]], align_corners=False)
        pixels = grid_sample(images[part].float() / 255, grid, align_corners=False)
        pixels = (pixels.clamp(0, 1) ** gamma[part] * gain[part]).clamp(0, 1)
        drawn[part] = (pixels * 255).round().to(torch.uint8)
        if labels.ndim == 1:
            continue
        # classes count from 1 here, so that what is sampled from outside, a 0, has none
        classes = torch.where(labels[part] == NO_CLASS, 0, labels[part] + 1)[:, None].float()
        classes = grid_sample(classes, grid, mode="nearest", align_corners=False)[:, 0].round().long()
        moved[part] = torch.where(classes == 0, NO_CLASS, classes - 1)
    return drawn, moved


def class_weights(labels: Int64[Tensor, "n ..."], classes: int, power: float) -> Float[Tensor, " classes"]:
    """Weights of the cross entropy: share of the pixels to the minus `power`, with a mean over pixels of one.

    Power 0 weighs all pixels alike, 1 all classes. A class without a pixel counts as if it had one.
    """
    counts = torch.bincount(labels[labels != NO_CLASS], minlength=classes).clamp_min(1).double()
    shares = counts / counts.sum()
    weights = shares**-power
    return (weights / (weights * shares).sum()).float()


def channel_wise_loss(
    logits: Float[Tensor, "n classes y x"], teacher_logits: Float[Tensor, "n classes y x"], *, temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(teacher || student) of each class's map, made a distribution over places; mean over images and classes.

    Channel-wise distillation (Shu et al., arXiv:2011.13256): it teaches where in the image a class is most likely, and
    leaves out how likely it is, so that a rare class weighs as much as a common one.
    """
    told = log_softmax(teacher_logits.flatten(2) / temperature, dim=2)
    said = log_softmax(logits.flatten(2) / temperature, dim=2)
    return temperature**2 * kl_div(said, told, reduction="none", log_target=True).sum(2).mean()
