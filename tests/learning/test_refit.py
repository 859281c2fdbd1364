"""Refitting the back end: helps on a distorted bench, does no harm on a perfect one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool2d

from labctl.errors import ModelError
from labctl.learning.backend import Backend
from labctl.learning.bundle import load_bundle
from labctl.learning.data import load
from labctl.learning.refit import RefitProgress, refit_backend, restandardised
from labctl.learning.scoring import logits_of

MODELS = Path(__file__).parents[2] / "models"


def distorted(features: torch.Tensor, seed: int) -> torch.Tensor:
    """Gains 0.6 to 1.4 and offsets per map, a 3x3 blur and 5 % noise."""
    generator = torch.Generator().manual_seed(seed)
    maps = features.shape[1]
    rms = features.square().mean().sqrt()
    gain = 0.6 + 0.8 * torch.rand(1, maps, 1, 1, generator=generator)
    offset = 0.3 * rms * torch.randn(1, maps, 1, 1, generator=generator)
    blurred = avg_pool2d(features, 3, 1, padding=1)
    return gain * blurred + offset + 0.05 * rms * torch.randn(features.shape, generator=generator)


@pytest.fixture(scope="module")
def case() -> tuple[Backend, list[torch.Tensor]]:
    bundle = load_bundle(MODELS / "fashion-mnist-sclc")
    train = load("fashion-mnist", "train", source="shipped", limit=500)
    test = load("fashion-mnist", "test", source="shipped")
    with torch.no_grad():
        return bundle.student.backend, [
            bundle.student.features(train.images),
            train.labels,
            logits_of(bundle.teacher, train.images),
            bundle.student.features(test.images),
            test.labels,
        ]


def accuracy(backend: Backend, features: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits_of(backend, features).argmax(1) == labels).float().mean())


def test_helps_when_the_bench_distorts(case: tuple[Backend, list[torch.Tensor]]) -> None:
    backend, (train, train_labels, teacher, test, test_labels) = case
    seen, delivered = distorted(train, 1), distorted(test, 1)
    as_is = accuracy(backend, delivered, test_labels)
    seen_progress: list[RefitProgress] = []
    refitted = refit_backend(backend, seen, train_labels, teacher, progress=seen_progress.append)
    ideal = accuracy(backend, test, test_labels)
    better = accuracy(refitted, delivered, test_labels)
    assert better > as_is + 0.03
    assert better > ideal - 0.06
    assert better >= accuracy(restandardised(backend, seen), delivered, test_labels) - 0.01
    assert seen_progress and any(at.best for at in seen_progress)


def test_does_not_hurt_when_features_are_perfect(case: tuple[Backend, list[torch.Tensor]]) -> None:
    backend, (train, train_labels, teacher, test, test_labels) = case
    before = accuracy(backend, test, test_labels)
    assert accuracy(refit_backend(backend, train, train_labels, teacher), test, test_labels) >= before - 0.01
    assert accuracy(refit_backend(backend, train, train_labels, None), test, test_labels) >= before - 0.02


def test_leaves_the_original_alone_and_repeats(case: tuple[Backend, list[torch.Tensor]]) -> None:
    backend, (train, labels, teacher, *_) = case
    before = copy.deepcopy(backend.state_dict())
    first = refit_backend(backend, train[:60] * 2, labels[:60], teacher[:60], epochs=3, seed=4)
    second = refit_backend(backend, train[:60] * 2, labels[:60], teacher[:60], epochs=3, seed=4)
    assert not first.training
    for name, value in backend.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])


def test_new_statistics_undo_gain_and_offset_per_map(case: tuple[Backend, list[torch.Tensor]]) -> None:
    backend, (train, *_) = case
    gain = torch.linspace(0.5, 2, 8)[None, :, None, None]
    plain = restandardised(backend, train)(train)
    torch.testing.assert_close(restandardised(backend, gain * train + 1)(gain * train + 1), plain, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_fitted_is_refused_in_one_line(case: tuple[Backend, list[torch.Tensor]]) -> None:
    backend, (train, labels, teacher, *_) = case
    for features, targets, soft, says in (
        (train[:, :4], labels, teacher, "this back end takes"),
        (train, labels[:9], teacher, "one of each is needed"),
        (train, labels, teacher[:9], "one of each is needed"),
        (train[:9], labels[:9], teacher[:9], "too few"),
        (train * float("nan"), labels, teacher, "not finite"),
    ):
        with pytest.raises(ModelError, match=says):
            refit_backend(backend, features, targets, soft)
