"""A simulated frame against two bare FFTs (scipy.fft) of the SLM's size and of as many threads, in one run.

    python tests/benchmarks/simulated_frame.py [--rounds 40]

The SLM pattern stands, the image changes: what an evaluation does. Read are

- ``tiles``: the window that the demo's evaluation reads, 14 % of the sensor; ``whole``: all of the sensor;
- of a ``scaled`` sensor, which covers 94 % of one diffraction order whatever the SLM (as many pixels on a side as the
  SLM's longer side has), and of the demo's ``fixed`` one of 1024 x 1024 pixels.

The issue's bars compare a frame with FFTs of its own size: the scaled sensor's lines. Times are the shortest of many:
FFTs and frames take turns, so that what else the machine does meets all of them. `cpu` is the ratio of the processor
times of all threads, which hardly depends on what else runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import cv2
import numpy as np
import scipy.fft

from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import PRESETS
from labctl.simulation.hands import WORKERS
from labctl.simulation.world import World

Window = tuple[int, int, int, int]
BARS = {"ideal": 1.3, "typical": 4.0}
TILES = (665, 877, 160, 864)
"""Window of the demo's evaluation on 1024 x 1024 pixels: first and end row, first and end column."""


def median_ms(call: Callable[[], object], repeats: int = 25) -> float:
    """Median time of a call, ms, after two that are not counted."""
    return statistics.median(wall for wall, _ in race({"it": call}, repeats)["it"])


def race(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Times (ms; wall, processor) of calls that take turns, after two turns that are not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            wall, busy = time.perf_counter(), time.process_time()
            call()
            if turn > 1:
                times[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - busy)))
    return times


def frame(world: World, images: Iterator[np.ndarray], window: Window | None) -> None:
    """One exposure of the next image."""
    world.show_input(next(images))
    world.expose(1e-3, window)


def bench(shape: tuple[int, int], preset: str, sensor: int) -> tuple[World, Iterator[np.ndarray]]:
    """A bench whose input panel shows images of 28 x 28 in 2 x 2 pixels each, and the images."""
    pitch = 8e-6 * 1024 / max(shape)
    geometry = Geometry(
        638e-9, 0.1, 0.075, Plane(shape, (pitch,) * 2), Plane((256, 256), (8e-6,) * 2),
        Plane((sensor, sensor), (5.5e-6,) * 2),
    )  # fmt: skip
    world = World(geometry, PRESETS[preset], seed=1, clock=DrivenClock())
    world.show_slm(np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8))
    images = np.zeros((4, 256, 256), np.uint8)
    images[:, 100:156, 100:156] = np.random.default_rng(2).integers(0, 256, (4, 56, 56))
    world.clock.sleep(10)
    return world, cycle(images)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(WORKERS)
    write = sys.stdout.write
    write(f"{WORKERS} threads, shortest of {rounds}\n")
    write(f"{'SLM':>11} {'two FFTs':>9} {'preset':>8} {'read':>13} {'frame':>8} {'ratio':>6} {'cpu':>6}  bar\n")
    for shape in ((512, 512), (1024, 1024), (1080, 1920)):
        field = np.random.default_rng(0).standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]

        def bare(field: np.ndarray = field) -> np.ndarray:
            return scipy.fft.fft2(scipy.fft.fft2(field, workers=WORKERS), workers=WORKERS)

        for preset, bar in BARS.items():
            calls: dict[str, Callable[[], object]] = {"bare": bare}
            for name, sensor in (("scaled", max(shape)), ("fixed", 1024)):
                if name == "fixed" and sensor == max(shape):
                    continue
                world, images = bench(shape, preset, sensor)
                r0, r1, c0, c1 = (sensor * edge // 1024 for edge in TILES)
                calls[f"tiles, {name}"] = partial(frame, world, images, (r0, r1, c0, c1))
                calls[f"whole, {name}"] = partial(frame, world, images, None)
            times = race(calls, rounds)
            least = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
            for name in list(calls)[1:]:
                ratio, cpu = (a / b for a, b in zip(least[name], least["bare"], strict=True))
                write(
                    f"{shape[1]:5} x{shape[0]:5} {least['bare'][0]:7.1f}ms {preset:>8} {name:>13} "
                    f"{least[name][0]:6.1f}ms {ratio:6.2f} {cpu:6.2f}  {bar} {'met' if ratio <= bar else 'missed'}\n"
                )


if __name__ == "__main__":
    main()
