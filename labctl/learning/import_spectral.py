"""A first mapping for networks whose front multiplies in the Fourier domain.

Released code does this in three ways: complex masks on the grid (or their `rfft2` half), real and imaginary parts as an
axis of length two or as two tensors, and small kernels that are transformed on the way (arXiv:2102.13323's own layers:
[1, in, out, k, k, 2], padded by k - 1, convolved, cut back to the size of the image).
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from labctl.errors import ModelError
from labctl.learning import import_guess as guessing
from labctl.learning.import_mapping import Input, Layer, Mapping, Spectral
from labctl.learning.import_parts import Part

SMALL = 12
"""Up to this size, pixels, tensors are taken for kernels; masks are as large as an image."""


def _axes(part: Part, shape: tuple[int, ...], is_complex: bool, channels: int, maps: int | None) -> tuple[str, ...]:
    """Names of a tensor's axes."""
    rest = list(range(len(shape)))
    named: dict[int, str] = {}
    if not is_complex and "imaginary" not in part.names:
        pairs = [axis for axis in (len(shape) - 1, 2) if shape[axis] == 2]
        if not pairs:
            raise ModelError(
                f"{part.names['weight']} of {list(shape)} has more axes than a convolution and none of length 2 for "
                "real and imaginary part; write a mapping"
            )
        named[pairs[0]] = "pair"
        rest.remove(pairs[0])
    while len(rest) > 4 and shape[rest[0]] == 1:
        named[rest.pop(0)] = "1"
    if len(rest) not in (3, 4):
        raise ModelError(f"{part.names['weight']} of {list(shape)} has an axis that plays no part; write a mapping")
    named[rest[-2]], named[rest[-1]] = "y", "x"
    rows, columns = shape[rest[-2]], shape[rest[-1]]
    if columns == rows // 2 + 1 and rows > SMALL:
        named[rest[-1]] = "half"
    if len(rest) == 3:
        named[rest[0]] = "out"
    else:
        first, second = shape[rest[0]], shape[rest[1]]
        in_first = (first == channels and second != channels) or (maps == second and maps != first)
        named[rest[0]], named[rest[1]] = ("in", "out") if in_first else ("out", "in")
    return tuple(named[axis] for axis in range(len(shape)))


def _sides(size: int, kernel: bool, choices: guessing.Choices, channels: int) -> list[int]:
    """Sides of the image to try."""
    if choices.shape:
        return [choices.shape[1]]
    usual = guessing.USUAL_SIZES.get(channels, (32, 28, 64))
    return list(usual) if kernel else [side for side in usual if side <= size] or [size]


def _layer(part: Part, axes: tuple[str, ...], shape: tuple[int, ...], side: int) -> Spectral:
    """One spectral layer on images of `side` pixels."""
    rows = shape[axes.index("y")]
    kernel = rows <= SMALL and side > rows
    values: dict[str, Any] = {"axes": axes, **part.names}
    if kernel:
        grid = side + rows - 1
        start = (rows - 1) // 2
        return Spectral(holds="kernel", grid=(grid, grid), start=(start, start), size=(side, side), **values)
    columns = rows if "half" in axes else shape[axes.index("x")]
    return Spectral(grid=(rows, columns), size=(side, side), **values)


def guess_spectral(
    tensors: Tensors[str, Tensor],
    spatial: Sequence[Part],
    rest: Sequence[Part],
    choices: guessing.Choices,
    data: str | None,
) -> guessing.Guess:
    """Guess the wiring of a network with a spectral front; see `labctl.learning.import_guess.guess_mapping`."""
    if any(part.kind == "convolution" for part in spatial):
        raise ModelError("it has spectral layers and convolutions: write a mapping that says in which order")
    parts = [part for part in spatial if part.kind == "spectral"]
    norms = [part for part in spatial if part.kind == "batch norm"]
    last_maps = len(tensors[norms[-1].names["mean"]]) if norms else None
    shapes = [tuple(tensors[part.names["weight"]].shape) for part in parts]
    # the first layer takes the image: of its two channel axes, a short one is "in"
    lead = [n for n in shapes[0] if n in (1, 3)]
    channels = choices.shape[0] if choices.shape else (3 if 3 in lead[:1] and shapes[0][-2] > SMALL else 1)
    axes, reach = [], channels
    for index, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        maps = last_maps if index == len(parts) - 1 else None
        found = _axes(part, shape, tensors[part.names["weight"]].is_complex(), reach, maps)
        axes.append(found)
        if "in" in found and shape[found.index("in")] != reach and not (index == 0 and choices.shape is None):
            raise ModelError(
                f"{part.names['weight']} takes {shape[found.index('in')]} channels, {reach} reach it; write a mapping"
            )
        if index == 0 and "in" in found and choices.shape is None:
            channels = shape[found.index("in")]
        reach = shape[found.index("out")]
    rows = shapes[0][axes[0].index("y")]
    linear = next((part for part in rest if part.kind == "linear"), None)
    area = 1
    if linear is not None:
        inputs = tensors[linear.names["weight"]].shape[1]
        if inputs % reach:
            raise ModelError(f"{linear.names['weight']} takes {inputs} values, no multiple of the {reach} maps")
        area = inputs // reach
    if math.isqrt(area) ** 2 != area:
        raise ModelError(f"the first linear layer takes {area} values of each map, which is no square; write a mapping")
    kind: guessing.PoolKind = choices.pool_kind or "average"
    sides = _sides(rows, rows <= SMALL, choices, channels)
    found_fits = guessing.fits(sides, (), choices, kind, area)
    if not found_fits:
        raise ModelError(
            f"the first linear layer takes {area} values of each map: no usual pooling leads there from maps of "
            f"{', '.join(f'{s}x{s}' for s in sides)}; say --input-shape and --pool, or write a mapping"
        )
    side, fit = found_fits[0]
    turn = iter(zip(parts, axes, shapes, strict=True))
    front: list[Layer] = [
        _layer(*next(turn), side) if part.kind == "spectral" else guessing.norm_layer(part) for part in spatial
    ]
    first = next(layer for layer in front if isinstance(layer, Spectral))
    what = "kernels, transformed on the way" if first.holds == "kernel" else "masks"
    assumed = [
        guessing.Assumption(
            "shape",
            f"images of {side}x{side}, {channels} channel{'s' if channels > 1 else ''}, on a grid of "
            f"{first.grid[0]}x{first.grid[1]}, of which {first.size[0]}x{first.size[1]} pixels from "
            f"{list(first.start)} are kept",
            ((channels, side, side),),
        ),
        guessing.Assumption("", f"{parts[0].names['weight']} holds {what}, with axes {', '.join(axes[0])}"),
        guessing.Assumption(
            "", "the spectrum is multiplied with them as they are (a convolution), not with conjugates"
        ),
    ]
    if fit.pool is not None and choices.pool_kind is None:
        other = "max" if kind == "average" else "average"
        text = f"{fit.text.rpartition(', ')[2]} takes the {kind}: the file does not say"
        assumed.append(guessing.Assumption("pool_kind", text, (kind, other)))
    mean, std, open_ = guessing.normalisation(choices, data)
    tail, more = guessing.tail_layers(spatial, rest, fit.pool, choices, tensors)
    mapping = Mapping(
        input=Input(shape=(channels, side, side), mean=mean, std=std),
        borders=choices.borders,
        layers=(*guessing.with_relu(front, tail[0]), *tail[1]),
    )
    return guessing.Guess(mapping, tuple(assumed + open_ + more))
