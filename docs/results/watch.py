"""Make docs/results/watch.md, watch.json and watch.png: ten simulated hours of drift, with and without a watch.

python docs/results/watch.py [--bundle NAME] [--images N] [--hours 0 2.5 5 7.5 10] [--seed S] [--creep PX_PER_H]
    [--laser-drift FRACTION_PER_H] [--draw]

The example bench (`typical`) is calibrated and a model deployed at hour 0. At each hour, images are captured between
check exposures. The same frames are read twice: as they come (no watch), and with what the check exposures found
(`correct`). The third arm (`recalibrate`) has a bench of its own with the same dice, which is calibrated and deployed
again when the watch asks for it. Between the hours only the bench's clock runs. `--draw` makes page and figure from
watch.json.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from labctl.bench import open_bench
from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.config.load import load_bench
from labctl.learning.metrics import wilson
from labctl.optics.detection import expected_tiles
from labctl.optics.fidelity import pearson
from labctl.procedures.calibrations import BASIC, Calibrate
from labctl.procedures.deployment import show_image
from labctl.procedures.evaluate import Deployed, Task, answer, deploy
from labctl.procedures.exposing import laser_on
from labctl.procedures.messages import Exposure, Measure, Set, Steps
from labctl.procedures.watch import Drift, Drifted, Watch, Watcher, watched
from labctl.procedures.watching import check_exposure, recalibrated
from labctl.runs.engine import Engine
from labctl.runs.preparing import prepare_task

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BENCH = ROOT / "configs" / "benches" / "sim-4f.toml"
BATCH = 10
FARTHEST_PX = {"correct": 12.0, "recalibrate": 4.0}
"""The second is small, so that there is a recalibration to be seen."""
log = logging.getLogger("watch")


@dataclass(frozen=True)
class Showing:
    """Test images on a bench where a model has been deployed: frames, between check exposures."""

    task: Task
    deployed: Deployed
    first: int
    count: int
    watcher: Watcher

    name = "watch"

    def exposures(self, facts: BenchFacts) -> int:
        return self.count

    def steps(self, facts: BenchFacts) -> Steps[list[Frame]]:
        def show() -> Steps[list[Frame]]:
            part, found = self.deployed.parts[0], list[Frame]()
            yield Set("camera", "window", part.deployment.window)
            for start in range(self.first, self.first + self.count, BATCH):
                images = self.task.test.images[start : min(start + BATCH, self.first + self.count), 0]
                shown = [show_image(image, facts, part.deployment) for image in images]
                found += yield Measure([Exposure(part.deployment.pattern, one, part.exposure_s) for one in shown])
            return found

        yield from laser_on(facts)  # the end of the run before left the bench safe
        return (yield from watched(show(), self.watcher))


@dataclass(frozen=True)
class Step:
    """Some steps as a procedure."""

    name: str
    make: Any

    def exposures(self, facts: BenchFacts) -> int:
        return 0

    def steps(self, facts: BenchFacts) -> Steps[Any]:
        return self.make(facts)


def opened(seed: int, creep: float, laser_drift: float) -> Bench:
    config = load_bench(BENCH)
    effects = {"creep_px_per_h": creep, "laser_drift": laser_drift}
    simulation = config.simulation.model_copy(update={"seed": seed, "effects": effects})  # type: ignore[union-attr]
    return open_bench(config.model_copy(update={"simulation": simulation}))


def begin(bench: Bench, task: Task, policy: str) -> tuple[Deployed, Watcher]:
    """Deploy, and have the watch look for the first time."""
    deployed = Engine(bench).run(Step("deploy", lambda facts: deploy(task, facts)))
    watch = Watch(policy, every=BATCH, farthest_px=FARTHEST_PX[policy])  # type: ignore[arg-type]
    watcher = Watcher(watch, check_exposure(task, bench.facts, deployed), bench.facts)
    Engine(bench).run(Step("look", lambda facts: first_look(facts, watcher)))
    return deployed, watcher


def first_look(facts: BenchFacts, watcher: Watcher) -> Steps[None]:
    yield from laser_on(facts)
    yield from watcher.look()


@torch.no_grad()
def score(task: Task, deployed: Deployed, frames: list[Frame], first: int) -> dict[str, float]:
    """Right answers of some captured images, and the mean Pearson r of their tiles."""
    part, backend = deployed.parts[0], task.bundle.student.backend
    intensity = torch.stack([part.reader.intensity(frame) for frame in frames])
    images = task.test.images[first : first + len(frames)]
    labels = task.test.labels[first : first + len(frames)]
    expected = expected_tiles(images, part.deployment.kernels, part.deployment.detection)
    right = int((answer(backend, part.reader.maps_of(intensity)).argmax(1) == labels).sum())
    return {"right": right, "r": float(pearson(intensity.clamp(min=0).sqrt(), expected).nanmean())}


def told(drift: Drift | None) -> dict[str, Any]:
    if drift is None:
        return {"light": 1.0, "moved": [0.0, 0.0], "loss": 0.0}
    return {"light": drift.light, "moved": list(drift.moved), "loss": drift.loss}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All arms, hour by hour."""
    task = prepare_task(args.bundle, ROOT / "models", images=args.images * len(args.hours), train=40, seed=args.seed)
    bench = opened(args.seed, args.creep, args.laser_drift)
    records = Engine(bench).run(Calibrate(only=BASIC, strict=True)).records
    known = {record.kind: record for record in records}
    bench.with_calibrations(known)
    log.warning("calibrated at %.0f s", bench.clock.now())
    rows: list[dict[str, Any]] = []
    deployed, watcher = begin(bench, task, "correct")
    for number, hour in enumerate(args.hours):
        bench.clock.sleep(max(hour * 3600 - bench.clock.now(), 0))
        first = number * args.images
        frames = Engine(bench).run(Showing(task, deployed, first, args.images, watcher))
        plain = [replace(frame, moved=(0.0, 0.0), light=1.0) for frame in frames]
        row = {"hour": hour, "drift": told(watcher.latest), "wrong": watcher.wrong(watcher.latest)}  # type: ignore[arg-type]
        row["off"], row["correct"] = score(task, deployed, plain, first), score(task, deployed, frames, first)
        rows.append(row)
        log.warning("%s", row)
    bench.close()

    bench = opened(args.seed, args.creep, args.laser_drift)
    bench.with_calibrations(known)
    deployed, watcher = begin(bench, task, "recalibrate")
    times, spent = list[float](), 0
    for number, hour in enumerate(args.hours):
        bench.clock.sleep(max(hour * 3600 - bench.clock.now(), 0))
        first = number * args.images
        try:
            frames = Engine(bench).run(Showing(task, deployed, first, args.images, watcher))
        except Drifted as drifted:
            log.warning("hour %.1f: %s", hour, drifted)
            times.append(hour)
            engine = Engine(bench)
            bench.with_calibrations(engine.run(Step("recalibrate", recalibrated)))
            spent += engine.snapshot().captured
            deployed, watcher = begin(bench, task, "recalibrate")
            frames = Engine(bench).run(Showing(task, deployed, first, args.images, watcher))
        rows[number]["recalibrate"] = score(task, deployed, frames, first)
        log.warning("hour %.1f: %s", hour, rows[number]["recalibrate"])
    bench.close()
    about = {"bundle": args.bundle, "images": args.images, "seed": args.seed, "creep": args.creep}
    return {
        **about,
        "laser_drift": args.laser_drift,
        "rows": rows,
        "recalibrated_h": times,
        "recalibration_frames": spent,
    }


ARMS = {"off": "no watch", "correct": "`correct`", "recalibrate": "`recalibrate`"}


def page(found: dict[str, Any]) -> str:
    """watch.md."""
    n, rows = found["images"], found["rows"]
    drift = 100 * found["laser_drift"]
    intro = (
        f"`{found['bundle']}` on the example bench (`typical`, seed {found['seed']}) whose camera and Fourier plane "
        f"creep by up to {found['creep']:g} px per hour and axis and whose laser drifts by {drift:g} % per hour, "
        f"deployed once, at hour 0. {n} test images at each hour, a check exposure every {BATCH} frames; `no watch` "
        "and `correct` read the same frames. Made by `python docs/results/watch.py`."
    )
    head = " | ".join(f"{name}: accuracy %, tiles r" for name in ARMS.values())
    lines = ["# Ten hours of drift, with and without a watch", "", intro, ""]
    lines += ["![Accuracy and likeness of the tiles over ten hours](watch.png)", ""]
    lines += [
        f"| hour | light | moved (px) | loss of r that is left | {head} |",
        "|---|---|---|---|" + "---|" * len(ARMS),
    ]
    for row in rows:
        drift, cells = row["drift"], []
        for arm in ARMS:
            low, high = wilson(row[arm]["right"], n)
            accuracy = 100 * row[arm]["right"] / n
            cells.append(f"{accuracy:.0f} ({100 * low:.0f} to {100 * high:.0f}), {row[arm]['r']:.3f}")
        y, x = drift["moved"]
        found_then = f"{drift['light']:.3f} | {y:+.2f}, {x:+.2f} | {drift['loss']:.4f}"
        lines.append(f"| {row['hour']:g} | {found_then} | {' | '.join(cells)} |")
    total = n * len(rows)
    cells = []
    for arm, name in ARMS.items():
        right = sum(row[arm]["right"] for row in rows)
        low, high = wilson(right, total)
        cells.append(f"{name} {100 * right / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
    when = ", ".join(f"{hour:g}" for hour in found["recalibrated_h"]) or "never"
    sums = (
        f"Over all hours ({total} images, 95 % Wilson intervals): {'; '.join(cells)}. `recalibrate` measured and "
        f"deployed again at hour {when} ({found['recalibration_frames']} frames); it was told to do so once the "
        f"picture has moved by {FARTHEST_PX['recalibrate']:g} px."
    )
    legend = (
        "`light` is the check exposure's brightness against hour 0, `moved` how far its picture has moved on the "
        "sensor, and the loss what Pearson r of its amplitudes lacks once both are taken into account."
    )
    lines += ["", sums, "", legend, ""]
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> None:
    """watch.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    hours = [row["hour"] for row in found["rows"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for arm, colour in zip(ARMS, ("#b3342d", "#2d6fb3", "#2f8f4e"), strict=True):
        share = [100 * row[arm]["right"] / found["images"] for row in found["rows"]]
        left.plot(hours, share, "o-", color=colour, label=ARMS[arm].replace("`", ""))
        right.plot(hours, [row[arm]["r"] for row in found["rows"]], "o-", color=colour)
    left.set(xlabel="hours since deployment", ylabel=f"right answers of {found['images']} (%)", ylim=(0, 100))
    right.set(xlabel="hours since deployment", ylabel="Pearson r of tiles, mean", ylim=(None, 1.0))
    left.legend(frameon=False, loc="lower left")
    figure.savefig(HERE / "watch.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="fashion-mnist-sclc")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--hours", type=float, nargs="+", default=[0, 2.5, 5, 7.5, 10])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--creep", type=float, default=2.0)
    parser.add_argument("--laser-drift", type=float, default=0.05)
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    kept = HERE / "watch.json"
    if not args.draw:
        kept.write_text(json.dumps(measure(args), indent=1) + "\n", encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    (HERE / "watch.md").write_text(page(found), encoding="utf-8")
    draw(found)


if __name__ == "__main__":
    main()
