"""From which kernel size on the spectral path of a front is faster than `conv2d`; forward and backward.

    python tests/benchmarks/spectral_crossover.py [--repeats 3] [--draw] [--quick]

One layer, its kernels trained: the images need no gradient. Each pair of timings is taken one after the other on one
thread, in CPU seconds, which other work on the machine disturbs least; the best of the repeats counts. Prints
milliseconds per image and the ratio, and with --draw writes docs/results/spectral-crossover.png. `DIRECT_UP_TO` in
labctl/learning/student.py is set from it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from labctl.learning.student import SpectralCascade

ROOT = Path(__file__).resolve().parents[2]
KERNELS = (3, 5, 7, 9, 11, 13, 15, 19, 23, 27, 31)
SIDES = (28, 32, 64, 128)
FRONTS = {"1 channel, 8 maps": (1, 8), "3 channels, 16 maps": (3, 16)}
BATCH = {28: 64, 32: 64, 64: 16, 128: 4}


def cpu_seconds(work: Callable[[], Tensor], parameters: list[Tensor], repeats: int) -> float:
    """Best of the repeats, forward and backward; one turn before that does not count."""
    best = float("inf")
    for turn in range(repeats + 1):
        for parameter in parameters:
            parameter.grad = None
        start = time.process_time()
        maps = work()
        maps.backward(torch.ones_like(maps))
        if turn:
            best = min(best, time.process_time() - start)
    return best


def measure(channels: int, maps: int, side: int, kernel: int, repeats: int) -> tuple[float, float]:
    """CPU seconds per image by conv2d, and by the spectral path."""
    front = SpectralCascade(maps, channels, (kernel,), image=side).to(memory_format=torch.channels_last)
    images = torch.rand(BATCH[side], channels, side, side).contiguous(memory_format=torch.channels_last)
    parameters = list(front.parameters())
    direct = cpu_seconds(lambda: conv2d(images, front.fused_kernels(), padding=kernel // 2), parameters, repeats)
    spectral = cpu_seconds(lambda: front.spectral(images), parameters, repeats)
    return direct / BATCH[side], spectral / BATCH[side]


def crossover(kernels: list[int], ratios: list[float]) -> float:
    """Kernel size at which direct / spectral passes 1 for good, on a straight line between two sizes; nan if never."""
    for i in reversed(range(len(kernels))):
        if ratios[i] < 1:
            if i + 1 == len(kernels):
                return float("nan")
            part = (1 - ratios[i]) / (ratios[i + 1] - ratios[i])
            return kernels[i] + part * (kernels[i + 1] - kernels[i])
    return float(kernels[0])


def draw(found: dict[str, dict[int, tuple[list[int], list[float]]]], path: Path) -> None:
    """Ratio over kernel size, one panel per front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 4.2 * len(found), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, sides) in zip(panels, found.items(), strict=True):
        for colour, (side, (kernels, ratios)) in zip(
            ("#0072b2", "#e69f00", "#009e73", "#cc79a7"), sides.items(), strict=False
        ):
            at = crossover(kernels, ratios)
            label = f"{side}x{side}: " + ("not up to 31" if at != at else f"from {at:.0f}")
            axes.plot(kernels, ratios, "o-", ms=4, lw=1.6, color=colour, label=label)
            if at == at:
                axes.plot([at], [1], "D", ms=8, mfc="none", mew=1.6, color=colour)
        axes.axhline(1, color="#59626d", lw=1)
        axes.set_yscale("log")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("kernel size (pixels)")
        axes.legend(frameon=False, fontsize=8, title="image: spectral is faster", title_fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, which="major", color="#e2e5ea", lw=0.6)
    panels[0].set_ylabel("time of conv2d / time of spectral path\n(forward and backward, one CPU core)")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="Write docs/results/spectral-crossover.png.")
    parser.add_argument("--quick", action="store_true", help="Fewer kernels, images of 28 and 64 only.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    write = sys.stdout.write
    kernels = list(KERNELS[::3] if asked.quick else KERNELS)
    found: dict[str, dict[int, tuple[list[int], list[float]]]] = {}
    for name, (channels, maps) in FRONTS.items():
        for side in (28, 64) if asked.quick else SIDES:
            write(f"\n{name}, images {side}x{side}: ms per image by conv2d / spectral, and their ratio\n")
            ratios = []
            for kernel in kernels:
                direct, spectral = measure(channels, maps, side, kernel, asked.repeats)
                ratios.append(direct / spectral)
                write(f"  {kernel:2}x{kernel:<2} {1e3 * direct:8.3f} / {1e3 * spectral:7.3f}   {ratios[-1]:5.2f}\n")
                sys.stdout.flush()
            found.setdefault(name, {})[side] = (kernels, ratios)
            write(f"  spectral is faster from kernel size {crossover(kernels, ratios):.1f}\n")
    if asked.draw:
        draw(found, ROOT / "docs" / "results" / "spectral-crossover.png")


if __name__ == "__main__":
    main()
