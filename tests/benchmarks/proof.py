"""What a proof of pairing costs in light and space, what it does to accuracy, and how often it is wrong.

    python tests/benchmarks/proof.py [--frames 1000] [--faulty 1000] [--only torn] [--images 200] [--preset typical]

Runs on the example bench in virtual time: calibrates, deploys the example model, learns the proof, then takes frames
without faults (false alarms) and with each fault (missed ones), scored by what the rehearsal says that it did.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labctl.bench import Bench, Frame, open_bench, opening
from labctl.bench.proof import DotProof, Spots
from labctl.config.load import load_bench
from labctl.devices.faults import Fault, FaultPlan
from labctl.learning.data import ImageSet
from labctl.optics.detection import expected_tiles
from labctl.optics.fidelity import pearson
from labctl.procedures.calibrations.sequence import BASIC, Calibrate
from labctl.procedures.deployment import Deployment, Reader, compile_deployment, show_image
from labctl.procedures.evaluate import Task
from labctl.procedures.exposing import signal
from labctl.procedures.proof import LearnProof, marks_for, probes_for
from labctl.runs.engine import Engine
from labctl.runs.preparing import prepare_task
from labctl.simulation.world import World
from labctl.workspace import find

BENCH = Path(__file__).resolve().parents[2] / "configs" / "benches" / "sim-4f.toml"
SLM_EVERY = 3
"""Exposures between changes of the SLM pattern: more than a run has, so that its faults have something to strike."""
HARMFUL = (
    Fault(device="input", fault="write-ignored", rate=0.3),
    Fault(device="slm", fault="write-ignored", rate=0.5),
    Fault(device="input", fault="late-swap", rate=0.3, for_s=0.05),
    Fault(device="slm", fault="late-swap", rate=0.5, for_s=0.5),
    Fault(device="camera", fault="stale-restamped", rate=0.3),
    Fault(device="camera", fault="torn", rate=0.3),
)


@dataclass
class Tally:
    frames: int = 0
    struck: int = 0
    missed: int = 0
    false_alarms: int = 0


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a script's output


def opened(args: argparse.Namespace, *faults: Fault, records: Any = ()) -> tuple[Bench, World]:
    """The bench, and the world behind it, which only scoring may look at."""
    worlds: list[World] = []
    make = opening._world

    def remember(*more: Any) -> World:
        worlds.append(make(*more))
        return worlds[-1]

    config = load_bench(BENCH)
    assert config.simulation is not None
    simulation = config.simulation.model_copy(update={"preset": args.preset, "seed": args.seed})
    plan = FaultPlan(seed=args.seed, plan=faults) if faults else None
    opening._world = remember
    try:
        bench = open_bench(config.model_copy(update={"simulation": simulation, "faults": plan}))
    finally:
        opening._world = make
    bench.with_calibrations({record.kind: record for record in records})
    return bench, worlds[0]


def variants(pattern: np.ndarray) -> list[np.ndarray]:
    """SLM patterns that deploy the same tiles, each with another constant phase: different to any device."""
    return [np.asarray((pattern.astype(int) + 40 * k) % 256, np.uint8) for k in range(3)]


def exposures(count: int, images: ImageSet, bench: Bench, deployment: Deployment) -> Iterator[tuple[Any, Any]]:
    slms = variants(deployment.pattern)
    for n in range(count):
        yield (
            slms[n // SLM_EVERY % len(slms)],
            show_image(images.images[n % len(images), 0], bench.facts, deployment),
        )


def run(
    bench: Bench,
    world: World,
    proof: DotProof,
    deployment: Deployment,
    images: ImageSet,
    count: int,
    t: float,
    readings: Readings,
) -> Tally:
    """Every exposure once, and on a mismatch again after both panels have been sent their patterns anew."""
    tally = Tally()
    bench.set("laser", "enabled", True)
    r0, r1, c0, c1 = np.vstack([proof.window, deployment.window]).T
    bench.set("camera", "window", (int(r0.min()), int(r1.max()), int(c0.min()), int(c1.max())))
    previous = None
    for n, (slm, image) in enumerate(exposures(count, images, bench, deployment)):
        code = n % proof.size
        slm, image = proof.stamp(slm, image, code)
        for attempt in range(40):
            done = len(bench.injected)
            if attempt:
                bench.discard()
            bench.show(slm=slm, input=image, again=attempt > 0)
            frame = bench.capture(t)
            struck = [item.fault for item in bench.injected[done:] if item.device == "camera"]
            # a frame in the place of another of the same patterns is no wrong pair
            wrong = (bool(struck) and previous != (frame.slm, frame.input)) or not delivered(world, frame, slm, image)
            said = proof.agrees(frame, code)
            previous = (frame.slm, frame.input)
            tally.frames += 1
            tally.struck += wrong
            tally.missed += wrong and said
            tally.false_alarms += not wrong and not said
            if said:
                if not bench.injected:
                    readings.read(proof, frame, code)
                break
        else:
            raise SystemExit(f"exposure {n} was not right after 40 attempts")
    return tally


@dataclass
class Readings:
    """How often frames that are all right are believed to show what they do not."""

    last: Frame | None = None
    last_code: int = -1
    refused: dict[str, list[int]] = field(default_factory=dict)

    def read(self, proof: DotProof, frame: Frame, code: int) -> None:
        """Against every other code and SLM mark, and mixed with the frame before it."""
        for other in range(proof.size):
            if other != code:
                self._count("other input codes", not proof.agrees(frame, other))
        names = {site: name for name, site in proof._sites.items()}
        for site, name in names.items():
            if site != proof._sites[frame.slm]:
                self._count("other SLM marks", not proof.agrees(replace(frame, slm=name), code))
        if self.last is not None and self.last.data.shape == frame.data.shape:
            for row in (0.2, 0.5, 0.8):
                cut = int(row * len(frame.data))
                torn = np.concatenate([self.last.data[:cut], frame.data[cut:]])
                self._count(f"torn at {row:.0%} of the rows", not proof.agrees(replace(frame, data=torn), code))
            for share in (0.1, 0.2, 0.25, 0.3, 0.5):
                mixed = np.rint(share * self.last.data + (1 - share) * frame.data).astype(np.uint16)
                self._count(f"{share:.0%} of the exposure before the swap",
                            not proof.agrees(replace(frame, data=mixed), code))  # fmt: skip
        self.last, self.last_code = frame, code

    def _count(self, what: str, refused: bool) -> None:
        tally = self.refused.setdefault(what, [0, 0])
        tally[0] += refused
        tally[1] += 1


def delivered(world: World, frame: Frame, slm: np.ndarray, image: np.ndarray) -> bool:
    """Whether the light of the exposure came by way of these patterns."""
    shown = (world._slm.at(frame.started).state, world._input.at(frame.started).state)
    return np.array_equal(shown[0], slm) and np.array_equal(shown[1], image)


def fidelity(bench: Bench, deployment: Deployment, proof: DotProof | None, images: ImageSet, t: float) -> np.ndarray:
    """Pearson r of every tile [image, tile], and the light of the tiles beside it."""
    reader = Reader(deployment, bench.facts)
    bench.set("laser", "enabled", True)
    bench.set("camera", "window", None)
    rows = []
    for n, image in enumerate(images.images):
        slm, shown = deployment.pattern, show_image(image[0], bench.facts, deployment)
        if proof is not None:
            slm, shown = proof.stamp(slm, shown, n % proof.size)
        bench.show(slm=slm, input=shown)
        intensity = reader.intensity(bench.capture(t))
        r = pearson(intensity.clamp(min=0).sqrt()[None], expected_tiles(image[None], deployment.kernels))[0]
        rows.append(torch.stack([r, intensity.mean((-1, -2))]).numpy())
    return np.asarray(rows)


def costs(bench: Bench, deployment: Deployment, proof: DotProof, spots: Spots, images: ImageSet, t: float) -> None:
    """Light and space."""
    marks, facts = proof.marks, bench.facts
    shape = facts.geometry.slm.shape
    area = sum((r1 - r0) * (c1 - c0) for r0, r1, c0, c1 in marks.patches) / (shape[0] * shape[1])
    plain = np.stack([show_image(image[0], facts, deployment) for image in images.images[:50]]).astype(float)
    dots = marks.on_input(np.zeros_like(plain[0], np.uint8), marks.words[0]).astype(float)
    share = (dots**2).sum() / ((plain**2).sum((1, 2)).mean() + (dots**2).sum())
    bench.set("laser", "enabled", True)
    bench.set("camera", "window", None)
    lit = proof.stamp(deployment.pattern, plain[0].astype(np.uint8), 0)
    bench.show(slm=lit[0], input=lit[1])
    frame = signal(facts, bench.capture(t))
    near = np.zeros(frame.shape, bool)
    site = proof._last
    ends = [*spots.starts[1:], len(spots.pixels)]
    numbers = np.arange(spots.on.size).reshape(spots.on.shape)[site].ravel()
    for n in numbers:
        r, c = spots.pixels[spots.starts[n] : ends[n]].mean(0).astype(int)
        near[max(r - 14, 0) : r + 15, max(c - 5, 0) : c + 6] = True
    r0, r1, c0, c1 = deployment.window
    tiles = frame[r0:r1, c0:c1][~near[r0:r1, c0:c1]].sum()
    say("cost in light")
    say(f"  input: dots have {100 * share:.1f} % of the light in the panel (mean of 50 images)")
    say(f"  SLM: patches take {100 * area:.1f} % of its area, where the kernels' masks are next to dark")
    say(f"  camera: the spots get {100 * frame[near].sum() / frame.sum():.1f} % of all light on it, "
        f"the tiles {100 * tiles / frame.sum():.1f} %")  # fmt: skip
    w = np.vstack([spots.window, deployment.window])
    both = (w[:, 0].min(), w[:, 1].max(), w[:, 2].min(), w[:, 3].max())
    rows, columns = r1 - r0, c1 - c0
    box = np.asarray(marks.dots).reshape(-1, 4)
    say("cost in space")
    say(f"  input: rows {box[:, 0].min()} to {box[:, 1].max()}, columns {box[:, 2].min()} to {box[:, 3].max()}; "
        f"the image has rows {deployment.corner[0]} to {deployment.corner[0] + 56}")  # fmt: skip
    say(f"  camera: window {rows} x {columns} becomes {both[1] - both[0]} x {both[3] - both[2]} pixels "
        f"({(both[1] - both[0]) * (both[3] - both[2]) / rows / columns:.2f} times)")  # fmt: skip
    peak = float(spots.on.max() * t)
    say(f"  brightest spot {peak:.0f} counts, faintest {spots.on.min() * t:.0f}, noise of a spot {spots.noise:.2f} "
        f"counts, crosstalk at most {spots.crosstalk.max():.3f}; "
        f"shortest exposure {1e3 * spots.shortest_s:.2f} ms")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--faulty", type=int, default=1000, help="exposures with each fault")
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--preset", default="typical")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    bench, _ = opened(args)
    records = Engine(bench).run(Calibrate(only=BASIC)).records
    bench.with_calibrations({record.kind: record for record in records})
    task: Task = prepare_task("fashion-mnist-sclc", find().models, images=args.images, train=40)
    deployment = compile_deployment(task.kernels, bench.facts, image=(28, 28), detection=task.detection)
    marks = marks_for(deployment, bench.facts)
    learn = LearnProof(marks, deployment.pattern, probes_for(deployment, bench.facts, task.train.images[:4, 0].numpy()))
    spots = Engine(bench).run(learn)
    say(f"{args.preset}, seed {args.seed}: {len(marks.words)} code words of {len(marks.dots)} dots, "
        f"{len(marks.sites)} SLM marks, learnt in {learn.exposures(bench.facts)} exposures")  # fmt: skip
    t = 4e-3
    costs(bench, deployment, DotProof(marks, spots), spots, task.test, t)
    without, with_proof = (fidelity(bench, deployment, proof, task.test, t) for proof in (None, DotProof(marks, spots)))
    say(f"tile fidelity r over {args.images} images: without proof {np.nanmean(without[:, 0]):.4f} mean, "
        f"{np.nanmean(without[:, 0], 0).min():.4f} worst tile; with {np.nanmean(with_proof[:, 0]):.4f} mean, "
        f"{np.nanmean(with_proof[:, 0], 0).min():.4f} worst; light in the tiles "
        f"{with_proof[:, 1].mean() / without[:, 1].mean():.4f} times")  # fmt: skip
    bench.close()
    chosen = [(fault,) for fault in HARMFUL if args.faulty and args.only in fault.fault]
    for faults in ((), *chosen):
        bench, world = opened(args, *faults, records=records)
        readings = Readings()
        tally = run(
            bench,
            world,
            DotProof(marks, spots),
            deployment,
            task.test,
            args.faulty if faults else args.frames,
            t,
            readings,
        )
        bench.close()
        what = f"{faults[0].device} {faults[0].fault}" if faults else "no faults"
        say(f"{what:24s} {tally.frames} frames, {tally.struck} wrong, {tally.missed} of them missed, "
            f"{tally.false_alarms} false alarms")  # fmt: skip
        if not faults:
            for name, (refused, tried) in readings.refused.items():
                say(f"  right frames read as if they had {name}: {refused} of {tried} refused")


if __name__ == "__main__":
    main()
