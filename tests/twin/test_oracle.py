"""The twin's light against sums that are written out: no transforms, no interpolation, every pixel for itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from twin_benches import SMALL, generic

from labctl.optics.geometry import Plane
from labctl.twin.model import Twin

Array = NDArray[np.float64]


def written_out(twin: Twin, gray: NDArray[np.int64], panel: Array, pixels: Array) -> Array:
    """Intensity at camera pixels from the double sum over panel and SLM, averaged over 5 x 5 places of each pixel."""
    numbers = {name: p.detach().double().numpy() for name, p in twin.named_parameters()}
    shape = SMALL.slm.shape
    j = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"), -1).reshape(-1, 2)
    p = np.argwhere(np.ones(panel.shape)) - np.asarray(SMALL.input.centre)
    turns = -np.linalg.solve(numbers["carrier_to_camera"], numbers["input_linear"])
    amplitude = np.interp(panel.ravel(), np.arange(256), twin.input_table().detach().double().numpy())
    amplitude = amplitude * twin.uniformity_map().detach().double().numpy().ravel()
    bend = numbers["input_curvature"] * (p**2).sum(1) / (min(SMALL.input.shape) / 2) ** 2
    away = j - (numbers["centre"] - np.asarray(SMALL.slm.centre))
    spectrum = np.exp(-2j * np.pi * away @ (p @ turns.T).T) @ (amplitude * np.exp(1j * bend))
    steps = np.linalg.norm(turns, axis=1)
    square = np.sinc(away[:, 0] * steps[0]) * np.sinc(away[:, 1] * steps[1]) * abs(np.linalg.det(turns))
    behind = spectrum * square * twin.slm_field(gray).detach().to(torch.complex128).numpy().ravel()
    inside = ((np.arange(5) + 0.5) / 5 - 0.5) * numbers["pixel"]
    total = np.zeros(len(pixels))
    for dy in inside:
        for dx in inside:
            f = -np.linalg.solve(
                numbers["carrier_to_camera"], (pixels + np.array([dy, dx]) - numbers["input_place"]).T
            ).T
            total += np.abs(np.exp(2j * np.pi * f @ j.T) @ behind) ** 2
    return np.asarray(total / 25)


def test_it_is_the_double_sum() -> None:
    twin = generic()
    twin.load_values({"camera": np.zeros(twin.camera.shape), "fill": 0.0, "log_gain": 0.0})
    rng = np.random.default_rng(1)
    gray, panel = rng.integers(0, 256, SMALL.slm.shape), rng.integers(0, 256, SMALL.input.shape).astype(float)
    rows, columns = np.meshgrid(np.arange(41, 48), np.arange(44, 54), indexing="ij")
    want = written_out(twin, gray, panel, np.stack([rows, columns], -1).reshape(-1, 2).astype(float))
    found = twin.window(gray, panel, (41, 48, 44, 54))[0].numpy().ravel()
    # random gray levels fill the band to its edge, where cubic interpolation is at its worst
    assert found == pytest.approx(want, rel=0.02, abs=0.02 * want.max())
    assert np.corrcoef(found, want)[0, 1] > 0.998


def test_light_is_neither_made_nor_lost() -> None:
    """All that leaves the SLM arrives somewhere within one order (Parseval)."""
    geometry = replace(SMALL, camera=Plane((544, 544), (5.5e-6, 5.5e-6)))
    twin = Twin(geometry)
    twin.fill.fill_(0.0)
    rng = np.random.default_rng(2)
    gray, panel = rng.integers(0, 256, SMALL.slm.shape), rng.integers(0, 256, SMALL.input.shape)
    leaves = float((twin.spectra(panel)[0] * twin.slm_field(gray)).abs().square().sum())
    area = 1 / float(torch.linalg.det(twin.carrier_to_camera).abs())
    assert float(twin.window(gray, panel).sum()) * area == pytest.approx(leaves, rel=0.01)


def test_a_carrier_moves_the_image_as_the_record_says() -> None:
    twin = Twin(SMALL)
    twin.fill.fill_(0.0)
    y, x = np.meshgrid(*(np.arange(48) - 23.5,) * 2, indexing="ij")
    phase = 2 * np.pi * (0.02 * y - 0.03 * x)
    dot = np.zeros(SMALL.input.shape, int)
    dot[11:13, 11:13] = 255
    counts = twin.window(torch.from_numpy(phase), dot)[0].double().numpy()
    weight = np.where(counts > 0.3 * counts.max(), counts, 0)
    rows, columns = np.meshgrid(*(np.arange(n) for n in SMALL.camera.shape), indexing="ij")
    seen = np.array([(weight * rows).sum(), (weight * columns).sum()]) / weight.sum()
    want = twin.input_place.numpy() + twin.carrier_to_camera.numpy() @ [0.02, -0.03]
    assert seen == pytest.approx(want, abs=0.3)


def test_a_tilt_of_the_spectrum_is_its_centre() -> None:
    """Half the SLM blocked by a steep carrier: the light that stays is that of the spectrum's half."""
    twin = Twin(SMALL)
    white = np.full(SMALL.input.shape, 255)
    for centre in (15.5, 23.5, 31.5):
        twin.centre[0] = centre
        light = twin.spectra(white)[0].abs().square()
        rows = torch.arange(48.0)
        middle = float((light.sum(1) * rows)[int(centre) - 9 : int(centre) + 11].sum())
        middle /= float(light.sum(1)[int(centre) - 9 : int(centre) + 11].sum())
        assert middle == pytest.approx(centre, abs=0.2)
