"""Multiply-accumulates (MACs) per image: what the teacher costs, what optics takes over, what stays in electronics.

Convolutions and matrix products are counted by torch's own `FlopCounterMode` (two operations to a MAC), so that a new
teacher or back end needs no code here. Batch norm, pooling, ReLU and resizing are not counted, in any of the figures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from labctl.learning.student import Student

AFFINE_TO = 1e-9
"""A part of the network counts as affine if superposition holds to this, relative, in double precision."""


@dataclass(frozen=True)
class Macs:
    """MACs for one image.

    Attributes
    ----------
    teacher
        The whole teacher; 0 where there is none.
    student
        The whole student run digitally, its front as direct convolution with the fused kernels.
    optical
        Those that the bench does: fused kernels of K x K at every pixel of every map and channel.
    electronic
        Those left after the camera: student - optical.
    collapsed
        The same student run digitally with its affine part folded: as one matrix from pixels to the first fully
        connected layer, or as a strided convolution into the pooled maps or the first convolution of the back end,
        whatever is least. Optics saves digital work only where `electronic` is below this. For a student that is
        nonlinear from the detector on, which does not fold, the same as `student`.
    spectral
        The whole student run digitally, its front through fast Fourier transforms; see `spectral_macs`.
    """

    teacher: int
    student: int
    optical: int
    electronic: int
    collapsed: int
    spectral: int

    def as_dict(self) -> dict[str, int]:
        """For metrics.json."""
        return asdict(self)

    @property
    def cheapest(self) -> int:
        """The least digital work, of the ways counted here, that gives the student's answer without optics."""
        return min(self.student, self.collapsed, self.spectral)


def module_macs(module: nn.Module, *shape: int) -> int:
    """MACs of a network for one input of `shape` (without the batch), by counting one pass on torch's meta device."""
    probe = copy.deepcopy(module).to("meta", torch.float32).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        probe(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def spectral_macs(maps: int, channels: int, grid: tuple[int, int]) -> int:
    """MACs of a spectral convolution on a Fourier grid of (y, x), the masks being ready.

    A real fast Fourier transform of G points takes 2.5 G log2(G) operations (half of FFTW's 5 G log2(G), M. Frigo and
    S. Johnson, https://www.fftw.org/speed), half as many MACs; there is one per channel and one per map, and between
    them one complex product, four MACs, per map, channel and each of the G / 2 frequencies.
    """
    points = grid[0] * grid[1]
    transforms = (channels + maps) * 1.25 * points * math.log2(points)
    return round(transforms + 2 * maps * channels * points)


def count_macs(student: Student, teacher: nn.Module | None = None) -> Macs:
    """Count both networks, for one image of the student's size.

    Spectral pooling is counted as the bench does it: every map at the image's resolution.
    """
    front = student.front
    maps, channels, ky, kx = front.fused_kernels().shape
    size = (front.image, front.image) if isinstance(front.image, int) else tuple(front.image)
    optical = maps * channels * ky * kx * size[0] * size[1]
    folds = _folds(student, (channels, *size))
    electronic = folds.electronic
    grid = (size[0] + ky - 1, size[1] + kx - 1)
    return Macs(
        teacher=0 if teacher is None else module_macs(teacher, channels, *size),
        student=optical + electronic,
        optical=optical,
        electronic=electronic,
        collapsed=min((optical + electronic, *folds.totals)),
        spectral=spectral_macs(maps, channels, grid) + electronic,
    )


@dataclass(frozen=True)
class _Folds:
    """MACs of the back end as it is, and of the whole student for each way to fold what is affine in the image."""

    electronic: int
    totals: tuple[int, ...]


def _folds(student: Student, image: tuple[int, ...]) -> _Folds:
    """Fold up to each candidate layer of the back end, as far as superposition holds there."""
    probe = copy.deepcopy(student).to("cpu", torch.float64).eval().requires_grad_(False)
    layers = _candidates(probe.backend)
    generator = torch.Generator().manual_seed(0)
    one, two = torch.rand(2, *image, dtype=torch.float64, generator=generator) / 2  # images are 0 to 1, as their sum
    images = torch.stack([one + two, one, two, torch.zeros_like(one)]).requires_grad_()
    with _recorded(layers) as record:
        features = probe.features(images)
        probe.backend(features)
    electronic = module_macs(student.backend, *features.shape[1:])
    totals = []
    for layer in layers:
        given, out = record[layer]
        values = out.detach()
        bent = (values[0] - values[1] - values[2] + values[3]).abs().max()
        if float(bent) > AFFINE_TO * float(values.abs().max()):
            break  # what follows hangs on it
        after = electronic - module_macs(layer, *given.shape[1:])
        pixels = math.prod(image)
        matrix = pixels * out[0].numel()
        if out.ndim == 4:
            ky, kx = _support(out, images)
            matrix = min(matrix, image[0] * ky * kx * out[0].numel())
        totals.append(matrix + after)
    return _Folds(electronic, tuple(totals))


def _candidates(backend: nn.Module) -> list[nn.Module]:
    """The layers of the back end up to which folding may pay: a pooling first, then the first with weights."""
    pools = (nn.AvgPool2d, nn.MaxPool2d)
    weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    found: list[nn.Module] = []
    for module in backend.modules():
        if isinstance(module, weighted):
            return [*found, module]
        if isinstance(module, pools) and not found:
            found.append(module)
    return found


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """What each layer was given and gave, during the block."""
    record: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        record[layer] = (given[0], out)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _support(out: Tensor, images: Tensor) -> tuple[int, int]:
    """Rows and columns of the image that the middle pixel of an affine map hangs on."""
    middle = out[1, :, out.shape[2] // 2, out.shape[3] // 2]
    weights = torch.rand(len(middle), dtype=middle.dtype, generator=torch.Generator().manual_seed(1)) + 0.5
    (gradient,) = torch.autograd.grad((middle * weights).sum(), images, retain_graph=True)
    seen = gradient[1].abs().amax(0)
    seen = seen > AFFINE_TO * seen.max()
    rows, columns = torch.nonzero(seen.any(1))[:, 0], torch.nonzero(seen.any(0))[:, 0]
    if not len(rows):
        return 1, 1
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
