"""Accuracy and cost of teacher and student as the input resolution grows: docs/results/resolution.md, .png, .json.

python docs/results/resolution.py             train what resolution.json lacks, one size after the other, then draw
python docs/results/resolution.py --draw      only draw, from resolution.json
python docs/results/resolution.py --quick     the smallest sizes with budgets of seconds, into build/resolution-quick

A size that is trained is kept in resolution.json under the hash of its recipe, and not trained again; one that was cut
off goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import platformdirs
import torch
from resolution_report import write

from labctl.errors import ModelError
from labctl.learning.accounting import Macs, count_macs
from labctl.learning.cost import Cost, break_even, digital_cost, optical_cost, plan_captures
from labctl.learning.figures import CPU, DMD, EDGE, GPU, LCOS, DeviceFigures
from labctl.learning.fit import seeded
from labctl.learning.recipe import Recipe
from labctl.learning.train import TrainProgress, train

HERE = Path(__file__).parent
TASKS: dict[str, tuple[tuple[int, int], ...]] = {
    "cats-dogs": ((8, 8), (16, 16), (24, 24), (32, 32)),
    "camvid-small": ((30, 40), (60, 80), (120, 160)),
}
BEYOND = {
    "cats-dogs": tuple((n, n) for n in (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)),
    "camvid-small": tuple((30 * n, 40 * n) for n in (1, 2, 3, 4, 6, 8)),
}
"""Sizes whose cost is counted; those above the trained ones are networks that nobody trained."""
MEASURED_FPS = 56.6
"""Captures per second of `labctl evaluate fashion-mnist-sclc --bench sim-4f`, as `labctl models cost --run last` reads
it from the run: 5 ms settling and the 12.7 ms exposure that the procedure found, the read-out overlapped."""
DEVICES = {"LCoS panels": LCOS, "DMD input": DMD, "bench at its measured rate": LCOS.at_rate(MEASURED_FPS)}
COMPUTERS = {"edge accelerator": EDGE, "GPU": GPU, "embedded CPU": CPU}
BATCH = 256
"""Images shown to one SLM pattern before the next, for the energy and the rate."""


def recipe(task: str, size: tuple[int, int], *, quick: bool = False) -> Recipe:
    """The same networks at every size; the back end reads maps pooled to one grid, so that its work does not grow."""
    shared: dict[str, Any] = {"maps": 16, "kernel_sizes": [3, 3, 3], "arms": ["distilled"], "seeds": [0, 1, 2]}
    shared["variants"] = [{"name": "two-sided", "after_detection": "two-sided"}]
    if task == "cats-dogs":
        found: dict[str, Any] = {
            "data": {"name": task, "validation": 1000},
            "teacher": {"widths": [32, 64, 128], "epochs": 10, "learning_rate": 3e-3, "weight_decay": 5e-2,
                        "augment": {"flip": True, "shift_px": 1}},
            "student": {**shared, "epochs": 8, "augment": {"flip": True, "views": 2},
                        "backend": {"pool": size[0] // 8, "hidden": 64}},
        }  # fmt: skip
    else:
        found = {
            "data": {"name": task},
            "teacher": {"network": "unet", "widths": [16, 32, 64, 96], "epochs": 20, "batch": 8,
                        "learning_rate": 3e-3, "augment": {"flip": True}},
            "student": {**shared, "epochs": 12, "batch": 8, "augment": {"flip": True, "views": 2},
                        "backend": {"pool": size[0] // 30, "hidden": [32, 48]}},
        }  # fmt: skip
    found["name"] = f"resolution-{task}-{size[0]}x{size[1]}"
    found["data"]["size"] = size
    if quick:
        found["name"] += "-quick"
        found["student"]["seeds"] = [0, 1]
        for part in ("teacher", "student"):
            found[part]["epochs"] = 1
        found["data"]["limit"] = 1200 if task == "cats-dogs" else 40
    return Recipe.model_validate(found)


def points(quick: bool) -> Iterator[tuple[str, tuple[int, int], Recipe]]:
    """Every task and size, small first, so that a broken recipe shows early."""
    for task, sizes in TASKS.items():
        for size in sizes[:1] if quick else sizes:
            yield task, size, recipe(task, size, quick=quick)


def trained(wanted: Recipe, work: Path) -> dict[str, Any]:
    """Train one size and say what came of it."""
    started, said = time.perf_counter(), [""]

    def progress(at: TrainProgress) -> None:
        stage = f"{wanted.name}: {at.stage} ({at.stage_index + 1} of {at.stages})"
        if stage != said[0]:
            said[0] = stage
            sys.stderr.write(f"{stage}\n")

    bundle = train(wanted, work / wanted.name, progress=progress, overwrite=True, arms=True)
    arms = {
        name: {
            "accuracies": [run.test.accuracy for run in content.runs],
            "mean": content.mean_test,
            "interval95": content.interval95 or content.runs[0].test.interval95,
            "interval_of": "seeds" if content.interval95 else "images",
            "seconds": round(sum(run.seconds for run in content.runs), 1),
        }
        for name, content in bundle.metrics.arms.items()
    }
    return {
        "arms": arms,
        "macs": count_macs(bundle.student, bundle.teacher).as_dict(),
        "test": bundle.metrics.data.test,
        "seconds": round(time.perf_counter() - started, 1),
        "made_with": bundle.metrics.made_with,
    }


def costs(task: str, quick: bool) -> list[dict[str, Any]]:
    """MACs, latency and energy at every size, trained or not."""
    found = []
    for size in BEYOND[task]:
        made = recipe(task, size, quick=quick)
        with seeded(0):
            student, teacher = made.build_student(), made.build_teacher()
            bent = made.build_student("two-sided")
        macs, open_macs = count_macs(student, teacher), count_macs(bent)
        row: dict[str, Any] = {
            "size": size, "macs": macs.as_dict(), "cheapest": macs.cheapest, "two_sided_cheapest": open_macs.cheapest,
            "two_sided_left": open_macs.electronic, "optical": {}, "digital": {},
        }  # fmt: skip
        for name, computer in COMPUTERS.items():
            row["digital"][name] = {
                "teacher": _values(digital_cost(macs.teacher, computer)),
                "student": _values(digital_cost(macs.cheapest, computer)),
            }
        for name, devices in DEVICES.items():
            row["optical"][name] = _on_bench(devices, size, macs)
        found.append(row)
    return found


def _on_bench(devices: DeviceFigures, size: tuple[int, int], macs: Macs) -> dict[str, Any] | None:
    """Captures, and per computer that does the rest: cost, and the rate at which the bench would pay. None: no room."""
    try:
        plan = plan_captures(devices, image=size, kernel=(7, 7), maps=16, channels=3)
    except ModelError:
        return None
    row: dict[str, Any] = {
        "captures": plan.captures, "patterns": plan.patterns, "tiles_per_frame": plan.tiles_per_frame,
    }  # fmt: skip
    for name, computer in COMPUTERS.items():
        row[name] = _values(optical_cost(plan, devices, macs.electronic, computer, batch=BATCH)) | {
            "against": {
                rival: asdict(break_even(plan, devices, macs.electronic, count, computer))
                for rival, count in (("teacher", macs.teacher), ("student", macs.cheapest))
            }
        }
    return row


def _values(cost: Cost) -> dict[str, float]:
    return {
        "latency_s": cost.latency_s, "period_s": cost.period_s, "energy_j": cost.energy_j,
        "converters_j": cost.converters_j,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("--quick", action="store_true", help="budgets of seconds, into build/resolution-quick")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    out = HERE if not asked.quick else HERE.parents[1] / "build" / "resolution-quick"
    out.mkdir(parents=True, exist_ok=True)
    cache = out / "resolution.json"
    kept: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))["points"] if cache.exists() else {}
    work = Path(platformdirs.user_cache_dir("labctl", appauthor=False)) / "resolution"
    results: dict[str, Any] = {}
    for task, size, wanted in points(asked.quick):
        if wanted.sha256 not in kept and asked.draw:
            continue
        if wanted.sha256 not in kept:
            kept[wanted.sha256] = {"task": task, "size": size} | trained(wanted, work)
            _save(cache, {"points": kept})
        results.setdefault(task, []).append(kept[wanted.sha256])
    used = {wanted.sha256 for _, _, wanted in points(asked.quick)}
    kept = {sha256: point for sha256, point in kept.items() if sha256 in used}
    counted = {task: costs(task, asked.quick) for task in TASKS}
    _save(cache, {"points": kept, "costs": _finite(counted), "batch": BATCH, "measured_fps": MEASURED_FPS})
    write(results, counted, out, quick=asked.quick, fps=MEASURED_FPS, batch=BATCH)


def _save(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")
    part.replace(path)


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null is what never happens."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
