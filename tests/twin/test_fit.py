"""The joint fit finds what made the captures, the ghost among it, and judges itself on what it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labctl.optics.geometry import Geometry, Plane
from labctl.twin import judging
from labctl.twin.fit import STEPS, Capture, Captured, Plan, amplitude_error, choose, fit
from labctl.twin.ghost import find_ghost
from labctl.twin.model import Twin
from labctl.twin.parts import Fineness

GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((96, 96), (16e-6, 16e-6)), Plane((32, 32), (16e-6, 16e-6)),
    Plane((160, 160), (5.5e-6, 5.5e-6)),
)  # fmt: skip
WINDOW = (20, 140, 20, 140)
COARSE = Fineness(pupil=4, rough=6)


def delivered() -> Twin:
    twin = Twin(GEOMETRY, fineness=COARSE)
    rng = np.random.default_rng(3)
    zernikes = np.zeros(36)
    zernikes[3:10] = 0.04 * rng.standard_normal(7)
    twin.load_values(
        {
            "input_place": twin.input_place.numpy() + np.array([0.3, -0.4]), "centre": [48.5, 46.0], "crosstalk": 1.0,
            "zero_order": [0.2, 0.0], "zernikes": zernikes, "log_gain": np.log(2e7),
            "lut": 0.2 * np.sin(np.linspace(0, np.pi, 9))[:-1],
        }
    )  # fmt: skip
    return twin


@torch.no_grad()
def captured(twin: Twin, patterns: int, seed: int = 0) -> Captured:
    """Captures of smooth random masks of several correlation lengths, with shot noise and a flickering laser."""
    rng = np.random.default_rng(seed)
    shown, captures = [], []
    for n in range(patterns):
        block = (2, 4, 8, 3)[n % 4]
        small = rng.integers(0, 256, (96 // block, 96 // block))
        shown.append(small.repeat(block, 0).repeat(block, 1))
        for _ in range(2):
            panel = np.zeros(GEOMETRY.input.shape, int)
            panel[8:24, 8:24] = rng.integers(0, 256, (16, 16))
            counts = twin.window(shown[-1], panel, WINDOW, exposure_s=1e-2)[0].numpy()
            counts = rng.poisson(counts.clip(0) * (1 + 0.02 * rng.standard_normal())).astype(np.float32)
            captures.append(Capture(n, panel, counts, np.ones(counts.shape, bool), 1e-2))
    return Captured(shown, captures, [WINDOW] * patterns)


def start() -> Twin:
    twin = Twin(GEOMETRY, fineness=COARSE)
    twin.crosstalk.fill_(0.8)
    return twin


@torch.no_grad()
def error_on(twin: Twin, seen: Captured) -> float:
    rng = np.random.default_rng(0)
    errors = [amplitude_error(twin, seen, n, seen.of(n), choose(WINDOW, 9999, rng)) for n in seen.shown]
    return float(torch.stack(errors).mean())


def test_the_fit_finds_what_made_the_captures() -> None:
    true = delivered()
    twin, seen = start(), captured(true, 10)
    fit(twin, seen, Plan(steps=110, free=("input_place", "centre", "crosstalk", "zero_order", "zernikes", "lut")))
    # a speckle is 5.7 camera pixels wide here, and odd Zernikes move it too
    assert twin.input_place.tolist() == pytest.approx(true.input_place.tolist(), abs=0.25)
    assert twin.centre.tolist() == pytest.approx(true.centre.tolist(), abs=0.3)
    assert float(twin.crosstalk) == pytest.approx(1.0, abs=0.08)
    assert twin.zero_order.tolist() == pytest.approx([0.2, 0.0], abs=0.03)
    assert twin.zernikes.numpy()[3:10] == pytest.approx(true.zernikes.numpy()[3:10], abs=0.02)
    # a phase common to all levels but the top is nearly a phase of the zero order
    assert float((twin.phase_table() - true.phase_table())[:224].std()) < 0.05
    assert not any(p.requires_grad for p in twin.parameters())
    unseen = captured(true, 4, seed=9)
    assert error_on(twin, unseen) < 0.1 * error_on(start(), unseen)


def test_a_ghost_is_found_where_it_is() -> None:
    true = delivered()
    true.load_values({"ghosts": [[0.06, 0.03]], "ghost_paths": [[12.0, -21.0, 2.0]]})
    seen = captured(true, 8)
    twin = start()
    twin.load_values({name: p.detach().numpy() for name, p in true.named_parameters() if "ghost" not in name})
    assert find_ghost(twin, seen, seen.shown) > 8
    assert twin.ghost_paths[0].numpy() == pytest.approx([12.0, -21.0, 2.0], abs=2.0)
    fit(twin, seen, Plan(steps=60, free=("ghosts", "ghost_paths")))
    assert twin.ghosts[0].numpy() == pytest.approx([0.06, 0.03], abs=0.01)
    assert twin.ghost_paths[0].numpy() == pytest.approx([12.0, -21.0, 2.0], abs=0.3)


def test_a_ghost_that_is_not_there_goes_away() -> None:
    true = delivered()
    twin = start()
    twin.load_values({name: p.detach().numpy() for name, p in true.named_parameters()})
    seen = captured(true, 6)
    find_ghost(twin, seen, seen.shown)
    fit(twin, seen, Plan(steps=40, free=("ghosts", "ghost_paths")))
    assert float(twin.ghosts.abs().max()) < 0.006


def test_smooth_parts_of_the_free_form_part_go_where_they_belong() -> None:
    twin = delivered()
    rng = np.random.default_rng(4)
    y, x = np.meshgrid(*(np.linspace(-1, 1, 6),) * 2, indexing="ij")
    twin.rough[0] = torch.from_numpy(0.3 + 0.2 * y - 0.1 * x + 0.3 * (2 * y**2 + 2 * x**2 - 1)).float()
    gray, panel = rng.integers(0, 256, (24, 24)).repeat(4, 0).repeat(4, 1), rng.integers(0, 256, (32, 32))
    before = twin.window(gray, panel, WINDOW)
    judging.take_smooth_out(twin)
    assert float(twin.rough[0].abs().max()) < 0.02
    assert torch.corrcoef(torch.stack([before.ravel(), twin.window(gray, panel, WINDOW).ravel()]))[0, 1] > 0.999


def test_the_response_of_camera_pixels_is_what_is_left() -> None:
    true = delivered()
    bright = torch.ones(GEOMETRY.camera.shape)
    bright[60:90, 60:90] = 1.03
    true.flat.copy_(bright)
    seen = captured(true, 12)
    true.flat.fill_(1.0)
    judging.camera_response(true, seen, seen.shown, scatter=0.05)
    inner, outer = true.flat[62:88, 62:88].mean(), true.flat[100:130, 100:130].mean()
    assert float(inner / outer) == pytest.approx(1.03, abs=0.01)


def test_uncertainties_cover_what_the_noise_did() -> None:
    """Of the place: within a few times its standard deviation of the truth, which is not absurdly large either."""
    true = delivered()
    twin, seen = start(), captured(true, 12)
    twin.load_values({name: p.detach().numpy() for name, p in true.named_parameters()})
    twin.input_place.add_(0.05)
    fit(twin, seen, Plan(steps=40, free=("input_place",)))
    found = judging.uncertainties(twin, seen, ["input_place", "lut"])
    away = np.abs((twin.input_place - true.input_place).numpy())
    assert (away < 5 * found["input_place"] + 2e-3).all()
    assert found["input_place"].max() < 0.05
    assert np.isfinite(found["lut"]).all()


def test_every_parameter_has_a_step_or_is_meant_to_stay() -> None:
    names = {name for name, _ in Twin(GEOMETRY, fineness=COARSE).named_parameters()}
    assert names - set(STEPS) == {"fill", "log_gain"}
