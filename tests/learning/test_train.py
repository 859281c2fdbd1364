"""Training: reproducible, resumable, and nothing half-written that reads as whole."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from labctl.errors import ConfigError, ModelError
from labctl.learning.bundle import load_bundle
from labctl.learning.fit import augmented, learning_rate
from labctl.learning.progress import EpochDone, Reporter, Stage
from labctl.learning.recipe import AugmentSection, FitSection
from labctl.learning.train import TrainProgress, train


class Killed(BaseException):
    """Ends a training from within its progress callback, as a signal would."""


def weights(folder: Path) -> tuple[str, str]:
    return tuple(hashlib.sha256((folder / f"{n}.safetensors").read_bytes()).hexdigest() for n in ("student", "teacher"))  # type: ignore[return-value]


def test_a_training_killed_again_and_again_ends_in_the_same_weights(
    tmp_path: Path, tiny_recipe: Path, tiny_data: Path
) -> None:
    whole = train(tiny_recipe, tmp_path / "whole", data_dir=tiny_data, arms=True)
    out = tmp_path / "killed"
    for stage, epoch in (("teacher", 1), ("distilled seed 0", 2), ("undistilled seed 1", 1)):

        def kill(at: TrainProgress, stage: str = stage, epoch: int = epoch) -> None:
            if (at.stage, at.epoch) == (stage, epoch):
                raise Killed

        with pytest.raises(Killed):
            train(tiny_recipe, out, data_dir=tiny_data, progress=kill, arms=True)
        assert not out.exists()
    seen: list[TrainProgress] = []
    told: list[object] = []
    resumed = train(tiny_recipe, out, data_dir=tiny_data, progress=seen.append, watch=told.append, arms=True)
    assert weights(out) == weights(tmp_path / "whole")
    assert resumed.sha256 == whole.sha256
    assert {at.stage for at in seen} == {"undistilled seed 1"}, "stages that were done are not done again"
    epochs = [at for at in told if isinstance(at, EpochDone)]
    assert [(at.stage, at.epoch) for at in epochs if not at.restored] == [("undistilled seed 1", e) for e in (2, 3)]
    assert len(epochs) == 2 + 4 * 3, "whoever watches is told of every epoch, also of those done before"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_damaged_checkpoint_costs_time_and_nothing_else(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    train(tiny_recipe, tmp_path / "whole", data_dir=tiny_data)
    work = tmp_path / ".again.training"
    work.mkdir()
    (work / "teacher.safetensors").write_bytes(b"no tensors")
    train(tiny_recipe, tmp_path / "again", data_dir=tiny_data)
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")


def test_progress_rises_to_one_and_metrics_hold_every_arm(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    seen: list[TrainProgress] = []
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    bundle = train(tiny_recipe, tmp_path / "b", data_dir=tiny_data, progress=seen.append, arms=True)
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's generator is left alone"
    fractions = [at.fraction for at in seen]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert seen[-1].eta_s is not None and {at.stages for at in seen} == {5}
    metrics = bundle.metrics
    assert set(metrics.arms) == {"teacher", "distilled", "undistilled"}
    assert [run.seed for run in metrics.arms["distilled"].runs] == [0, 1]
    best = max(run.validation.correct for run in metrics.arms["distilled"].runs)
    assert metrics.chosen().validation.correct == best, "chosen by held-back training images, not by the test"
    assert (metrics.data.train, metrics.data.validation, metrics.data.test) == (160, 40, 60)
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "no expressive power" in card and "paired" in card


def test_an_existing_bundle_is_not_replaced_unasked(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    first = train(tiny_recipe, tmp_path / "b", data_dir=tiny_data)
    with pytest.raises(ModelError, match="exists already"):
        train(tiny_recipe, tmp_path / "b", data_dir=tiny_data)
    again = train(tmp_path / "b", tmp_path / "b", data_dir=tiny_data, overwrite=True)
    assert again.sha256 == load_bundle(tmp_path / "b").sha256 == first.sha256


def test_more_held_back_than_there_are_is_refused(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    text = tiny_recipe.read_text(encoding="utf-8").replace("validation = 40", "validation = 200")
    tiny_recipe.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="validation is 200 of 200"):
        train(tiny_recipe, tmp_path / "b", data_dir=tiny_data)


def test_augmentation_moves_pixels_and_repeats() -> None:
    images = torch.arange(2 * 36, dtype=torch.uint8).reshape(2, 1, 6, 6) + 1
    section = AugmentSection(flip=True, shift_px=1)
    first = augmented(images, section, 3)
    assert torch.equal(first, augmented(images, section, 3))
    assert not torch.equal(first, images)
    assert torch.equal(augmented(images, AugmentSection(), 3), images)
    only_shift = augmented(images.repeat(50, 1, 1, 1), AugmentSection(shift_px=1), 0)
    assert {int((image == 0).sum()) for image in only_shift} == {0, 6, 11}, "none, one edge, or two edges"


def test_schedule_warms_up_and_ends_at_zero() -> None:
    section = FitSection(learning_rate=1.0)
    rates = [learning_rate(section, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[-1] < 1e-3


def test_time_left_follows_the_pace_of_each_kind_of_network() -> None:
    now = [0.0]
    seen: list[TrainProgress] = []
    kinds = ("teacher", "trained", "frozen", "trained", "frozen")
    stages = [Stage(f"{kind} {n}", kind, n, kind, {"teacher": 40.0}.get(kind, 10.0), 4) for n, kind in enumerate(kinds)]
    reporter = Reporter(stages, seen.append, now=lambda: now[0])
    seconds = {"teacher": 8.0, "trained": 3.0, "frozen": 1.0}  # per epoch: not what the costs say
    for stage in stages:
        told = reporter.stage()
        told.batch(0, 0.0, 1.0, None)
        for epoch in range(1, 5):
            now[0] += seconds[stage.kind]
            told.batch(epoch, epoch / 4, 1.0, 0.5)
    left = {(at.stage, at.epoch): at.eta_s for at in seen}
    assert left["teacher 0", 0] is None, "nothing was measured yet"
    assert left["teacher 0", 4] == pytest.approx(32.0), "by cost, a fourth of the teacher's each"
    assert left["frozen 2", 4] == pytest.approx(12 + 4), "one of each kind has been measured"
    assert left["frozen 4", 2] == pytest.approx(2) and seen[-1].eta_s == 0
    assert seen[-1].fraction == 1


def test_work_of_another_recipe_is_not_taken_over(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    def kill(at: TrainProgress) -> None:
        if at.stage_index == 1 and at.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        train(tiny_recipe, tmp_path / "b", data_dir=tiny_data, progress=kill)
    shutil.copytree(tmp_path / ".b.training", tmp_path / ".c.training")
    text = tiny_recipe.read_text(encoding="utf-8").replace("maps = 2", "maps = 3")
    tiny_recipe.write_text(text, encoding="utf-8")
    seen: list[TrainProgress] = []
    bundle = train(tiny_recipe, tmp_path / "c", data_dir=tiny_data, progress=seen.append)
    assert bundle.student.fused_kernels().shape == (3, 1, 5, 5)
    assert "teacher" not in {at.stage for at in seen}, "the teacher does not depend on the student's maps"


def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, tiny_recipe: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labctl.learning.checkpoint.save_file", full)
    with pytest.raises(ModelError, match=r"teacher.safetensors: cannot be written .*No space left"):
        train(tiny_recipe, tmp_path / "b", data_dir=tiny_data)
    assert not (tmp_path / "b").exists() and list((tmp_path / ".b.training").iterdir()) == []
