"""`labctl models import`: guessed, shown, asked for, tried on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from labctl.cli import models, models_import
from labctl.errors import ConfigError, ModelError
from labctl.learning.bundle import load_bundle
from labctl.learning.data import load

app = typer.Typer()
app.add_typer(models.app, name="models")
run = CliRunner()


def _network() -> nn.Sequential:
    front = (nn.Conv2d(1, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4))
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(4 * 49, 10))


def _named(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same under names that do not count layers."""
    names = {"0": "conv", "1": "bn", "5": "fc"}
    return {f"{names[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor for name, tensor in state.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my net.pth"
    torch.manual_seed(0)
    torch.save(_named(_network().state_dict()), path)
    return path


@pytest.fixture
def trained(tmp_path: Path, tiny_data: Path) -> Path:
    """The same, trained for a second on the tiny set, normalised as Fashion-MNIST is."""
    torch.manual_seed(0)
    network, images = _network(), load("fashion-mnist", "train", data_dir=tiny_data)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    inputs = (images.images - 0.2860) / 0.3530
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), images.labels).backward()
        optimizer.step()
    torch.save(_named(network.state_dict()), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def _import(file: Path, *options: str, **invoke: Any) -> Any:
    args = ["models", "import", str(file), "--models-dir", str(file.parent / "models"), *options]
    return run.invoke(app, args, **invoke)


def test_yes_takes_the_guess_and_says_what_is_assumed(file: Path) -> None:
    result = _import(file, "--yes")
    assert result.exit_code == 0, result.output
    assert "? a ReLU behind the batch norm bn: the file does not say" in result.stderr
    assert "4x28x28" in result.stderr, "the table shows what each layer leaves"
    assert "accuracy not measured (--data)" in result.stdout
    bundle = load_bundle(file.parent / "models" / "my-net")
    assert bundle.recipe.imported is not None and bundle.recipe.imported.file == "my net.pth"
    listed = run.invoke(app, ["models", "list", "--models-dir", str(file.parent / "models")])
    assert (
        "my-net  no image set, 4 signed 5x5 maps, paired: accuracy not measured, imported from my net.pth"
        in listed.stdout
    )
    again = _import(file, "--yes")
    assert isinstance(again.exception, ModelError) and "exists already" in str(again.exception)
    assert _import(file, "--yes", "--force", "--json").exit_code == 0


def test_without_a_terminal_nothing_is_taken_for_granted(file: Path) -> None:
    result = _import(file)
    assert isinstance(result.exception, ModelError) and "--write-mapping" in str(result.exception)
    assert not (file.parent / "models").exists()


def test_a_person_settles_what_is_open(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_import, "asks", lambda: True)
    # image shape, pool, normalisation, ReLU, and whether to go on
    result = _import(file, "--json", input="1,28,28\nmax\n0.286\n0.353\nbefore-norm\ny\n")
    assert result.exit_code == 0, (result.output, result.exception)
    mapping = load_bundle(file.parent / "models" / "my-net").recipe.imported.mapping  # type: ignore[union-attr]
    assert [layer.kind for layer in mapping.layers] == ["convolution", "relu", "batch norm", "max pool", "linear"]
    assert (mapping.input.mean, mapping.input.std) == ((0.286,), (0.353,))
    facts = json.loads(result.stdout[result.stdout.index("{") :])
    assert facts["assumed"] == []
    declined = _import(file, "--force", input="1,28,28\nmax\n0\n1\nnone\nn\n")
    assert declined.exit_code != 0


def test_a_mapping_is_drafted_edited_and_used(file: Path, tmp_path: Path) -> None:
    draft = tmp_path / "net.toml"
    assert _import(file, "--write-mapping", str(draft)).exit_code == 0
    text = draft.read_text(encoding="utf-8")
    assert text.startswith("# How my net.pth is wired, as guessed") and not (file.parent / "models").exists()
    draft.write_text(text.replace("average pool", "max pool"), encoding="utf-8")
    result = _import(file, "--mapping", str(draft), "--name", "pooled")
    assert result.exit_code == 0, result.output
    pool = load_bundle(file.parent / "models" / "pooled").recipe.imported.pool  # type: ignore[union-attr]
    assert pool is not None and pool.kind == "max pool"


def test_images_tell_which_wiring_is_right(trained: Path, tiny_data: Path) -> None:
    data = ["--data", "fashion-mnist", "--data-dir", str(tiny_data)]
    result = _import(trained, "--yes", "--json", *data)
    assert result.exit_code == 0, (result.output, result.exception)
    bundle = load_bundle(trained.parent / "models" / "net")
    mapping = bundle.recipe.imported.mapping  # type: ignore[union-attr]
    assert "wirings fit the file; right answers on 200 training images" in result.stderr
    assert "max pool" in [layer.kind for layer in mapping.layers]
    assert mapping.input.mean == (0.286,), "the normalisation it was trained with gives the least loss"
    losses = [float(line.split()[3]) for line in result.stderr.splitlines() if " %  loss " in line]
    assert len(losses) == 8 and losses == sorted(losses)
    assert "the next is right on" in result.stderr, "how clear the choice was is said"
    assert bundle.metrics.chosen().test.accuracy > 0.9 and bundle.metrics.data.name == "fashion-mnist"
    assert bundle.metrics.data.classes is not None and bundle.metrics.data.classes[9] == "Ankle boot"
    other = _import(trained, "--yes", "--data", "cifar10", "--force")
    assert isinstance(other.exception, ModelError) and "channels" in str(other.exception)


def test_options_that_make_no_sense(file: Path) -> None:
    for option, text in (("--mean", "a"), ("--std", "0"), ("--input-shape", "28x28"), ("--input-shape", "1,0,4")):
        result = _import(file, option, text, "--yes")
        assert isinstance(result.exception, ConfigError) and option in str(result.exception)
