"""Accuracy of the shipped model through its first steps on several simulated benches, and the table that shows it.

    python docs/results/first_light.py [--images 1000] [--seeds 7 8 9] [--preset typical]

Writes ``first-light.json`` and ``first-light.md`` beside this file. Each bench seed draws another world; the same test
images are shown on each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from labctl.bench import open_bench
from labctl.config.load import load_bench
from labctl.procedures.demo import Demo
from labctl.runs.engine import Engine
from labctl.runs.events import Progressed
from labctl.runs.preparing import prepare_task

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def one(seed: int, preset: str, images: int, train: int) -> dict[str, Any]:
    """Run the demo on one bench."""
    config = load_bench(ROOT / "configs" / "benches" / "sim-4f.toml")
    simulation = config.simulation.model_copy(update={"seed": seed, "preset": preset})
    task = prepare_task("fashion-mnist-sclc", ROOT / "models", images=images, train=train)
    bench = open_bench(config.model_copy(update={"simulation": simulation}))

    def show(event: Any) -> None:
        if isinstance(event, Progressed) and event.done % 100 == 0:
            sys.stderr.write(f"seed {seed}: {event.done}/{event.total} {event.label}\n")

    try:
        result = Engine(bench, observer=show).run(Demo(task))
    finally:
        bench.close()
    return {
        "seed": seed,
        "preset": preset,
        "data": task.data_source,
        "arms": [arm.row() for arm in result.arms],
        "tile_r_uncalibrated": float(np.nanmean(result.tile_r_uncalibrated)),
        "tile_r_calibrated": float(np.nanmean(result.tile_r_calibrated)),
        "tile_r_calibrated_worst": float(np.nanmin(result.tile_r_calibrated)),
        "twin_r": result.twin_r,
        "efficiency": result.efficiency,
    }


def main() -> None:
    """Run every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--preset", nargs="+", default=["typical"])
    given = parser.parse_args()
    runs = [one(seed, preset, given.images, given.train) for preset in given.preset for seed in given.seeds]
    (HERE / "first-light.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# First light: the shipped Fashion-MNIST student on simulated benches",
        "",
        f"{given.images} test images ({runs[0]['data']}) on each of {len(given.seeds)} benches (seeds "
        f"{', '.join(map(str, given.seeds))}), {given.train} training captures for the refit. Accuracy in per cent: "
        "mean over benches (lowest to highest); every single figure has a 95 % Wilson interval in `first-light.json`. "
        "Made by `python docs/results/first_light.py"
        + (f" --preset {' '.join(given.preset)}" if given.preset != ["typical"] else "")
        + "`.",
        "",
        "| | " + " | ".join(given.preset) + " |",
        "|---|" + "---|" * len(given.preset),
    ]
    for i, arm in enumerate(runs[0]["arms"]):
        cells = []
        for preset in given.preset:
            values = [run["arms"][i]["accuracy (%)"] for run in runs if run["preset"] == preset]
            cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        lines.append(f"| {arm['arm']} | " + " | ".join(cells) + " |")
    for key, name in (
        ("tile_r_uncalibrated", "tiles against conv2d, Pearson r, uncalibrated"),
        ("tile_r_calibrated", "the same, calibrated"),
        ("tile_r_calibrated_worst", "the same, worst tile"),
        ("twin_r", "captured maps against the twin, Pearson r"),
    ):
        cells = []
        for preset in given.preset:
            values = [run[key] for run in runs if run["preset"] == preset]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    (HERE / "first-light.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
