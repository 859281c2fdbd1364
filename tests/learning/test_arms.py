"""The arms of a recipe: what each one is, and that all of them end in metrics.json."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labctl.learning.arms import Views, make_student, objective_of
from labctl.learning.bundle import load_bundle
from labctl.learning.fit import seeded
from labctl.learning.recipe import load_recipe, parse_recipe
from labctl.learning.splits import splits_of
from labctl.learning.train import TrainProgress, train

from .conftest import TINY_RECIPE

EVERY = (
    TINY_RECIPE.replace(
        'arms = ["distilled", "undistilled"]',
        'arms = ["transfer", "distilled", "undistilled", "random", "digital"]\nwhitened = true',
    ).replace("epochs = 3", "epochs = 1")
    + """
[[student.variants]]
name = "relu"
after_detection = "relu"
arms = ["distilled"]
[[student.variants]]
name = "intensity"
detection = "intensity"
arms = ["distilled", "random"]
seeds = [0]
"""
)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "every.toml"
    path.write_text(EVERY, encoding="utf-8")
    return path


def test_every_arm_and_variant_is_trained_when_asked_for_and_only_then(
    tmp_path: Path, recipe_file: Path, tiny_data: Path
) -> None:
    seen: list[TrainProgress] = []
    bundle = train(recipe_file, tmp_path / "all", data_dir=tiny_data, arms=True, progress=seen.append)
    arms = bundle.metrics.arms
    own = ["transfer", "distilled", "undistilled", "random", "digital"]
    assert list(arms) == ["teacher", *own, "relu/distilled", "intensity/distilled", "intensity/random"]
    assert [len(content.runs) for content in arms.values()] == [1, 2, 2, 2, 2, 2, 2, 1, 1]
    assert {at.stages for at in seen} == {15}, "teacher, 5 arms and a variant of 2 seeds, 2 arms of 1 seed"
    assert (arms["relu/distilled"].detection, arms["relu/distilled"].after_detection) == ("paired", "relu")
    assert (arms["intensity/random"].arm, arms["intensity/random"].detection) == ("random", "intensity")
    assert bundle.metrics.selected.arm == "transfer", "the bundle holds the first arm"
    assert arms["digital"].parameters == sum(p.numel() for p in bundle.student.backend.parameters())
    names = set(bundle.student.state_dict())
    assert not any("parametrizations" in name for name in names), "whitening is gone when training is done"
    few = train(recipe_file, tmp_path / "few", data_dir=tiny_data)
    assert list(few.metrics.arms) == ["teacher", "transfer"]
    assert few.student.state_dict().keys() == names
    for name, tensor in few.student.state_dict().items():
        assert torch.equal(tensor, bundle.student.state_dict()[name]), "other arms do not change the student"
    assert load_bundle(tmp_path / "all").sha256 == bundle.sha256


def test_controls_start_as_the_student_but_for_their_masks(recipe_file: Path, tiny_data: Path) -> None:
    recipe = load_recipe(recipe_file)
    data, images = splits_of(recipe, tiny_data), recipe.images()
    made = {arm: make_student(recipe, "", arm, 0, images, data) for arm in ("distilled", "random", "digital")}
    back = {arm: student.backend.state_dict() for arm, student in made.items()}
    for name, tensor in back["distilled"].items():
        assert torch.equal(tensor, back["random"][name]) and torch.equal(tensor, back["digital"][name])
    shown = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(made["digital"].features(shown), shown.expand(-1, 2, -1, -1), atol=1e-6)
        assert not torch.equal(made["random"].features(shown), made["distilled"].features(shown))
    assert [p for p in made["random"].parameters() if not p.requires_grad] == list(made["random"].front.parameters())


def test_labels_alone_hear_nothing_of_the_teacher_and_transfer_hears_more(recipe_file: Path, tiny_data: Path) -> None:
    recipe = load_recipe(recipe_file)
    recipe = recipe.model_copy(update={"robustness": parse_recipe('name = "a"').robustness})
    data, images = splits_of(recipe, tiny_data), recipe.images()
    losses: dict[tuple[str, int], float] = {}
    for draw in (0, 1):
        with seeded(draw):
            teacher = recipe.build_teacher()
        views = Views(recipe, data, teacher)
        for arm in ("undistilled", "distilled", "transfer"):
            student = make_student(recipe, "", arm, 0, images, data)
            view, objective = objective_of(recipe, arm, views)
            pixels, labels = view(0)
            chosen = torch.arange(20)
            losses[arm, draw] = float(objective(student, pixels[chosen] / 255, labels[chosen], chosen).detach())
    assert losses["undistilled", 0] == losses["undistilled", 1]
    assert losses["distilled", 0] != losses["distilled", 1]
    assert losses["transfer", 0] > losses["distilled", 0]


def test_a_student_is_trained_and_measured_through_the_camera_of_its_recipe(
    tmp_path: Path, recipe_file: Path, tiny_data: Path
) -> None:
    ideal = train(recipe_file, tmp_path / "ideal", data_dir=tiny_data)
    assert all(run.read_test is None for run in ideal.metrics.arms["transfer"].runs)
    text = recipe_file.read_text(encoding="utf-8") + "\n[readout]\nelectrons = 5.0\nread_noise = 2.0\n"
    recipe_file.write_text(text, encoding="utf-8")
    noisy = train(recipe_file, tmp_path / "noisy", data_dir=tiny_data)
    again = train(recipe_file, tmp_path / "again", data_dir=tiny_data)
    assert noisy.metrics.arms["transfer"].runs[0].read_test is not None
    assert not torch.equal(noisy.student.fused_kernels(), ideal.student.fused_kernels())
    read = [[run.read_test for run in bundle.metrics.arms["transfer"].runs] for bundle in (noisy, again)]
    assert read[0] == read[1], "its noise is seeded"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_a_compiled_step_trains_the_same_student_to_rounding(
    tmp_path: Path, recipe_file: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else torch keeps a pool of compiling processes
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    text = recipe_file.read_text(encoding="utf-8").replace("gain = 0.1\noffset = 0.1\nnoise = 0.1", "")
    recipe_file.write_text(text, encoding="utf-8")
    plain = train(recipe_file, tmp_path / "plain", data_dir=tiny_data)
    compiled = train(recipe_file, tmp_path / "compiled", data_dir=tiny_data, compiled=True)
    assert torch.allclose(plain.student.fused_kernels(), compiled.student.fused_kernels(), atol=1e-4)
