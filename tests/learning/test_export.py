"""What is exported gives the student's logits: safetensors by hand, ONNX in onnxruntime."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import typer
from safetensors import safe_open
from torch.nn import functional
from typer.testing import CliRunner

from labctl.cli import models
from labctl.errors import LabctlError, ModelError
from labctl.learning.bundle import Bundle, load_bundle
from labctl.learning.exporting import EQUAL, export_onnx, export_safetensors
from labctl.learning.import_guess import Choices, guess_mapping
from labctl.learning.importing import import_student, save_import
from tests.learning.import_networks import MNIST_MEAN, MNIST_STD, OneConvolution, lively, saved

SHIPPED = Path(__file__).parents[2] / "models" / "fashion-mnist-sclc"
app = typer.Typer()
app.add_typer(models.app, name="models")
run = CliRunner()


@pytest.fixture
def imported(tmp_path: Path) -> Bundle:
    """Valid 6x6 convolution, ReLU, adaptive pool, an offset."""
    weights = saved(lively(OneConvolution(6)), tmp_path)
    choices = Choices(shape=(1, 28, 28), mean=MNIST_MEAN, std=MNIST_STD, relu="before-norm")
    student = import_student(weights, guess_mapping(weights.tensors, choices).mapping)
    return save_import(tmp_path / "one", student, name="one")


def _runtime_error(bundle: Bundle, path: Path) -> float:
    """Largest difference of onnxruntime's logits to the student's, relative to the largest; for 1 and for 7 images."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in (1, 7):
        images = torch.rand(count, bundle.student.front.in_channels, *bundle.student.front.image)
        with torch.no_grad():
            wanted = bundle.student(images)
        got = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max()))
    return worst


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_onnx_of_the_shipped_student(tmp_path: Path) -> None:
    bundle = load_bundle(SHIPPED)
    path = export_onnx(bundle, tmp_path / "net.onnx")
    assert _runtime_error(bundle, path) < EQUAL
    said = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_modelmeta()
    assert said.custom_metadata_map["sha256"] == bundle.sha256
    assert "not normalised" in said.custom_metadata_map["input"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_onnx_of_an_imported_student_and_of_squared_maps(imported: Bundle, tmp_path: Path) -> None:
    assert _runtime_error(imported, export_onnx(imported, tmp_path / "one.onnx")) < EQUAL
    from labctl.optics.detection import Detection

    imported.student.front.detection = Detection.INTENSITY
    assert _runtime_error(imported, export_onnx(imported, tmp_path / "squared.onnx")) < EQUAL


def test_safetensors_and_its_conventions_are_enough(tmp_path: Path) -> None:
    bundle = load_bundle(SHIPPED)
    path = export_safetensors(bundle, tmp_path / "net.safetensors")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        said = file.metadata()
    assert said["kernels"] == "[maps, channels, y, x]; conv2d(images, kernels, padding=3), a cross-correlation"
    assert said["detection"] == "paired" and json.loads(said["classes"])[9] == "Ankle boot"
    images = torch.rand(3, 1, 28, 28)
    maps = functional.conv2d(images, tensors["kernels"], padding=3)
    names = ("running_mean", "running_var", "weight", "bias")
    normed = functional.batch_norm(maps, *(tensors[f"backend.norm.{name}"] for name in names))
    hidden = functional.avg_pool2d(normed, 2).flatten(1)
    hidden = functional.linear(hidden, tensors["backend.fc1.weight"], tensors["backend.fc1.bias"]).relu()
    logits = functional.linear(hidden, tensors["backend.fc2.weight"], tensors["backend.fc2.bias"])
    with torch.no_grad():
        torch.testing.assert_close(logits, bundle.student(images), rtol=1e-4, atol=1e-4)


def test_the_command(tmp_path: Path) -> None:
    args = ["models", "export", str(SHIPPED), "--to", "safetensors", "--out", str(tmp_path / "a" / "n.safetensors")]
    result = run.invoke(app, [*args, "--json"])
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout)
    assert facts["bytes"] == (tmp_path / "a" / "n.safetensors").stat().st_size
    again = run.invoke(app, args)
    assert isinstance(again.exception, ModelError) and "--force" in str(again.exception)
    assert run.invoke(app, [*args, "--force"]).exit_code == 0


def test_what_onnx_needs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")
        return real(name, *args, **kwargs)

    bundle = load_bundle(SHIPPED)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LabctlError, match=r"onnxscript\): pip install 'labctl\[export\]'"):
        export_onnx(bundle, tmp_path / "n.onnx")
    monkeypatch.undo()
    bundle.student.front.spectral_pool = 2
    with pytest.raises(ModelError, match="pools in the Fourier domain"):
        export_onnx(bundle, tmp_path / "n.onnx")
    assert not list(tmp_path.glob("*.onnx*"))
