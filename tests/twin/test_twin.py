"""The twin predicts what an encoder really yields, and is differentiable in the pattern and in what it is fitted by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from twin_benches import SMALL, generic

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.optics.detection import Detection, expected_tiles, tile_kernels
from labctl.optics.encoders import EncoderSpec, gray_from_phase
from labctl.optics.fidelity import pearson
from labctl.optics.geometry import Geometry, Plane
from labctl.optics.tiles import Layout, arrange, slm_field
from labctl.twin.model import Twin
from labctl.twin.parts import Fineness
from labctl.twin.start import to_values

GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((512, 512), (16e-6, 16e-6)), Plane((128, 128), (16e-6, 16e-6)),
    Plane((700, 700), (5.5e-6, 5.5e-6)),
)  # fmt: skip
CORNER = (50, 50)


def made(centre: tuple[float, float] | None = None) -> tuple[Twin, Layout, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    kernels = tile_kernels(torch.randn(1, 1, 5, 5, generator=generator), Detection.PAIRED)
    layout = arrange(2, GEOMETRY, image=(14, 14), kernel=(5, 5), block=(2, 2))
    field, _ = slm_field(kernels, layout, GEOMETRY, centre=centre)
    images = torch.rand(3, 14, 14, generator=generator)
    twin = Twin(GEOMETRY)
    if centre is not None:
        twin.load_values({"centre": np.asarray(centre)})
    return twin, layout, EncoderSpec("off-axis").encode(field), images, expected_tiles(images[:, None], kernels)


def facts(**records: dict[str, Any]) -> BenchFacts:
    """Facts of a small bench with these records; kinds are written with underscores."""
    known = {
        kind.replace("_", "-"): CalibrationRecord(kind.replace("_", "-"), "small", values, dict.fromkeys(values, "1"))
        for kind, values in records.items()
    }
    return BenchFacts("small", SMALL, 256, 256, 12, 1e-3, 0.1, 0.005, 0.005, calibrations=known)


def test_it_predicts_conv2d_as_far_as_the_encoder_goes() -> None:
    for centre in (None, (250.0, 261.5)):
        twin, layout, phase, images, want = made(centre)
        assert pearson(twin(phase, images, layout, CORNER).sqrt(), want).min() > 0.97


def test_gray_levels_and_phase_commands_agree() -> None:
    twin, layout, phase, images, _ = made()
    gray = gray_from_phase(phase, 256)
    assert pearson(twin(gray, images, layout, CORNER), twin(phase, images, layout, CORNER)).min() > 0.999


def test_a_wrong_centre_predicts_worse() -> None:
    twin, layout, phase, images, want = made((255.5, 255.5))
    good = pearson(twin(phase, images, layout, CORNER).sqrt(), want).mean()
    twin.centre.add_(60)
    assert pearson(twin(phase, images, layout, CORNER).sqrt(), want).mean() < good - 0.02


def test_gradients_reach_pattern_and_images() -> None:
    twin, layout, phase, images, _ = made()
    phase.requires_grad_()
    images.requires_grad_()
    twin(phase, images, layout, CORNER).square().mean().backward()
    for found in (phase.grad, images.grad):
        assert found is not None
        assert bool(found.isfinite().all())
        assert bool(found.abs().sum() > 0)


def predicted(twin: Twin) -> torch.Tensor:
    generator = np.random.default_rng(6)
    gray = generator.integers(0, 256, SMALL.slm.shape)
    inputs = generator.integers(60, 256, SMALL.input.shape)
    return twin.window(gray, inputs, (30, 60, 28, 63)).double().sum(dim=(1, 2))


STEPS = {"ghosts": 2e-4, "zernikes": 2e-4, "carrier_to_camera": 1.0, "centre": 0.1, "pixel": 0.3}
"""Where 1e-3 is too much for the curvature or too little for float32."""
NAMES = [name for name, _ in Twin(SMALL, fineness=Fineness(pupil=4, rough=5)).named_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Through every physical parameter, along a random direction."""
    twin = generic()
    twin.requires_grad_(True)
    generator = torch.Generator().manual_seed(len(name))
    weight = torch.randn(30, 35, generator=generator).double()

    def loss() -> torch.Tensor:
        rng = np.random.default_rng(6)
        gray, inputs = rng.integers(0, 256, SMALL.slm.shape), rng.integers(60, 256, SMALL.input.shape)
        return (twin.window(gray, inputs, (30, 60, 28, 63))[0].double() * weight).sum()

    parameter = dict(twin.named_parameters())[name]
    direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    if name == "zernikes":
        direction[:3] = 0
    found = (torch.autograd.grad(loss(), parameter)[0] * direction).sum().item()
    step, start = STEPS.get(name, 2e-3), parameter.detach().clone()

    def at(steps: int) -> float:
        with torch.no_grad():
            parameter.copy_(start + steps * step * direction)
            return loss().item()

    slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)  # of fourth order
    assert found == pytest.approx(slope, rel=0.02)


def test_a_record_of_it_loads_to_the_same_prediction() -> None:
    twin = generic()
    values, units = to_values(twin)
    assert set(values) == set(units)
    known = facts(twin=values)
    again = Twin.from_facts(known)
    assert torch.equal(predicted(again), predicted(twin))


def test_a_record_of_another_bench_is_refused() -> None:
    values, _ = to_values(Twin(GEOMETRY))
    with pytest.raises(CalibrationError, match="another shape"):
        Twin.from_facts(facts(twin=values))
    values.pop("lut")
    with pytest.raises(CalibrationError, match="lacks 'lut'"):
        Twin.from_facts(facts(twin=values))


def test_without_records_it_is_the_nominal_bench() -> None:
    twin = Twin.from_facts(facts())
    assert torch.equal(twin.delivered_phase(np.full(SMALL.slm.shape, 255)), torch.zeros(SMALL.slm.shape))
    assert not any(p.requires_grad for p in twin.parameters())


def test_single_records_set_their_part() -> None:
    levels = np.arange(256)
    y = x = np.linspace(0, 47, 7)
    stroke = 1 + 0.05 * np.outer(2 * (y + 0.5) / 48 - 1, np.ones(7))
    phase = 2 * math.pi * (255 - levels) / 256 + 0.2 * np.sin(math.pi * levels / 255)
    twin = Twin.from_facts(
        facts(
            slm_response={"phase": phase, "stroke": stroke, "y": y, "x": x},
            registration={"input_to_camera": np.eye(2, 3, 0) * -2.0, "carrier_to_camera": np.eye(2) * 500.0},
            fourier_centre={"centre": np.array([20.0, 21.0])},
            crosstalk={"fwhm": np.asarray(0.0)},
            zero_order={"amplitude": np.array([0.2, 0.1])},
            input_response={"amplitude": (levels / 255) ** 1.2},
            pupil={"amplitude": np.full((5, 5), 0.5), "y": np.linspace(0, 47, 5), "x": np.linspace(0, 47, 5)},
            wavefront={"zernikes": np.eye(36)[4] * 0.1},
        )
    )
    flat = twin.delivered_phase(np.full(SMALL.slm.shape, 100))
    want = phase[100] * (1 + 0.05 * (2 * (np.arange(48) + 0.5) / 48 - 1))
    assert flat[:, 10].numpy() == pytest.approx(want, abs=0.003)
    assert twin.input_place.tolist() == pytest.approx([-23.0, -23.0])
    assert twin.input_table().numpy() == pytest.approx((levels / 255) ** 1.2, abs=0.01)
    assert twin.zernikes.numpy() == pytest.approx(np.eye(36)[4] * 0.1)
    assert twin.pupil.numpy() == pytest.approx(np.ones((7, 7)))
    assert twin.zero_order.tolist() == pytest.approx([0.2, 0.1])


def test_crosstalk_is_a_gaussian_of_its_width() -> None:
    twin = Twin(SMALL)
    twin.crosstalk.fill_(1.5)
    gray = np.full(SMALL.slm.shape, 255)
    gray[:, 24] = 127
    line = twin.delivered_phase(gray)[10, 20:29]
    place = torch.arange(-4.0, 5.0)
    spread = (line * place.square()).sum() / line.sum()
    assert float(spread.sqrt() * 2.3548) == pytest.approx(1.5, rel=0.05)
    assert float(line.sum()) == pytest.approx(math.pi, rel=0.01)


def test_a_flat_mirror_shows_the_panel_at_unit_gain() -> None:
    """A large white square is seen with intensity 1, for a flat SLM; its zero order adds amplitudes."""
    twin = Twin(GEOMETRY)
    twin.fill.fill_(0.0)
    white = np.zeros(GEOMETRY.input.shape, int)
    white[30:98, 30:98] = 255
    middle = twin.window(np.full((512, 512), 255), white, (340, 360, 340, 360))
    assert float(middle.mean()) == pytest.approx(1.0, rel=0.02)
    twin.zero_order.copy_(torch.tensor([0.2, 0.0]))
    assert float(twin.window(np.full((512, 512), 255), white, (340, 360, 340, 360)).mean()) == pytest.approx(
        1.44, rel=0.02
    )


def test_the_free_form_part_can_be_switched_off() -> None:
    twin = generic()
    full = predicted(twin)
    with twin.without_rough():
        assert not torch.allclose(predicted(twin), full, rtol=1e-3)
    assert torch.equal(predicted(twin), full)
