"""The images that a recipe trains, holds back and tests on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from labctl.errors import ConfigError, DataError
from labctl.learning.data import ImageSet, balanced_order, known_set, load
from labctl.learning.recipe import DataSection, Recipe


@dataclass(frozen=True)
class Splits:
    """uint8 pixels and labels to train on and held back, and the sets they came from.

    Labels are [n], or [n, y, x] for segmentation.
    """

    train: tuple[UInt8[Tensor, "n c y x"], Int64[Tensor, "n ..."]]
    validation: tuple[UInt8[Tensor, "m c y x"], Int64[Tensor, "m ..."]]
    test: ImageSet
    shipped: ImageSet | None
    source: ImageSet

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.source.classes)


def resized(images: ImageSet, section: DataSection) -> ImageSet:
    """The same images at the size the recipe asks for: bilinear with anti-aliasing; labels of pixels by the nearest."""
    if section.size is None:
        return images
    size = (section.size, section.size) if isinstance(section.size, int) else section.size
    if tuple(images.images.shape[-2:]) == tuple(size):
        return images
    pixels = interpolate(images.images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
    labels = images.labels
    if labels.ndim == 3:
        labels = interpolate(labels[:, None].double(), size=size, mode="nearest-exact")[:, 0].long()
    # as stored in a file of 8 bits, so that training and showing see the same
    return dataclasses.replace(images, images=(pixels * 255).round() / 255, labels=labels)


def as_pixels(images: Tensor) -> UInt8[Tensor, "n c y x"]:
    """0..1 as shown to 0..255 as stored."""
    return (images * 255).round().to(torch.uint8)


def splits_of(recipe: Recipe, data_dir: Path | None) -> Splits:
    """Official train images cut into training and a balanced held-back part; official test images untouched.

    Sets with an official validation split hold that back instead.

    Raises
    ------
    ConfigError
        More held back than there are images.
    DataError
        The set is not there, or not whole.
    """
    section = recipe.data

    def read(split: str, **options: object) -> ImageSet:
        found = load(section.name, split, data_dir=data_dir, source=section.source, **options)  # type: ignore[arg-type]
        return resized(found, section)

    whole = read("train", limit=section.limit, seed=section.seed)
    if "validation" in known_set(section.name, data_dir).splits:
        apart = read("validation")
        train = (as_pixels(whole.images), whole.labels)
        validation = (as_pixels(apart.images), apart.labels)
    else:
        if section.validation >= len(whole):
            raise ConfigError(f"recipe {recipe.name}: data.validation is {section.validation} of {len(whole)} images")
        order = torch.from_numpy(balanced_order(whole.labels.numpy(), section.seed))
        held, kept = order[: section.validation], order[section.validation :].sort().values
        pixels = as_pixels(whole.images)
        train, validation = (pixels[kept], whole.labels[kept]), (pixels[held], whole.labels[held])
    try:
        shipped = resized(load(section.name, "test", source="shipped"), section)
    except DataError:
        shipped = None
    return Splits(train, validation, read("test"), shipped, whole)
