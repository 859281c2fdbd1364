"""A foreign network and the bundle made of it give the same logits: the bar is 1e-4 of the largest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labctl.errors import ModelError
from labctl.learning.bundle import load_bundle
from labctl.learning.import_guess import Choices, guess_mapping
from labctl.learning.import_mapping import Mapping, load_mapping, mapping_text
from labctl.learning.import_reading import Weights, read_weights
from labctl.learning.importing import EQUAL, Imported, import_student, save_import
from labctl.learning.refit import refit_backend, restandardised
from tests.learning.import_networks import (
    CIFAR_MEAN,
    CIFAR_STD,
    MNIST_MEAN,
    MNIST_STD,
    Masks,
    OneConvolution,
    Spectral,
    error_of,
    lively,
    saved,
)


def _imported(weights: Weights, **choices: Any) -> Imported:
    return import_student(weights, guess_mapping(weights.tensors, Choices(**choices)).mapping)


def test_convolution_norm_relu_pool_linear(tmp_path: Path) -> None:
    network = lively(
        nn.Sequential(
            nn.Conv2d(1, 8, 7, padding=3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(8 * 14 * 14, 10),
        )
    )  # fmt: skip
    imported = _imported(saved(network, tmp_path), mean=MNIST_MEAN, std=MNIST_STD)
    assert error_of(imported, network, MNIST_MEAN, MNIST_STD) < EQUAL
    assert imported.section.after_detection == "relu" and imported.section.norm and imported.section.offset
    assert imported.section.deviation < EQUAL


def test_three_linear_convolutions_fuse_into_7x7(tmp_path: Path) -> None:
    network = lively(
        nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(4 * 121, 20), nn.ReLU(), nn.Linear(20, 10),
        )
    )  # fmt: skip
    imported = _imported(saved(network, tmp_path), relu="none")
    assert error_of(imported, network) < EQUAL
    assert (imported.section.kernel, imported.section.start, imported.section.size) == (7, (3, 3), (22, 22))
    assert not imported.section.offset, "the biases of three layers went into the batch norm's mean"


def test_padding_between_layers_is_refused_and_may_be_accepted(tmp_path: Path) -> None:
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(2)]
    network = lively(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 196, 10)))
    weights = saved(network, tmp_path)
    with pytest.raises(ModelError, match=r"band along the image's border.*approximate"):
        _imported(weights, relu="none")
    imported = _imported(weights, relu="none", borders="approximate")
    assert imported.section.deviation > EQUAL, "the difference is on record"
    with torch.no_grad():
        images = torch.rand(4, 1, 28, 28)
        inside = network[:3](images)[..., 2:-2, 2:-2]
        backend = imported.student.backend
        torch.testing.assert_close(
            backend.normed(imported.student.features(images))[..., 2:-2, 2:-2], inside, rtol=1e-4, atol=1e-4
        )
    first = [nn.Conv2d(1, 6, 3, padding=2, bias=False), nn.Conv2d(6, 4, 3, bias=False)]
    whole = lively(nn.Sequential(*first, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 196, 10)))
    weights = saved(whole, tmp_path)
    mapping = guess_mapping(weights.tensors, Choices(relu="none")).mapping
    padded = mapping.model_dump()
    padded["layers"][0]["padding"], padded["layers"][1]["padding"] = 2, 0
    assert error_of(import_student(weights, Mapping.model_validate(padded)), whole) < EQUAL, "all padding first: exact"


def test_colour_with_the_normalisation_of_cifar_and_max_pool(tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
    network = lively(nn.Sequential(*layers, nn.Linear(6 * 64, 10)))
    imported = _imported(saved(network, tmp_path), mean=CIFAR_MEAN, std=CIFAR_STD, pool_kind="max")
    assert error_of(imported, network, CIFAR_MEAN, CIFAR_STD) < EQUAL
    assert imported.student.front.in_channels == 3
    black = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert not bool(imported.student.features(black).any()), "a black panel gives no light"


def test_no_batch_norm_and_one_linear_layer(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 784, 10)).eval()
    imported = _imported(saved(network, tmp_path), mean=MNIST_MEAN, std=MNIST_STD)
    assert error_of(imported, network, MNIST_MEAN, MNIST_STD) < EQUAL
    offset = imported.student.backend.offset
    assert offset is not None and float(offset[0].std()) > 0, "with zero padding, borders have an offset of their own"


def test_the_authors_one_layer_network(tmp_path: Path) -> None:
    network = lively(OneConvolution(64))
    given = {"shape": (1, 28, 28), "mean": MNIST_MEAN, "std": MNIST_STD}
    imported = _imported(saved(network, tmp_path), relu="before-norm", **given)
    images = torch.rand(6, 1, 28, 28)
    with torch.no_grad():
        wanted = network((images - MNIST_MEAN[0]) / MNIST_STD[0])
        got = imported.student(images).log_softmax(1)
    assert float((got - wanted).abs().max() / wanted.abs().max()) < EQUAL
    section = imported.section
    assert (section.kernel, section.size, section.start) == (7, (23, 23), (2, 2)), "6x6 without padding, inside a 7x7"
    assert section.pool is not None and section.pool.kind == "adaptive average pool"


def test_the_authors_spectral_layer(tmp_path: Path) -> None:
    network = lively(Spectral(1, 8))
    imported = _imported(saved(network, tmp_path), mean=MNIST_MEAN, std=MNIST_STD, relu="none", shape=(1, 28, 28))
    assert error_of(imported, network, MNIST_MEAN, MNIST_STD) < EQUAL
    assert imported.section.kernel == 3
    deep = saved(lively(Spectral(1, 4, 6)), tmp_path)
    with pytest.raises(ModelError, match="band along the image's border"):
        _imported(deep, relu="none", shape=(1, 28, 28))
    assert _imported(deep, relu="none", shape=(1, 28, 28), borders="approximate").section.kernel == 5


@pytest.mark.parametrize("half", [False, True])
def test_masks_on_a_grid_that_holds_the_kernel(tmp_path: Path, half: bool) -> None:
    network = Masks(half=half).eval()
    imported = _imported(saved(network, tmp_path), shape=(1, 28, 28))
    assert error_of(imported, network) < EQUAL
    assert imported.section.kernel == 9, "a convolution by 5x5 from the corner, centred on its pixel"


def test_masks_that_wrap_around_are_refused(tmp_path: Path) -> None:
    network = Masks(kernel=5).eval()
    network.grid = 28
    network.mask = nn.Parameter(torch.fft.fft2(torch.randn(4, 1, 5, 5), s=(28, 28)))
    weights = saved(network, tmp_path)
    with pytest.raises(ModelError, match=r"wrap around: .* of their energy.*A grid of 55x55"):
        _imported(weights, shape=(1, 28, 28))
    assert _imported(weights, shape=(1, 28, 28), borders="approximate").section.deviation > EQUAL


def test_real_and_imaginary_parts_as_an_axis_and_as_two_tensors(tmp_path: Path) -> None:
    network = Masks().eval()
    mask, rest = network.mask.detach(), {"fc.weight": network.fc.weight, "fc.bias": network.fc.bias}
    for name, state in (
        ("axis.pth", {"front.weight": torch.view_as_real(mask).contiguous(), **rest}),
        ("two.pth", {"front.weight_real": mask.real.clone(), "front.weight_imag": mask.imag.clone(), **rest}),
        ("flat.pth", {"front.mask": mask[:, 0].clone(), **rest}),
    ):
        torch.save(state, tmp_path / name)
        assert error_of(_imported(read_weights(tmp_path / name), shape=(1, 28, 28)), network) < EQUAL, name


def _layers(kind: str) -> tuple[list[nn.Module], int]:
    """Steps between a convolution of 4 maps of 12x12 and a linear layer, and the values that reach it per map."""
    norm, relu = nn.BatchNorm2d(4), nn.ReLU()
    return {
        "norm relu pool": ([norm, relu, nn.AvgPool2d(2)], 36),
        "relu norm pool": ([relu, norm, nn.AvgPool2d(3)], 16),
        "pool norm": ([nn.AvgPool2d(2), norm], 36),
        "pool norm relu": ([nn.AvgPool2d(2), norm, relu], 36),
        "norm pool relu": ([norm, nn.AvgPool2d(2, 1), relu], 121),
        "norm max relu": ([norm, nn.MaxPool2d(3, 2), relu], 25),
        "max norm": ([nn.MaxPool2d(2), norm], 36),
        "relu max norm": ([relu, nn.MaxPool2d(2), norm], 36),
        "relu pool pool": ([relu, nn.AvgPool2d(2), nn.AvgPool2d(3)], 4),
        "relu padded pool": ([relu, nn.AvgPool2d(3, 2, padding=1)], 36),
        "norm padded max": ([norm, nn.MaxPool2d(3, 2, padding=1)], 36),
        "relu adaptive max": ([relu, nn.AdaptiveMaxPool2d(5)], 25),
        "nothing": ([], 144),
    }[kind]


def _table(module: nn.Module, name: str) -> dict[str, Any] | None:
    """What a mapping says of one of torch's modules."""
    match module:
        case nn.Conv2d():
            return {
                "kind": "convolution", "weight": f"{name}.weight", "padding": list(module.padding),
                "stride": list(module.stride), "dilation": list(module.dilation), "groups": module.groups,
            } | ({"bias": f"{name}.bias"} if module.bias is not None else {})  # fmt: skip
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            return {
                "kind": "batch norm", "mean": f"{name}.running_mean", "variance": f"{name}.running_var",
                "weight": f"{name}.weight", "bias": f"{name}.bias", "eps": module.eps,
            }  # fmt: skip
        case nn.ReLU():
            return {"kind": "relu"}
        case nn.AvgPool2d() | nn.MaxPool2d():
            kind = "average pool" if isinstance(module, nn.AvgPool2d) else "max pool"
            return {"kind": kind, "size": module.kernel_size, "stride": module.stride, "padding": module.padding}
        case nn.AdaptiveMaxPool2d():
            return {"kind": "adaptive max pool", "output": module.output_size}
        case nn.Linear():
            return {"kind": "linear", "weight": f"{name}.weight", "bias": f"{name}.bias"}
    return None


def _mapping(network: nn.Sequential, shape: tuple[int, int, int], **given: Any) -> Mapping:
    tables = [table for name, module in network.named_children() if (table := _table(module, name))]
    return Mapping.model_validate({"input": {"shape": shape, **given}, "layers": tables})


@pytest.mark.parametrize("kind", [
    "norm relu pool", "relu norm pool", "pool norm", "pool norm relu", "norm pool relu", "norm max relu", "max norm",
    "relu max norm", "relu pool pool", "relu padded pool", "norm padded max", "relu adaptive max", "nothing",
])  # fmt: skip
def test_every_order_of_the_steps_behind_the_convolution(tmp_path: Path, kind: str) -> None:
    steps, values = _layers(kind)
    layers = [nn.Conv2d(1, 4, 3, padding=1), *steps, nn.Flatten(), nn.Linear(4 * values, 7), nn.BatchNorm1d(7)]
    network = lively(nn.Sequential(*layers, nn.ReLU(), nn.Linear(7, 3)))
    mapping = _mapping(network, (1, 12, 12), mean=[0.3], std=[0.4])
    assert error_of(import_student(saved(network, tmp_path), mapping), network, (0.3,), (0.4,)) < EQUAL


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(9, 14), st.integers(9, 14)),
    convolutions=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=3
    ),
    padding=st.integers(0, 2),
    depthwise=st.booleans(),
    bias=st.booleans(),
    kind=st.sampled_from(["", "norm", "norm relu", "relu"]),
    pool=st.sampled_from([nn.Identity(), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1)]),
    hidden=st.integers(0, 5),
    moments=st.tuples(st.floats(-0.5, 0.9), st.floats(0.1, 2)),
)
def test_any_shape_that_maps_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    convolutions: list[tuple[int, int, int, int]],
    padding: int,
    depthwise: bool,
    bias: bool,
    kind: str,
    pool: nn.Module,
    hidden: int,
    moments: tuple[float, float],
) -> None:
    """Strides, dilations, groups, even and odd kernels, padding at the first layer: equal, or maps that do not fit."""
    torch.manual_seed(len(convolutions) + padding)
    layers: list[nn.Module] = []
    channels = shape[0]
    for number, (width, size, stride, dilation) in enumerate(convolutions):
        groups = channels if depthwise else 1
        layers.append(
            nn.Conv2d(
                channels, groups * width, size, stride, padding if number == 0 else 0, dilation, groups, bias=bias
            )
        )
        channels = groups * width
    layers += [nn.BatchNorm2d(channels)] if "norm" in kind else []
    layers += [nn.ReLU()] if "relu" in kind else []
    try:
        with torch.no_grad():
            size = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape
            inputs = pool(torch.zeros(size)).numel()
    except RuntimeError:
        return  # torch itself has no such network
    layers += [pool, nn.Flatten()]
    layers += [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 3)] if hidden else [nn.Linear(inputs, 3)]
    network = lively(nn.Sequential(*layers))
    mean, std = (moments[0],), (moments[1],)
    weights = saved(network, tmp_path_factory.mktemp("net"))
    mapping = _mapping(network, shape, mean=mean, std=std)
    try:
        imported = import_student(weights, mapping)
    except ModelError as error:
        if padding > 0 and "larger than the image" in str(error):
            return  # only padding makes maps larger than the image
        raise
    assert error_of(imported, network, mean, std) < EQUAL


def test_the_bundle_is_loaded_as_it_was_saved_and_refits(tmp_path: Path) -> None:
    network = lively(OneConvolution(8))
    weights = saved(network, tmp_path)
    imported = _imported(weights, shape=(1, 28, 28), mean=MNIST_MEAN, std=MNIST_STD, relu="none")
    bundle = save_import(tmp_path / "models" / "one", imported, name="one", assumed=("no ReLU",))
    assert bundle.teacher is None and not bundle.metrics.measured
    with pytest.raises(ModelError, match="has no teacher"):
        bundle.guide()
    with pytest.raises(ModelError, match="never measured"):
        bundle.metrics.chosen()
    again = load_bundle(bundle.path)
    images = torch.rand(30, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(again.student(images), imported.student(images))
        features = again.student.features(images)
    assert again.recipe.imported is not None and again.recipe.imported.sha256 == weights.sha256
    assert again.recipe.imported.mapping == imported.section.mapping
    assert again.recipe.sha256 == again.metrics.recipe_sha256
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "conv1.weight" in card and "no ReLU" in card and "Not measured" in card
    refitted = refit_backend(again.student.backend, features, torch.arange(30) % 10, None, epochs=2)
    assert refitted(features).shape == (30, 10)
    fresh = restandardised(again.student.backend, features)
    assert fresh.norm is not None
    torch.testing.assert_close(
        fresh.norm.running_mean, again.student.backend.used(features).mean((0, 2, 3)), rtol=1e-3, atol=1e-4
    )


def test_a_bundle_without_its_teacher_is_damaged_unless_it_was_imported(tmp_path: Path) -> None:
    imported = _imported(saved(lively(OneConvolution(4)), tmp_path))
    bundle = save_import(tmp_path / "one", imported, name="one")
    text = (bundle.path / "recipe.toml").read_text(encoding="utf-8")
    (bundle.path / "recipe.toml").write_text(text[: text.index("[imported]")], encoding="utf-8")
    with pytest.raises(ModelError, match="teacher.safetensors missing".replace(".", r"\.")):
        load_bundle(bundle.path)


def test_a_mapping_goes_through_its_file(tmp_path: Path) -> None:
    weights = saved(lively(Spectral(1, 4)), tmp_path)
    mapping = guess_mapping(weights.tensors, Choices(shape=(1, 28, 28), borders="approximate")).mapping
    path = tmp_path / "net.toml"
    path.write_text(mapping_text(mapping, notes=("a note",)), encoding="utf-8")
    assert load_mapping(path) == mapping
    assert path.read_text(encoding="utf-8").startswith("# a note\n")
