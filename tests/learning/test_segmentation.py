"""Segmentation: teacher and back end at the image's size, pictures and labels that move together, and the losses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from labctl.errors import ModelError
from labctl.learning.backend import AfterDetection
from labctl.learning.bundle import load_bundle
from labctl.learning.data import NO_CLASS, load
from labctl.learning.recipe import load_recipe
from labctl.learning.scoring import score
from labctl.learning.segmentation import (
    SegmentationBackend,
    UNet,
    augmented_pairs,
    channel_wise_loss,
    class_weights,
)
from labctl.learning.splits import resized
from labctl.learning.student import SpectralCascade, Student
from labctl.learning.train import train
from labctl.learning.transfer import distillation_loss

CLASSES = 3


def scenes(count: int, size: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Made-up street: a bright sky above a dark ground, and a red block on it; uint8 [n, 3, y, x], labels [n, y, x]."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = size
    images = torch.randint(0, 50, (count, 3, rows, columns), generator=generator)
    labels = torch.ones(count, rows, columns, dtype=torch.int64)
    for image, label in zip(images, labels, strict=True):
        horizon = int(torch.randint(rows // 4, rows // 2, (1,), generator=generator))
        left = int(torch.randint(0, columns // 2, (1,), generator=generator))
        label[:horizon] = 0
        label[horizon + 2 : horizon + 2 + rows // 3, left : left + columns // 3] = 2
        image[:, label == 0] += 150
        image[0, label == 2] += 200
    labels[:, :, 0] = NO_CLASS
    return images.clamp(0, 255).to(torch.uint8), labels


class TestUNet:
    @pytest.mark.parametrize("size", [(24, 32), (21, 27)])
    def test_logits_are_as_large_as_the_images(self, size: tuple[int, int]) -> None:
        unet = UNet((4, 6, 8), 3, size, CLASSES).eval()
        images = torch.rand(2, 3, *size)
        logits = unet(images)
        assert logits.shape == (2, CLASSES, *size)
        torch.testing.assert_close(unet.decide(unet.embed(images)), logits)

    def test_a_pixel_is_told_of_by_places_far_away(self) -> None:
        torch.manual_seed(0)
        unet = UNet((4, 6, 8), 1, (32, 32), CLASSES).eval()
        image = torch.rand(1, 1, 32, 32, requires_grad=True)
        unet(image)[0, :, 16, 16].sum().backward()
        assert image.grad is not None
        assert image.grad[0, 0, 4, 16].abs() > 0

    def test_too_many_halvings_are_refused(self) -> None:
        with pytest.raises(ModelError, match=r"does not fit images of \[6, 8\]"):
            UNet((4, 4, 4), 3, (6, 8))


class TestSegmentationBackend:
    @pytest.mark.parametrize("after", ["linear", "relu", "two-sided"])
    @pytest.mark.parametrize(("pool", "hidden"), [(4, (6, 8)), (2, 5), (3, (4, 4, 4))])
    def test_logits_are_as_large_as_the_maps(
        self, after: AfterDetection, pool: int, hidden: int | tuple[int, ...]
    ) -> None:
        backend = SegmentationBackend(
            2, (22, 30), CLASSES, pool=pool, hidden=hidden, after_detection=after, offset=True
        ).eval()
        logits, last = backend.outputs(torch.randn(2, 2, 22, 30))
        assert logits.shape == (2, CLASSES, 22, 30)
        assert last.shape == (2, backend.hidden[0], 22 // pool, 30 // pool)

    @pytest.mark.parametrize("after", ["linear", "relu"])
    def test_is_affine_up_to_the_first_fully_connected_layer_only_where_it_says_so(self, after: AfterDetection) -> None:
        torch.manual_seed(1)
        backend = SegmentationBackend(2, (8, 8), CLASSES, pool=2, hidden=6, after_detection=after).double().eval()
        backend.load_state_dict({**backend.state_dict(), "norm.running_mean": torch.tensor([0.3, -0.7])})
        one, two = torch.randn(2, 1, 2, 8, 8, dtype=torch.float64)
        first = [backend.first(backend.pooled(x)) for x in (one + two, one, two, torch.zeros_like(one))]
        bent = (first[0] - first[1] - first[2] + first[3]).abs().max()
        assert (bent < 1e-12) == (after == "linear")

    def test_two_sided_gives_the_pool_both_signs(self) -> None:
        backend = SegmentationBackend(1, (4, 4), CLASSES, pool=2, hidden=4, after_detection="two-sided", norm=False)
        maps = torch.randn(1, 1, 4, 4)
        positive, negative = backend.pooled(maps)[0]
        torch.testing.assert_close(positive - negative, torch.nn.functional.avg_pool2d(maps, 2)[0, 0])

    def test_foreign_features_and_sizes_are_refused(self) -> None:
        backend = SegmentationBackend(2, (16, 16), CLASSES, hidden=4)
        with pytest.raises(ModelError, match=r"takes \[n, 2, 16, 16\]"):
            backend(torch.zeros(1, 3, 16, 16))
        with pytest.raises(ModelError, match="pool 8 and hidden"):
            SegmentationBackend(2, (16, 16), CLASSES, pool=8, hidden=(4, 4, 4))

    def test_student_learns_to_segment(self) -> None:
        """Sky, ground and blocks told apart on images that it has not seen, with 4 optical kernels."""
        torch.manual_seed(0)
        size = (24, 32)
        student = Student(
            SpectralCascade(4, 3, (5,), image=size),
            SegmentationBackend(4, size, CLASSES, pool=2, hidden=(8, 8)),
        )
        images, labels = scenes(48, size, 0)
        optimizer = torch.optim.AdamW(student.parameters(), lr=2e-2)
        for epoch in range(6):
            drawn, moved = augmented_pairs(images, labels, epoch, zoom=(0.9, 1.3), colour=0.1)
            for chosen in torch.randperm(len(images)).split(12):
                loss = cross_entropy(student(drawn[chosen].float() / 255), moved[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        unseen, truth = scenes(16, size, 1)
        called = student.eval()(unseen.float() / 255).argmax(1)
        valid = truth != NO_CLASS
        for index in range(CLASSES):
            both = ((called == index) & (truth == index)).sum()
            either = (((called == index) | (truth == index)) & valid).sum()
            assert both / either > 0.6, index


class TestAugmentedPairs:
    def test_labels_move_with_the_images(self) -> None:
        """Images that show their own labels still do after any draw, but for the pixels at edges of classes."""
        labels = torch.arange(4)[None, :, None].repeat_interleave(8, 1).expand(20, 32, 40).clone()
        labels[:, :, 20:] += 4
        images = (30 * (labels + 1))[:, None].to(torch.uint8)
        drawn, moved = augmented_pairs(images, labels, 3, zoom=(0.7, 1.5))
        shown = (drawn[:, 0].float() / 30 - 1).round()
        valid = moved != NO_CLASS
        assert ((shown == moved) & valid).sum() > 0.85 * valid.sum()
        assert (drawn[:, 0][~valid] < 30).float().mean() > 0.9
        assert 0.02 < (~valid).float().mean() < 0.4
        flipped = (moved[:, 16, :10].float().mean(1) > moved[:, 16, 30:].float().mean(1)).sum()
        assert 3 <= flipped <= 17

    def test_nothing_asked_for_changes_nothing(self) -> None:
        images, labels = scenes(5, (12, 16), 0)
        drawn, moved = augmented_pairs(images, labels, 0, flip=False)
        assert torch.equal(drawn, images)
        assert torch.equal(moved, labels)

    def test_is_seeded_and_leaves_the_global_generator_alone(self) -> None:
        images, labels = scenes(5, (12, 16), 0)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, second, other = (
            augmented_pairs(images, labels, seed, zoom=(0.8, 1.6), colour=0.2) for seed in (1, 1, 2)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(first[0], other[0])

    def test_colour_changes_brightness_by_what_it_says(self) -> None:
        grey = torch.full((400, 3, 4, 4), 100, dtype=torch.uint8)
        drawn, _ = augmented_pairs(grey, torch.zeros(400, 4, 4, dtype=torch.int64), 0, colour=0.1)
        spread = (drawn.float().mean((2, 3)) / 100).log().std()
        # brightness 0.1, channels 0.04, and gamma, worth 0.1 log(255 / 100)
        assert float(spread) == pytest.approx(math.hypot(0.1, 0.04, 0.1 * math.log(2.55)), rel=0.15)


class TestLosses:
    def test_class_weights_mean_one_over_pixels(self) -> None:
        labels = torch.tensor([0] * 90 + [1] * 9 + [2] + [NO_CLASS] * 20).reshape(1, 10, 12)
        weights = class_weights(labels, 3, 1.0)
        assert weights[1] / weights[0] == pytest.approx(10)
        assert weights[2] / weights[0] == pytest.approx(90)
        assert float((weights * torch.tensor([0.9, 0.09, 0.01])).sum()) == pytest.approx(1)
        torch.testing.assert_close(class_weights(labels, 3, 0.0), torch.ones(3))
        assert torch.isfinite(class_weights(labels, 4, 0.5)).all()

    def test_soft_labels_are_weighed_like_hard_ones(self) -> None:
        """A teacher that is sure of the labels teaches what the weighted cross entropy does: rare classes count."""
        torch.manual_seed(0)
        labels = torch.randint(0, 3, (2, 4, 5))
        logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
        sure = 60 * one_hot(labels, 3).movedim(-1, 1).double()
        weights = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64)
        soft = distillation_loss(logits, labels, sure, temperature=1, alpha=1, class_weights=weights)
        torch.testing.assert_close(soft, cross_entropy(logits, labels, weights))
        even = distillation_loss(logits, labels, sure, temperature=1, alpha=1, class_weights=torch.ones(3).double())
        torch.testing.assert_close(even, distillation_loss(logits, labels, sure, temperature=1, alpha=1))

    def test_channel_wise_loss_is_the_divergence_of_maps(self) -> None:
        torch.manual_seed(0)
        told, said = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
        expected = 0.0
        for image in range(2):
            for index in range(3):
                p = torch.softmax(told[image, index].flatten() / 2, 0)
                q = torch.softmax(said[image, index].flatten() / 2, 0)
                expected += 4 * float((p * (p / q).log()).sum()) / 6
        assert float(channel_wise_loss(said, told, temperature=2)) == pytest.approx(expected)
        # how likely a class is all over the image is left out
        level = torch.randn(2, 3, 1, 1, dtype=torch.float64)
        assert float(channel_wise_loss(told + level, told, temperature=2)) == pytest.approx(0, abs=1e-12)

    def test_channel_wise_loss_teaches_where_classes_are(self) -> None:
        truth = one_hot(torch.arange(24).reshape(1, 4, 6) % 3, 3).movedim(-1, 1).float()
        logits = torch.zeros(1, 3, 4, 6, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=20)
        for _ in range(40):
            loss = channel_wise_loss(logits, 3 * truth, temperature=1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert log_softmax(logits, 1).argmax(1).equal(truth.argmax(1))


RECIPE = """
name = "street"
[data]
name = "camvid-small"
size = [24, 32]
[teacher]
network = "unet"
widths = [6, 8]
epochs = 1
batch = 8
class_weight_power = 0.5
augment = { flip = true, zoom = [0.9, 1.3], colour = 0.1 }
[student]
maps = 3
kernel_sizes = [3, 3]
epochs = 1
batch = 8
arms = ["distilled", "undistilled", "transfer", "random", "digital"]
augment = { flip = true, zoom = [0.9, 1.3], colour = 0.1, views = 2 }
class_weight_power = 0.5
backend = { pool = 2, hidden = [6, 8] }
[[student.variants]]
name = "relu"
after_detection = "relu"
arms = ["distilled"]
[[student.variants]]
name = "intensity"
detection = "intensity"
arms = ["distilled"]
"""


def write_streets(folder: Path) -> Path:
    """Made-up scenes in the format of camvid-small."""
    folder.mkdir(parents=True)
    arrays = {}
    for seed, (part, count) in enumerate((("train", 12), ("val", 4), ("test", 5))):
        images, labels = scenes(count, (120, 160), seed)
        arrays[f"x_{part}"] = images.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{part}"] = labels.where(labels != NO_CLASS, torch.tensor(11)).to(torch.uint8).numpy()
    np.savez(folder / "camvid_120x160.npz", **arrays)
    return folder


def test_a_recipe_is_trained_into_a_bundle_with_every_arm(tmp_path: Path) -> None:
    """What `labctl train --arms` does for labels of pixels: mean IoU over whole splits, weights that load again."""
    data = write_streets(tmp_path / "data" / "camvid-small")
    recipe = tmp_path / "street.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    bundle = train(recipe, tmp_path / "street", data_dir=data, arms=True)
    metrics = bundle.metrics
    assert set(metrics.arms) == {
        "teacher", "distilled", "undistilled", "transfer", "random", "digital", "relu/distilled", "intensity/distilled",
    }  # fmt: skip
    assert metrics.data.task == "segmentation"
    assert metrics.data.validation == 4
    for arm in metrics.arms.values():
        test = arm.runs[0].test
        assert test.measure == "mIoU"
        assert test.n == 5
        assert test.class_iou is not None
        assert len(test.class_iou) == 11
        assert all(math.isfinite(loss) for _, loss, _ in arm.runs[0].curve)
    assert metrics.macs["electronic"] < metrics.macs["student"] < metrics.macs["teacher"] + metrics.macs["optical"]

    again = load_bundle(tmp_path / "street")
    images = resized(load("camvid-small", "test", data_dir=data), load_recipe(recipe).data)
    found = score(again.student, images.images, images.labels, 11)
    assert found.accuracy == pytest.approx(metrics.arms["distilled"].runs[0].test.accuracy)
    assert again.teacher is not None
    found = score(again.teacher, images.images, images.labels, 11)
    assert found.accuracy == pytest.approx(metrics.arms["teacher"].runs[0].test.accuracy)
