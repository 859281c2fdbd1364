"""The batched world is the world: equal within float error, on the CPU and where there is one on a GPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.batched import BatchedWorld
from labctl.simulation.effects import PRESETS
from labctl.simulation.world import World

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", ["ideal", "typical", "nasty"])
def test_a_batch_is_what_single_frames_are(device: str, preset: str) -> None:
    geometry = Geometry(
        638e-9, 0.1, 0.075, Plane((256, 240), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2),
        Plane((300, 320), (5.5e-6,) * 2),
    )  # fmt: skip
    effects = dataclasses.replace(PRESETS[preset], slm_flicker=0.0, pointing_jitter_px=0.0)
    world = World(geometry, effects, seed=2, clock=DrivenClock())
    dice = np.random.default_rng(0)
    world.show_slm(dice.integers(0, 256, (256, 240)).astype(np.uint8))
    world.clock.sleep(100)
    window = (90, 210, 60, 260)
    images = np.zeros((3, 96, 96), np.uint8)
    images[:, 30:66, 30:66] = dice.integers(0, 256, (3, 36, 36))
    batch = BatchedWorld(world, window, device)(torch.from_numpy(images)).cpu().numpy()
    for image, got in zip(images, batch, strict=True):
        world.show_input(image)
        want = world._intensity(world.clock.now() + 1, 1e-3, window, np.random.default_rng(1))
        assert np.abs(got - want).max() / want.max() < 2e-4
