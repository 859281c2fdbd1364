"""MACs: the counter against closed forms, and folding against what may be folded."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from labctl.learning.accounting import Macs, count_macs, module_macs, spectral_macs
from labctl.learning.backend import Backend
from labctl.learning.student import SpectralCascade, Student
from labctl.learning.teacher import ResidualTeacher, Teacher
from labctl.optics.detection import Detection


def student(
    maps: int = 4,
    channels: int = 1,
    sizes: tuple[int, ...] = (3, 3),
    image: tuple[int, int] = (12, 16),
    detection: Detection = Detection.PAIRED,
    **backend: object,
) -> Student:
    torch.manual_seed(0)
    front = SpectralCascade(maps, channels, sizes, None, image, detection)
    return Student(front, Backend(maps, image, 5, **backend))


@settings(max_examples=12, deadline=None)
@given(
    maps=st.integers(1, 6),
    channels=st.integers(1, 3),
    sizes=st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3),
    image=st.tuples(st.integers(8, 20), st.integers(8, 20)),
    pool=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 40), max_size=2),
    sides=st.sampled_from(["linear", "relu", "two-sided"]),
)
def test_counts_equal_the_closed_forms(
    maps: int, channels: int, sizes: list[int], image: tuple[int, int], pool: int, hidden: list[int], sides: str
) -> None:
    made = student(maps, channels, tuple(sizes), image, pool=pool, hidden=tuple(hidden), after_detection=sides)
    macs = count_macs(made)
    k = sum(sizes) - len(sizes) + 1
    y, x = image
    inputs = maps * (y // pool) * (x // pool) * (2 if sides == "two-sided" else 1)
    assert macs.optical == maps * channels * k * k * y * x
    assert macs.electronic == sum(a * b for a, b in pairwise((inputs, *hidden, 5)))
    assert macs.student == macs.optical + macs.electronic and macs.teacher == 0
    if sides != "linear":
        if k == 1:
            return  # kernels of one sign on images >= 0: the ReLU may never bite, and then it does fold
        assert macs.collapsed == macs.student, "a ReLU in between cannot be folded away"
        return
    widths = (*hidden, 5)
    rest = sum(a * b for a, b in pairwise(widths))
    matrix = channels * y * x * widths[0] + rest
    # an average pool of stride p behind a K x K convolution is a convolution of K + p - 1, at the pooled pixels
    rows, columns = y // pool, x // pool
    strided = maps * channels * (k + pool - 1) ** 2 * rows * columns + macs.electronic
    if min(image) >= 2 * (k + pool):  # else the middle pixel's window is cut by the image's edge, and costs less
        assert macs.collapsed == min(macs.student, matrix, strided)
    else:
        assert macs.collapsed <= min(macs.student, matrix, strided)


def test_folding_to_a_strided_convolution_gives_the_pooled_maps() -> None:
    torch.manual_seed(0)
    kernel, image = torch.randn(1, 1, 5, 5), torch.rand(1, 1, 24, 24)
    pooled = nn.functional.avg_pool2d(conv2d(image, kernel, padding=2), 4)
    box = torch.full((1, 1, 4, 4), 1 / 16)
    fused = conv2d(kernel, box, padding=3)
    assert fused.shape[-1] == 5 + 4 - 1
    torch.testing.assert_close(conv2d(image, fused, stride=4, padding=2)[..., 1:-1, 1:-1], pooled[..., 1:-1, 1:-1])


@pytest.mark.parametrize(
    ("options", "folds"),
    [
        ({}, True),
        ({"after_detection": "relu"}, False),
        ({"pool_kind": "max"}, False),
        ({"detection": Detection.INTENSITY}, False),
        ({"detection": Detection.INCOHERENT}, True),
        ({"norm": False}, True),
        ({"offset": True}, True),
    ],
)
def test_only_what_is_affine_in_the_image_folds(options: dict[str, object], folds: bool) -> None:
    macs = count_macs(student(8, pool=2, hidden=4, **options))
    assert (macs.collapsed < macs.student) == folds


def test_a_teacher_is_counted_whatever_its_network() -> None:
    widths, n = (4, 8, 12), 24
    plain = Teacher(widths, 3, (n, n), 5)
    convolutions = sum(9 * a * b * (n >> i) ** 2 for i, (a, b) in enumerate(pairwise((3, *widths))))
    assert module_macs(plain, 3, n, n) == convolutions + 12 * 9 * 5
    residual = ResidualTeacher((4, 8, 12), 3, (n, n), 5)
    first, second, third = n * n, (n // 2) ** 2, (n // 4) ** 2
    expected = 9 * (3 * 4 * first + (4 * 8 + 2 * 8 * 8) * second + 8 * 12 * third) + 12 * 5
    assert module_macs(residual, 3, n, n) == expected
    assert count_macs(student(channels=3, image=(n, n)), residual).teacher == expected


def test_a_back_end_of_convolutions_folds_its_first_into_the_front() -> None:
    class Map(nn.Module):
        """Pool, 3x3 convolution, ReLU, 1x1 convolution, back to the image's size."""

        def __init__(self) -> None:
            super().__init__()
            self.pool, self.first = nn.AvgPool2d(2), nn.Conv2d(4, 2, 3, padding=1)
            self.last = nn.Conv2d(2, 5, 1)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            logits = self.last(self.first(self.pool(features)).relu())
            return nn.functional.interpolate(logits, scale_factor=2.0, mode="bilinear")

    made = student(image=(24, 32), sizes=(5,))
    made.backend = Map()  # type: ignore[assignment]
    macs = count_macs(made)
    first, last = 4 * 2 * 9 * 12 * 16, 2 * 5 * 12 * 16
    assert macs.electronic == first + last
    fused = 5 + (2 - 1) + 2 * (3 - 1)  # the convolution's taps are two image pixels apart
    assert macs.collapsed == min(2 * fused**2 * 12 * 16 + last, 4 * 6**2 * 12 * 16 + first + last)


def test_spectral_macs_grow_as_n_log_n_and_ignore_the_kernel() -> None:
    assert spectral_macs(1, 1, (32, 32)) == 2 * 1.25 * 1024 * 10 + 2 * 1024
    small, large = spectral_macs(8, 3, (64, 64)), spectral_macs(8, 3, (128, 128))
    assert 4 < large / small < 4 * 14 / 12
    wide, narrow = (count_macs(student(sizes=(k,), image=(20, 20))) for k in (9, 3))
    assert wide.optical == 9 * narrow.optical and wide.spectral < 2 * narrow.spectral
    assert math.isclose(wide.spectral, spectral_macs(4, 1, (28, 28)) + wide.electronic)


def test_the_cheapest_digital_way_is_the_least_of_three() -> None:
    assert Macs(9, 8, 6, 2, 5, 4).cheapest == 4
    assert set(Macs(9, 8, 6, 2, 5, 4).as_dict()) >= {"teacher", "student", "optical", "electronic", "collapsed"}
