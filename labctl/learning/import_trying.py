"""What a state dict leaves open, tried on images: the right wiring gives right answers."""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn.functional import cross_entropy

from labctl.errors import DataError, ModelError
from labctl.learning.data import load
from labctl.learning.import_guess import Choices, Guess, guess_mapping
from labctl.learning.import_mapping import AdaptivePool, Mapping, Norm, Pool, Relu
from labctl.learning.import_wiring import run_network

IMAGES = 500


@dataclass(frozen=True)
class Trial:
    """One wiring, the share of `images` training images that it answers rightly, and its mean cross-entropy (nats)."""

    guess: Guess
    accuracy: float
    loss: float
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
    """Try wirings on training images, the one of the least loss first; [] where the images do not fit or are not here.

    The loss tells more than the answers: it is what the network was trained to make small, on these very images. Test
    images are left for the accuracy that the bundle reports.
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
            logits = run_network(guess.mapping, images.images, tensors)
        except ModelError:
            continue  # one that does not fit together is no candidate
        if logits.shape[1] != len(images.classes):
            return []
        right = float((logits.argmax(1) == images.labels).double().mean())
        found.append(Trial(guess, right, float(cross_entropy(logits, images.labels)), len(images)))
    return sorted(found, key=lambda trial: trial.loss)
