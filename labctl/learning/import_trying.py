"""What a state dict leaves open, tried on images: the right wiring gives right answers."""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from labctl.errors import DataError, ModelError
from labctl.learning.data import load
from labctl.learning.import_guess import Choices, Guess, guess_mapping
from labctl.learning.import_mapping import AdaptivePool, Mapping, Norm, Pool, Relu
from labctl.learning.import_wiring import run_network

IMAGES = 500


@dataclass(frozen=True)
class Trial:
    """One wiring, and the share of `images` training images that it answers rightly."""

    guess: Guess
    accuracy: float
    images: int

    @property
    def text(self) -> str:
        """What tells it from the others."""
        return describe(self.guess.mapping)


def describe(mapping: Mapping) -> str:
    """ReLU, pool and normalisation of a mapping, in words."""
    given, middle = mapping.input, []
    for layer in mapping.layers:
        if layer.kind == "linear":
            break
        if isinstance(layer, Norm | Relu | Pool | AdaptivePool):
            middle.append({"batch norm": "norm", "relu": "ReLU"}.get(layer.kind, layer.kind))
    images = "images as they are" if given.std == (1.0,) and given.mean == (0.0,) else (
        f"images with mean {', '.join(f'{v:g}' for v in given.mean)}, std {', '.join(f'{v:g}' for v in given.std)}"
    )  # fmt: skip
    return f"{', '.join(middle) or 'nothing'} behind the convolutions; {images}"


def try_wirings(
    tensors: Tensors[str, Tensor], open_: Sequence[Choices], data: str, *, data_dir: Path | None = None
) -> list[Trial]:
    """Try wirings on training images, the best first; [] where the images do not fit or are not here.

    Test images are left for the accuracy that the bundle reports.
    """
    try:
        images = load(data, "train", data_dir=data_dir, limit=IMAGES)
    except DataError:
        return []
    if images.labels.ndim != 1:
        return []
    found: list[Trial] = []
    for choices in open_:
        try:
            guess = guess_mapping(tensors, choices, data=data)
            answers = run_network(guess.mapping, images.images, tensors).argmax(1)
        except ModelError:
            continue  # one that does not fit together is no candidate
        found.append(Trial(guess, float((answers == images.labels).double().mean()), len(images)))
    return sorted(found, key=lambda trial: -trial.accuracy)
