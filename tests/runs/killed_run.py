"""Runs for ever and says how many frames are saved, until it is killed.

killed_run.py RUNS      runs in the folder RUNS and writes the count, a line for each frame
killed_run.py --fork    for each line "RUNS SECONDS" on standard input: runs in a process of its own, kills that with
                        SIGKILL so long after its run folder was made, and answers with the count. POSIX
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from runs_fakes import Pairs, Rig

from labctl.runs.engine import Engine
from labctl.runs.events import Captured, Event, RunStarted
from labctl.runs.store import RunStore


def tell(event: Event) -> None:
    if isinstance(event, Captured):
        sys.stdout.write(f"{event.frame.number + 1}\n")
        sys.stdout.flush()


def run_for_ever(runs: Path, observer: object) -> None:
    Engine(Rig().bench, observer=observer, store=RunStore(runs)).run(Pairs(batches=100_000))


def run_and_kill(runs: Path, frames: int, seconds: float) -> int:
    """How many frames the run had reported when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        def report(event: Event) -> None:
            if isinstance(event, Captured):
                os.write(writing, b".")
            elif isinstance(event, RunStarted):
                os.write(writing, b"!")

        try:
            run_for_ever(runs, report)
        finally:
            os._exit(1)
    os.close(writing)
    told = os.read(reading, 1).count(b".")
    while told < frames and (byte := os.read(reading, 1)):
        told += byte.count(b".")
    select.select([], [], [], seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while block := os.read(reading, 2**16):
        told += block.count(b".")
    os.close(reading)
    return told


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        for line in sys.stdin:
            folder, count, moment = line.rsplit(maxsplit=2)
            sys.stdout.write(f"{run_and_kill(Path(folder), int(count), float(moment))}\n")
            sys.stdout.flush()
    else:
        run_for_ever(Path(sys.argv[1]), tell)
