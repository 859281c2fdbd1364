"""Runs for ever and says how many frames are saved, until it is killed. Arguments: the runs folder."""

from __future__ import annotations

import sys
from pathlib import Path

from runs_fakes import Pairs, Rig

from labctl.runs.engine import Engine
from labctl.runs.events import Captured, Event
from labctl.runs.store import RunStore


def tell(event: Event) -> None:
    if isinstance(event, Captured):
        sys.stdout.write(f"{event.frame.number + 1}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    Engine(Rig().bench, observer=tell, store=RunStore(Path(sys.argv[1]))).run(Pairs(batches=100_000))
