"""A simulated frame against the two bare FFTs inside it: same size, same threads, one run.

    python tests/benchmarks/simulated_frame.py

The SLM pattern stands, the image changes: what an evaluation does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import numpy as np
import scipy.fft

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import PRESETS
from labctl.simulation.transforms import WORKERS
from labctl.simulation.world import World


def median_ms(call: Callable[[], object], repeats: int = 25) -> float:
    """Median time of a call, ms, after two that are not counted."""
    times = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        call()
        if turn > 1:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def frame(world: World, images: Iterator[np.ndarray], window: tuple[int, int, int, int] | None) -> None:
    """One exposure of the next image."""
    world.show_input(next(images))
    world.expose(1e-3, window)


def main() -> None:
    """Print the ratios."""
    write = sys.stdout.write
    write(
        f"{'SLM':>11} {'two FFTs':>9} {'preset':>8} {'camera window':>14} {'frame':>8} {'ratio':>6}"
        f"   ({WORKERS} threads)\n"
    )
    for shape in ((512, 512), (1024, 1024), (1080, 1920)):
        pitch = 8e-6 * 1024 / max(shape)
        geometry = Geometry(
            638e-9, 0.1, 0.075, Plane(shape, (pitch,) * 2), Plane((256, 256), (8e-6,) * 2),
            Plane((1024, 1024), (5.5e-6,) * 2),
        )  # fmt: skip
        field = np.random.default_rng(0).standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
        bare = median_ms(lambda field=field: scipy.fft.fft2(scipy.fft.fft2(field, workers=WORKERS), workers=WORKERS))
        for preset in ("ideal", "typical"):
            world = World(geometry, PRESETS[preset], seed=1, clock=DrivenClock())
            world.show_slm(np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8))
            images = np.zeros((4, 256, 256), np.uint8)
            images[:, 100:156, 100:156] = np.random.default_rng(2).integers(0, 256, (4, 56, 56))
            world.clock.sleep(10)
            for name, window in (("tiles", (665, 877, 160, 864)), ("whole", None)):
                took = median_ms(partial(frame, world, cycle(images), window))
                size = f"{shape[1]:5} x{shape[0]:5}"
                write(f"{size} {bare:7.1f}ms {preset:>8} {name:>14} {took:6.1f}ms {took / bare:6.2f}\n")


if __name__ == "__main__":
    main()
