"""A workspace with a small simulated bench and a tiny model: a whole calibration and evaluation in a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from labctl.bench import open_bench
from labctl.bench.facts import BenchFacts
from labctl.config.load import load_bench
from labctl.learning.bundle import load_bundle, save_bundle
from labctl.learning.recipe import parse_recipe
from labctl.runs.offers import prepare
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.session import execute
from labctl.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
BENCH = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [448, 448], pitch_um = 8.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [96, 96], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [336, 336], pitch_um = 8.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "mild"
seed = 7
"""
RECIPE = """
name = "tiny"
[data]
source = "shipped"
[teacher]
widths = [2]
[student]
maps = 2
kernel_sizes = [3]
[student.backend]
pool = 4
hidden = 8
"""


def make_lab(root: Path) -> Workspace:
    """Bench ``small`` and model ``tiny``, whose weights are drawn and fixed."""
    (root / "configs" / "benches").mkdir(parents=True)
    (root / "configs" / "benches" / "small.toml").write_text(BENCH, encoding="utf-8")
    recipe = parse_recipe(RECIPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        student, teacher = recipe.build_student().eval(), recipe.build_teacher().eval()
    metrics = load_bundle(ROOT / "models" / "fashion-mnist-sclc").metrics
    save_bundle(
        root / "models" / "tiny", recipe_text=RECIPE, student=student, teacher=teacher, metrics=metrics, card="# tiny\n"
    )
    return Workspace(root)


CALIBRATE = {"only": ["dark", "registration", "gain", "fourier-centre"]}
EVALUATE = {"model": "tiny", "images": 8, "train": 12}


class SmallLab:
    """A lab that has calibrated its bench and evaluated its model, each on a bench opened for it.

    Attributes
    ----------
    workspace, config
    facts : what the bench knew of itself when each run began, by procedure
    runs : the runs, by procedure
    """

    def __init__(self, root: Path) -> None:
        self.workspace = make_lab(root)
        self.config = load_bench("small", self.workspace)
        self.facts: dict[str, BenchFacts] = {}
        self.runs: dict[str, RecordedRun] = {}
        work: tuple[tuple[str, dict[str, Any]], ...] = (("calibrate", CALIBRATE), ("evaluate", EVALUATE))
        for name, parameters in work:
            bench = open_bench(self.config, calibration_dir=self.workspace.calibration)
            try:
                made = prepare(name, parameters, self.workspace, self.config)
                self.facts[name] = bench.facts
                outcome = execute(
                    made.procedure, bench, runs_dir=self.workspace.runs, calibration_dir=self.workspace.calibration,
                    provenance=made.provenance,
                )  # fmt: skip
            finally:
                bench.close()
            if outcome.folder is not None:
                self.runs[name] = open_run(outcome.folder)
