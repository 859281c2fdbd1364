"""Foreign networks, written plainly in torch, with every number in them random."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from labctl.learning.import_reading import Weights, read_weights
from labctl.learning.importing import Imported

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, its batch norms with statistics and weights of either sign, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)  # type: ignore[union-attr,operator]
                module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr,operator]
                module.weight.normal_(generator=generator)
                module.bias.normal_(generator=generator)
    return network.eval()


class OneConvolution(nn.Module):
    """The authors' released one-layer network (of arXiv:2102.13323), written anew: its names, shapes and order."""

    def __init__(self, maps: int = 256) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, maps, 6, bias=False)
        self.conv2_bn = nn.BatchNorm2d(maps)
        self.fc1 = nn.Linear(maps * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = functional.adaptive_avg_pool2d(self.conv2_bn(self.conv1(x).relu()), (6, 6))
        return functional.log_softmax(self.fc1(features.flatten(1)), dim=1)


class FourierKernels(nn.Module):
    """Their spectral layer: complex kernels [1, in, out, k, k, 2], padded, transformed, multiplied, cut back."""

    def __init__(self, channels: int, maps: int, size: int = 3) -> None:
        super().__init__()
        self.filts = nn.Parameter(0.3 * torch.randn(1, channels, maps, size, size, 2))

    def forward(self, x: Tensor) -> Tensor:
        size = self.filts.shape[3]
        grid = (x.shape[-2] + size - 1, x.shape[-1] + size - 1)
        kernels = torch.fft.fft2(torch.view_as_complex(self.filts[0].contiguous()), s=grid)
        maps = torch.fft.ifft2(torch.einsum("niyx,ioyx->noyx", torch.fft.fft2(x, s=grid), kernels)).real
        cut = (size - 1) // 2
        return maps[..., cut : cut + x.shape[-2], cut : cut + x.shape[-1]]


class Spectral(nn.Module):
    """Fourier layers, batch norm, adaptive pool, linear layers, as their SCLC has."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{number}", FourierKernels(before, after))
        self.layers = len(widths) - 1
        self.conv2_bn = nn.BatchNorm2d(widths[-1])
        self.fc1 = nn.Linear(36 * widths[-1], 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.layers + 1):
            x = getattr(self, f"conv{number}")(x)
        return self.fc2(self.fc1(functional.adaptive_avg_pool2d(self.conv2_bn(x), (6, 6)).flatten(1)).relu())


class Masks(nn.Module):
    """Complex masks on a grid that holds image and kernel, ReLU, pool, one linear layer."""

    def __init__(self, maps: int = 4, image: int = 28, kernel: int = 5, *, half: bool = False) -> None:
        super().__init__()
        self.image, self.grid = image, image + kernel - 1
        kernels = torch.fft.fft2(torch.randn(maps, 1, kernel, kernel), s=(self.grid, self.grid))
        self.mask = nn.Parameter(kernels[..., : self.grid // 2 + 1].clone() if half else kernels)
        self.half = half
        self.fc = nn.Linear(maps * (image // 2) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.grid, self.grid)
        if self.half:
            spectrum = torch.fft.rfft2(x, s=size)
            maps = torch.fft.irfft2(spectrum * self.mask[:, 0], s=size)
        else:
            maps = torch.fft.ifft2(torch.fft.fft2(x, s=size) * self.mask[:, 0]).real
        maps = maps[..., : self.image, : self.image]
        return self.fc(functional.avg_pool2d(maps.relu(), 2).flatten(1))


def saved(network: nn.Module, folder: Path, name: str = "net.pth") -> Weights:
    """Its state dict through a file."""
    path = folder / name
    torch.save(network.state_dict(), path)
    return read_weights(path)


@torch.no_grad()
def error_of(
    imported: Imported,
    network: nn.Module,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    n: int = 12,
) -> float:
    """Largest difference of the logits to the network's own, relative to the largest, on images from 0 to 1."""
    shape = imported.section.mapping.input.shape
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(3))
    images[n // 2 :] *= images[n // 2 :] > 0.8
    shift, scale = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    wanted = network((images - shift) / scale)
    return float((imported.student(images) - wanted).abs().max() / wanted.abs().max())
