"""What cannot be imported is refused by name, with the reason; what the file does not say is said."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from labctl.errors import ConfigError, ModelError
from labctl.learning.import_guess import Choices, guess_mapping
from labctl.learning.import_mapping import Mapping, parse_mapping
from labctl.learning.import_reading import read_weights
from labctl.learning.importing import import_student, save_import
from labctl.learning.recipe import load_recipe
from tests.learning.import_networks import lively, saved


class Nasty:
    """A pickle that runs code when it is opened without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path(self.path),))  # type: ignore[return-value]

    def __init__(self, path: str) -> None:
        self.path = path


def _plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 784, 10))


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    sign = tmp_path / "it ran"
    torch.save({"weight": torch.zeros(2, 2), "x": Nasty(str(sign))}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"net.pth: holds more than tensors.*torch.save\(model.state_dict\(\)"):
        read_weights(tmp_path / "net.pth")
    assert not sign.exists()
    torch.save(_plain(), tmp_path / "whole.pth")
    with pytest.raises(ModelError, match="holds more than tensors"):
        read_weights(tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.pth", b"", "damaged"),
        ("text.pth", b"hello, I am no network", "damaged"),
        ("cut.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{", "damaged or no safetensors"),
        ("number.pth", pickle.dumps(3, protocol=2), "damaged|no state dict"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: .*({says})") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_files_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "none.pth")
    torch.save(torch.zeros(3), tmp_path / "one.pth")
    with pytest.raises(ModelError, match=r"no state dict \(one tensor of \[3\]\)"):
        read_weights(tmp_path / "one.pth")
    torch.save({"w": torch.full((2, 2), float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(ModelError, match="w holds values that are not finite"):
        read_weights(tmp_path / "nan.pth")


def test_wrappers_and_checkpoints(tmp_path: Path) -> None:
    network = _plain()
    plain = network.state_dict()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.zeros(1, 1, 28, 28)).sum().backward()
    optimizer.step()
    parallel = collections.OrderedDict((f"module.{name}", t) for name, t in plain.items())
    torch.save(parallel, tmp_path / "parallel.pth")
    torch.save(
        {"epoch": 3, "state_dict": parallel, "optimizer": optimizer.state_dict(), "best": 0.9}, tmp_path / "check.pth"
    )
    save_file(plain, tmp_path / "plain.safetensors")
    for name in ("parallel.pth", "check.pth", "plain.safetensors"):
        weights = read_weights(tmp_path / name)
        assert set(weights.tensors) == set(plain), name
    assert read_weights(tmp_path / "check.pth").key == "state_dict"
    notes = " ".join(read_weights(tmp_path / "check.pth").notes)
    assert "'state_dict'" in notes and "'module.'" in notes
    torch.save({"student": plain, "teacher": {"net": plain}}, tmp_path / "two.pth")
    with pytest.raises(ModelError, match=r"holds 2 networks \('student', 'teacher.net'\); say which one with --key"):
        read_weights(tmp_path / "two.pth")
    assert set(read_weights(tmp_path / "two.pth", key="teacher.net").tensors) == set(plain)
    with pytest.raises(ModelError, match="no weights under 'ema'"):
        read_weights(tmp_path / "two.pth", key="ema")


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "nothing for light to do"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 2, 3)), "stands behind a linear layer"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(), nn.Linear(2, 2)), r"'1.weight' of \[1\] plays no part"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, 2)), "group norm"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3)), nn.Linear(2, 2)),
            "spectral norm; take it off",
        ),
        (lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(2, 2)), r"'0.weight' of .* has 3 axes"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(35, 2)), "no multiple of the 2 maps"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 10007, 2)), "no padding and pooling"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(3, 2, 3), nn.Linear(2, 2)), "takes 3 channels, 4 reach"),
    ],
)
def test_networks_that_have_no_place_on_a_bench(tmp_path: Path, network: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        guess_mapping(saved(network(), tmp_path).tensors, Choices())


CONVOLUTION = {"kind": "convolution", "weight": "0.weight", "bias": "0.bias", "padding": 1}
NORM = {"kind": "batch norm", "mean": "1.running_mean", "variance": "1.running_var", "weight": "1.weight"}
RELU, MAX = {"kind": "relu"}, {"kind": "max pool", "size": 2}
LINEAR = {"kind": "linear", "weight": "4.weight"}


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([CONVOLUTION, RELU, CONVOLUTION | {"weight": "9.weight"}, LINEAR], "relu stands between two convolutions"),
        ([CONVOLUTION, MAX, CONVOLUTION | {"weight": "9.weight"}, LINEAR], "max pool stands between two convolutions"),
        ([RELU, LINEAR], "no convolution and no spectral layer"),
        ([LINEAR, CONVOLUTION], "behind a linear layer"),
        ([CONVOLUTION, RELU, NORM, MAX, LINEAR], "negative weights in 1 of its 2 maps stands before the max pool"),
        (
            [CONVOLUTION, MAX, NORM, RELU, LINEAR],
            "negative weights in 1 of its 2 maps stands between max pool and ReLU",
        ),
        ([CONVOLUTION, RELU, NORM, RELU, MAX, LINEAR], "second ReLU"),
        ([CONVOLUTION | {"padding": 3}, MAX, LINEAR], "larger than the image"),
        ([CONVOLUTION, LINEAR], r"4.weight takes 72 values, 288 reach it \(2 maps of 12x12\)"),
        ([CONVOLUTION, MAX, LINEAR, RELU], "ReLU is the last layer"),
        ([CONVOLUTION, MAX], "has no linear layer"),
        ([CONVOLUTION, {"kind": "adaptive average pool", "output": 6}, RELU, LINEAR], "windows of unequal size"),
        ([CONVOLUTION | {"weight": "8.weight"}, LINEAR], "no tensor '8.weight'"),
        (
            [CONVOLUTION | {"weight": "4.weight"}, LINEAR],
            r"'4.weight' is \[5, 72\], its part in the mapping needs 4 axes",
        ),
    ],
)
def test_wirings_that_have_no_place_on_a_bench(tmp_path: Path, layers: list[dict[str, Any]], says: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(72, 5)
    )
    lively(network)
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([1.0, -1.0]))
    state = network.state_dict() | {"9.weight": torch.randn(2, 2, 3, 3), "9.bias": torch.randn(2)}
    torch.save(state, tmp_path / "net.pth")
    mapping = Mapping.model_validate({"input": {"shape": [1, 12, 12]}, "layers": layers})
    with pytest.raises(ModelError, match=f"net.pth.*{says}") as caught:
        import_student(read_weights(tmp_path / "net.pth"), mapping)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[input", "no valid TOML"),
        ("[input]\nshape = [1, 4, 4]", "key 'layers' is missing"),
        ("[input]\nshape = [1, 4, 4]\n[[layers]]\nkind = 'gelu'", "its kind must be one of convolution, spectral"),
        (
            "[input]\nshape = [3, 4, 4]\nmean = [1, 2]\n[[layers]]\nkind = 'relu'",
            "input.mean has 2 values for 3 channels",
        ),
        ("[input]\nshape = [1, 4, 4]\n[[layers]]\nkind = 'linear'\nweight = 'a'\nbais = 'b'", "unknown key 'layers.0"),
    ],
)
def test_mapping_files(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"net.toml: .*{says}"):
        parse_mapping(text, path="net.toml")


def test_what_the_file_does_not_say_is_said(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * 49, 10)
    )
    named = {("conv.weight", "0.weight"), ("conv.bias", "0.bias"), ("fc.weight", "4.weight"), ("fc.bias", "4.bias")}
    state = {new: network.state_dict()[old] for new, old in sorted(named)}
    torch.save(state, tmp_path / "net.pth")
    guess = guess_mapping(read_weights(tmp_path / "net.pth").tensors)
    about = {item.about for item in guess.assumed}
    assert {"shape", "pool_kind", "relu", "mean"} <= about
    told = guess_mapping(
        read_weights(tmp_path / "net.pth").tensors,
        Choices(shape=(1, 28, 28), mean=(0.0,), std=(1.0,), relu="none", padding=1, pool=4, pool_kind="average"),
    )
    assert not told.assumed, "nothing is open once all is said"
    numbered = guess_mapping(saved(network, tmp_path).tensors)
    relu = next(item for item in numbered.assumed if item.about == "relu")
    assert relu.options[0] == "none" and "2 layers without tensors" in relu.text, "Sequential's numbers tell"


def test_an_imported_bundle_is_not_trained(tmp_path: Path) -> None:
    weights = saved(_plain().eval(), tmp_path)
    imported = import_student(weights, guess_mapping(weights.tensors, Choices(relu="none", pool=0)).mapping)
    bundle = save_import(tmp_path / "net", imported, name="net")
    with pytest.raises(ConfigError, match=r"imported from net\.pth; there is nothing to train again"):
        load_recipe(bundle.path)
