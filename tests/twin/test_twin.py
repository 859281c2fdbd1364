"""The twin predicts what an encoder really yields, and is differentiable in what it will be fitted by."""

from __future__ import annotations

import torch

from labctl.optics.detection import Detection, expected_tiles, tile_kernels
from labctl.optics.encoders import EncoderSpec
from labctl.optics.fidelity import pearson
from labctl.optics.geometry import Geometry, Plane
from labctl.optics.tiles import arrange, slm_field
from labctl.twin.model import Twin

GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((512, 512), (16e-6, 16e-6)), Plane((128, 128), (16e-6, 16e-6)),
    Plane((700, 700), (5.5e-6, 5.5e-6)),
)  # fmt: skip


def made(centre: tuple[float, float] | None = None) -> tuple[Twin, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    kernels = tile_kernels(torch.randn(1, 1, 5, 5, generator=generator), Detection.PAIRED)
    layout = arrange(2, GEOMETRY, image=(14, 14), kernel=(5, 5), block=(2, 2))
    field, _ = slm_field(kernels, layout, GEOMETRY, centre=centre)
    images = torch.rand(3, 14, 14, generator=generator)
    twin = Twin(GEOMETRY, layout, corner=(50, 50), centre=centre or GEOMETRY.slm.centre)
    return twin, EncoderSpec("off-axis").encode(field), images, expected_tiles(images[:, None], kernels)


def test_it_predicts_conv2d_as_far_as_the_encoder_goes() -> None:
    for centre in (None, (250.0, 261.5)):
        twin, phase, images, want = made(centre)
        assert pearson(twin(phase, images).sqrt(), want).min() > 0.97


def test_a_wrong_centre_predicts_worse() -> None:
    twin, phase, images, want = made((255.5, 255.5))
    good = pearson(twin(phase, images).sqrt(), want).mean()
    with torch.no_grad():
        twin.centre += 60
    assert pearson(twin(phase, images).sqrt(), want).mean() < good - 0.02


def test_gradients_reach_every_parameter_and_the_pattern() -> None:
    twin, phase, images, _ = made()
    phase.requires_grad_()
    twin(phase, images).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in twin.parameters())
    assert phase.grad is not None
    assert bool(phase.grad.abs().sum() > 0)
