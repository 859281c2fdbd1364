"""A small nonlinear convolutional teacher, for images of 16 to 64 pixels."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from labctl.errors import ModelError


class Teacher(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pool, then one fully connected layer.

    Parameters
    ----------
    widths
        Channels of each block; every block halves height and width.
    in_channels, image, classes
        Channels and size (pixels) of the images, number of logits.
    """

    def __init__(
        self, widths: Sequence[int] = (32, 64, 128), in_channels: int = 1, image: int = 28, classes: int = 10
    ) -> None:
        super().__init__()
        size = image >> len(widths)
        if size < 1 or not widths:
            raise ModelError(f"a teacher of {len(widths)} blocks does not fit images of {image}x{image}")
        self.in_channels, self.image, self.widths = in_channels, image, tuple(widths)
        blocks: list[nn.Module] = []
        for in_, out in zip((in_channels, *widths[:-1]), widths, strict=True):
            blocks += [nn.Conv2d(in_, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(widths[-1] * size * size, classes)

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes"]:
        """Logits of images in 0..1."""
        return self.fc(self.blocks(images).flatten(1))
