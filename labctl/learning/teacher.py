"""Nonlinear convolutional teachers: for classes, and (in `labctl.learning.segmentation`) for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labctl.errors import ModelError
from labctl.learning.backend import image_size


def _size(image: int | Sequence[int], halvings: int) -> tuple[int, int]:
    """(y, x) after so many 2x2 pools."""
    y, x = (side >> halvings for side in image_size(image))
    if min(y, x) < 1:
        raise ModelError(f"a teacher that halves {halvings} times does not fit images of {list(image_size(image))}")
    return y, x


class Teacher(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pool, then one fully connected layer.

    Parameters
    ----------
    widths
        Channels of each block; every block halves height and width.
    in_channels, image, classes
        Channels and size (y, x; a number stands for a square) of the images, number of logits.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        in_channels: int = 1,
        image: int | Sequence[int] = 28,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if not widths:
            raise ModelError("a teacher needs at least one block: its widths are empty")
        size = _size(image, len(widths))
        self.in_channels, self.image, self.widths = in_channels, image_size(image), tuple(widths)
        blocks: list[nn.Module] = []
        for in_, out in zip((in_channels, *widths[:-1]), widths, strict=True):
            blocks += [nn.Conv2d(in_, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(widths[-1] * size[0] * size[1], classes)

    def embed(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n features"]:
        """What the last layer is given, for images in 0..1."""
        embedded: Tensor = self.blocks(images).flatten(1)
        return embedded

    def decide(self, embedded: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Logits of what `embed` gave."""
        logits: Tensor = self.fc(embedded)
        return logits

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes"]:
        """Logits of images in 0..1."""
        return self.decide(self.embed(images))


def _convolution(in_: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class _Residual(nn.Module):
    """x + two convolutions of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x))
        return out


class ResidualTeacher(nn.Module):
    """A short residual network for colour images: the shape of "ResNet-9", thinner.

    A 3x3 convolution, then per further width a 2x2 max pool, a 3x3 convolution and, in every second stage from the
    first, a residual pair; at last the maximum over the image and one fully connected layer.

    Parameters
    ----------
    widths
        Channels of the first convolution and of each stage.
    in_channels, image, classes
        Channels and size (y, x; a number stands for a square) of the images, number of logits.
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96, 192),
        in_channels: int = 3,
        image: int | Sequence[int] = 32,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ModelError(f"a residual teacher needs two widths or more, got {list(widths)}")
        _size(image, len(widths) - 1)
        self.in_channels, self.image, self.widths = in_channels, image_size(image), tuple(widths)
        self.first = _convolution(in_channels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.MaxPool2d(2),
                _convolution(in_, out),
                *([_Residual(out)] if number % 2 == 0 else []),
            )
            for number, (in_, out) in enumerate(pairwise(widths))
        )
        self.fc = nn.Linear(widths[-1], classes)

    def embed(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n features"]:
        """What the last layer is given, for images in 0..1."""
        x: Tensor = self.first(4 * images - 2)
        for stage in self.stages:
            x = stage(x)
        return torch.amax(x, dim=(2, 3))

    def decide(self, embedded: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Logits of what `embed` gave."""
        logits: Tensor = 0.25 * self.fc(embedded)
        return logits

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes"]:
        """Logits of images in 0..1."""
        return self.decide(self.embed(images))
