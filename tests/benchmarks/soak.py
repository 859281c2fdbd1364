"""A long run: memory, threads, handles and rate over 100,000 exposures on a small simulated bench.

    python tests/benchmarks/soak.py [--exposures 100000] [--plot docs/results/soak.png]

The bench's time passes by itself, a hundred times as fast as on the wall, so that devices, disk and procedure have
threads of their own. Every frame is simulated, paired, saved and computed on. Prints what the process holds at each
hundredth of the way, and at the end the drift of each: a straight line through the last nine tenths, as growth over all
of them.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from labctl.bench import open_bench  # noqa: E402
from labctl.bench.facts import BenchFacts  # noqa: E402
from labctl.config.load import parse_bench  # noqa: E402
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps  # noqa: E402
from labctl.runs import events  # noqa: E402
from labctl.runs.engine import Engine  # noqa: E402
from labctl.runs.recorded import open_run  # noqa: E402
from labctl.runs.store import RunStore  # noqa: E402

BENCH = """
[bench]
name = "soak"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [64, 64], pitch_um = 32.0 }
settle_ms = 100
[input]
driver = "simulated"
options = { resolution = [32, 32], pitch_um = 16.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [64, 48], pitch_um = 16.0, readout_ms = 5.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "typical"
seed = 5
clock = "real"
speed = 100
"""
BATCH, MASKS = 100, 10


@dataclass(frozen=True)
class Soak:
    """Many batches of images with changing masks, asked ahead; the laser is set between them."""

    count: int
    name: str = "soak"

    def exposures(self, facts: BenchFacts) -> int:
        """All of them."""
        return self.count

    def steps(self, facts: BenchFacts) -> Steps[float]:
        """The procedure."""
        dice = np.random.default_rng(0)
        masks = [dice.integers(0, 256, facts.geometry.slm.shape, dtype=np.uint8) for _ in range(MASKS)]
        yield Set("laser", "enabled", True)
        total, before = 0.0, None
        for batch in range(self.count // BATCH):
            yield Set("laser", "power", 0.5 + 0.4 * (batch % 2))
            images = dice.integers(0, 256, (BATCH, *facts.geometry.input.shape), dtype=np.uint8)
            frames = yield Measure(
                [Exposure(masks[batch % MASKS], image, tag={"image": i}) for i, image in enumerate(images)], ahead=True
            )
            total += sum(float(frame.data.mean()) for frame in before or ())
            yield Publish("counts", total)
            before = frames
        return total + sum(float(frame.data.mean()) for frame in before or ())


@dataclass
class Watch:
    """What the process holds, now and then."""

    every: int
    process: psutil.Process = field(default_factory=psutil.Process)
    rows: list[tuple[int, float, float, int, int, int]] = field(default_factory=list)
    seen: int = 0
    began: float = field(default_factory=time.perf_counter)

    def __call__(self, event: events.Event) -> None:
        """An engine's observer."""
        if not isinstance(event, events.Captured):
            return
        self.seen += 1
        if self.seen % self.every:
            return
        now = time.perf_counter()
        rate, self.began = self.every / (now - self.began), now
        handles = self.process.num_handles() if sys.platform == "win32" else self.process.num_fds()
        row = (
            self.seen, rate, self.process.memory_info().rss / 2**20, threading.active_count(), handles,
            len(self.process.open_files()),
        )  # fmt: skip
        self.rows.append(row)
        say("{:8} {:8.1f} /s {:8.1f} MiB {:3} threads {:4} handles {:3} files".format(*row))


def say(line: str) -> None:
    """A line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def plot(rows: np.ndarray, path: Path) -> None:
    """Rate and memory over the run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, middle, low) = plt.subplots(3, 1, figsize=(7, 6.4), sharex=True, layout="constrained")
    top.plot(rows[:, 0], rows[:, 1], color="#1f6f8b")
    top.set_ylabel("exposures / s")
    middle.plot(rows[:, 0], rows[:, 2], color="#99582a")
    middle.set_ylabel("resident memory (MiB)")
    low.plot(rows[:, 0], rows[:, 3], color="#3a5a40", label="threads")
    low.plot(rows[:, 0], rows[:, 4], color="#6d597a", label="handles")
    low.plot(rows[:, 0], rows[:, 5], color="#bc6c25", label="open files")
    low.set_xlabel("exposures")
    low.legend(loc="upper right", ncols=3, frameon=False)
    for axis, columns in ((top, [1]), (middle, [2]), (low, [3, 4, 5])):
        axis.set_ylim(0, 1.3 * rows[:, columns].max())
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=100_000)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    threads = threading.active_count()
    watch = Watch(max(arguments.exposures // 100, BATCH))
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(parse_bench(BENCH))
        engine = Engine(bench, observer=watch, store=RunStore(Path(folder)))
        engine.run(Soak(arguments.exposures))
        bench.close()
        saved = open_run(Path(engine.folder or "")).frame_count
    gc.collect()
    rows = np.array(watch.rows, dtype=float)
    tail = rows[len(rows) // 10 :]
    names = ("rate (/s)", "memory (MiB)", "threads", "handles", "open files")
    for column, name in enumerate(names, start=1):
        slope, _ = np.polyfit(tail[:, 0], tail[:, column], 1)
        say(f"{name:13} {tail[:, column].mean():10.2f} on average, drift {slope * np.ptp(tail[:, 0]):+8.2f} in all")
    say(f"saved {saved} of {arguments.exposures}; threads left {threading.active_count() - threads}")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
