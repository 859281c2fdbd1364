"""Sixteen paired tiles on one phase-only pattern: fidelity, placement, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.errors import ModelError
from labctl.optics.detection import Detection, expected_tiles, maps_from_intensity, tile_kernels
from labctl.optics.encoders import EncoderSpec, gray_from_phase, phase_from_gray
from labctl.optics.fidelity import encoder_fidelity
from labctl.optics.geometry import Geometry
from labctl.optics.tiles import arrange


def bank(seed: int = 0) -> torch.Tensor:
    """Eight signed 7x7 kernels."""
    return torch.randn(8, 1, 7, 7, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "ceiling"), [("double-phase", 0.8), ("off-axis", 0.8)])
def test_sixteen_paired_tiles_on_a_phase_only_slm(
    name: str, ceiling: float, geometry: Geometry, images: torch.Tensor
) -> None:
    """The bar: mean r of the tiles against conv2d at least 0.99, worst 0.97, through 8-bit gray levels."""
    kernels = tile_kernels(bank(), Detection.PAIRED)
    layout = arrange(16, geometry, image=(28, 28), kernel=(7, 7))
    found = encoder_fidelity(images, kernels, layout, geometry, EncoderSpec(name, ceiling))
    assert found.mean >= 0.99
    assert found.worst >= 0.97
    assert 0.01 < found.efficiency < 1


def test_argument_alone_is_not_enough(geometry: Geometry, images: torch.Tensor) -> None:
    """The control: dropping the modulus costs fidelity, so the encoders above earn their keep."""
    kernels = tile_kernels(bank(), Detection.PAIRED)
    layout = arrange(16, geometry, image=(28, 28), kernel=(7, 7))
    assert encoder_fidelity(images, kernels, layout, geometry, EncoderSpec("phase-only")).mean < 0.97


@settings(max_examples=40)
@given(count=st.integers(1, 16), size=st.integers(8, 28), kernel=st.integers(3, 11))
def test_zero_and_conjugate_orders_land_on_no_tile(count: int, size: int, kernel: int) -> None:
    """For whatever fits: a footprint or more between tiles, the zero order and the conjugate orders."""
    from labctl.optics.geometry import Plane

    geometry = Geometry(
        638e-9,
        0.1,
        0.075,
        Plane((1024, 1024), (8e-6, 8e-6)),
        Plane((256, 256), (8e-6, 8e-6)),
        Plane((1024, 1024), (5.5e-6, 5.5e-6)),
    )
    layout = arrange(count, geometry, image=(size, size), kernel=(kernel, kernel))
    assert len(layout.carriers) == count
    assert min(layout.clearances().values()) >= 0.999


def test_too_many_tiles_are_refused_with_the_number_that_fits(geometry: Geometry) -> None:
    with pytest.raises(ModelError, match=r"needs 400 tiles in one frame, this bench holds \d+"):
        arrange(400, geometry, image=(28, 28), kernel=(7, 7))


def test_an_image_larger_than_the_panel_is_refused(geometry: Geometry) -> None:
    with pytest.raises(ModelError, match="does not fit the input panel"):
        arrange(1, geometry, image=(200, 28), kernel=(7, 7))


def test_unknown_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="no encoder is called 'magic'"):
        EncoderSpec("magic").encode(torch.ones(4, 4, dtype=torch.complex64))


def test_paired_detection_is_linear(images: torch.Tensor) -> None:
    """sqrt(I+) - sqrt(I-) is the signed convolution, exactly; intensity detection is its square."""
    kernels = bank(3)
    signed = torch.nn.functional.conv2d(images, kernels, padding=3)
    for mode in Detection:
        tiles = tile_kernels(kernels, mode)
        read = maps_from_intensity(expected_tiles(images, tiles, mode) ** 2, torch.ones(len(tiles)), mode)
        want = signed if mode.linear else signed**2
        assert torch.allclose(read, want, atol=1e-3)


def test_colour_kernels_are_refused() -> None:
    with pytest.raises(ModelError, match="3 input channels"):
        tile_kernels(torch.randn(8, 3, 7, 7), Detection.PAIRED)


@given(levels=st.sampled_from([16, 256, 1024]), seed=st.integers(0, 999))
def test_gray_levels_keep_the_phase(levels: int, seed: int) -> None:
    """Round trip within half a level, modulo 2 pi."""
    phase = torch.rand(9, 7, generator=torch.Generator().manual_seed(seed)) * 2 * torch.pi
    back = torch.from_numpy(phase_from_gray(gray_from_phase(phase, levels), levels))
    error = torch.remainder(back - phase + torch.pi, 2 * torch.pi) - torch.pi
    assert error.abs().max() <= torch.pi / levels + 1e-4
