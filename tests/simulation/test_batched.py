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
GEOMETRY = Geometry(
    638e-9, 0.1, 0.075, Plane((256, 240), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2), Plane((300, 320), (5.5e-6,) * 2)
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", ["ideal", "typical", "nasty"])
def test_a_batch_is_what_single_frames_are(device: str, preset: str) -> None:
    effects = dataclasses.replace(PRESETS[preset], slm_flicker=0.0, pointing_jitter_px=0.0)
    world = World(GEOMETRY, effects, seed=2, clock=DrivenClock())
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


class Shapes(BatchedWorld):
    """On PyTorch's device without numbers, which has no sparse product: its shape and device instead."""

    def _spread(self, amplitude: torch.Tensor) -> torch.Tensor:
        assert amplitude.device == self._matrix.device
        assert amplitude.shape[1] == self._matrix.shape[1]
        return amplitude.new_empty(len(amplitude), self._matrix.shape[0])


def test_everything_is_on_the_device_that_was_asked_for() -> None:
    """PyTorch refuses to combine tensors of two devices, so one that was left on the CPU would fail here."""
    world = World(GEOMETRY, PRESETS["typical"], seed=2, clock=DrivenClock())
    batched = Shapes(world, (90, 210, 60, 260), "meta")
    held = {name: value.device.type for name, value in vars(batched).items() if isinstance(value, torch.Tensor)}
    assert {"_matrix", "_ramp", "_field", "_table", "_illumination", "_grid"} <= set(held)
    assert set(held.values()) == {"meta"}
    got = batched(torch.zeros(5, 96, 96, dtype=torch.uint8))
    assert (got.device.type, got.dtype, got.shape) == ("meta", torch.float32, (5, 120, 200))
