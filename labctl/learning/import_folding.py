"""A mapped foreign network as front and back end of a student: the same function, in this package's order.

The back end knows one order: fixed offset, batch norm, ReLU, pooling, fully connected layers. Where the foreign network
has another, its steps are moved past each other if that changes nothing, and refused by name if it does.
"""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from labctl.errors import ModelError
from labctl.learning.import_fusing import Front, fuse_front
from labctl.learning.import_mapping import (
    AdaptivePool,
    Convolution,
    Layer,
    Linear,
    Mapping,
    Norm,
    Pool,
    Relu,
    Softmax,
    Spectral,
)
from labctl.learning.import_wiring import norm_affine, run_layers, take

EPS = 1e-5
"""Of every batch norm of a student."""


@dataclass(frozen=True, eq=False)
class NormValues:
    """A batch norm with `EPS`: float64 tensors [maps]."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Folded:
    """A foreign network in this package's order.

    Attributes
    ----------
    front : Front
    offset : float64 tensor [maps, rows, columns] or None
        What is still to be added to the maps where they are read; None when the batch norm takes it.
    norm : NormValues or None
    relu : bool
    pool : Pool, AdaptivePool or None
    linears : sequence of (weight [out, in], bias [out]), float64
        With a ReLU between them.
    notes : sequence of str
        What was moved or folded.
    """

    front: Front
    offset: Tensor | None
    norm: NormValues | None
    relu: bool
    pool: Pool | AdaptivePool | None
    linears: tuple[tuple[Tensor, Tensor], ...]
    notes: tuple[str, ...]


@dataclass
class _Middle:
    """The steps between the last convolution and the first linear layer, as they pile up."""

    norm: Norm | None = None
    relu: bool = False
    pool: Pool | AdaptivePool | None = None
    scale: Tensor | None = None
    """An affine map of each channel behind all of the above, for the first linear layer to take."""
    shift: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    def affine(self, scale: Tensor, shift: Tensor) -> None:
        if self.scale is not None and self.shift is not None:
            scale, shift = scale * self.scale, scale * self.shift + shift
        self.scale, self.shift = scale, shift


def _split(layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer], list[Layer]]:
    """Front (up to the last convolution), middle, and the part from the first linear layer on."""
    kept: list[Layer] = [layer for layer in layers if not isinstance(layer, Softmax)]
    for index, layer in enumerate(layers):
        if isinstance(layer, Softmax) and index < len(layers) - 1:
            raise ModelError("a softmax stands before the end of the network, where it is no part of its answer")
    convolutions = [i for i, layer in enumerate(kept) if isinstance(layer, Convolution | Spectral)]
    linears = [i for i, layer in enumerate(kept) if isinstance(layer, Linear)]
    if not convolutions:
        raise ModelError("the mapping has no convolution and no spectral layer: there is nothing for light to do")
    if linears and linears[0] < convolutions[-1]:
        raise ModelError("a convolution stands behind a linear layer: that is no student of a 4f bench")
    last, first = convolutions[-1] + 1, linears[0] if linears else len(kept)
    for layer in kept[:last]:
        if not isinstance(layer, Convolution | Spectral | Norm) and not _is_average(layer):
            raise ModelError(
                f"a {layer.kind} stands between two convolutions: light is linear from the panel to the camera, so "
                "that only a network whose convolutions follow each other without one can be shown"
            )
    return kept[:last], kept[last:first], kept[first:]


def _is_average(layer: Layer) -> bool:
    return isinstance(layer, Pool) and layer.kind == "average pool"


def _averages_first(front: list[Layer], middle: list[Layer]) -> tuple[list[Layer], list[Layer], list[str]]:
    """Average pools that stand before something nonlinear become part of the kernels."""
    nonlinear = [i for i, layer in enumerate(middle) if isinstance(layer, Relu) or layer.kind.endswith("max pool")]
    averages = [i for i, layer in enumerate(middle) if layer.kind.endswith("average pool")]
    if not nonlinear or not averages or averages[0] > nonlinear[0]:
        return front, middle, []
    at, behind = averages[0], middle[nonlinear[0]].kind
    pool = middle[at]
    if not isinstance(pool, Pool):
        raise ModelError(f"an {pool.kind} before the {behind} has windows of unequal size, which no kernel has")
    if pool.padding != (0, 0) and at > 0:
        raise ModelError(f"the average pool behind a batch norm pads with zeros, and a {behind} follows it")
    note = f"average pool {pool.size[0]}x{pool.size[1]} stands before the {behind}: it is part of the kernels"
    # a batch norm acts on each map alone, and may as well come after the average
    front, middle, notes = _averages_first([*front, pool], middle[:at] + middle[at + 1 :])
    return front, middle, [note, *notes]


def _combined(first: Pool | AdaptivePool, second: Pool | AdaptivePool) -> Pool:
    plain = [p for p in (first, second) if isinstance(p, Pool) and p.steps == p.size and p.padding == (0, 0)]
    if len(plain) < 2 or plain[0].kind != plain[1].kind:
        raise ModelError(f"{first.kind} and {second.kind} follow each other and are no one pooling")
    (a, b), (c, d) = plain[0].size, plain[1].size
    return Pool(kind=plain[0].kind, size=(a * c, b * d))


def _gather(middle: Sequence[Layer], tensors: Tensors[str, Tensor]) -> _Middle:
    """Bring the middle into the order batch norm, ReLU, pooling, affine."""
    found = _Middle()
    for layer in middle:
        match layer:
            case Norm():
                _gather_norm(found, layer, tensors)
            case Relu():
                _gather_relu(found)
            case Pool() | AdaptivePool():
                _gather_pool(found, layer)
            case _:
                raise ModelError(f"a {layer.kind} cannot stand between the convolutions and the first linear layer")
    return found


def _gather_norm(found: _Middle, layer: Norm, tensors: Tensors[str, Tensor]) -> None:
    padded = isinstance(found.pool, Pool) and found.pool.padding != (0, 0)
    average = found.pool is not None and found.pool.kind.endswith("average pool")
    if (
        found.norm is None
        and not found.relu
        and found.scale is None
        and (found.pool is None or (average and not padded))
    ):
        found.norm = layer
        if found.pool is not None:
            found.notes.append("the batch norm behind the average pool is moved before it")
        return
    scale, shift = norm_affine(layer, tensors)
    if found.norm is None and not found.relu and found.scale is None and bool((scale >= 0).all()):
        found.norm = layer  # behind a max pool: it keeps the order of values
        found.notes.append("the batch norm behind the max pool is moved before it")
        return
    found.affine(scale, shift)
    found.notes.append("a batch norm behind the ReLU or the pool is folded into the first linear layer")


def _rising(found: _Middle, what: str) -> None:
    """Raise unless the affine map behind a maximum or before a ReLU keeps the order of values in every map."""
    if found.scale is None:
        return
    falling = int((found.scale < 0).sum())
    if falling:
        raise ModelError(
            f"a batch norm with negative weights in {falling} of its {len(found.scale)} maps stands before the {what}: "
            f"it turns maxima into minima there, and the back end has its batch norm before ReLU and pool only"
        )


def _gather_relu(found: _Middle) -> None:
    if found.scale is not None:
        if found.relu or found.pool is None or found.norm is not None:
            raise ModelError("a second ReLU stands behind a second batch norm: the back end has one of each")
        falling = f"{int((found.scale < 0).sum())} of its {len(found.scale)} maps"
        raise ModelError(
            f"a batch norm with negative weights in {falling} stands between max pool and ReLU: it cannot be moved "
            "before the pool, where the back end has it"
        )
    if found.pool is not None and not found.pool.kind.endswith("max pool") and not found.relu:
        raise ModelError(f"a ReLU stands behind the {found.pool.kind}")  # averages before a ReLU are in the front
    if found.pool is not None and not found.relu:
        found.notes.append("the ReLU behind the max pool is moved before it")
    found.relu = True


def _gather_pool(found: _Middle, layer: Pool | AdaptivePool) -> None:
    if layer.kind.endswith("max pool"):
        _rising(found, "max pool")
    padded = isinstance(layer, Pool) and layer.padding != (0, 0)
    if padded and found.shift is not None and bool((found.shift != 0).any()):
        raise ModelError(
            f"a batch norm stands before a {layer.kind} with zero padding, behind a ReLU: it cannot be moved"
        )
    found.pool = layer if found.pool is None else _combined(found.pool, layer)


def _norm_values(layer: Norm, tensors: Tensors[str, Tensor], shift: Tensor) -> NormValues:
    """The batch norm with this package's epsilon, acting on maps that lack the constant `shift`."""
    mean, variance = take(tensors, layer.mean, 1), take(tensors, layer.variance, 1)
    ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
    weight = ones if layer.weight is None else take(tensors, layer.weight, 1)
    weight = weight * ((variance + EPS) / (variance + layer.eps)).sqrt()
    bias = zeros if layer.bias is None else take(tensors, layer.bias, 1)
    return NormValues(mean - shift, variance, weight, bias)


def _head(layers: Sequence[Layer], middle: _Middle, pooled: torch.Size, tensors: Tensors[str, Tensor]) -> list[Tensor]:
    """Weights and biases by turns, ReLUs between them; what is linear in a row becomes one."""
    count = pooled[1] * pooled[2] * pooled[3]
    weight, bias = (
        torch.eye(count, dtype=torch.float64) if not layers else None,
        torch.zeros(count, dtype=torch.float64),
    )
    if middle.scale is not None and middle.shift is not None:
        spread = torch.Size([count // pooled[1]])
        scale, bias = middle.scale.repeat_interleave(spread[0]), middle.shift.repeat_interleave(spread[0])
        weight = torch.diag(scale) if not layers else None
    else:
        scale = torch.ones(count, dtype=torch.float64)
    found: list[Tensor] = []
    if not layers:
        if pooled[2:] != (1, 1):
            raise ModelError(f"the mapping ends with maps of {pooled[2]}x{pooled[3]} and has no linear layer")
        return [weight if weight is not None else torch.eye(count, dtype=torch.float64), bias]
    for index, layer in enumerate(layers):
        match layer:
            case Linear():
                given = take(tensors, layer.weight, 2)
                width = count if weight is None else weight.shape[0]
                if given.shape[1] != width:
                    raise ModelError(
                        f"{layer.weight} takes {given.shape[1]} values, {width} reach it"
                        + (f" ({pooled[1]} maps of {pooled[2]}x{pooled[3]})" if index == 0 else "")
                    )
                shift = given.new_zeros(len(given)) if layer.bias is None else take(tensors, layer.bias, 1)
                bias = given @ bias + shift
                weight = given * scale if weight is None else given @ weight
            case Norm():
                if weight is None:
                    raise ModelError("a batch norm stands behind a ReLU between linear layers: that is not supported")
                factor, shift = norm_affine(layer, tensors)
                weight, bias = factor[:, None] * weight, factor * bias + shift
            case Relu():
                if index == len(layers) - 1:
                    raise ModelError("a ReLU is the last layer: logits of either sign are needed to choose a class")
                if weight is not None:
                    found += [weight, bias]
                    count, weight = len(bias), None
                    scale, bias = torch.ones_like(bias), torch.zeros_like(bias)
            case _:
                raise ModelError(f"a {layer.kind} stands behind a linear layer: that is not supported")
    if weight is None:
        raise ModelError("the mapping has no linear layer behind its last ReLU")
    return [*found, weight, bias]


@torch.no_grad()
def fold(mapping: Mapping, tensors: Tensors[str, Tensor]) -> Folded:
    """Fold a mapped network into front and back end.

    Raises
    ------
    ModelError
        A part of it has no equal here. Names the part and says why.
    """
    front_layers, middle_layers, last_layers = _split(mapping.layers)
    front_layers, middle_layers, notes = _averages_first(front_layers, middle_layers)
    # a batch norm right behind the last convolution stays a batch norm: a bench refits its statistics
    front = fuse_front(front_layers, mapping.input, tensors, strict=mapping.borders == "exact")
    if front.deviation > 0 and mapping.borders == "approximate":
        notes.append(f"borders are approximate: its maps differ by up to {100 * front.deviation:.1f} % of the largest")
    middle = _gather(middle_layers, tensors)
    maps = len(front.kernels)
    constant = front.offset[:, :1, :1]
    flat = bool((front.offset - constant).abs().max() <= 1e-12 * front.offset.abs().max().clamp_min(1e-30))
    offset: Tensor | None = front.offset
    norm = None
    if middle.norm is not None:
        norm = _norm_values(middle.norm, tensors, constant[:, 0, 0] if flat else torch.zeros(maps, dtype=torch.float64))
    if (flat and norm is not None) or not bool(front.offset.any()):
        offset = None
    if offset is not None:
        notes.append("what normalisation and biases answer to a black image is a fixed offset of the back end")
    elif bool(front.offset.any()):
        notes.append("the bias of the convolution is folded into the mean of the batch norm")
    pools = [middle.pool] if middle.pool is not None else []
    pooled = run_layers(pools, torch.zeros(1, maps, *front.size, dtype=torch.float64), {}).shape
    flow = _head(last_layers, middle, pooled, tensors)
    linears = tuple(zip(flow[::2], flow[1::2], strict=True))
    return Folded(front, offset, norm, middle.relu, middle.pool, linears, tuple(notes + middle.notes))
