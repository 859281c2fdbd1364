"""How long after labctl's death by SIGKILL its guardian's ``laser off`` reaches the laser's firmware. POSIX.

    python tests/benchmarks/guardian.py [REPEATS]

Prints the times (ms), and how long opening a bench takes with and without a guardian.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from labctl.bench.guardian import Guardian
from labctl.clock import DrivenClock
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import resolve
from labctl.simulation.instruments import Firmware
from labctl.simulation.terminal import Terminal
from labctl.simulation.world import World

ROOT = Path(__file__).resolve().parent.parent
LIGHT = (ROOT / "safety" / "conftest.py").read_text(encoding="utf-8").split('LIGHT = """')[1].split('"""')[0]
LASER = """
[instruments.laser]
driver = "serial"
role = "laser"
[instruments.laser.options]
port = "PORT"
safe = [["enabled", false]]
settings.enabled = { set = "OUTP {value}", get = "OUTP?", type = "bool" }
"""


def one(folder: Path) -> float:
    plane = Plane((16, 16), (8e-6, 8e-6))
    world = World(Geometry(638e-9, 0.1, 0.1, plane, plane, plane), resolve("ideal", {}), seed=0, clock=DrivenClock())
    with Terminal(Firmware(world, "laser")) as laser:
        file = folder / "small.toml"
        file.write_text(LIGHT + LASER.replace("PORT", laser.port), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "safety" / "killed_bench.py"), str(file), "kill"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT.parent)},
        )  # fmt: skip
        process.stdout.readline()
        begun = time.perf_counter()
        process.kill()
        if not laser.wait_for("OUTP 0", 30):
            raise SystemExit("the laser stayed on")
        took = time.perf_counter() - begun
        process.communicate()
        return took


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        times = [one(Path(folder)) * 1e3 for _ in range(repeats)]
    starts = []
    for _ in range(repeats):
        begun = time.perf_counter()
        guardian = Guardian([])
        guardian.wait_ready()
        starts.append((time.perf_counter() - begun) * 1e3)
        guardian.stand_down()
    sys.stdout.write(
        f"SIGKILL to 'laser off' at the firmware: median {statistics.median(times):.0f} ms, "
        f"worst {max(times):.0f} ms of {repeats}\n"
        f"start of a guardian: median {statistics.median(starts):.0f} ms, worst {max(starts):.0f} ms\n"
    )


if __name__ == "__main__":
    main()
