"""How long an abort takes while a device hangs, at each kind of call: ``python tests/benchmarks/abort.py [repeats]``.

Prints the time from the request to the idle engine, bench made safe. Bar: 0.5 s and one frame, which is 5 ms here.
"""

from __future__ import annotations

import logging
import statistics
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import test_hangs as hangs

from labctl.bench import bench as bench_module
from labctl.config.schema import RecoverySection
from labctl.errors import Aborted
from labctl.runs.engine import Engine

LONG_S = 60.0


def abort_s(device: str, method: str) -> float:
    """One run that is aborted a while after a call began to hang."""
    one = hangs.tiny(device, method)
    one.bench.recovery = RecoverySection(hang_s=LONG_S, wait_s=0.0)
    hang, engine, asked = hangs.Hang(one, device, method), Engine(one.bench), []

    def abort() -> None:
        hang.reached.wait(LONG_S)
        threading.Event().wait(0.05)
        asked.append(time.monotonic())
        engine.abort()

    other = threading.Thread(target=abort)
    other.start()
    with suppress(Aborted):
        engine.run(hangs.COURSE)
    took_s = time.monotonic() - asked[0]
    other.join()
    hang.release.set()
    hang.ended.wait(LONG_S)
    hangs.ended_threads()
    one.bench.close()
    return took_s


def main() -> None:
    """All calls."""
    logging.disable(logging.ERROR)
    bench_module.OPENING_S = LONG_S
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for device, method in hangs.AT_CALLS:
        took_s = [abort_s(device, method) for _ in range(repeats)]
        sys.stdout.write(f"{device}.{method}: median {statistics.median(took_s):.3f} s, worst {max(took_s):.3f} s\n")


if __name__ == "__main__":
    main()
