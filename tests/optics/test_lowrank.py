"""A bank as basis kernels and mixing: exact at full rank, the least error below it, and what it costs in noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from labctl.errors import ModelError
from labctl.optics.detection import Detection, expected_tiles, maps_from_intensity, tile_kernels
from labctl.optics.lowrank import LowRank, Split, Tiled, low_rank, patch_covariance, pedestal

banks = st.tuples(st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(1, 3), st.sampled_from([3, 5, 7]))


def made(case: tuple[int, int, int, int]) -> torch.Tensor:
    seed, maps, channels, k = case
    return torch.randn(maps, channels, k, k, generator=torch.Generator().manual_seed(seed))


def full_rank(bank: torch.Tensor) -> int:
    return min(bank.shape[0] * bank.shape[1], bank.shape[2] * bank.shape[3])


@settings(max_examples=25, deadline=None)
@given(banks, st.sampled_from(Split))
def test_full_rank_gives_the_maps_of_conv2d_exactly(case: tuple[int, int, int, int], split: Split) -> None:
    bank = made(case)
    images = torch.rand(2, bank.shape[1], 12, 14)
    found = low_rank(bank, full_rank(bank))
    torch.testing.assert_close(found.kernels(), bank, rtol=1e-4, atol=1e-5)
    tiled = found.tiled(split)
    assert len(tiled.kernels) == split.tiles(found.rank) and bool((tiled.kernels >= 0).all())
    maps = tiled.maps(tiled.amplitudes(images))
    torch.testing.assert_close(maps, conv2d(images, bank, padding=bank.shape[-1] // 2), rtol=1e-3, atol=1e-3)
    assert found.kept == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(banks, st.data())
def test_the_error_is_the_energy_left_out_and_no_basis_has_less(
    case: tuple[int, int, int, int], data: st.DataObject
) -> None:
    bank = made(case)
    rank = data.draw(st.integers(1, full_rank(bank)))
    found = low_rank(bank, rank)
    error = (found.kernels() - bank).double().square().sum()
    tail = found.singular_values[rank:].double().square().sum()
    torch.testing.assert_close(error, tail, rtol=1e-3, atol=1e-5)
    other = torch.linalg.qr(torch.randn(bank.shape[-1] ** 2, rank).double())[0]
    flat = bank.double().flatten(0, 1).flatten(1)
    assert float((flat - flat @ other @ other.T).square().sum()) >= float(tail) * (1 - 1e-6) - 1e-9


def test_weighed_with_patches_the_maps_are_nearer_and_the_kernels_are_not() -> None:
    torch.manual_seed(0)
    bank = torch.randn(12, 1, 5, 5)
    images = torch.nn.functional.avg_pool2d(torch.rand(20, 1, 40, 40), 7, 1)  # smooth, as images are
    covariance = patch_covariance(images, (5, 5))
    plain, weighed = low_rank(bank, 4), low_rank(bank, 4, covariance=covariance)

    def error(found: LowRank) -> float:
        return float(conv2d(images, found.kernels() - bank, padding=2).square().mean())

    assert error(weighed) < 0.5 * error(plain)
    assert (weighed.kernels() - bank).norm() > (plain.kernels() - bank).norm()
    difference = (plain.kernels() - bank).flatten(1).double()
    predicted = torch.einsum("mt,tu,mu->", difference, covariance, difference) / 12
    assert float(predicted) == pytest.approx(error(plain), rel=1e-4)
    torch.testing.assert_close(low_rank(bank, 12, covariance=covariance).kernels(), bank, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("split", Split)
def test_noise_gain_is_what_noise_on_the_tiles_does_to_the_maps(split: Split) -> None:
    torch.manual_seed(0)
    tiled = low_rank(torch.randn(6, 2, 5, 5), 5).tiled(split)
    noise = torch.randn(200, 2, len(tiled.kernels), 10, 10) * tiled.scale()[:, None, None]
    spread = tiled.maps(noise).transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(spread, tiled.noise_gain(), rtol=0.03, atol=0)


def test_a_pedestal_halves_the_tiles_and_costs_noise() -> None:
    torch.manual_seed(0)
    found = low_rank(torch.randn(16, 1, 7, 7), 8)
    pairs, lifted = found.tiled(Split.PAIRS), found.tiled(Split.PEDESTAL)
    assert (len(pairs.kernels), len(lifted.kernels)) == (16, 9)
    assert float(lifted.noise_gain().mean()) > 2 * float(pairs.noise_gain().mean())
    assert float(pedestal((7, 7)).norm()) == pytest.approx(1)


def test_pairs_of_one_channel_are_what_paired_detection_shows() -> None:
    torch.manual_seed(0)
    found = low_rank(torch.randn(3, 1, 3, 3), 2)
    tiled = found.tiled()
    assert isinstance(tiled, Tiled)
    torch.testing.assert_close(tiled.kernels[:2] - tiled.kernels[2:], found.basis)
    assert float((tiled.kernels[:2] * tiled.kernels[2:]).abs().max()) == 0
    assert found.mixing_macs((10, 12)) == 3 * 2 * 120


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    bank = torch.randn(2, 3, 3, 3)
    for rank in (0, 7):
        with pytest.raises(ModelError, match="ranks 1 to 6"):
            low_rank(bank, rank)
    with pytest.raises(ModelError, match="need \\[9, 9\\]"):
        low_rank(bank, 2, covariance=torch.eye(4))


@pytest.mark.parametrize("split", Split)
def test_a_deployment_that_reads_intensities_reads_a_basis(split: Split) -> None:
    """Each tile's kernel as a map of its own under `INTENSITY`: its root is the amplitude that is mixed."""
    torch.manual_seed(0)
    bank, images = torch.randn(4, 2, 5, 5), torch.rand(3, 2, 10, 12)
    tiled = low_rank(bank, 8).tiled(split)
    shown = tile_kernels(tiled.kernels[:, None], Detection.INTENSITY)
    channels = []
    for channel in range(2):  # one after the other, all to the same tiles
        camera = (expected_tiles(images[:, channel : channel + 1], shown) / tiled.scale()[:, None, None]) ** 2
        channels.append(maps_from_intensity(camera, tiled.scale(), Detection.INTENSITY).sqrt())
    maps = tiled.maps(torch.stack(channels, 1))
    torch.testing.assert_close(maps, conv2d(images, bank, padding=2), rtol=1e-3, atol=1e-3)
