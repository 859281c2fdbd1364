"""A first mapping for a state dict: what names and shapes say, and what they leave open.

Whatever is taken for granted is an `Assumption`, with what else it could be, so that a person can look at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Tensors
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor

from labctl.errors import ModelError
from labctl.learning.import_mapping import (
    AdaptivePool,
    Convolution,
    Input,
    Layer,
    Linear,
    Mapping,
    Norm,
    Pool,
    Relu,
)
from labctl.learning.import_parts import Part, between, find_parts

ReluPlace = Literal["none", "before-norm", "after-norm"]
PoolKind = Literal["average", "max"]
USUAL_SIZES = {1: (28, 32, 64), 3: (32, 28, 64, 96, 224)}
USUAL_NORMALISATIONS: dict[str, tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]] = {
    "mnist": (((0.1307,), (0.3081,)),),
    "fashion-mnist": (((0.2860,), (0.3530,)), ((0.1307,), (0.3081,))),
    "cifar10": (
        ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
}
"""(mean, std) that people train these sets with."""


@dataclass(frozen=True)
class Choices:
    """What the person said; None is open.

    Attributes
    ----------
    shape
        (channels, y, x) of an image.
    mean, std
        Of the input normalisation.
    relu
        Where a ReLU stands behind the last convolution: nowhere, before its batch norm, or behind it (also: no batch
        norm at all).
    padding
        Of every convolution, pixels.
    pool, pool_kind
        Window and stride, 0 for none; mean or maximum.
    borders
        See `Mapping`.
    """

    shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    relu: ReluPlace | None = None
    padding: int | None = None
    pool: int | None = None
    pool_kind: PoolKind | None = None
    borders: Literal["exact", "approximate"] = "exact"


@dataclass(frozen=True)
class Assumption:
    """Something that the file does not say.

    Attributes
    ----------
    about
        The field of `Choices` that settles it, or "" where only a mapping file can.
    text
        What was assumed, and why.
    options
        What else it could be, as that field's values; the assumed one first.
    """

    about: str
    text: str
    options: tuple[object, ...] = ()


@dataclass(frozen=True)
class Guess:
    """A mapping, and what in it is assumed."""

    mapping: Mapping
    assumed: tuple[Assumption, ...]


@dataclass(frozen=True)
class _Fit:
    """Paddings of the convolutions and a pooling that lead to the size that the first linear layer takes."""

    paddings: tuple[int, ...]
    pool: Pool | AdaptivePool | None
    text: str


def _spatial(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Parts before the first linear layer, and the rest."""
    first = next((i for i, part in enumerate(parts) if part.kind == "linear"), len(parts))
    if late := next((p for p in parts[first:] if p.kind in ("convolution", "spectral")), None):
        raise ModelError(
            f"{late.names['weight']} stands behind a linear layer in the file; a student of a 4f bench has its "
            "convolutions first. If the file's order is not the network's, write a mapping"
        )
    if not any(part.kind in ("convolution", "spectral") for part in parts[:first]):
        raise ModelError("the file has no convolution and no spectral layer: there is nothing for light to do")
    return list(parts[:first]), list(parts[first:])


def _groups(convolutions: Sequence[Part], tensors: Tensors[str, Tensor], channels: int) -> list[int]:
    """Groups of each convolution, from how many channels reach it."""
    groups = []
    for part in convolutions:
        out, per_group = tensors[part.names["weight"]].shape[:2]
        if channels % per_group:
            raise ModelError(
                f"{part.names['weight']} takes {per_group} channels, {channels} reach it: the layers of the file are "
                "not in the order of the network, or it is no chain; write a mapping (--write-mapping makes a draft)"
            )
        groups.append(channels // per_group)
        channels = out
    return groups


def _after(size: int, kernels: Sequence[int], paddings: Sequence[int]) -> int:
    for kernel, padding in zip(kernels, paddings, strict=True):
        size = size + 2 * padding - kernel + 1
    return size


def _paddings(kernels: Sequence[int], said: int | None) -> Iterator[tuple[tuple[int, ...], str]]:
    """Ways to pad the convolutions, with a name for each."""
    if said is not None:
        yield tuple(said for _ in kernels), f"padding {said}"
        return
    same = tuple(kernel // 2 for kernel in kernels)
    none = tuple(0 for _ in kernels)
    if all(kernel % 2 for kernel in kernels):
        yield same, 'no change of size ("same" padding)'
    yield none, "no padding"
    if len(kernels) > 1 and all(kernel % 2 for kernel in kernels):
        yield (sum(same), *none[1:]), "all padding at the first layer"
    if not all(kernel % 2 for kernel in kernels):
        yield same, f"padding {list(same)}"


def _pools(
    choices: Choices, kind: PoolKind, side: int, wanted: int
) -> Iterator[tuple[Pool | AdaptivePool | None, int, str]]:
    """Poolings of maps of `side` pixels, the size that each leaves, and a name."""
    long: Literal["average pool", "max pool"] = "average pool" if kind == "average" else "max pool"
    sizes = [choices.pool] if choices.pool is not None else [2, 4, 3, 5, 6, 7, 8, 0]
    if choices.pool is None and side not in sizes:
        sizes.append(side)
    for size in sizes:
        if size == 0:
            yield None, side, "no pool"
        elif size <= side:
            yield Pool(kind=long, size=(size, size)), side // size, f"pool {size}x{size}"
    if choices.pool is None:
        if side >= 3:
            yield Pool(kind=long, size=(3, 3), stride=(2, 2)), (side - 3) // 2 + 1, "pool 3x3 in steps of 2"
        adaptive: Literal["adaptive average pool", "adaptive max pool"]
        adaptive = "adaptive average pool" if kind == "average" else "adaptive max pool"
        if wanted <= side and side % wanted:  # where it divides, a plain pool is the same
            yield AdaptivePool(kind=adaptive, output=(wanted, wanted)), wanted, f"adaptive pool to {wanted}x{wanted}"


def fits(
    sides: Sequence[int], kernels: Sequence[int], choices: Choices, kind: PoolKind, area: int | None
) -> list[tuple[int, _Fit]]:
    """(image side, fit) for all that lead to `area` pixels per map, the plainer ones first."""
    found: list[tuple[int, _Fit]] = []
    wanted = 0 if area is None else math.isqrt(area)
    if area is not None and wanted * wanted != area:
        return []
    for side in sides:
        for paddings, padded in _paddings(kernels, choices.padding):
            maps = _after(side, kernels, paddings)
            if maps < 1:
                continue
            for pool, left, name in _pools(choices, kind, maps, wanted or 1):
                if area is None or left == wanted:
                    found.append((side, _Fit(paddings, pool, f"{padded}, {name}")))
    plain = [fit for fit in found if not isinstance(fit[1].pool, AdaptivePool)]
    return plain + [fit for fit in found if isinstance(fit[1].pool, AdaptivePool)]


def norm_layer(part: Part) -> Norm:
    return Norm(**{role: name for role, name in part.names.items() if role in Norm.model_fields})  # type: ignore[arg-type]


def _relu(
    parts: Sequence[Part], last: Part, norm: Part | None, linear: Part | None, pooled: bool, choices: Choices
) -> tuple[ReluPlace, Assumption | None]:
    """Where the ReLU stands behind the last convolution."""
    if choices.relu is not None:
        return choices.relu, None
    options: tuple[ReluPlace, ...] = ("after-norm", "before-norm", "none") if norm else ("after-norm", "none")
    place, why = options[0], "the file does not say; most networks have one"
    gap = between(last, norm) if norm else None
    if gap:
        place, why = "before-norm", f"{gap} layer without tensors stands between {last.owner} and {norm and norm.owner}"
    elif linear is not None and (free := between(norm or last, linear)) is not None:
        needed = 1 + int(pooled)  # flattening, and the pool
        place = "after-norm" if free > needed else "none"
        why = f"{free} layers without tensors stand between {(norm or last).owner} and {linear.owner}"
    words = {"after-norm": "a ReLU behind" if norm else "a ReLU", "before-norm": "a ReLU before", "none": "no ReLU"}
    where = f" the batch norm {norm.owner}" if norm and place != "none" else f" behind {last.owner}"
    ordered = (place, *(option for option in options if option != place))
    return place, Assumption("relu", f"{words[place]}{where}: {why}", ordered)


def normalisation(choices: Choices, data: str | None) -> tuple[tuple[float, ...], tuple[float, ...], list[Assumption]]:
    if choices.mean is not None or choices.std is not None:
        return choices.mean or (0.0,), choices.std or (1.0,), []
    usual = USUAL_NORMALISATIONS.get(data or "", ())
    hint = "; usual for this set: " + ", ".join(f"{list(m)} / {list(s)}" for m, s in usual) if usual else ""
    text = f"images go in as they are, from 0 to 1, not as (image - mean) / std: the file does not say{hint}"
    return (0.0,), (1.0,), [Assumption("mean", text)]


def guess_mapping(tensors: Tensors[str, Tensor], choices: Choices | None = None, *, data: str | None = None) -> Guess:
    """Guess the wiring of a state dict.

    Parameters
    ----------
    tensors
        In the file's order, which is the order in which the network's layers were made.
    choices
        What the person said.
    data
        The image set that it is for, if that is known: a hint for size and normalisation.

    Raises
    ------
    ModelError
        A tensor plays no known part, or no padding and pooling fits the first linear layer.
    """
    choices = choices or Choices()
    spatial, rest = _spatial(find_parts(tensors))
    if any(part.kind == "spectral" for part in spatial):
        from labctl.learning.import_spectral import guess_spectral

        return guess_spectral(tensors, spatial, rest, choices, data)
    convolutions = [part for part in spatial if part.kind == "convolution"]
    weights = [tensors[part.names["weight"]] for part in convolutions]
    assumed: list[Assumption] = []
    channels = choices.shape[0] if choices.shape else weights[0].shape[1]
    groups = _groups(convolutions, tensors, channels)
    kernels = [weight.shape[-1] for weight in weights]
    if any(weight.shape[-1] != weight.shape[-2] for weight in weights) and choices.shape is None:
        raise ModelError(
            "its kernels are not square: write a mapping (--write-mapping makes a draft from --input-shape)"
        )
    for first, second in pairwise(convolutions):
        text = f"nothing nonlinear between {first.owner or 'the first'} and {second.owner or 'the next'}: "
        assumed.append(Assumption("", text + "a ReLU there would make this a network that light cannot do"))
    linear = next((part for part in rest if part.kind == "linear"), None)
    area: int | None = 1
    if linear is not None:
        inputs, maps = tensors[linear.names["weight"]].shape[1], len(weights[-1])
        if inputs % maps:
            raise ModelError(
                f"{linear.names['weight']} takes {inputs} values, which is no multiple of the {maps} maps of "
                f"{convolutions[-1].names['weight']}: something else stands between them; write a mapping"
            )
        area = inputs // maps
    sides = [choices.shape[1]] if choices.shape else USUAL_SIZES.get(channels, (32, 28, 64))
    if choices.shape is not None and choices.shape[1] != choices.shape[2]:
        raise ModelError(f"images of {choices.shape[1]}x{choices.shape[2]} are not square: write a mapping for them")
    kind: PoolKind = choices.pool_kind or "average"
    found = fits(sides, kernels, choices, kind, area)
    if not found:
        raise ModelError(
            f"{linear.names['weight'] if linear else 'the end'} takes {area} values of each map: no padding and "
            f"pooling that are usual lead there from images of {', '.join(f'{s}x{s}' for s in sides)}; say "
            "--input-shape, --padding and --pool, or write a mapping"
        )
    side, fit = found[0]
    if choices.shape is None:
        others = tuple((channels, s, s) for s in dict.fromkeys(s for s, _ in found) if s != side)
        text = f"images of {side}x{side}: {fit.text} leads from there to the first linear layer"
        assumed.append(Assumption("shape", text, ((channels, side, side), *others)))
    same_image = [other for s, other in found if s == side]
    if len(same_image) > 1:
        rivals = "; or ".join(other.text for other in same_image[1:4])
        assumed.append(Assumption("", f"{fit.text}: it fits the first linear layer, but so does: {rivals}"))
    if fit.pool is not None and choices.pool_kind is None:
        other = "max" if kind == "average" else "average"
        assumed.append(Assumption("pool_kind", f"the pool takes the {kind}: the file does not say", (kind, other)))
    mean, std, open_ = normalisation(choices, data)
    assumed += open_

    layers: list[Layer] = []
    turn = iter(zip(convolutions, weights, groups, fit.paddings, strict=True))
    for part in spatial:
        if part.kind == "convolution":
            _, _, grouped, padding = next(turn)
            layers.append(Convolution(**part.names, padding=(padding, padding), groups=grouped))  # type: ignore[arg-type]
        else:
            layers.append(norm_layer(part))
    tail, more = tail_layers(spatial, rest, fit.pool, choices, tensors)
    given = Input(shape=(channels, side, side), mean=mean, std=std)
    mapping = Mapping(input=given, borders=choices.borders, layers=(*with_relu(layers, tail[0]), *tail[1]))
    return Guess(mapping, tuple(assumed + more))


def with_relu(layers: list[Layer], relu: ReluPlace) -> list[Layer]:
    """The front with its ReLU put in, before the batch norms at its end or behind them."""
    if relu == "none":
        return layers
    if relu == "after-norm":
        return [*layers, Relu()]
    end = len(layers)
    while end and isinstance(layers[end - 1], Norm):
        end -= 1
    return [*layers[:end], Relu(), *layers[end:]]


def tail_layers(
    spatial: Sequence[Part],
    rest: Sequence[Part],
    pool: Pool | AdaptivePool | None,
    choices: Choices,
    tensors: Tensors[str, Tensor],
) -> tuple[tuple[ReluPlace, list[Layer]], list[Assumption]]:
    """The ReLU behind the front, and pool and linear layers; and what of it is assumed."""
    last = next(part for part in reversed(spatial) if part.kind != "batch norm")
    behind = [part for part in spatial[spatial.index(last) + 1 :] if part.kind == "batch norm"]
    linear = rest[0] if rest else None
    place, assumption = _relu(spatial, last, behind[0] if behind else None, linear, pool is not None, choices)
    assumed = [assumption] if assumption else []
    layers: list[Layer] = [pool] if pool is not None else []
    count = 0
    for part in rest:
        if part.kind == "linear":
            if count:
                layers.append(Relu())
            layers.append(Linear(**part.names))  # type: ignore[arg-type]
            count += 1
        else:
            layers.append(norm_layer(part))
    if count > 1:
        assumed.append(Assumption("", "a ReLU between linear layers: the file does not say; most networks have one"))
    return (place, layers), assumed


def alternatives(guess: Guess, tensors: Tensors[str, Tensor], choices: Choices, data: str | None) -> list[Choices]:
    """All combinations of what is open and can be tried on images: ReLU, pool kind, the set's usual normalisations."""
    options = {a.about: a.options for a in guess.assumed if a.about in ("relu", "pool_kind")}
    found = [choices]
    for about, values in options.items():
        found = [replace(choice, **{about: value}) for choice in found for value in values]  # type: ignore[arg-type]
    if any(a.about == "mean" for a in guess.assumed):
        usual = [((0.0,), (1.0,)), *USUAL_NORMALISATIONS.get(data or "", ()), ((0.5,), (0.5,))]
        found = [replace(choice, mean=mean, std=std) for choice in found for mean, std in usual]
    return found
