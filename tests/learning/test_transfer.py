"""The distillation loss against hand computation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from labctl.learning.metrics import ArmMetrics, RunMetrics, Score, wilson
from labctl.learning.transfer import alignment, distillation_loss


def test_against_a_hand_computation() -> None:
    student, teacher, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([0])
    # T = 2: student (1, 0) -> p = 1 / (1 + e^-1); teacher (0, 2) -> q = 1 / (1 + e^2)
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    soft = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    hard = math.log(1 + math.exp(-2))
    loss = distillation_loss(student, labels, teacher, temperature=2.0, alpha=0.75)
    assert float(loss) == pytest.approx(0.75 * 4 * soft + 0.25 * hard, rel=1e-6)


def test_ends_of_alpha() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.randint(0, 5, (6,))
    plain = cross_entropy(student, labels)
    assert torch.equal(distillation_loss(student, labels, teacher, temperature=3, alpha=0), plain)
    assert torch.equal(distillation_loss(student, labels, None, temperature=3, alpha=0.9), plain)
    same = distillation_loss(student, labels, student, temperature=3, alpha=1)
    assert abs(float(same)) < 1e-6


def test_wilson_interval() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[0] == pytest.approx(0) and wilson(10, 10)[1] == pytest.approx(1)


def test_interval_over_seeds_is_students_t() -> None:
    runs = [
        RunMetrics(seed=i, validation=Score.of(9, 10), test=Score.of(c, 1000), epochs=1, seconds=0, curve=[])
        for i, c in enumerate((880, 890, 900))
    ]
    arm = ArmMetrics.of(runs)
    half = 4.303 * 0.01 / math.sqrt(3)
    assert arm.mean_test == pytest.approx(0.89)
    assert arm.interval95 == pytest.approx((0.89 - half, 0.89 + half), abs=1e-6)
    assert ArmMetrics.of(runs[:1]).interval95 is None


def test_pixels_of_no_class_count_in_the_soft_term_alone() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    nowhere = torch.full_like(labels, -100)
    hard = distillation_loss(student, labels, teacher, temperature=1, alpha=0)
    assert float(hard) == pytest.approx(float(cross_entropy(student, labels)))
    soft = distillation_loss(student, nowhere, teacher, temperature=2, alpha=1)
    rows = distillation_loss(
        student.movedim(1, -1).reshape(-1, 3), nowhere.flatten(), teacher.movedim(1, -1).reshape(-1, 3),
        temperature=2, alpha=1,
    )  # fmt: skip
    assert float(soft) == pytest.approx(float(rows), rel=1e-5) and float(soft) > 0


def test_alignment_ignores_scale_rotation_and_shift_and_falls_when_features_differ() -> None:
    torch.manual_seed(0)
    features = torch.randn(30, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    moved = 3 * features @ rotation + 7
    gram, other = features @ features.T, torch.randn(30, 6)
    assert float(alignment(gram, moved @ moved.T)) == pytest.approx(1, abs=1e-4)
    assert float(alignment(gram, other @ other.T)) < 0.5
