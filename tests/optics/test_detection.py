"""What each way of detecting reads, against conv2d."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from labctl.optics.detection import Detection, expected_tiles, maps_from_intensity, shown_amplitude, tile_kernels


def read(images: torch.Tensor, kernels: torch.Tensor, mode: Detection) -> torch.Tensor:
    """Maps of single-channel images through ideal tiles."""
    tiles = tile_kernels(kernels, mode)
    return maps_from_intensity(expected_tiles(images, tiles, mode) ** 2, torch.ones(len(tiles)), mode)


@pytest.mark.parametrize("mode", list(Detection))
@given(seed=st.integers(0, 999), maps=st.integers(1, 5), size=st.sampled_from([1, 3, 5, 7]))
def test_each_mode_reads_what_it_says(mode: Detection, seed: int, maps: int, size: int) -> None:
    """The signed convolution for the linear modes, its square for intensity."""
    generator = torch.Generator().manual_seed(seed)
    images, kernels = (
        torch.rand(2, 1, 9, 12, generator=generator),
        torch.randn(maps, 1, size, size, generator=generator),
    )
    signed = conv2d(images, kernels, padding=size // 2)
    assert len(tile_kernels(kernels, mode)) == maps * mode.tiles_per_map
    assert torch.allclose(read(images, kernels, mode), signed if mode.linear else signed**2, atol=1e-4, rtol=1e-4)


def test_incoherent_tiles_add_the_intensities_of_points() -> None:
    """The panel's intensity is the image; each point gives the squared point spread function, and these add."""
    generator = torch.Generator().manual_seed(1)
    images, kernels = torch.rand(1, 1, 8, 8, generator=generator), torch.randn(2, 1, 3, 3, generator=generator)
    mode = Detection.INCOHERENT
    tiles = tile_kernels(kernels, mode)
    amplitude = shown_amplitude(images, mode)
    total = torch.zeros(1, len(tiles), 8, 8)
    for y in range(8):
        for x in range(8):
            point = torch.zeros_like(images)
            point[..., y, x] = amplitude[..., y, x]
            total += conv2d(point, tiles[:, None], padding=1) ** 2
    assert torch.allclose(total.sqrt(), expected_tiles(images, tiles, mode), atol=1e-5)


def test_noise_below_zero_is_kept_where_intensities_are_subtracted() -> None:
    """Clamping would bias the difference of two dim tiles; a square root cannot be had of it."""
    dim = torch.tensor([-0.25, 0.25]).reshape(2, 1, 1)
    ones = torch.ones(2)
    assert maps_from_intensity(dim, ones, Detection.INCOHERENT).item() == pytest.approx(-0.5)
    assert maps_from_intensity(dim, ones, Detection.PAIRED).item() == pytest.approx(-0.5)
    assert maps_from_intensity(-dim, ones, Detection.PAIRED).item() == pytest.approx(0.5)
    assert maps_from_intensity(dim - 1, ones, Detection.PAIRED).item() == 0


def test_only_incoherent_detection_shows_the_square_root() -> None:
    image = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    assert torch.equal(shown_amplitude(image, Detection.PAIRED), image)
    assert torch.equal(shown_amplitude(image, Detection.INTENSITY), image)
    assert torch.allclose(shown_amplitude(image, Detection.INCOHERENT) ** 2, image)
    assert [mode.coherent for mode in Detection] == [True, True, False]
