"""The cascade, its fusion, and their contract with conv2d."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from labctl.errors import ModelError
from labctl.learning.accounting import count_macs
from labctl.learning.backend import Backend
from labctl.learning.student import SpectralCascade, Student
from labctl.learning.teacher import Teacher

fronts = st.builds(
    lambda seed, maps, channels, sizes, image: (seed, SpectralCascade, (maps, channels, tuple(sizes), None, image)),
    st.integers(0, 2**31 - 1),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3),
    st.integers(9, 32),
)


def build(case: tuple) -> tuple[SpectralCascade, torch.Tensor]:
    seed, cls, args = case
    torch.manual_seed(seed)
    front = cls(*args)
    return front, torch.rand(3, front.in_channels, *front.image)


@settings(max_examples=40, deadline=None)
@given(fronts)
def test_fused_kernels_under_conv2d_equal_the_cascade(case: tuple) -> None:
    front, images = build(case)
    with torch.no_grad():
        fused = front.fused_kernels()
        reference = conv2d(images, fused, padding=front.kernel // 2)
        scale = reference.abs().max()
        assert fused.shape == (front.maps, front.in_channels, front.kernel, front.kernel)
        assert (front.cascade(images) - reference).abs().max() <= 1e-5 * scale
        assert (front.spectral(images) - reference).abs().max() <= 1e-5 * scale
        assert (front(images) - reference).abs().max() <= 1e-5 * scale


@settings(max_examples=20, deadline=None)
@given(fronts, st.floats(-3, 3), st.floats(-3, 3))
def test_features_are_linear_in_the_image(case: tuple, a: float, b: float) -> None:
    front, first = build(case)
    second = torch.rand_like(first)
    with torch.no_grad():
        together = front(a * first + b * second)
        apart = a * front(first) + b * front(second)
    scale = (abs(a) * front(first).abs().max() + abs(b) * front(second).abs().max()).clamp(min=1)
    assert (together - apart).abs().max() <= 1e-5 * scale


def test_the_student_is_linear_up_to_its_first_fully_connected_layer() -> None:
    torch.manual_seed(0)
    student = Student(SpectralCascade(), Backend()).eval()

    def first_layer(images: torch.Tensor) -> torch.Tensor:
        normed = student.backend.norm(student.features(images))
        return student.backend.fc1(student.backend.pool(normed).flatten(1))

    dark = torch.zeros(1, 1, 28, 28)
    one, two = torch.rand(2, 1, 1, 28, 28)
    with torch.no_grad():
        bent = first_layer(one + two) - first_layer(one) - first_layer(two) + first_layer(dark)
    assert bent.abs().max() < 1e-5


def test_relu_after_detection_is_not_linear_and_says_so_in_the_back_end() -> None:
    torch.manual_seed(0)
    plain, bent = Backend(), Backend(after_detection="relu")
    bent.load_state_dict(plain.state_dict())
    features = torch.randn(4, 8, 28, 28)
    assert not torch.allclose(plain.eval()(features), bent.eval()(features))


def test_a_28_image_and_three_3x3_layers_need_a_34_grid() -> None:
    front = SpectralCascade()
    assert (front.kernel, front.grid) == (7, (34, 34))
    assert front.masks().shape == (8, 1, 34, 18)


def test_gradients_reach_every_layer() -> None:
    torch.manual_seed(0)
    student = Student(SpectralCascade(), Backend())
    student(torch.rand(4, 1, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SpectralCascade(kernel_sizes=(4,)), "odd"),
        (lambda: SpectralCascade(kernel_sizes=(3, 3), hidden=(4, 4)), "hidden widths"),
        (lambda: SpectralCascade()(torch.rand(2, 1, 32, 32)), "this student takes"),
        (lambda: Backend()(torch.rand(2, 4, 28, 28)), "this back end takes"),
        (lambda: Backend(pool=40), "does not fit"),
        (lambda: Teacher((4,) * 6), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make: object, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make()  # type: ignore[operator]


def test_macs_by_hand() -> None:
    student = Student(SpectralCascade(), Backend(pool=2, hidden=128))
    macs = count_macs(student, Teacher((32, 64, 128)))
    assert macs.optical == 8 * 49 * 784
    assert macs.electronic == 8 * 14 * 14 * 128 + 128 * 10
    assert macs.student == macs.optical + macs.electronic
    assert macs.collapsed == 784 * 128 + 128 * 10
    assert macs.teacher == 9 * (32 * 784 + 32 * 64 * 196 + 64 * 128 * 49) + 128 * 9 * 10
    bent = Student(SpectralCascade(), Backend(after_detection="relu"))
    assert count_macs(bent, Teacher()).collapsed == macs.student, "a ReLU in between cannot be folded away"
