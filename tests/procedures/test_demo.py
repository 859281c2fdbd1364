"""The main job end to end on the simulated bench, with few images; and models that do not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labctl.bench import open_bench
from labctl.config.load import parse_bench
from labctl.errors import CalibrationError, ModelError
from labctl.procedures.demo import Demo
from labctl.procedures.deployment import Reader, compile_deployment, show_image
from labctl.procedures.evaluate import Task
from labctl.procedures.messages import Exposure, Measure
from labctl.runs.engine import Engine
from labctl.runs.preparing import prepare_task
from labctl.runs.recorded import open_run
from labctl.runs.report import write_report
from labctl.runs.session import execute, make_engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def task() -> Task:
    return prepare_task("fashion-mnist-sclc", ROOT / "models", images=40, train=60)


def test_calibrating_brings_the_model_back(scored: Callable[..., Any], task: Task, tmp_path: Path) -> None:
    """Uncalibrated the bench guesses; calibrated it answers like the simulation; the run folder and report tell all."""
    made = scored("typical")
    engine = make_engine(made.bench, runs_dir=tmp_path / "runs")
    outcome = execute(
        Demo(task), made.bench, runs_dir=tmp_path / "runs", calibration_dir=tmp_path / "calibration", engine=engine
    )
    result = outcome.result
    right = {arm.name: arm.correct for arm in result.arms}
    assert list(right) == [
        "teacher", "student, in simulation", "deployed, uncalibrated", "deployed, calibrated",
        "back end refitted on captures",
    ]  # fmt: skip
    assert right["deployed, uncalibrated"] < 24
    assert right["deployed, calibrated"] >= right["student, in simulation"] - 4
    assert right["back end refitted on captures"] >= right["student, in simulation"] - 4
    assert result.tile_r_calibrated.mean() > 0.98 > 0.8 > result.tile_r_uncalibrated.mean()
    assert result.twin_r > 0.9
    assert {path.stem for path in (tmp_path / "calibration" / "sim-4f").glob("*.h5")} == {
        "dark", "gain", "registration", "fourier-centre",
    }  # fmt: skip
    recorded = open_run(outcome.folder)
    assert recorded.outcome == "done"
    page = write_report(outcome.folder).read_text(encoding="utf-8")
    for words in ("SIMULATED", "deployed, calibrated", "Captured against predicted maps", "The SLM", "Confusion"):
        assert words in page
    assert made.bench.read("laser", "enabled") is False


def test_the_ideal_bench_shows_what_conv2d_computes(scored: Callable[..., Any], task: Task) -> None:
    """World, devices, pairing, compiling and reading together, with every imperfection off."""
    made = scored("ideal")
    facts = made.bench.facts
    deployment = compile_deployment(task.kernels, facts, image=(28, 28), calibrated=False)
    images = task.train.images[:6]
    made.bench.set("camera", "window", deployment.window)
    made.bench.set("laser", "enabled", True)

    class Look:
        name = "look"

        def exposures(self, facts: Any) -> int:
            return len(images)

        def steps(self, facts: Any) -> Any:
            shots = [Exposure(deployment.pattern, show_image(i[0], facts, deployment), 3e-3) for i in images]
            return (yield Measure(shots))

    reader = Reader(deployment, facts)
    frames = Engine(made.bench).run(Look())
    from labctl.optics.detection import expected_tiles
    from labctl.optics.fidelity import pearson

    amplitude = torch.stack([reader.intensity(frame) for frame in frames]).clamp(min=0).sqrt()
    r = pearson(amplitude, expected_tiles(images, deployment.kernels))
    lit = r[~r.isnan()]
    assert lit.mean() > 0.99
    assert lit.min() > 0.97


def test_a_model_with_more_tiles_than_the_bench_is_refused(task: Task) -> None:
    text = (ROOT / "configs" / "benches" / "sim-4f.toml").read_text(encoding="utf-8")
    small = parse_bench(
        text.replace("resolution = [1024, 1024], pitch_um = 5.5", "resolution = [640, 640], pitch_um = 5.5")
    )
    bench = open_bench(small)
    try:
        with pytest.raises(ModelError, match=r"needs 16 tiles in one frame, this bench holds \d+"):
            compile_deployment(task.kernels, bench.facts, image=(28, 28), calibrated=False)
    finally:
        bench.close()


def test_images_of_another_size_are_refused(task: Task) -> None:
    wrong = dataclasses.replace(task.test, images=torch.zeros(2, 1, 32, 32))
    with pytest.raises(ModelError, match="takes 1 x 28 x 28 images, fashion-mnist has 1 x 32 x 32"):
        Task.of(task.bundle, wrong, task.train)


def test_deploying_without_calibration_says_what_to_run(scored: Callable[..., Any], task: Task) -> None:
    with pytest.raises(CalibrationError, match="labctl calibrate sim-4f"):
        compile_deployment(task.kernels, scored().bench.facts, image=(28, 28))


def test_the_same_inputs_give_the_same_deployment(scored: Callable[..., Any], task: Task) -> None:
    facts = scored().bench.facts
    digests = {compile_deployment(task.kernels, facts, image=(28, 28), calibrated=False).digest for _ in range(2)}
    other = compile_deployment(task.kernels * 1.1 + 0.01, facts, image=(28, 28), calibrated=False).digest
    assert len(digests) == 1
    assert other not in digests
