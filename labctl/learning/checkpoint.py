"""What a training can go on from after a kill: one safetensors file per network, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from labctl.errors import ModelError


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a fit: mean training loss (nats), validation accuracy (0..1)."""

    epoch: int
    loss: float
    validation: float


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: which fit (`key` names recipe, data and stage), epochs done, its curve, seconds spent."""

    key: str
    epochs_done: int = 0
    seconds: float = 0.0
    curve: tuple[EpochRecord, ...] = field(default=())


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file beside `path`, sync it and rename: a reader sees the old file or the new one.

    Raises
    ------
    ModelError
        The disk is full or refuses.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part, metadata=metadata)
        part.chmod(0o644)  # safetensors writes for the owner alone; a bundle is to be shared
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"{path}: cannot be written ({error}); free some space or choose another place") from error


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write weights, optimizer state and progress in one file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))})


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, key: str) -> Progress:
    """Put a checkpoint into `model` and `optimizer`; an absent, damaged or other fit's file leaves both as they are.

    Starting afresh is the right answer to all three: a checkpoint is a saving of time, never the only copy of a result.
    """
    fresh = Progress(key)
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {})["progress"])
            if stored["key"] != key:
                return fresh
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        progress = Progress(**{**stored, "curve": tuple(EpochRecord(**record) for record in stored["curve"])})
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, kind = name.split(".", 2)
                state.setdefault(int(index), {})[kind] = tensor
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return fresh
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, kept in state.items():
        for name, tensor in kept.items():
            if tensor.shape == parameters[index].shape:
                # a fused optimiser walks through weights and state alike: they must lie in memory in the same order
                kept[name] = torch.empty_like(parameters[index], requires_grad=False).copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
