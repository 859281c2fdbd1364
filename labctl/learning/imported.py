"""A student that was trained elsewhere: its back end, and what its recipe says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from labctl.errors import ModelError
from labctl.learning.backend import AfterDetection, Backend, image_size
from labctl.learning.import_fusing import sampled
from labctl.learning.import_mapping import AdaptivePool, Mapping, Offset, Pool, Positive, Size, Table
from labctl.learning.student import SpectralCascade, Student


class ImportedSection(Table):
    """[imported]: where a student came from, and what of its structure [student] has no words for.

    Attributes
    ----------
    file, sha256, key
        Name and hash of the file, and where in a checkpoint the weights lay.
    classes
        How many logits.
    maps, kernel
        Feature maps, and the odd size of their kernels, pixels.
    start, stride, size
        The maps are read at pixel ``start + stride * i``, i < size, (y, x).
    norm, offset, after_detection, pool, hidden
        See `ImportedBackend`.
    deviation
        Largest difference between bundle and network when it was imported, relative to the largest logit.
    mapping
        The wiring that the file does not hold, as it was guessed, confirmed or written.
    """

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    key: str = ""
    classes: Positive
    maps: Positive
    kernel: Positive
    start: Offset = (0, 0)
    stride: Size = (1, 1)
    size: Size
    norm: bool = False
    offset: bool = False
    after_detection: Literal["linear", "relu"] = "linear"
    pool: Pool | AdaptivePool | None = None
    hidden: tuple[Positive, ...] = ()
    deviation: float
    mapping: Mapping

    def build_student(self) -> Student:
        """A student of this structure with fresh weights."""
        channels, *image = self.mapping.input.shape
        front = SpectralCascade(self.maps, channels, (self.kernel,), image=image)
        backend = ImportedBackend(
            self.maps,
            image,
            self.classes,
            start=self.start,
            stride=self.stride,
            size=self.size,
            pool=self.pool,
            hidden=self.hidden,
            after_detection=self.after_detection,
            norm=self.norm,
            offset=self.offset,
        )
        return Student(front, backend)


def pool_module(pool: Pool | AdaptivePool | None) -> nn.Module:
    """torch's module for a pooling; the identity for none."""
    match pool:
        case None:
            return nn.Identity()
        case Pool(kind="average pool"):
            return nn.AvgPool2d(pool.size, pool.steps, pool.padding)
        case Pool():
            return nn.MaxPool2d(pool.size, pool.steps, pool.padding)
        case AdaptivePool(kind="adaptive average pool"):
            return nn.AdaptiveAvgPool2d(pool.output)
        case AdaptivePool():
            return nn.AdaptiveMaxPool2d(pool.output)


class ImportedBackend(Backend):
    """The electronics of a foreign student: a back end that reads part of the maps, and pools in any of torch's ways.

    Parameters
    ----------
    maps, image
        Feature maps, and their height and width (y, x), pixels.
    classes
        Logits out.
    start, stride, size
        (y, x): the maps are used at pixel ``start + stride * i``, i < size. A convolution without padding uses the
        middle of the map, one with a stride every so many pixels.
    pool
        Pooling of what is used.
    hidden
        Units of the fully connected layers before the last.
    after_detection, norm, offset
        As in `Backend`; the offset is as large as the maps.
    """

    def __init__(
        self,
        maps: int,
        image: int | Sequence[int],
        classes: int,
        *,
        start: tuple[int, int],
        stride: tuple[int, int],
        size: tuple[int, int],
        pool: Pool | AdaptivePool | None,
        hidden: Sequence[int],
        after_detection: AfterDetection,
        norm: bool,
        offset: bool,
    ) -> None:
        nn.Module.__init__(self)  # of Backend, only what does not build its pool and layers is the same here
        self.image = image_size(image)
        if any(s + d * (n - 1) >= side for s, d, n, side in zip(start, stride, size, self.image, strict=True)):
            raise ModelError(f"maps of {list(self.image)} have no {size} pixels at {start} in steps of {stride}")
        self.maps, self.classes, self.hidden = maps, classes, tuple(hidden)
        self.start, self.stride, self.size = start, stride, size
        self.after_detection = after_detection
        if offset:
            self.register_buffer("offset", torch.zeros(maps, *self.image))
        else:
            self.offset = None
        self.norm = nn.BatchNorm2d(maps) if norm else None
        self.standard, self.between = None, None
        self.pool = pool_module(pool)
        pooled = self.pool(torch.zeros(1, 1, *size)).numel() * maps
        self._connect((pooled, *self.hidden, classes))

    def used(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n maps rows columns"]:
        """The pixels that are read, with the fixed offset added."""
        return sampled(super().used(features), self.start, self.stride, self.size)
