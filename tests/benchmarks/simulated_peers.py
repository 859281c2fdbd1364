"""A simulated frame against peers at equal grid: slmsuite's SimulatedCamera and a 4f system of torchoptics, in one run.

    python tests/benchmarks/simulated_peers.py [--torchoptics-to 512]

slmsuite's simulation has no input plane: one transform from SLM to camera, placed by an affine map. torchoptics
propagates lens by lens and is timed once per size, up to the size given (it takes minutes beyond).
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from simulated_frame import frame, median_ms

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import PRESETS
from labctl.simulation.world import World


def ours(shape: tuple[int, int], preset: str) -> float:
    """A whole-sensor frame of the simulated bench, ms; the camera covers one diffraction order."""
    pitch = 8e-6 * 1024 / max(shape)
    field = 638e-9 * 0.075 / pitch
    camera = Plane((1024, 1024), (field / 1024,) * 2)
    world = World(
        Geometry(638e-9, 0.1, 0.075, Plane(shape, (pitch,) * 2), Plane((256, 256), (8e-6,) * 2), camera),
        PRESETS[preset],
        seed=1,
        clock=DrivenClock(),
    )
    dice = np.random.default_rng(1)
    world.show_slm(dice.integers(0, 256, shape).astype(np.uint8))
    images = np.zeros((4, 256, 256), np.uint8)
    images[:, 100:156, 100:156] = dice.integers(0, 256, (4, 56, 56))
    world.clock.sleep(10)
    return median_ms(partial(frame, world, cycle(images), None), 12)


def slmsuite(shape: tuple[int, int]) -> float:
    """A frame of slmsuite's simulated SLM and camera, 1024 x 1024 pixels, ms."""
    from slmsuite.hardware.cameras.simulated import SimulatedCamera
    from slmsuite.hardware.slms.simulated import SimulatedSLM

    import labctl.devices.adapter  # noqa: F401 - keeps slmsuite's log off the terminal

    slm: Any = SimulatedSLM((shape[1], shape[0]), pitch_um=8, wav_um=0.638, gpu=False)
    size = 0.638 / 8 / 1024
    camera: Any = SimulatedCamera(
        slm, (1024, 1024), M=np.eye(2) / size, b=np.array([[512.0], [512.0]]), bitdepth=12, pitch_um=8
    )
    patterns = cycle(np.random.default_rng(1).integers(0, 256, (4, *shape)).astype(np.uint8))

    def one() -> None:
        slm.set_phase(next(patterns), settle=False)
        camera.get_image()

    return median_ms(one, 12)


def torchoptics(shape: tuple[int, int]) -> float:
    """One 4f pass of torchoptics at the same grid, ms."""
    from torchoptics import Field, System
    from torchoptics.elements import Lens, Modulator

    pitch, focal = 8e-6, 0.05
    mask = torch.polar(torch.ones(shape), torch.rand(shape) * 6.28).to(torch.complex64)
    system = System(
        Lens(shape, focal, focal, spacing=pitch),
        Modulator(mask, 2 * focal, spacing=pitch),
        Lens(shape, focal, 3 * focal, spacing=pitch),
    )
    start = time.perf_counter()
    system.measure_at_z(Field(torch.rand(shape).to(torch.complex64), 638e-9, 0, spacing=pitch), 4 * focal)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchoptics-to", type=int, default=512)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    write = sys.stdout.write
    write(f"{'SLM':>11} {'ideal':>9} {'typical':>9} {'slmsuite':>9} {'torchoptics':>12}   whole 1024 x 1024 frames\n")
    for shape in ((512, 512), (1024, 1024), (1080, 1920)):
        times = [ours(shape, "ideal"), ours(shape, "typical"), slmsuite(shape)]
        peer = f"{torchoptics(shape):10.0f}ms" if max(shape) <= given.torchoptics_to else "not timed"
        write(f"{shape[1]:5} x{shape[0]:5} " + " ".join(f"{t:7.1f}ms" for t in times) + f" {peer:>12}\n")


if __name__ == "__main__":
    main()
