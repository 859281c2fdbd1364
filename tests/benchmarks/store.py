"""A saved frame against a raw write of the same bytes, and the processor time of saving 500 frames/s.

    python tests/benchmarks/store.py [FOLDER]

Raw: one ``os.write`` of the frame to a plain file opened unbuffered, and a flush (which has nothing left to do). Saved:
`RunFolder.write_frame`: pixels, checksum, row of the table, tag. Either way the bytes are in the hands of the operating
system afterwards, which is what survives a killed process; nobody syncs. Both write into FOLDER (default: the temporary
folder), by turns, so that both meet the same moods of the disk and of the machine. The frames are drawn from a set
larger than the processor's nearer caches, as they are when they come from a camera. On a machine with other work to do
the tenth percentile says most about the two writes, and the mean most about the other work.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from labctl.bench.frames import Frame
from labctl.procedures.messages import Exposure
from labctl.runs.store import RunFolder
from labctl.runs.values import write_json

SIZES = (((212, 704), 2000), ((1024, 1024), 300), ((2048, 2448), 60))
"""Frames of 16 bits, and how many."""
ROUNDS = 4
TURN = 20
"""Frames that one of the two writes before it is the other's turn."""


def raw_writer(folder: Path) -> tuple:
    file = (folder / "raw").open("wb", buffering=0)

    def write(frame: Frame) -> None:
        os.write(file.fileno(), frame.data)
        file.flush()

    return write, file.close


def run_writer(folder: Path) -> tuple:
    path = folder / "run"
    path.mkdir()
    write_json(path / "run.json", {"format": "benchmark"})
    run, exposure = RunFolder(path), Exposure()

    def write(frame: Frame) -> None:
        run.write_frame(frame, exposure, batch=0, position=frame.number)

    return write, run.close


def a_frame(data: np.ndarray, number: int) -> Frame:
    return Frame(
        data, number, 0.002 * number, 0.002 * number + 0.001, 0.001, "5" * 16, f"{number:016x}",
        tag={"image": number}, shown_slm=0.0, shown_input=0.002 * number, slm_before="6" * 16,
    )  # fmt: skip


def one_round(folder: Path, frames: list[np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Per frame and writer: time, and processor time of the writing thread (ms)."""
    for name in ("raw", "run"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    writers = {"raw": raw_writer(folder), "run": run_writer(folder)}
    taken: dict[str, list[tuple[float, float]]] = {"raw": [], "run": []}
    for start in range(0, count, TURN):
        for name, (write, _) in writers.items():
            for number in range(start, min(start + TURN, count)):
                frame = a_frame(frames[number % len(frames)], number)
                begun, before = time.perf_counter(), time.thread_time()
                write(frame)
                used = time.thread_time() - before
                taken[name].append((time.perf_counter() - begun, used))
    for _, close in writers.values():
        close()
    return {name: np.array(values) * 1e3 for name, values in taken.items()}


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else None
    say = sys.stdout.write
    heads = "".join(f"{head:>9}" for head in ("mean ms", "p10 ms", "p50 ms", "p99 ms", "cpu ms"))
    say(f"{'frame, uint16':21}{heads}   raw/saved: mean  p10   p50   cpu   processor at 500/s\n")
    with tempfile.TemporaryDirectory(dir=where) as name:
        for shape, count in SIZES:
            pool = max(4, int(96e6 / (2 * shape[0] * shape[1])))
            rng = np.random.default_rng(0)
            frames = [rng.integers(0, 4096, shape, np.uint16) for _ in range(pool)]
            one_round(Path(name), frames, count)
            rounds = [one_round(Path(name), frames, count) for _ in range(ROUNDS)]
            figures = {}
            for writer in ("raw", "run"):
                wall, cpu = np.concatenate([each[writer] for each in rounds]).T
                figures[writer] = (wall.mean(), *np.percentile(wall, [10, 50, 99]), cpu.mean())
            ratios = [a / b for a, b in zip(figures["raw"], figures["run"], strict=True)]
            ratios[0] = float(np.median([each["raw"][:, 0].mean() / each["run"][:, 0].mean() for each in rounds]))
            for writer, label in (("raw", "raw"), ("run", "saved")):
                say(f"{shape[0]}x{shape[1]}".ljust(15) + f"{label:6}" + "".join(f"{v:9.3f}" for v in figures[writer]))
                if writer == "run":
                    say(f"{'':14}" + "".join(f"{ratio:6.2f}" for ratio in (*ratios[:3], ratios[4])))
                    say(f"{figures['run'][4] * 0.5:8.2f}")
                say("\n")


if __name__ == "__main__":
    main()
