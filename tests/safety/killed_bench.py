"""Opens a bench file with its laser on, says so, and then dies as it is told to: ``killed_bench.py FILE DEATH``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from labctl.bench import open_bench
from labctl.config.load import load_bench


def main(file: str, death: str) -> None:
    bench = open_bench(load_bench(Path(file)))
    for name in bench.facts.instruments:
        bench.set(name, "enabled" if bench.facts.instruments[name] == "laser" else "open", True)
    heir = 0
    if death == "fork":  # a child that outlives us must not hide our death
        heir = os.fork()
        if heir == 0:
            sys.stdin.readline()
            os._exit(0)
    guardian = bench._guardian
    sys.stdout.write(json.dumps({"guardian": guardian.pid if guardian else 0, "heir": heir}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()
    if death == "abort":
        os.abort()
    if death == "exception":
        raise RuntimeError("nobody closes the bench")
    if death == "close":
        bench.close()
    if death in ("close", "exit"):
        sys.exit(0)
    sys.stdin.readline()  # killed here


if __name__ == "__main__":
    main(*sys.argv[1:])
