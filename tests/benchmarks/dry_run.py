"""What a dry run says a procedure will take, and what it then takes, on a simulated bench in real time.

    python tests/benchmarks/dry_run.py [--images 60] [--size 512] [--times 3]

Bar: within 10 %, on a computer that has nothing else to do.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from labctl.bench import open_bench
from labctl.config.load import parse_bench
from labctl.config.schema import BenchConfig
from labctl.runs.dry import DryRun
from labctl.runs.offers import prepare
from labctl.runs.session import execute
from labctl.runs.standin import stand_in
from labctl.workspace import Workspace, example

BENCH = """
[bench]
name = "real-time"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = {{ resolution = [{slm}, {slm}], pitch_um = {pitch} }}
settle_ms = {settle}
[input]
driver = "simulated"
options = {{ resolution = [96, 96], pitch_um = 5.0 }}
settle_ms = 40
[camera]
driver = "simulated"
options = {{ resolution = [{camera}, {camera}], pitch_um = {camera_pitch}, readout_ms = {readout} }}
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "mild"
seed = 7
clock = "real"
effects = {{ slm_rise_s = {rise} }}
"""


def bench_of(size: int, settle_ms: float, readout_ms: float) -> BenchConfig:
    """A bench whose field of view stays the same whatever the size."""
    rise = settle_ms / 5e3  # the crystal has settled when the bench file says so
    values = {
        "rise": rise,
        "pitch": 12.0 * 512 / size,
        "camera_pitch": 8.0 * 512 / size,
        "settle": settle_ms,
        "readout": readout_ms,
    }
    return parse_bench(BENCH.format(slm=size, camera=size, **values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--times", type=int, default=3, help="goes, of which the median counts")
    parser.add_argument("--size", type=int, default=512)
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    workspace = Workspace(example())
    ratios: dict[tuple[str, float], list[float]] = {}
    steps: list[tuple[str, dict[str, Any]]] = [("calibrate", {}), ("evaluate", {"images": given.images})]
    for (settle, readout), _ in itertools.product(((150.0, 5.0), (20.0, 25.0)), range(given.times)):
        config = bench_of(given.size, settle, readout)
        with tempfile.TemporaryDirectory() as folder:
            calibration = Path(folder, "calibration")
            for name, parameters in steps:
                begun = time.perf_counter()
                standin = stand_in(config, calibration)
                try:
                    said = DryRun(standin, config).follow(prepare(name, parameters, workspace, config).procedure)
                finally:
                    standin.bench.close()
                if said.problems:
                    sys.exit("; ".join(said.problems))
                looked = time.perf_counter() - begun
                prepared = prepare(name, parameters, workspace, config)
                bench = open_bench(config, calibration_dir=calibration)
                try:
                    begun = time.perf_counter()
                    execute(prepared.procedure, bench, runs_dir=Path(folder, "runs"), calibration_dir=calibration)
                    took = time.perf_counter() - begun
                finally:
                    bench.close()
                ratio = said.seconds / took
                ratios.setdefault((name, settle), []).append(ratio)
                sys.stdout.write(
                    f"settle {settle:5.0f} ms  {name:>10}: {said.exposures:4d} exposures, said {said.seconds:6.2f} s, "
                    f"took {took:6.2f} s, ratio {ratio:.3f}; the dry run took {looked:.1f} s\n"
                )
                sys.stdout.flush()
    worst = max(abs(statistics.median(found) - 1) for found in ratios.values())
    for (name, settle), found in ratios.items():
        sys.stdout.write(
            f"{name}, settle {settle:.0f} ms: ratio {statistics.median(found):.3f} (median of {len(found)})\n"
        )
    if hasattr(os, "getloadavg"):
        sys.stdout.write(f"load of this computer: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    sys.stdout.write(f"{'met' if worst <= 0.1 else 'MISSED'}: within 10 % (worst {100 * worst:.1f} %)\n")


if __name__ == "__main__":
    main()
