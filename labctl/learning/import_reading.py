"""Reading the tensors of a foreign file without running any code that is in it."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from labctl.errors import ModelError

SAVE_AGAIN = "save the weights alone where the network runs: torch.save(model.state_dict(), 'weights.pth')"
WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
NOT_WEIGHTS = ("optimizer", "optim", "scheduler", "lr_scheduler", "scaler", "amp", "optimizer_states")


@dataclass(frozen=True)
class Weights:
    """The tensors of one network in a file, in the file's order.

    Attributes
    ----------
    tensors
        By name, wrappers' prefixes taken off; floating point and complex ones on the CPU.
    key
        Where in a training checkpoint they were found, "" when the file is the state dict.
    notes
        What was done to get at them, and what lies beside them.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    key: str
    notes: tuple[str, ...]


def _unreadable(path: Path, error: Exception) -> Exception:
    """The line for a file that torch cannot read; the error itself where it is none of the file's."""
    if not isinstance(error, RuntimeError | EOFError | ValueError | KeyError | AttributeError | zipfile.BadZipFile):
        return error
    if "TorchScript" in str(error):
        return ModelError(
            f"{path}: is a TorchScript archive, which holds code; load it with torch.jit.load where it comes from, "
            f"and {SAVE_AGAIN}"
        )
    first = str(error).split("\n", maxsplit=1)[0]
    return ModelError(f"{path}: is damaged or no file of torch.save ({first}); get it again")


def _load(path: Path, content: bytes) -> Any:
    if path.suffix.lower() == ".safetensors":
        try:
            return load_safetensors(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: is damaged or no safetensors file ({error}); get it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what matters is whether it can be read
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # its module stays out of this code base
            raise _unreadable(path, error) from error
        first = str(error).split("\n", maxsplit=1)[0]
        if "Unsupported global" in str(error) or "weights_only" in str(error) or "Weights only" in str(error):
            raise ModelError(
                f"{path}: holds more than tensors, and opening it would run code that is in it; {SAVE_AGAIN}"
            ) from error
        raise ModelError(f"{path}: is damaged or no file of torch.save ({first}); get it again") from error


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
        and any(isinstance(tensor, Tensor) and tensor.ndim > 1 for tensor in value.values())
        and all(isinstance(tensor, Tensor) or name.endswith("_extra_state") for name, tensor in value.items())
    )


def _found(value: Any, key: str = "", depth: int = 0) -> dict[str, Mapping[str, Any]]:
    """Everything in a checkpoint that looks like a state dict, by where it lies."""
    if _is_weights(value):
        return {key: value}
    if not isinstance(value, Mapping) or depth > 3:
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    for name, inner in value.items():
        if isinstance(name, str) and name.lower() not in NOT_WEIGHTS:
            found |= _found(inner, f"{key}.{name}" if key else name, depth + 1)
    return found


def _unwrapped(names: list[str]) -> tuple[str, list[str]]:
    """The prefix that wrappers have put before every name, and the names without it."""
    prefix = ""
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in names)), None):
        prefix += wrapper
    return prefix, [name.removeprefix(prefix) for name in names]


def read_weights(path: Path, *, key: str | None = None) -> Weights:
    """Read the tensors of a `.pth` file (of `torch.save`, with `weights_only=True`) or of a `.safetensors` file.

    Parameters
    ----------
    key
        Which part of a training checkpoint, where it holds more than one network ("student", "model_state_dict").

    Raises
    ------
    ModelError
        Missing, damaged, more than tensors, no network in it, or several and no `key`. Says how to save it again.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    value = _load(path, content)
    notes: list[str] = []
    found = _found(value)
    if key is not None:
        if key not in found:
            raise ModelError(f"{path}: holds no weights under {key!r} (there: {', '.join(map(repr, found)) or 'none'})")
        found = {key: found[key]}
    if not found:
        what = type(value).__name__ if not isinstance(value, Tensor) else f"one tensor of {list(value.shape)}"
        raise ModelError(f"{path}: holds no state dict ({what}); {SAVE_AGAIN}")
    if len(found) > 1:
        raise ModelError(
            f"{path}: holds {len(found)} networks ({', '.join(map(repr, found))}); say which one with --key"
        )
    where, state = next(iter(found.items()))
    if where:
        notes.append(f"the weights lie under {where!r} of a checkpoint; the rest of it is not used")
    prefix, names = _unwrapped(list(state))
    if prefix:
        notes.append(f"every name begins with {prefix!r}, which a wrapper put there; it is left out")
    tensors = {
        name: _plain(path, name, tensor)
        for name, tensor in zip(names, state.values(), strict=True)
        if isinstance(tensor, Tensor)
    }
    return Weights(path, hashlib.sha256(content).hexdigest(), tensors, where, tuple(notes))


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        raise ModelError(f"{path}: {name} is quantised; {SAVE_AGAIN} before quantising")
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.detach()
    if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"{path}: {name} holds values that are not finite")
    return tensor
