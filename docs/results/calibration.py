"""How near `labctl calibrate` comes to what simulated benches are: all records and the twin, against the truth.

    python docs/results/calibration.py [--preset typical nasty] [--seeds 101 102 103 104 105] [--jobs 2]

Each seed draws another bench that no one has tuned anything on. Writes ``calibration.json``, ``calibration.md`` and
``calibration.png`` beside this file. What a seed gave is kept in ``--work`` calibration by calibration, so that a run
that was cut off goes on; ``--only KIND ...`` takes no others, ``--again KIND ...`` measures these, and what follows
from them, again, ``--table`` only writes the files. ``scoring_truth.py`` says how records are compared.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring_truth import Known, score, truth_of, world_of

from labctl.bench import Bench, open_bench
from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, load_records, save_record
from labctl.config.load import load_bench
from labctl.errors import LabctlError
from labctl.optics.detection import expected_tiles
from labctl.optics.fidelity import pearson
from labctl.optics.tiles import most_tiles
from labctl.procedures import calibrations
from labctl.procedures.calibrations import Calibrate
from labctl.procedures.calibrations.graph import attributed, in_order, parents_of, refusal, registry
from labctl.procedures.deployment import MARGIN_PX, Deployment, Reader, compile_deployment, show_image
from labctl.procedures.exposing import expose_well, laser_on
from labctl.procedures.messages import Exposure, Measure, Set, Steps
from labctl.runs.engine import Engine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEEDS = (101, 102, 103, 104, 105)
SETTLE_S = 0.1
"""Settle time at which bench time is counted."""
NOT_MEASURED = {"reference"}
"""Kinds that are no calibration but a note for later checks."""

BARS: dict[tuple[str, str], tuple[float, float]] = {
    ("registration", "unsteered (px rms)"): (0.15, 0.3),
    ("registration", "in the tiles (px rms)"): (0.15, 0.3),
    ("slm-response", "gray to phase (rad rms)"): (0.05, 0.1),
    ("wavefront", "residual (waves rms)"): (1 / 40, 1 / 20),
    ("settle", "SLM to 1 % (%)"): (10.0, 10.0),
    ("twin", "1 - r of tiles"): (0.01, 0.01),
    ("twin", "1 - r of the worst tile"): (0.03, 0.03),
    ("twin", "relative rms over repeatability"): (1.5, 1.5),
    ("deployed", "1 - r, corrected"): (0.03, 0.03),
    ("all", "frames"): (800, 800),
    ("all", "bench time (min)"): (10.0, 10.0),
}
"""(kind, figure): what the mean and the worst over seeds may be."""
ABOUT = (
    "What `labctl calibrate` finds on simulated benches, compared with what the dice gave them: mean over the seeds "
    "(worst). Smaller is better; ✓ meets the bar in mean and worst, ✗ does not. `scoring_truth.py` says how records "
    "are compared. The bars are those for `typical`; frames and bench time are of what was measured, and the last "
    "column says on how many of the seeds. Made by `python docs/results/calibration.py`."
)

# one bench


@dataclass(frozen=True, eq=False)
class Shots:
    """Captures of one pattern: intensity (counts/s) [image, repeat, tile, y, x], as its reader reads it."""

    deployment: Deployment
    reader: Reader
    intensity: torch.Tensor


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Shows kernel banks and images that no calibration has seen, each capture several times."""

    deployments: tuple[Deployment, ...]
    images: torch.Tensor
    repeats: int = 2
    name: str = "held-out captures"

    def exposures(self, facts: BenchFacts) -> int:
        return len(self.deployments) * (len(self.images) * self.repeats + 4)

    def steps(self, facts: BenchFacts) -> Steps[list[Shots]]:
        yield from laser_on(facts)
        found = []
        for deployment in self.deployments:
            yield Set("camera", "window", deployment.window)
            shown = [show_image(image, facts, deployment) for image in self.images]
            exposure = yield from expose_well(facts, deployment.pattern, shown[:2], target=0.6, quantile=0.9999)
            frames = yield Measure(
                [
                    Exposure(deployment.pattern, s, exposure, {"for": "held out"})
                    for _ in range(self.repeats)
                    for s in shown
                ],
                self.name,
            )
            reader = Reader(deployment, facts)
            read = torch.stack([reader.intensity(frame) for frame in frames])
            found.append(Shots(deployment, reader, read.unflatten(0, (self.repeats, -1)).transpose(0, 1)))
        yield Set("camera", "window", None)
        return found


class Seed:
    """One bench, its records as far as they are measured, and what they scored.

    Parameters
    ----------
    config : BenchConfig
    folder : Path
        Where all of it is kept.
    """

    def __init__(self, config: Any, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "score.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.scores: dict[str, Any] = json.loads(self._file.read_text("utf-8")) if self._file.exists() else {}
        self.bench: Bench = open_bench(config)
        self._records = folder / "calibration" / config.bench.name  # records are read by the name of their bench
        self.bench.with_calibrations(load_records(self._records))
        self.engine = Engine(self.bench)
        self.known: Known = truth_of(self.bench)

    def keep(self, kind: str, **figures: Any) -> None:
        """Write down what a kind gave."""
        self.scores[kind] = figures
        self._file.write_text(json.dumps(self.scores, indent=1) + "\n", encoding="utf-8")

    def calibrate(self, only: Iterable[str], again: Iterable[str]) -> None:
        """Measure what is not measured yet, in order, each as `labctl calibrate --only KIND` does."""
        steps = available()
        redo = set(again)
        for kind, step in steps.items():
            if kind in NOT_MEASURED or (only and kind not in only):
                continue
            if redo & set(parents_of(step)):
                redo.add(kind)
            if kind in self.scores and kind not in redo:
                continue
            self._one(kind, step)

    def _one(self, kind: str, step: Any) -> None:
        world = world_of(self.bench)
        began, at, shown = time.perf_counter(), self.bench.clock.now(), _patterns(world)
        missing = [need for need in step.needs if "refused" in self.scores.get(need, {})]
        if missing:
            self.keep(kind, refused=f"needs '{missing[0]}', which was refused")
            return
        try:
            records, refused = self._measure(kind, step)
        except LabctlError as error:
            records, refused = {}, str(error)
        except (ArithmeticError, ValueError, IndexError, RuntimeError) as error:  # a fault, and so not "refused"
            records, refused = {}, f"FAULT {type(error).__name__}: {error}"
        spent = self.bench.clock.now() - at
        patterns = _patterns(world) - shown
        costs = {
            "frames": self.engine.snapshot().captured,
            "bench_s": spent - patterns * (self.bench.facts.slm_settle_s - SETTLE_S),
            "computing_s": time.perf_counter() - began,
        }
        self.bench.set("camera", "window", None)
        if refused:
            self.keep(kind, refused=refused, **costs)
            sys.stderr.write(f"{self.folder.name} {kind}: {refused}\n")
            return
        self.bench.with_calibrations({**self.bench.facts.calibrations, **records})
        for record in records.values():
            save_record(self._records, record)
        record = records[kind]
        self.keep(kind, score=score(record, self.known), quality=dict(record.quality), **costs)
        sys.stderr.write(f"{self.folder.name} {kind}: {self.scores[kind]}\n")

    def _measure(self, kind: str, step: Any) -> tuple[dict[str, CalibrationRecord], str]:
        """Records by kind, and why this one was refused, or ""."""
        if kind in registry():
            result = self.engine.run(Calibrate(only=(kind,)))
            return {record.kind: record for record in result.records}, result.refused.get(kind, "")
        record = attributed(self.engine.run(step), step, self.bench.facts)
        return {kind: record}, refusal(record, step)

    def tiles(self, images: torch.Tensor, bank: torch.Tensor, seed: int) -> None:
        """The twin on masks and images never seen, and the deployed bank before and after correction."""
        facts = self.bench.facts
        dice = torch.Generator().manual_seed(10_000 + seed)
        unseen = torch.randn(bank.shape, generator=dice)
        plain = {"corrected": False} if _corrects() else {}
        size = (int(images.shape[-2]), int(images.shape[-1]))
        try:
            before = compile_deployment(bank, facts, image=size, **plain)
            probes = compile_deployment(unseen, facts, image=size, **plain)
            shots = self.engine.run(HeldOut((before, probes), images))
            figures = {"1 - r, calibrated": _worth(shots[0], images)}
            if "twin" in facts.calibrations:
                self.keep("twin", **{**self.scores.get("twin", {}), "score": self._twin(shots, images)})
                if _corrects():
                    after = compile_deployment(bank, facts, image=size, corrected=True)
                    figures["1 - r, corrected"] = _worth(self.engine.run(HeldOut((after,), images, 1))[0], images)
        except LabctlError as error:
            self.keep("deployed", refused=str(error))
            return
        self.keep(
            "deployed", score={k: v[0] for k, v in figures.items()}, worst_tile={k: v[1] for k, v in figures.items()}
        )

    @torch.no_grad()
    def _twin(self, shots: list[Shots], images: torch.Tensor) -> dict[str, float]:
        from labctl.twin.model import Twin

        facts, twin = self.bench.facts, Twin.from_facts(self.bench.facts)
        r, miss, noise, drift = [], [], [], []
        for one in shots:
            d, weights = one.deployment, one.reader._weights
            assert weights is not None
            for n, image in enumerate(images):
                counts = twin.window(d.pattern, show_image(image, facts, d), d.window)[0]
                said = torch.from_numpy(weights @ counts.numpy().ravel()).reshape(one.intensity.shape[2:])
                taken = one.intensity[n]
                power = taken.mean(0).pow(2).mean((-2, -1)).sqrt()
                r.append(pearson(said, taken[0]))
                drift.append((said - taken[0]).pow(2).mean((-2, -1)).sqrt() / power)
                # the laser drifts and flickers, which no twin foretells: each frame's power is solved for
                said, again = (part * (part * taken[0]).sum() / part.pow(2).sum() for part in (said, taken[1]))
                miss.append((said - taken[0]).pow(2).mean((-2, -1)).sqrt() / power)
                noise.append((again - taken[0]).pow(2).mean((-2, -1)).div(2).sqrt() / power)
        tile_r = torch.stack(r).nanmean(0)
        missed, repeat, drifted = (float(torch.stack(v).nanmedian()) for v in (miss, noise, drift))
        return {
            "1 - r of tiles": 1 - float(tile_r.nanmean()),
            "1 - r of the worst tile": 1 - float(tile_r[tile_r.isfinite()].min()),
            "relative rms": missed,
            "relative rms, laser's drift included": drifted,
            "repeatability": repeat,
            "relative rms over repeatability": missed / repeat,
        }


def available() -> dict[str, Any]:
    """Every calibration by kind, in order: those that `labctl calibrate` runs, and any that stands beside them."""
    found = registry()
    for module in pkgutil.iter_modules(calibrations.__path__):
        made = importlib.import_module(f"{calibrations.__name__}.{module.name}")
        for _, cls in inspect.getmembers(made, inspect.isclass):
            own = cls.__module__ == made.__name__
            if own and all(hasattr(cls, name) for name in ("needs", "limits", "steps", "exposures")):
                found.setdefault(cls().name, cls())
    return in_order(found)


def _patterns(world: Any) -> int:
    """How many patterns the SLM has been sent so far."""
    return int(world._slm._entries[-1].serial)


def _corrects() -> bool:
    return "corrected" in inspect.signature(compile_deployment).parameters


def _worth(shots: Shots, images: torch.Tensor) -> tuple[float, float]:
    """1 - Pearson r of the tiles' amplitudes against ``conv2d``: mean over tiles and images, and of the worst tile."""
    expected = expected_tiles(images[:, None], shots.deployment.kernels, shots.deployment.detection)
    r = pearson(shots.intensity[:, 0].clamp(min=0).sqrt(), expected).nanmean(0)
    return 1 - float(r.nanmean()), 1 - float(r[r.isfinite()].min())


def one(preset: str, seed: int, given: argparse.Namespace) -> None:
    """Everything on one bench."""
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    config = load_bench(Path(given.bench))
    simulation = config.simulation.model_copy(update={"preset": preset, "seed": seed})
    made = Seed(config.model_copy(update={"simulation": simulation}), Path(given.work) / f"{preset}-{seed}")
    try:
        made.calibrate(given.only, given.again)
        if given.images and not given.only:
            from labctl.runs.preparing import prepare_task

            task = prepare_task("fashion-mnist-sclc", ROOT / "models", images=given.images, train=4)
            images, kernels = task.test.images[:, 0], task.kernels
            size, reach = (tuple(int(n) for n in t.shape[-2:]) for t in (images, kernels))
            holds = most_tiles(made.known.geometry, image=size, kernel=reach, margin=(MARGIN_PX, MARGIN_PX)) // 2
            made.tiles(images, kernels[:holds], seed)
    finally:
        made.bench.close()


# the table


def collect(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What every seed has given so far, by ``PRESET-SEED``."""
    found = {}
    for preset in given.preset:
        for seed in given.seeds:
            file = Path(given.work) / f"{preset}-{seed}" / "score.json"
            if file.exists():
                found[f"{preset}-{seed}"] = json.loads(file.read_text("utf-8"))
    return found


def totals(seeds: Iterable[dict[str, Any]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Frames and bench time of all calibrations: mean and worst of each over the seeds that have it, summed."""
    found = {}
    for name, key, unit in (("frames", "frames", 1), ("bench time (min)", "bench_s", 60)):
        kinds: dict[str, list[float]] = {}
        for scores in seeds:
            for kind, part in scores.items():
                if key in part:
                    kinds.setdefault(kind, []).append(part[key] / unit)
        found["all", name] = sum(map(np.mean, kinds.values())), sum(map(max, kinds.values()))
    return found


def figures_of(scores: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Every figure of one seed, by kind and name."""
    return {(kind, name): value for kind, part in scores.items() for name, value in part.get("score", {}).items()}


def table(found: dict[str, dict[str, Any]], preset: str) -> list[str]:
    """Rows of one preset."""
    seeds = {name: scores for name, scores in found.items() if name.startswith(f"{preset}-")}
    columns = [figures_of(scores) for scores in seeds.values()]
    names = list(dict.fromkeys([*BARS, *(key for column in columns for key in column)]))
    order = [*dict.fromkeys(kind for scores in seeds.values() for kind in scores), "all"]
    names.sort(key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key not in BARS))
    lines = ["| calibration | error against the truth | mean (worst) | bar | seeds |", "|---|---|---|---|---|"]
    everything = totals(list(seeds.values()))
    for kind, name in names:
        values = [column[kind, name] for column in columns if (kind, name) in column]
        bar = BARS.get((kind, name)) if preset == "typical" else None
        allowed = "" if bar is None else f"{bar[0]:.3g} ({bar[1]:.3g})"
        count = f"{len(values)} of {len(seeds)}"
        if (kind, name) in everything:
            mean, worst = everything[kind, name]
            count = ""
        elif values:
            mean, worst = float(np.mean(values)), float(np.max(values))
        else:
            if bar is not None:
                lines.append(f"| {kind} | {name} | not measured | {allowed} | {count} |")
            continue
        shown = f"{mean:.3g} ({worst:.3g})"
        if bar is not None:
            shown = f"{shown} {'✓' if mean <= bar[0] and worst <= bar[1] else '✗'}"
        lines.append(f"| {kind} | {name} | {shown} | {allowed} | {count} |")
    refused = [
        f"- {name}, {kind}: {part['refused']}"
        for name, scores in seeds.items()
        for kind, part in scores.items()
        if part.get("refused")
    ]
    return [*lines, "", *(["Refused, with the reason given:", "", *refused, ""] if refused else [])]


def write(given: argparse.Namespace) -> None:
    """The three files."""
    found = collect(given)
    out = Path(given.out)
    (out / "calibration.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    used = {preset: [s for s in given.seeds if f"{preset}-{s}" in found] for preset in given.preset}
    lines = [
        "# Calibration against the truth",
        "",
        ABOUT,
        "",
    ]
    for preset, seeds in used.items():
        if seeds:
            lines += [f"## `{preset}`, seeds {', '.join(map(str, seeds))}", "", *table(found, preset)]
            lines += ["Frames and bench seconds (at 100 ms settle), mean:", "", *_costs(found, preset), ""]
    (out / "calibration.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    figure(found, out / "calibration.png")


def _costs(found: dict[str, dict[str, Any]], preset: str) -> list[str]:
    seeds = [scores for name, scores in found.items() if name.startswith(f"{preset}-")]
    kinds = dict.fromkeys(kind for scores in seeds for kind, part in scores.items() if "frames" in part)
    parts = []
    for kind in kinds:
        some = [scores[kind] for scores in seeds if "frames" in scores.get(kind, {})]
        frames, spent = (np.mean([part[name] for part in some]) for name in ("frames", "bench_s"))
        parts.append(f"{kind} {frames:.0f} ({spent:.0f} s)")
    return [", ".join(parts) + "."]


def figure(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Every figure that has a bar, relative to it, seed by seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [key for key in BARS if any(key in figures_of(scores) for scores in found.values())]
    picture, axes = plt.subplots(figsize=(8, 0.5 + 0.42 * max(len(names), 2)), layout="constrained")
    presets = list(dict.fromkeys(name.rpartition("-")[0] for name in found))
    for shift, preset in enumerate(presets):
        for row, key in enumerate(names):
            values = [figures_of(s)[key] / BARS[key][0] for n, s in found.items()
                      if n.startswith(f"{preset}-") and key in figures_of(s)]  # fmt: skip
            y = np.full(len(values), row + 0.18 * (shift - (len(presets) - 1) / 2))
            axes.plot(np.maximum(values, 1e-3), y, "o", ms=4, alpha=0.7, color=f"C{shift}",
                      label=preset if row == 0 else None)  # fmt: skip
    for row, key in enumerate(names):
        axes.plot([BARS[key][1] / BARS[key][0]], [row], "k|", ms=12)
    axes.axvline(1, color="k", lw=1)
    axes.set(
        xscale="log", xlabel="error over its bar for the mean (tick: bar for the worst)", ylim=(len(names) - 0.5, -0.5)
    )
    axes.set_yticks(range(len(names)), [f"{kind}: {name}" for kind, name in names])
    if presets:
        axes.legend()
    picture.savefig(path, dpi=120)
    plt.close(picture)


def main() -> None:
    """Run what is missing and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["typical"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--bench", default=str(ROOT / "configs" / "benches" / "sim-4f.toml"))
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--again", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--images", type=int, default=6, help="held-out images; 0 leaves twin and tiles out")
    parser.add_argument("--jobs", type=int, default=1, help="benches at a time")
    parser.add_argument("--work", default=str(ROOT / ".labctl" / "calibration-scores"))
    parser.add_argument("--out", default=str(HERE))
    parser.add_argument("--table", action="store_true", help="run nothing; write the files of what there is")
    given = parser.parse_args()
    wanted = [] if given.table else [(preset, seed) for preset in given.preset for seed in given.seeds]
    if given.jobs > 1:
        with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
            for done in [pool.submit(one, preset, seed, given) for preset, seed in wanted]:
                done.result()
    else:
        for preset, seed in wanted:
            one(preset, seed, given)
    write(given)


if __name__ == "__main__":
    main()
