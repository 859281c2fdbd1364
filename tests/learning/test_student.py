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
from labctl.learning.teacher import ResidualTeacher, Teacher
from labctl.optics.detection import Detection

fronts = st.builds(
    lambda seed, maps, channels, sizes, image: (seed, SpectralCascade, (maps, channels, tuple(sizes), None, image)),
    st.integers(0, 2**31 - 1),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3),
    st.tuples(st.integers(9, 32), st.integers(9, 32)),
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


@settings(max_examples=30, deadline=None)
@given(fronts, st.integers(2, 5), st.floats(-3, 3))
def test_spectral_pooling_is_linear_fuses_exactly_and_keeps_what_is_band_limited(
    case: tuple, by: int, factor: float
) -> None:
    seed, cls, args = case
    torch.manual_seed(seed)
    front = cls(*args, spectral_pool=by).double()
    images = torch.rand(2, front.in_channels, *front.image, dtype=torch.float64)
    with torch.no_grad():
        maps = front(images)
        assert maps.shape[-2:] == front.map_size == tuple(-(-side // by) for side in front.image)
        assert (front.cascade(images) - maps).abs().max() <= 1e-9 * maps.abs().max().clamp_min(1)
        assert (front(factor * images) - factor * maps).abs().max() <= 1e-9 * maps.abs().max().clamp_min(1)
        # a map that varies slower than the crop allows is sampled as it is: every `by`-th pixel of the full map
        rows, columns = front.grid
        y, x = torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
        slow = 2 + torch.cos(2 * torch.pi * y / rows)[:, None] + torch.sin(2 * torch.pi * x / columns)[None]
        pooled = front._maps(front._cropped(torch.fft.rfft2(slow[None, None])))
    if rows // by >= 3 and columns // by >= 3:
        expected = slow[::by, ::by][: front.map_size[0], : front.map_size[1]]
        assert (pooled[0, 0] - expected).abs().max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(fronts, st.sampled_from([5, 13]))
def test_intensity_reads_the_sum_over_channels_of_squares(case: tuple, size: int) -> None:
    seed, cls, (maps, channels, _, _, image) = case
    torch.manual_seed(seed)
    front = cls(maps, channels, (size,), None, image, Detection.INTENSITY)  # direct, and spectral where it is large
    images = torch.rand(2, channels, *image)
    with torch.no_grad():
        kernels = front.fused_kernels()
        fields = [conv2d(images[:, [c]], kernels[:, [c]], padding=size // 2) for c in range(channels)]
        expected = sum(field.square() for field in fields)
        assert torch.allclose(front(images), expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@settings(max_examples=20, deadline=None)
@given(fronts)
def test_whitened_kernels_see_white_patches_and_settle_into_the_same_ones(case: tuple) -> None:
    front, _ = build(case)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(20, front.in_channels, 36, 36), 5, 1)
    front.whiten(smooth, floor=1e-9)
    size = front.layers[0].weight.shape[-1]
    patches = torch.nn.functional.unfold(smooth, size).transpose(1, 2).flatten(0, 1).double()
    with torch.no_grad():
        matrix = front.layers[0].parametrizations.weight[0].matrix.double()
        spread = torch.cov((patches @ matrix).T).reshape(len(matrix), len(matrix))
        assert (spread.diagonal() <= 1.01).all(), "no direction is blown up above unit variance"
        assert spread.diagonal().mean() > 0.9
        before = front.fused_kernels()
        front.settle()
        assert torch.equal(front.fused_kernels(), before)
    assert all("parametrizations" not in name for name in front.state_dict())
    front.settle()


def test_controls_keep_their_masks_and_the_digital_one_shows_the_image_itself() -> None:
    torch.manual_seed(0)
    front = SpectralCascade(5, 2, (3, 5), image=(12, 10)).freeze(identity=True)
    images = torch.rand(3, 2, 12, 10)
    assert torch.allclose(front(images), images[:, [0, 1, 0, 1, 0]], atol=1e-6)
    drawn = SpectralCascade(5, 2, (7,), image=12)
    kernels = drawn.fused_kernels().clone()
    assert not any(parameter.requires_grad for parameter in drawn.freeze().parameters())
    assert torch.equal(drawn.fused_kernels(), kernels)


def test_two_sided_keeps_both_signs_apart() -> None:
    backend = Backend(2, (4, 6), 3, pool=1, hidden=(), after_detection="two-sided", norm=False)
    maps = torch.randn(5, 2, 4, 6)
    seen = backend.pooled(maps).view(5, 2, 2, 4, 6)
    assert torch.equal(seen[:, 0] - seen[:, 1], maps) and (seen >= 0).all()
    assert backend.layers()[0].in_features == 2 * 2 * 24


def test_hidden_norms_are_affine_in_eval_mode() -> None:
    torch.manual_seed(0)
    backend = Backend(2, 8, 3, hidden=(5,), hidden_norm=True)
    backend(torch.randn(64, 2, 8, 8))
    backend.eval()
    with torch.no_grad():
        first = backend.between[0](backend.fc1(backend.standard(torch.eye(32))))
        both = backend.between[0](backend.fc1(backend.standard(torch.eye(32).sum(0, keepdim=True))))
        none = backend.between[0](backend.fc1(backend.standard(torch.zeros(1, 32))))
    assert torch.allclose(both - none, (first - none).sum(0, keepdim=True), atol=1e-4)


def test_an_offset_is_added_before_everything() -> None:
    plain, moved = Backend(2, 6, 3, offset=False).eval(), Backend(2, 6, 3, offset=True).eval()
    moved.load_state_dict({**plain.state_dict(), "offset": torch.ones(2, 6, 6)})
    maps = torch.randn(4, 2, 6, 6)
    assert torch.equal(moved(maps), plain(maps + 1))


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
        (lambda: ResidualTeacher((4,) * 8), "does not fit"),
        (lambda: ResidualTeacher((4,)), "two widths"),
        (lambda: SpectralCascade(spectral_pool=40), "spectral pooling by 40"),
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


def test_whitening_many_large_images_looks_at_no_more_patches_than_memory_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    looked: list[int] = []
    unfold = torch.nn.functional.unfold
    monkeypatch.setattr(
        torch.nn.functional, "unfold", lambda *a, **k: (looked.append((p := unfold(*a, **k)).shape[2] * len(p)), p)[1]
    )
    images = torch.nn.functional.avg_pool2d(torch.rand(60, 1, 120, 160), 5, stride=1, padding=2)
    few = SpectralCascade(2, 1, (3,), None, (120, 160))
    few.whiten(images)
    assert 200_000 < looked[0] <= 600_000
    torch.manual_seed(0)
    every = SpectralCascade(2, 1, (3,), None, (120, 160))
    monkeypatch.setattr("labctl.learning.student.ENOUGH_PATCHES", 10**9)
    every.whiten(images)
    matrices = [dict(front.layers[0].named_buffers())["parametrizations.weight.0.matrix"] for front in (few, every)]
    assert torch.allclose(*matrices, rtol=0.1, atol=0.1 * float(matrices[1].abs().max()))
