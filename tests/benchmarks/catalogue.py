"""How long listing 5,000 run folders takes: the first time, from the index, with a filter, and the newest 30 only.

    python tests/benchmarks/catalogue.py [--runs 5000]

Bar: under 0.5 s once they are indexed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))

from busy_catalogue import make_run

from labctl.runs.catalogue import list_runs, rebuild_index


def seconds(action: Callable[[], object], times: int = 5) -> float:
    """Median over a few goes."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        runs_dir = Path(folder, "runs")
        runs_dir.mkdir()
        for number in range(count):
            name, tags = ("evaluate", ["night"]) if number % 2 else ("calibrate", [])
            make_run(runs_dir, name, number, provenance={"models": {"fashion": "ab"}, "tags": tags})
        first = seconds(lambda: rebuild_index(runs_dir), 1)
        every = seconds(lambda: list_runs(runs_dir))
        some = seconds(lambda: list_runs(runs_dir, procedure="evaluate", model="fashion", tags=["night"]))
        newest = seconds(lambda: list_runs(runs_dir, limit=30))
        if len(list_runs(runs_dir)) != count:
            sys.exit("runs were missed")
    for what, taken in (("indexing", first), ("all", every), ("filtered", some), ("newest 30", newest)):
        sys.stdout.write(f"{what:>10} of {count:,} runs: {taken:6.3f} s\n")
    sys.stdout.write(f"{'met' if every < 0.5 else 'MISSED'}: the bar of 0.5 s\n")


if __name__ == "__main__":
    main()
