"""`labctl align` on simulated benches out of line: figures before and after, frames, turns; against the truth.

    python docs/results/align.py                     # typical and nasty, 5 seeds each, on a 256 px SLM
    python docs/results/align.py --slm 1024 --seeds 1
    python docs/results/align.py --write docs/results/align.md

Screws have slack, scales that are off, coupling, and some go the other way. Scoring only: it reads the world's truth.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labctl.bench import opening
from labctl.config.load import load_bench
from labctl.procedures.align import Align, Alignment
from labctl.runs.engine import Engine
from labctl.simulation.effects import Truth

BENCH = """
[bench]
name = "table"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = {{ resolution = [{slm}, {slm}], pitch_um = 8.0 }}
settle_ms = 250
[input]
driver = "simulated"
options = {{ resolution = [{panel}, {panel}], pitch_um = 8.0 }}
settle_ms = 5
[camera]
driver = "simulated"
options = {{ resolution = [{camera}, {camera}], pitch_um = 5.5 }}
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "{preset}"
seed = {seed}
[simulation.effects]
{effects}
"""
STARTS: dict[str, dict[str, dict[str, float]]] = {
    "typical": {"typical": {}},
    "nasty": {"nasty": {}},
    "far": {"nasty": {"fourier_shift_px": 80, "camera_shift_px": 60, "camera_focus_mm": 6, "beam_offset_px": 50,
                      "pupil_apodisation": 0.6}},
}  # fmt: skip
"""Where a bench starts from: a preset and what replaces its sizes."""


@dataclass(frozen=True)
class Outcome:
    start: str
    seed: int
    found: Alignment
    frames: int
    minutes: float
    before: Truth
    after: Truth
    mm_per_wave: float


def run(start: str, seed: int, slm: int) -> Outcome:
    ((preset, more),) = STARTS[start].items()
    effects = "\n".join(f"{name} = {value}" for name, value in more.items())
    sizes = {"slm": slm, "panel": 128 if slm < 512 else 256, "camera": 640 if slm < 512 else 1024}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.toml")
        path.write_text(BENCH.format(preset=preset, seed=seed, effects=effects, **sizes), encoding="utf-8")
        bench = opening.open_bench(load_bench(str(path)))
    world: Any = bench.hand._world  # type: ignore[union-attr]
    before, begun = world._truth, bench.clock.now()
    engine = Engine(bench)
    try:
        found = engine.run(Align())
    finally:
        bench.close()
    g = bench.facts.geometry
    mm_per_wave = 4 * 3**0.5 * g.wavelength * g.f2**2 / (min(g.slm.extent) / 2) ** 2 * 1e3
    minutes = (bench.clock.now() - begun) / 60
    return Outcome(start, seed, found, engine.snapshot().captured, minutes, before, world._truth, mm_per_wave)


def truths(truth: Truth, mm_per_wave: float) -> dict[str, float]:
    """What the figures of merit are about, as the world has it."""
    angle = truth.camera_rotation + truth.camera_turns * np.pi / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([1.0, -1.0 if truth.camera_mirror else 1.0])
    picture = np.linalg.inv(turn) @ (-0.75 * 8 / 5.5 * np.asarray(truth.input_shift)) + np.asarray(truth.camera_shift)
    return {
        "zero frequency off (SLM px)": float(np.hypot(*truth.fourier_shift)),
        "panel against SLM (deg)": abs(float(np.rad2deg(truth.input_rotation - truth.fourier_rotation))),
        "zero order off (camera px)": float(np.hypot(*picture)),
        "camera against SLM (deg)": abs(float(np.rad2deg(truth.camera_rotation))),
        "defocus, all together (waves rms)": abs(float(truth.zernikes[4] - truth.camera_focus * 1e3 / mm_per_wave)),
        "beam off (SLM px)": float(np.hypot(*truth.beam_offset)),
    }


def report(outcomes: list[Outcome]) -> str:
    lines = [
        "| start | seed | all targets met | frames | turns | bench time (min) |", "|---|---|---|---|---|---|",
        *(
            f"| {o.start} | {o.seed} | {_yes(o.found.ok)} | {o.frames} | {o.found.turns} | {o.minutes:.1f} |"
            for o in outcomes
        ),
        "", "As the procedure saw it: mean (worst) over the seeds.", "",
        "| start | figure of merit | before | after | target |", "|---|---|---|---|---|",
    ]  # fmt: skip
    starts = list(dict.fromkeys(o.start for o in outcomes))
    for start in starts:
        mine = [o for o in outcomes if o.start == start]
        for rows in zip(*(o.found.rows for o in mine), strict=True):
            before, after = ([getattr(row, name) for row in rows] for name in ("before", "after"))
            merit, target = f"{rows[0].merit} ({rows[0].unit})", f"{rows[0].target:.3g}"
            lines.append(f"| {start} | {merit} | {_figures(before)} | {_figures(after)} | {target} |")
    lines += [
        "",
        "As it is: mean (worst) over the seeds.",
        "",
        "| start | in truth | before | after |",
        "|---|---|---|---|",
    ]
    for start in starts:
        mine = [o for o in outcomes if o.start == start]
        was = [truths(o.before, o.mm_per_wave) for o in mine]
        now = [truths(o.after, o.mm_per_wave) for o in mine]
        for name in was[0]:
            lines.append(
                f"| {start} | {name} | {_figures([w[name] for w in was])} | {_figures([n[name] for n in now])} |"
            )
    notes = [
        f"- {o.start}, seed {o.seed}: {row.merit}: {row.note}" for o in outcomes for row in o.found.rows if not row.ok
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _yes(ok: bool) -> str:
    return "yes" if ok else "NO"


def _figures(values: list[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    return f"{np.mean(known):.3g} ({max(known):.3g})" if known else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", nargs="+", choices=STARTS, default=["typical", "nasty"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=21, help="the first seed")
    parser.add_argument("--slm", type=int, default=256, help="side of the SLM, px of 8 um")
    parser.add_argument("--write", type=Path, help="put the tables into this page, below its line of dashes")
    args = parser.parse_args()
    outcomes = []
    for start in args.start:
        for seed in range(args.first, args.first + args.seeds):
            outcomes.append(run(start, seed, args.slm))
            sys.stderr.write(f"{start} {seed}: {'ok' if outcomes[-1].found.ok else 'not ok'}\n")
    text = report(outcomes)
    sys.stdout.write(text + "\n")
    if args.write:
        head = args.write.read_text(encoding="utf-8").split("\n---\n")[0] if args.write.exists() else "# Alignment\n"
        args.write.write_text(f"{head.rstrip()}\n\n---\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
