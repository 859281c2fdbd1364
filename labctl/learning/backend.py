"""The electronics behind the camera: from feature maps to logits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labctl.errors import ModelError

AfterDetection = Literal["linear", "relu", "two-sided"]
"""What electronics do to every value of the normalised maps: nothing, ``relu(x)``, or ``relu(x)`` and ``relu(-x)``, the
latter as twice the maps."""
PoolKind = Literal["average", "max"]


def image_size(image: int | Sequence[int]) -> tuple[int, int]:
    """(y, x) pixels of a square given by its side, or of what is a pair already."""
    if isinstance(image, int):
        return image, image
    y, x = image
    return int(y), int(x)


def two_sided(maps: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n both y x"]:
    """``relu(maps)``, then ``relu(-maps)``, along the channels."""
    return torch.cat([maps.relu(), (-maps).relu()], dim=1)


class Backend(nn.Module):
    """Batch norm, an optional elementwise ReLU, pooling, then fully connected layers with ReLU between them.

    Parameters
    ----------
    maps, image
        Feature maps, and their height and width (y, x), pixels; a number stands for a square.
    classes
        Logits out.
    pool, pool_kind
        Window and stride of the pooling, pixels, and whether it takes the mean or the maximum.
    hidden
        Units of the fully connected layers before the last; none makes one linear layer of the maps.
    after_detection
        "linear": nothing nonlinear up to and including the first fully connected layer (the paper's SCLC).
        "relu": an electronic ReLU on the normalised maps, as the authors' released one-layer network has.
        "two-sided": the ReLU of the maps and of their negatives, as twice the maps (arXiv:1603.05201).
    norm
        Whether there is a batch norm.
    hidden_norm
        Whether what the first fully connected layer is given is standardised, and every hidden layer batch-normalised
        before its ReLU. In eval mode both are affine and could be folded into the layers: they make training faster.
    offset
        Whether a fixed image per map is added first: what folding an input normalisation into the kernels leaves over.
    """

    def __init__(
        self,
        maps: int = 8,
        image: int | Sequence[int] = 28,
        classes: int = 10,
        *,
        pool: int = 2,
        pool_kind: PoolKind = "average",
        hidden: int | Sequence[int] = 128,
        after_detection: AfterDetection = "linear",
        norm: bool = True,
        hidden_norm: bool = False,
        offset: bool = False,
    ) -> None:
        super().__init__()
        self.image = image_size(image)
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if pool < 1 or pool > min(self.image) or any(width < 1 for width in widths):
            size = f"{self.image[0]}x{self.image[1]}"
            raise ModelError(f"back end with pool {pool} and hidden {list(widths)} does not fit maps of {size}")
        self.maps, self.classes, self.hidden = maps, classes, widths
        self.after_detection: AfterDetection = after_detection
        if offset:
            self.register_buffer("offset", torch.zeros(maps, *self.image))
        else:
            self.offset = None
        self.norm = nn.BatchNorm2d(maps) if norm else None
        self.pool: nn.Module = nn.AvgPool2d(pool) if pool_kind == "average" else nn.MaxPool2d(pool)
        pooled = (self.image[0] // pool) * (self.image[1] // pool) * maps
        if after_detection == "two-sided":
            pooled *= 2
        self.standard = nn.BatchNorm1d(pooled, affine=False) if hidden_norm else None
        self.between = nn.ModuleList(nn.BatchNorm1d(width) for width in widths) if hidden_norm else None
        self._connect((pooled, *widths, classes))

    def _connect(self, sizes: Sequence[int]) -> None:
        """Make the fully connected layers between these numbers of units."""
        self._layers = [f"fc{number}" for number in range(1, len(sizes))]
        for name, (before, after) in zip(self._layers, pairwise(sizes), strict=True):
            self.add_module(name, nn.Linear(before, after))

    def layers(self) -> list[nn.Linear]:
        """The fully connected layers `fc1`, `fc2`, ..., first to last."""
        return [cast(nn.Linear, getattr(self, name)) for name in self._layers]

    def check(self, features: Tensor) -> None:
        """ModelError unless features are [n, maps, y, x] of this back end."""
        wanted = (self.maps, *self.image)
        if features.ndim != 4 or features.shape[1:] != wanted:
            raise ModelError(
                f"features are {list(features.shape)}, this back end takes [n, {', '.join(map(str, wanted))}]"
            )

    def used(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n maps rows columns"]:
        """The maps as the batch norm is given them: with the fixed offset added."""
        self.check(features)
        return features if self.offset is None else features + self.offset

    def normed(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n maps rows columns"]:
        """The maps with the fixed offset added and batch-normalised, before anything nonlinear."""
        used = self.used(features)
        return used if self.norm is None else self.norm(used)

    def pooled(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n inputs"]:
        """What the first fully connected layer is given."""
        normed = self.normed(features)
        if self.after_detection == "relu":
            normed = normed.relu()
        elif self.after_detection == "two-sided":
            normed = two_sided(normed)
        flat: Tensor = self.pool(normed).flatten(1)
        return flat

    def outputs(
        self, features: Float[Tensor, "n maps y x"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n hidden"]]:
        """Logits, and what the last fully connected layer was given."""
        hidden, layers = self.pooled(features), self.layers()
        if self.standard is not None:
            hidden = self.standard(hidden)
        for number, layer in enumerate(layers[:-1]):
            hidden = layer(hidden)
            if self.between is not None:
                hidden = self.between[number](hidden)
            hidden = hidden.relu()
        logits: Tensor = layers[-1](hidden)
        return logits, hidden

    def forward(self, features: Float[Tensor, "n maps y x"]) -> Float[Tensor, "n classes"]:
        """Logits of feature maps (simulated, or read from the camera in the units of conv2d)."""
        return self.outputs(features)[0]
