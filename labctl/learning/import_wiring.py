"""A foreign network as its mapping says it is, computed layer by layer: what an import is measured against."""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

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
    Softmax,
    Spectral,
)


def take(tensors: Tensors[str, Tensor], name: str, dims: int | None = None) -> Tensor:
    """A tensor of the file as float64 or complex128; ModelError when it is missing or has another number of axes."""
    if name not in tensors:
        raise ModelError(f"the mapping names the tensor {name!r}, which the file has not")
    tensor = tensors[name]
    if dims is not None and tensor.ndim != dims:
        raise ModelError(f"the tensor {name!r} is {list(tensor.shape)}, its part in the mapping needs {dims} axes")
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def normalise(images: Float[Tensor, "n channels y x"], given: Input) -> Float[Tensor, "n channels y x"]:
    """``(image - mean) / std`` per channel."""
    mean, std = (torch.tensor(v, dtype=images.dtype)[:, None, None] for v in (given.mean, given.std))
    return (images - mean) / std


def spectral_mask(layer: Spectral, tensors: Tensors[str, Tensor]) -> Complex[Tensor, "out in y x"]:
    """What the full spectrum on the layer's grid is multiplied with, zero frequency first."""
    weight = take(tensors, layer.weight, len(layer.axes))
    if layer.imaginary is not None:
        weight = torch.complex(weight, take(tensors, layer.imaginary, len(layer.axes)))
    axes: list[str] = list(layer.axes)
    for index in reversed([i for i, axis in enumerate(axes) if axis == "1"]):
        if weight.shape[index] != 1:
            raise ModelError(f"{layer.weight}: axis {index} is {weight.shape[index]} long, the mapping says 1")
        weight = weight.squeeze(index)
        del axes[index]
    if "pair" in axes:
        at = axes.index("pair")
        if weight.shape[at] != 2 or weight.is_complex():
            raise ModelError(f"{layer.weight}: axis {at} should hold real and imaginary part, it is {weight.shape[at]}")
        weight = torch.complex(*weight.unbind(at))
        del axes[at]
    if "in" not in axes:
        weight, axes = weight.unsqueeze(0), ["in", *axes]
    width = "half" if "half" in axes else "x"
    weight = weight.permute([axes.index(axis) for axis in ("out", "in", "y", width)])
    rows, columns = layer.grid
    if layer.holds == "kernel":
        if weight.shape[-2] > rows or weight.shape[-1] > columns:
            raise ModelError(f"{layer.weight}: kernels of {list(weight.shape[-2:])} do not fit the grid {layer.grid}")
        mask: Tensor = torch.fft.fft2(weight, s=(rows, columns))
    else:
        wanted = (rows, columns // 2 + 1) if width == "half" else (rows, columns)
        if tuple(weight.shape[-2:]) != wanted:
            raise ModelError(
                f"{layer.weight}: masks of {list(weight.shape[-2:])} do not fit a grid of {rows}x{columns}, which "
                f"needs {list(wanted)}"
            )
        if layer.centred:
            weight = torch.fft.ifftshift(weight, dim=(-2,) if width == "half" else (-2, -1))
        mask = _whole(weight.to(torch.complex128), columns) if width == "half" else weight.to(torch.complex128)
    return mask.conj().resolve_conj() if layer.mirrored else mask


def _whole(half: Complex[Tensor, "out in y half"], columns: int) -> Complex[Tensor, "out in y x"]:
    """The full mask of one that `irfft2` completes: the spectrum of the real kernel that it stands for."""
    kernel = torch.fft.irfft2(half, s=(half.shape[-2], columns))
    return torch.fft.fft2(kernel)


def _with_bias(maps: Tensor, bias: str | None, tensors: Tensors[str, Tensor]) -> Tensor:
    return maps if bias is None else maps + take(tensors, bias, 1)[:, None, None]


def apply(layer: Layer, x: Tensor, tensors: Tensors[str, Tensor]) -> Tensor:
    """One layer in eval mode, in float64.

    Raises
    ------
    ModelError
        The layer does not fit what reaches it. Names the tensor.
    """
    if isinstance(layer, Convolution) and layer.weight in tensors:
        kernels, groups = tensors[layer.weight], layer.groups
        if kernels.ndim == 4 and (kernels.shape[1] * groups != x.shape[1] or kernels.shape[0] % groups):
            raise ModelError(
                f"{layer.kind} ({layer.weight}), a tensor of {list(kernels.shape)}, takes {kernels.shape[1]} channels "
                f"in each of {groups} groups, but {x.shape[1]} channels reach it"
            )
    try:
        return _apply(layer, x, tensors)
    except RuntimeError as error:
        name = getattr(layer, "weight", None) or getattr(layer, "mean", None) or layer.kind
        shape = f", a tensor of {list(tensors[name].shape)}," if name in tensors else ""
        first = str(error).split("\n", maxsplit=1)[0]
        raise ModelError(
            f"{layer.kind} ({name}){shape} does not fit what reaches it, {list(x.shape[1:])}: {first}"
        ) from error


def _apply(layer: Layer, x: Tensor, tensors: Tensors[str, Tensor]) -> Tensor:
    match layer:
        case Convolution():
            weight = take(tensors, layer.weight, 4)
            bias = None if layer.bias is None else take(tensors, layer.bias, 1)
            return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        case Spectral():
            if x.shape[-2] > layer.grid[0] or x.shape[-1] > layer.grid[1]:
                raise ModelError(
                    f"{layer.weight}: its grid {layer.grid} is smaller than what reaches it {x.shape[-2:]}"
                )
            mask = spectral_mask(layer, tensors)
            product = torch.einsum("niyx,oiyx->noyx", torch.fft.fft2(x.to(torch.complex128), s=layer.grid), mask)
            (top, left), (rows, columns) = layer.start, layer.size
            maps = torch.fft.ifft2(product).real[..., top : top + rows, left : left + columns]
            return _with_bias(maps, layer.bias, tensors)
        case Norm():
            scale, shift = norm_affine(layer, tensors)
            spread = (-1,) + (1,) * (x.ndim - 2)
            return x * scale.reshape(spread) + shift.reshape(spread)
        case Relu():
            return x.relu()
        case Pool(kind="average pool"):
            return functional.avg_pool2d(x, layer.size, layer.steps, layer.padding)
        case Pool():
            return functional.max_pool2d(x, layer.size, layer.steps, layer.padding)
        case AdaptivePool(kind="adaptive average pool"):
            return functional.adaptive_avg_pool2d(x, layer.output)
        case AdaptivePool():
            return functional.adaptive_max_pool2d(x, layer.output)
        case Linear():
            bias = None if layer.bias is None else take(tensors, layer.bias, 1)
            return functional.linear(x.flatten(1), take(tensors, layer.weight, 2), bias)
        case Softmax():
            return x
    raise ModelError(f"a layer of kind {layer!r} is not known")


def norm_affine(layer: Norm, tensors: Tensors[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(scale, shift) of a batch norm in eval mode."""
    scale = (take(tensors, layer.variance, 1) + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * take(tensors, layer.weight, 1)
    shift = -take(tensors, layer.mean, 1) * scale
    if layer.bias is not None:
        shift = shift + take(tensors, layer.bias, 1)
    return scale, shift


def run_layers(layers: Sequence[Layer], x: Tensor, tensors: Tensors[str, Tensor]) -> Tensor:
    """Layers one after the other, in float64."""
    for layer in layers:
        x = apply(layer, x, tensors)
    return x


@torch.no_grad()
def run_network(
    mapping: Mapping, images: Float[Tensor, "n channels y x"], tensors: Tensors[str, Tensor], batch: int = 256
) -> Float[Tensor, "n classes"]:
    """Logits of the foreign network, in eval mode and float64; a softmax at its end is left out.

    Raises
    ------
    ModelError
        A layer does not fit what reaches it.
    """
    parts = images.to(torch.float64).split(batch)
    return torch.cat([run_layers(mapping.layers, normalise(part, mapping.input), tensors).flatten(1) for part in parts])


@torch.no_grad()
def sizes(mapping: Mapping, tensors: Tensors[str, Tensor]) -> list[tuple[int, ...]]:
    """What each layer leaves of one image: (maps, y, x), or (values,)."""
    x, found = torch.zeros(1, *mapping.input.shape, dtype=torch.float64), []
    for layer in mapping.layers:
        x = apply(layer, x, tensors)
        found.append(tuple(x.shape[1:]))
    return found
