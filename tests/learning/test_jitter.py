"""Robustness of kernels and tiles: how large it is, and that its gradient makes unbalanced kernels pay."""

from __future__ import annotations

import pytest
import torch

from labctl.errors import ConfigError
from labctl.learning.jitter import jittered, shaken, tile_noise
from labctl.learning.recipe import RobustnessSection, parse_recipe
from labctl.optics.detection import Detection


def test_kernels_are_shaken_by_their_own_norm() -> None:
    torch.manual_seed(0)
    kernels = torch.randn(64, 3, 7, 7) * torch.logspace(-2, 2, 64)[:, None, None, None]
    errors = shaken(kernels, RobustnessSection(kernels=0.1)) - kernels
    relative = errors.norm(dim=(-2, -1)) / kernels.norm(dim=(-2, -1))
    assert relative.mean() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(shaken(kernels, RobustnessSection()), kernels)


@pytest.mark.parametrize("detection", Detection)
def test_noise_of_tiles_is_measured_in_what_the_tiles_read(detection: Detection) -> None:
    torch.manual_seed(1)
    images, kernels = torch.rand(40, 2, 16, 16), torch.randn(3, 2, 5, 5)
    found = tile_noise(images, kernels, detection, RobustnessSection(tiles=0.1))
    assert found is not None
    power = torch.zeros(3)
    for channel in range(2):
        for sign in (1, -1) if detection is not Detection.INTENSITY else (1,):
            bank = (sign * kernels[:, channel, None]).clamp(min=0)
            if detection is Detection.INTENSITY:
                bank = kernels[:, channel, None]
            tile = torch.nn.functional.conv2d(images[:, channel, None], bank, padding=2)
            tile = tile.square() if detection is Detection.INTENSITY else tile
            power += tile.square().mean((0, 2, 3))
    assert torch.allclose(found.flatten(), 0.1 * power.sqrt(), rtol=0.2)
    assert tile_noise(images, kernels, detection, RobustnessSection(kernels=0.1)) is None


def test_maps_get_that_noise_and_a_balanced_kernel_pays_for_its_tiles() -> None:
    torch.manual_seed(2)
    images = 0.5 + 0.1 * torch.rand(64, 1, 16, 16)
    kernels = torch.zeros(2, 1, 3, 3)
    kernels[0, 0, 1, 0], kernels[0, 0, 1, 2] = 1.0, -1.0  # a small difference of bright tiles
    kernels[1, 0, 1, 1] = 1.0
    kernels.requires_grad_()
    robust = RobustnessSection(tiles=0.05)
    noise = tile_noise(images, kernels, Detection.PAIRED, robust)
    assert noise is not None
    maps = torch.zeros(64, 2, 16, 16)
    drawn = jittered(maps, robust, noise).detach()
    assert torch.allclose(drawn.std((0, 2, 3)), noise.detach().flatten(), rtol=0.05)
    (slope,) = torch.autograd.grad(noise.flatten()[0], kernels)
    assert slope[0, 0, 1, 0] > 0 > slope[0, 0, 1, 2], "weaker tiles, less noise"


def test_such_noise_needs_maps_as_large_as_the_image() -> None:
    with pytest.raises(ConfigError, match=r"robustness\.tiles"):
        parse_recipe('name = "x"\n[student]\nspectral_pool = 2\n[robustness]\ntiles = 0.1\n')


def test_an_ideal_variant_is_trained_without_what_a_bench_does() -> None:
    recipe = parse_recipe(
        'name = "x"\n[[student.variants]]\nname = "ideal"\nideal = true\n[[student.variants]]\nname = "relu"\n'
        'after_detection = "relu"\n[robustness]\ntiles = 0.1\n[readout]\nelectrons = 100\n'
    )
    assert recipe.for_variant("ideal").robustness == RobustnessSection()
    assert not recipe.for_variant("ideal").readout.active
    assert recipe.for_variant("") is recipe.for_variant("relu") is recipe
    assert recipe.student.variant("ideal") == recipe.student.variant("")
