"""The three flips: a 4f bench computes `torch.nn.functional.conv2d`, and conserves energy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d, pad

from labctl.optics.fourf import FourF, matched
from labctl.optics.geometry import Geometry
from labctl.optics.masks import anchor, fuse, kernel_masks, pixel_compensation


def same(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """conv2d with the anchor that `labctl.optics.masks` states."""
    ky, kx = kernels.shape[-2:]
    return conv2d(pad(images, (anchor(kx), kx - 1 - anchor(kx), anchor(ky), ky - 1 - anchor(ky))), kernels)


@settings(max_examples=60)
@given(
    ky=st.integers(3, 11),
    kx=st.integers(3, 11),
    rows=st.integers(5, 40),
    columns=st.integers(5, 40),
    seed=st.integers(0, 2**16),
)
def test_ideal_bench_is_conv2d(ky: int, kx: int, rows: int, columns: int, seed: int) -> None:
    """Relative error below 1e-5 for kernels from 3x3 to 11x11, odd and even, on any image size."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 1, rows, columns, generator=generator)
    kernels = torch.randn(3, ky, kx, generator=generator)
    grid = (rows + ky - 1, columns + kx - 1)
    pitch = 16e-6
    masks = kernel_masks(kernels, torch.fft.fftfreq(grid[0], pitch), torch.fft.fftfreq(grid[1], pitch), (pitch, pitch))
    field = matched(pad(image[0], (0, kx - 1, 0, ky - 1)), masks)[..., :rows, :columns]
    want = same(image, kernels[:, None])[0]
    assert (field - want).abs().max() / want.abs().max() < 1e-5


@pytest.mark.parametrize("size", [(3, 3), (7, 7), (4, 6), (11, 8)])
def test_physical_coordinates_are_conv2d(size: tuple[int, int], geometry: Geometry, images: torch.Tensor) -> None:
    """Square panel pixels, an SLM that matches no FFT bin, any zero-frequency position: still conv2d at the centres."""
    torch.manual_seed(1)
    kernel = torch.randn(1, *size)
    block, centre = 2, (503.4, 530.2)
    operator = FourF(geometry, (100, 156), (90, 146), centre=centre)
    shown = images[:, 0].repeat_interleave(block, -1).repeat_interleave(block, -2)
    nu_y, nu_x = operator.frequencies()
    pixel = block * 8e-6
    window = pixel_compensation(nu_y, pixel)[:, None] * pixel_compensation(nu_x, pixel)[None]
    mask = kernel_masks(kernel, nu_y, nu_x, (pixel, pixel))[0] * window
    y, x = operator.image_positions((28, 28), (block, block))
    field = operator.field_at(operator.spectrum(shown) * mask, y, x)
    want = same(images, kernel[:, None])[:, 0]
    assert (field.imag.abs().max() / want.abs().max()) < 0.01
    assert torch.corrcoef(torch.stack([field.real.flatten(), want.flatten()]))[0, 1] > 0.9999
    assert ((field.real - want).abs().max() / want.abs().max()) < 0.01


@settings(max_examples=25)
@given(rows=st.integers(4, 40), columns=st.integers(4, 40), seed=st.integers(0, 2**16))
def test_energy_is_conserved(rows: int, columns: int, seed: int) -> None:
    """A mask of modulus one moves light, it makes none and loses none."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(rows, columns, generator=generator)
    phase = torch.rand(rows, columns, generator=generator) * 2 * torch.pi
    field = matched(image, torch.polar(torch.ones_like(phase), phase))
    assert field.abs().pow(2).sum().item() == pytest.approx(image.pow(2).sum().item(), rel=1e-5)


@settings(max_examples=25)
@given(hidden=st.integers(1, 4), layers=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_fused_cascade_is_the_cascade(hidden: int, layers: int, seed: int) -> None:
    """A linear cascade of 3x3 layers is one layer of the grown support."""
    generator = torch.Generator().manual_seed(seed)
    widths = [2, *[hidden] * (layers - 1), 3]
    weights = [torch.randn(widths[i + 1], widths[i], 3, 3, generator=generator) for i in range(layers)]
    image = torch.randn(2, 2, 12, 12, generator=generator)
    wide = pad(image, (layers,) * 4)
    for weight in weights:
        wide = conv2d(wide, weight)
    fused = fuse(*weights)
    assert fused.shape[-1] == 2 * layers + 1
    want = conv2d(image, fused, padding=layers)
    assert torch.allclose(wide, want, atol=1e-4 * float(want.abs().max()))
