"""Calibrates and evaluates in a small lab, is killed at random moments, is resumed, and says whether the results equal
those of the run that was left alone. One line of JSON for each moment.

Arguments: an empty folder, how many moments, and the seed of the moments.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import shutil
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from small_lab import CALIBRATE, make_lab

from labctl.bench import open_bench
from labctl.config.load import load_bench
from labctl.runs.again import config_to_use, keep_what_was_learned, may_resume, resume
from labctl.runs.catalogue import list_runs
from labctl.runs.comparing import differences
from labctl.runs.events import Captured, Event
from labctl.runs.offers import prepare, prepare_again
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.session import execute, make_engine
from labctl.workspace import Workspace

WORK: tuple[tuple[str, dict[str, Any]], ...] = (
    ("calibrate", CALIBRATE),
    ("evaluate", {"model": "tiny", "images": 6, "train": 12, "seed": 1}),
)


def work(root: Path, pipe: Connection) -> None:
    """One run after the other; what was cut off the last time is resumed. A word through the pipe for every frame."""

    def tell(event: Event) -> None:
        if isinstance(event, Captured):
            pipe.send(event.frame.number)

    workspace = Workspace(root)
    for name, parameters in WORK:
        before = latest(root, name)
        if before is not None and before.outcome == "done":
            keep_what_was_learned(before, workspace.calibration)
        elif before is not None:
            go_on(before, workspace, tell)
        else:
            config = load_bench("small", workspace)
            prepared = prepare(name, parameters, workspace, config)
            bench = open_bench(config, calibration_dir=workspace.calibration)
            try:
                execute(
                    prepared.procedure, bench, runs_dir=workspace.runs, calibration_dir=workspace.calibration,
                    provenance=prepared.provenance, observer=tell,
                )  # fmt: skip
            finally:
                bench.close()


def go_on(recorded: RecordedRun, workspace: Workspace, tell: Callable[[Event], None]) -> None:
    """As `labctl runs resume` does."""
    may_resume(recorded)
    config, _ = config_to_use(recorded, workspace)
    prepared = prepare_again(recorded, workspace, config)
    bench = open_bench(config, calibration_dir=workspace.calibration)
    try:
        engine = make_engine(bench, runs_dir=recorded.path.parent, observer=tell)
        resume(recorded, prepared, engine, calibration_dir=workspace.calibration)
    finally:
        bench.close()


def latest(root: Path, procedure: str) -> RecordedRun | None:
    found = list_runs(root / "runs", procedure=procedure, limit=1)
    return open_run(found[0].path) if found else None


def state(root: Path) -> str:
    """How far it came: the outcome of the last run there is, and its frames."""
    for name, _ in reversed(WORK):
        run = latest(root, name)
        if run is not None:
            return f"{name} {run.outcome}, {run.frame_count} frames"
    return "before the first run"


def unequal(root: Path, whole: Path) -> list[str]:
    """Where the results differ from those of the run that was left alone."""
    found = []
    for name, _ in WORK:
        one, other = latest(root, name), latest(whole, name)
        if one is None or other is None or one.outcome != "done":
            found.append(f"{name} is not done")
            continue
        found += [f"{name}: {line}" for line in differences(other.result, one.result)]
        if frames_of(one) != frames_of(other):
            found.append(f"{name}: the frames differ")
        if one.frame_count != other.frame_count:
            found.append(f"{name}: {one.frame_count} frames, not {other.frame_count}")
    return found


def frames_of(run: RecordedRun) -> list[Any]:
    """What there is to know of every frame; NaN, which equals nothing, as text."""
    return [
        (f.data.tobytes(), f.number, f.started, f.ended, f.exposure_s, f.origin, f.tag, f.slm, f.input, f.slm_before,
         repr((f.shown_slm, f.shown_input, f.repeats)))
        for f in run.frames(check=True)
    ]  # fmt: skip


def main(folder: Path, moments: int, seed: int) -> None:
    posix = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if posix else "spawn")
    if posix:
        context.set_forkserver_preload(["killed_lab", "labctl.procedures.demo", "labctl.devices.adapter"])
    lab = folder / "lab"
    make_lab(lab)

    def attempt(root: Path, frames: float = math.inf, more_s: float = 0.0) -> int:
        """Let it work; kill it a moment after so many frames. Returns how many frames it told of."""
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(root, theirs))
        process.start()
        theirs.close()
        told = 0
        try:
            while told < frames:
                ours.recv()
                told += 1
            process.join(more_s)
            process.kill()
        except EOFError:  # it has ended by itself
            pass
        process.join()
        ours.close()
        return told

    whole = folder / "whole"
    shutil.copytree(lab, whole)
    count = attempt(whole)
    dice = random.Random(seed)
    for number in range(moments):
        root = folder / f"moment-{number}"
        shutil.copytree(lab, root)
        states = []
        for _ in range(1 + (number % 3 == 2)):  # every third is killed twice
            attempt(root, dice.randrange(count), dice.uniform(0.0, 0.1))
            states.append(state(root))
        attempt(root)
        line = {"moment": number, "killed": states, "unequal": unequal(root, whole)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
