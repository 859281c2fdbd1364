"""Bundles: round trip, damage, and the one that labctl ships."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d

from labctl.errors import ModelError
from labctl.learning.bundle import find_bundle, list_bundles, load_bundle, save_bundle
from labctl.learning.data import load
from labctl.learning.scoring import count_correct
from labctl.learning.train import train

SHIPPED = Path(__file__).parents[2] / "models" / "fashion-mnist-sclc"


@pytest.fixture(scope="module")
def shipped_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("models") / SHIPPED.name))


@pytest.fixture
def copy(shipped_copy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped_copy, tmp_path / shipped_copy.name))


def test_the_shipped_bundle_reproduces_its_figures() -> None:
    bundle = load_bundle(SHIPPED)
    test = load("fashion-mnist", "test", source="shipped")
    assert test.sha256 == bundle.metrics.data.shipped_test_sha256
    stated, teacher = bundle.metrics.chosen().shipped_test, bundle.metrics.arms["teacher"].runs[0].shipped_test
    assert stated is not None and teacher is not None
    # another processor may round one borderline image the other way
    assert abs(count_correct(bundle.student, test.images, test.labels) - stated.correct) <= 1
    assert abs(count_correct(bundle.teacher, test.images, test.labels) - teacher.correct) <= 1


def test_the_shipped_bundle_is_what_the_demo_needs() -> None:
    bundle = load_bundle(SHIPPED)
    kernels = bundle.student.fused_kernels().detach()
    assert kernels.shape == (8, 1, 7, 7) and bundle.metrics.detection == "paired"
    assert bundle.recipe.sha256 == bundle.metrics.recipe_sha256
    images = load("fashion-mnist", "test", source="shipped", limit=20).images
    with torch.no_grad():
        logits = bundle.student.backend(conv2d(images, kernels, padding=3))
        torch.testing.assert_close(logits, bundle.student(images), rtol=1e-4, atol=1e-4)
    assert bundle.metrics.chosen().test.n == 10_000 and bundle.metrics.chosen().test.accuracy >= 0.88
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3_000_000
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for arm in bundle.metrics.arms.values():
        for run in arm.runs:
            assert f"{100 * run.test.accuracy:.2f} %" in card, "card and metrics.json agree"


def test_round_trip(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    bundle = train(tiny_recipe, tmp_path / "a", data_dir=tiny_data)
    card = "# Ω\n"
    saved = save_bundle(
        tmp_path / "b",
        recipe_text=tiny_recipe.read_text(encoding="utf-8"),
        student=bundle.student,
        teacher=bundle.teacher,
        metrics=bundle.metrics,
        card=card,
    )
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(saved.student(images), bundle.student(images))
    assert torch.equal(saved.teacher(images), bundle.teacher(images))
    assert not saved.student.training and not saved.teacher.training
    assert (saved.sha256, saved.metrics) == (bundle.sha256, bundle.metrics)
    assert (saved.path / "README.md").read_text(encoding="utf-8") == card
    assert [path.name for path in list_bundles(tmp_path)] == ["a", "b"]


def _cut(name: str) -> Callable[[Path], None]:
    return lambda p: (p / name).write_bytes((p / name).read_bytes()[: (p / name).stat().st_size // 2]) and None


def _change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors = load_file(path / "student.safetensors")
        change(tensors)
        save_file(tensors, path / "student.safetensors")

    return apply


def _change_metrics(path: Path) -> None:
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    del metrics["arms"]
    (path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def _more_maps(path: Path) -> None:
    text = (path / "recipe.toml").read_text(encoding="utf-8")
    (path / "recipe.toml").write_text(text.replace("maps = 8", "maps = 9"), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: shutil.rmtree(p), "no such model bundle"),
        (lambda p: (p / "teacher.safetensors").unlink(), "teacher.safetensors missing"),
        (_cut("student.safetensors"), "student.safetensors: is damaged"),
        (_cut("metrics.json"), "metrics.json: is damaged"),
        (_change_metrics, "metrics.json: is damaged \\(arms"),
        (lambda p: (p / "student.safetensors").write_bytes(b"PK\x03\x04 a pickle"), "student.safetensors: is damaged"),
        (lambda p: shutil.copy(p / "teacher.safetensors", p / "student.safetensors"), "does not fit its recipe"),
        (_change_weights(lambda t: t.pop("backend.fc2.bias")), "backend.fc2.bias is missing"),
        (_change_weights(lambda t: t.update({"x": torch.zeros(1)})), "holds x"),
        (_change_weights(lambda t: t["backend.fc2.bias"].fill_(float("nan"))), "not finite"),
        (_more_maps, "does not fit its recipe"),
        (lambda p: (p / "recipe.toml").write_text("maps = 3", encoding="utf-8"), "recipe.toml: .*unknown key 'maps'"),
    ],
)
def test_a_damaged_bundle_is_one_line_that_names_the_file(
    copy: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=says) as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_line_ends_do_not_change_the_hash(copy: Path) -> None:
    before = load_bundle(copy).sha256
    text = (copy / "recipe.toml").read_bytes()
    (copy / "recipe.toml").write_bytes(text.replace(b"\n", b"\r\n"))
    assert load_bundle(copy).sha256 == before


def test_a_save_that_fails_leaves_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(copy)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labctl.learning.bundle.write_tensors", full)
    with pytest.raises(ModelError, match="No space left"):
        save_bundle(
            copy,
            recipe_text="",
            student=bundle.student,
            teacher=bundle.teacher,
            metrics=bundle.metrics,
            card="",
            overwrite=True,
        )
    assert load_bundle(copy).sha256 == bundle.sha256
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_save_stopped_between_its_renames_brings_the_old_bundle_back(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(copy)
    rename = Path.rename

    def stop(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(
            copy,
            recipe_text=(copy / "recipe.toml").read_text(encoding="utf-8"),
            student=bundle.student,
            teacher=bundle.teacher,
            metrics=bundle.metrics,
            card="",
            overwrite=True,
        )
    assert load_bundle(copy).sha256 == bundle.sha256
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_find_bundle_names_the_nearest(copy: Path) -> None:
    assert find_bundle(copy.name, copy.parent) == copy
    assert find_bundle(copy.name, copy) == copy
    with pytest.raises(ModelError, match="did you mean 'fashion-mnist-sclc'"):
        find_bundle("fashion-sclc", copy.parent)
