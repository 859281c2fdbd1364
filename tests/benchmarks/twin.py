"""What the twin costs: forward and backward of 16 tiles of 28 x 28 images, a camera window, and a step of its fit.

    python tests/benchmarks/twin.py [--slm 1024] [--repeats 3]

Seconds of processor time on one thread, best of the repeats; wall time beside it where the machine is quiet.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from labctl.optics.detection import Detection, tile_kernels
from labctl.optics.encoders import EncoderSpec, gray_from_phase
from labctl.optics.geometry import Geometry, Plane
from labctl.optics.tiles import arrange, slm_field
from labctl.twin.fit import STEPS, Capture, Captured, Plan, fitting
from labctl.twin.model import Twin


def timed(what: str, run: Callable[[], object], repeats: int) -> None:
    run()  # what is kept from one call to the next is there
    best = float("inf"), float("inf")
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    sys.stdout.write(f"{what:58s} {best[0]:6.3f} s processor  {best[1]:6.3f} s wall\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slm", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size = asked.slm
    geometry = Geometry(
        638e-9, 0.1, 0.075, Plane((size, size), (8e-6, 8e-6)), Plane((256, 256), (8e-6, 8e-6)),
        Plane((1024, 1024), (5.5e-6, 5.5e-6)),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    kernels = tile_kernels(torch.randn(8, 1, 7, 7, generator=generator), Detection.PAIRED)
    layout = arrange(16, geometry, image=(28, 28), kernel=(7, 7))
    phase = EncoderSpec().encode(slm_field(kernels, layout, geometry)[0])
    gray = gray_from_phase(phase, 256)
    images, corner = torch.rand(8, 28, 28, generator=generator), (100, 100)
    twin = Twin(geometry)
    twin.crosstalk.fill_(0.9)
    twin.load_values({"ghosts": [[0.05, 0.0]], "ghost_paths": [[96.0, 64.0, 3.0]]})
    window = (680, 850, 180, 842)

    with torch.no_grad():
        timed("tiles, 1 image", lambda: twin(gray, images[:1], layout, corner), asked.repeats)
        timed("tiles, 8 images", lambda: twin(gray, images, layout, corner), asked.repeats)
        shown = twin.shown(images[:1], layout, corner)
        timed("camera window of 170 x 662 pixels", lambda: twin.window(gray, shown, window), asked.repeats)
        spectra = twin.spectra(twin.shown(images[:2], layout, corner))
    wanted = phase.clone().requires_grad_(True)

    def descent() -> None:
        wanted.grad = None
        twin.tiles_of(twin.slm_field(wanted), spectra, layout, corner).square().mean().backward()

    timed("step of a phase pattern, 2 images (forward, backward)", descent, asked.repeats)
    counts = np.random.default_rng(1).integers(0, 3000, (170, 662)).astype(np.float32)
    captures = [
        Capture(0, one.numpy().astype(np.uint8), counts, np.ones(counts.shape, bool), 1e-3)
        for one in twin.shown(images[:2], layout, corner)
    ]
    captured = Captured([gray], captures, [window])
    steps = fitting(twin, captured, Plan(steps=100, rate=0.0, free=tuple(STEPS)))
    timed("step of the joint fit, all parameters, 2 captures", lambda: next(steps), asked.repeats)
    steps.close()


if __name__ == "__main__":
    main()
