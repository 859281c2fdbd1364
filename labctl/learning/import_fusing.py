"""Everything linear before the first nonlinearity of a foreign network, as one kernel per map and channel.

A chain of convolutions, masks, batch norms and average pools is one strided correlation of the image and one fixed
image per map, if no layer cuts what the next one would still have used. Layers that zero-pad maps in
between ("same" padding three times over) do cut, in a band along the border of the image: light cannot do that, and
neither can one kernel.
"""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from labctl.errors import ModelError
from labctl.learning.import_mapping import Convolution, Input, Layer, Norm, Pool, Spectral
from labctl.learning.import_wiring import norm_affine, normalise, run_layers, spectral_mask, take

AMBIGUOUS = 1e-10
"""Part of a spectral kernel's energy that may lie where a grid too small for it wraps around."""
NEGLIGIBLE = 1e-12
"""Part of a spectral kernel's energy that is cut off with the empty rows and columns around it."""
CUT = 1e-5
"""Difference between a chain and its one kernel, relative to the largest value, from which it counts as cut."""

LinearStep = Convolution | Spectral | Norm | Pool


@dataclass(frozen=True, eq=False)
class Fused:
    """Output i is ``sum_n kernels[n] image[stride * i + origin + n]``, zero outside the image.

    Attributes
    ----------
    kernels : float64 tensor [maps, channels, ky, kx]
    stride, origin : (y, x), pixels
    """

    kernels: Float[Tensor, "maps channels ky kx"]
    stride: tuple[int, int]
    origin: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Front:
    """What light does, and what is left of it for electronics.

    Attributes
    ----------
    kernels : float64 tensor [maps, channels, K, K]
        K odd, for images from 0 to 1: ``conv2d(images, kernels, padding=K // 2)``.
    start, stride, size : (y, x), pixels
        Those maps are read at ``start + stride * i``, i < size.
    offset : float64 tensor [maps, rows, columns]
        To be added there.
    deviation : float
        Largest difference to the chain on a random image, relative to its largest value; 0 where there is none.
    """

    kernels: Float[Tensor, "maps channels k k"]
    start: tuple[int, int]
    stride: tuple[int, int]
    size: tuple[int, int]
    offset: Float[Tensor, "maps rows columns"]
    deviation: float


def _dilated(kernels: Tensor, dilation: tuple[int, int]) -> Tensor:
    out, in_, rows, columns = kernels.shape
    spread = kernels.new_zeros(out, in_, (rows - 1) * dilation[0] + 1, (columns - 1) * dilation[1] + 1)
    spread[..., :: dilation[0], :: dilation[1]] = kernels
    return spread


def _dense(weight: Tensor, groups: int) -> Tensor:
    """Weights of a grouped convolution as those of an ungrouped one."""
    out, per_group, rows, columns = weight.shape
    dense = weight.new_zeros(out, per_group * groups, rows, columns)
    for index, part in enumerate(weight.chunk(groups)):
        first = index * (out // groups)
        dense[first : first + len(part), index * per_group : (index + 1) * per_group] = part
    return dense


def _spectral(layer: Spectral, tensors: Tensors[str, Tensor], shape: torch.Size, strict: bool) -> Fused:
    """The kernel of a product on a Fourier grid, where the grid is large enough to hold it without wrapping around.

    Output i (from `start`) and image pixel j meet at the displacement i - j. Two displacements that differ by the
    grid's length are one and the same to the Fourier transform: there the kernel must be empty.
    """
    wrapped = torch.fft.ifft2(spectral_mask(layer, tensors)).real
    total = float(wrapped.square().sum()) or 1.0
    ambiguous = torch.zeros(layer.grid, dtype=torch.bool)
    places, lows = [], []
    for axis in (0, 1):
        low, high = layer.start[axis] - (shape[-2 + axis] - 1), layer.start[axis] + layer.size[axis] - 1
        grid = layer.grid[axis]
        displacements = torch.arange(low, high + 1)
        twice = (displacements + grid <= high) | (displacements - grid >= low)
        along = torch.zeros(grid, dtype=torch.bool)
        along[displacements[twice] % grid] = True
        ambiguous |= along[:, None] if axis == 0 else along[None, :]
        # of two displacements that the grid takes for one, the shorter stands for both
        folded = (displacements + grid // 2) % grid - grid // 2
        kept = displacements[~twice | (folded == displacements)]
        if not bool(((kept[1:] - kept[:-1]) == 1).all()):
            raise ModelError(f"{layer.weight}: its grid {layer.grid} is too small for images of {list(shape[-2:])}")
        places.append(kept % grid)
        lows.append((int(kept[0]), int(kept[-1])))
    outside = float(wrapped[..., ambiguous].square().sum()) / total
    if outside > AMBIGUOUS and strict:
        need = [shape[-2 + axis] + layer.size[axis] - 1 for axis in (0, 1)]
        raise ModelError(
            f"{layer.weight}: its kernels wrap around: {outside:.2g} of their energy lies where a grid of "
            f"{layer.grid[0]}x{layer.grid[1]} takes one side of the image for the other; light does not wrap. A grid "
            f'of {need[0]}x{need[1]} holds every kernel; borders = "approximate" imports this one with wrong borders'
        )
    kernels = wrapped[..., places[0], :][..., places[1]].flip(-2, -1)
    # flipped: displacement i - j falls as the tap's place j - i rises
    first = [-high for _, high in lows]
    top, bottom = _margins(kernels.square().sum((0, 1, 3)))
    left, right = _margins(kernels.square().sum((0, 1, 2)))
    kernels = kernels[..., top : kernels.shape[-2] - bottom, left : kernels.shape[-1] - right]
    origin = (layer.start[0] + first[0] + top, layer.start[1] + first[1] + left)
    return Fused(kernels.contiguous(), (1, 1), origin)


def _margins(profile: Tensor) -> tuple[int, int]:
    """How many entries at each end hold next to nothing."""
    limit = float(profile.sum()) * NEGLIGIBLE / 4
    before = int((profile.cumsum(0) <= limit).sum())
    after = int((profile.flip(0).cumsum(0) <= limit).sum())
    return (before, after) if before + after < len(profile) else (0, len(profile) - 1)


def _one(layer: LinearStep, tensors: Tensors[str, Tensor], shape: torch.Size, strict: bool) -> Fused:
    channels = shape[1]
    match layer:
        case Convolution():
            dense = _dense(take(tensors, layer.weight, 4), layer.groups)
            return Fused(_dilated(dense, layer.dilation), layer.stride, (-layer.padding[0], -layer.padding[1]))
        case Spectral():
            return _spectral(layer, tensors, shape, strict)
        case Norm():
            scale, _ = norm_affine(layer, tensors)
            return Fused(torch.diag(scale)[:, :, None, None], (1, 1), (0, 0))
        case Pool():
            area = layer.size[0] * layer.size[1]
            each = torch.full(layer.size, 1 / area, dtype=torch.float64)
            kernels = torch.eye(channels, dtype=torch.float64)[:, :, None, None] * each
            return Fused(kernels, layer.steps, (-layer.padding[0], -layer.padding[1]))


def _after(first: Fused, second: Fused) -> Fused:
    """One correlation that does both."""
    kernels = conv_transpose2d(second.kernels, first.kernels, stride=first.stride)
    stride = (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1])
    origin = (
        first.stride[0] * second.origin[0] + first.origin[0],
        first.stride[1] * second.origin[1] + first.origin[1],
    )
    return Fused(kernels, stride, origin)


def _embedded(fused: Fused, image: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The kernels in the smallest odd square that is centred on a pixel of the image, and the pixel of output 0."""
    starts, radii = [], []
    for axis in (0, 1):
        taps, origin = fused.kernels.shape[-2 + axis], fused.origin[axis]
        room = image[axis] - 1 - fused.stride[axis] * (size[axis] - 1)
        if room < 0:
            raise ModelError(
                f"its maps span {fused.stride[axis] * (size[axis] - 1) + 1} pixels of images of {image[axis]}: maps "
                "larger than the image have no place on the camera; train it with less padding, or on padded images"
            )
        start = min(max(origin + (taps - 1) // 2, 0), room)
        starts.append(start)
        radii.append(max(start - origin, taps - 1 + origin - start, 0))
    radius = max(radii)
    before = [fused.origin[axis] - starts[axis] + radius for axis in (0, 1)]
    kernels = fused.kernels.new_zeros(*fused.kernels.shape[:2], 2 * radius + 1, 2 * radius + 1)
    rows, columns = fused.kernels.shape[-2:]
    kernels[..., before[0] : before[0] + rows, before[1] : before[1] + columns] = fused.kernels
    return kernels, (starts[0], starts[1])


def sampled(maps: Tensor, start: tuple[int, int], stride: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The pixels ``start + stride * i``, i < size, of the last two axes."""
    rows, columns = (slice(s, s + d * (n - 1) + 1, d) for s, d, n in zip(start, stride, size, strict=True))
    return maps[..., rows, columns]


@torch.no_grad()
def fuse_front(layers: Sequence[Layer], given: Input, tensors: Tensors[str, Tensor], *, strict: bool = True) -> Front:
    """Fuse a linear chain, with the input normalisation folded in.

    The normalisation ``(image - mean) / std`` divides the kernels by std per channel; what the chain answers to a black
    image (biases, and ``-mean / std`` over the part of each window that lies on the image) is the fixed offset.

    Raises
    ------
    ModelError
        The chain is cut at the image's border (with `strict`), wraps around, or its maps are larger than the image.
    """
    channels, rows, columns = given.shape
    black = torch.zeros(1, channels, rows, columns, dtype=torch.float64)
    fused = Fused(torch.eye(channels, dtype=torch.float64)[:, :, None, None], (1, 1), (0, 0))
    x = black
    for layer in layers:
        if not isinstance(layer, LinearStep):
            raise ModelError(f"a layer of kind {layer.kind!r} is not linear and cannot be done by light")
        following = run_layers([layer], x, tensors)
        fused = _after(fused, _one(layer, tensors, x.shape, strict))
        x = following
    size = (x.shape[-2], x.shape[-1])
    kernels, start = _embedded(fused, (rows, columns), size)
    probe = torch.rand(1, channels, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = run_layers(layers, probe, tensors) - run_layers(layers, black, tensors)
    got = sampled(conv2d(probe, kernels, padding=kernels.shape[-1] // 2), start, fused.stride, size)
    deviation = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if deviation > CUT and strict:
        raise ModelError(
            "its linear layers are no one kernel: each pads or cuts the maps between them, which "
            "changes a band along the image's border (by up to "
            f"{100 * deviation:.0f} % of the largest value); light has no border there. Give all padding to the first "
            'layer and train on, or set borders = "approximate" (--approximate-borders) and look at the accuracy'
        )
    return Front(
        kernels=kernels / torch.tensor(given.std, dtype=torch.float64)[:, None, None],
        start=start,
        stride=fused.stride,
        size=size,
        offset=run_layers(layers, normalise(black, given), tensors)[0],
        deviation=deviation if deviation > CUT else 0.0,
    )
