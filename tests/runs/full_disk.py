"""Saves frames until the disk refuses, then says in what words and copies the run folder to where it can be looked at.

Arguments: the runs folder, where to copy to, and how the disk refuses: "tmpfs" (a real one of 48 MB, mounted here in a
namespace of our own), "surprise" (the same, but it claims to have room until it refuses), or "limit" (files of this
process may not grow beyond 20 MB).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
from runs_fakes import Pairs, Rig

from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.procedures.messages import Exposure
from labctl.runs.store import RunStore


def main(runs: Path, copy: Path, how: str) -> None:
    runs.mkdir()
    if how == "limit":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 2**20, 20 * 2**20))
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(runs)], check=True)
    if how == "surprise":
        usage = namedtuple("usage", "total used free")
        shutil.disk_usage = lambda _: usage(10**15, 0, 10**15)
    folder = RunStore(runs).create(Pairs(), Rig().bench)
    saved, words = 0, []
    for number in range(200):
        data = np.random.default_rng(number).integers(0, 4096, (512, 1024), np.uint16)
        try:
            folder.write_frame(Frame(data, number, 0.0, 0.0, 0.1, "", "", tag={"n": number}), Exposure())
            saved += 1
        except RunError as error:
            words.append(str(error))
            if len(words) == 3:
                break
    ended = ""
    try:
        folder.finish("failed", message=words[0])
    except RunError as error:
        ended = str(error)
    left = [path.name for path in folder.path.iterdir() if path.name.startswith(".") or path.suffix == ".part"]
    shutil.copytree(folder.path, copy)
    sys.stdout.write(json.dumps({"saved": saved, "words": words, "ended": ended, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
