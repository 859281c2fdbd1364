"""Which tensor of a state dict plays which part, by name and shape."""

from __future__ import annotations

import re
from collections.abc import Mapping as Tensors
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from labctl.errors import ModelError

REPARAMETRISED = ("weight_g", "weight_v", "weight_orig", "weight_u", "original0", "original1")
REAL, IMAGINARY = re.compile(r"(?i)(_|\b)(re|real|r)$|real"), re.compile(r"(?i)(_|\b)(im|imag|i)$|imag")


@dataclass(frozen=True)
class Part:
    """One layer's tensors, by the role that each plays.

    Attributes
    ----------
    kind
        What they are.
    owner
        The common beginning of their names.
    names
        Tensor names by role: weight, imaginary, bias, mean, variance.
    """

    kind: Literal["convolution", "spectral", "batch norm", "linear"]
    owner: str
    names: dict[str, str] = field(hash=False)


def find_parts(tensors: Tensors[str, Tensor]) -> list[Part]:
    """The layers of a state dict, in its order.

    Raises
    ------
    ModelError
        Some tensor plays no part that this package knows, by its shape. Names it.
    """
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in REPARAMETRISED or ".parametrizations." in f".{name}":
            raise ModelError(
                f"the tensor {name!r} is part of a weight or spectral norm; take it off where the "
                "network runs (torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm) and save again"
            )
        if leaf == "num_batches_tracked" or name.endswith("_extra_state"):
            continue
        owners.setdefault(owner, {})[leaf] = tensor
    return [part for owner, leaves in owners.items() for part in _parts_of(owner, leaves)]


def _parts_of(owner: str, leaves: dict[str, Tensor]) -> list[Part]:
    def full(leaf: str) -> str:
        return f"{owner}.{leaf}" if owner else leaf

    if "running_mean" in leaves and "running_var" in leaves:
        roles = {"mean": "running_mean", "variance": "running_var", "weight": "weight", "bias": "bias"}
        return [Part("batch norm", owner, {role: full(leaf) for role, leaf in roles.items() if leaf in leaves})]
    bodies = {leaf: tensor for leaf, tensor in leaves.items() if tensor.ndim > 1}
    biases = [leaf for leaf, tensor in leaves.items() if tensor.ndim == 1 and leaf.lower() in ("bias", "b")]
    others = [leaf for leaf, tensor in leaves.items() if tensor.ndim < 2 and leaf not in biases]
    if others or (biases and not bodies):
        leaf = (others or biases)[0]
        raise ModelError(
            f"the tensor {full(leaf)!r} of {list(leaves[leaf].shape)} plays no part here: it may be of a PReLU, a "
            "layer or group norm, a batch norm without running statistics (whose effect depends on the batch), or "
            "a learned constant; none has a place behind a camera"
        )
    found: list[Part] = []
    imaginary = {leaf for leaf in bodies if IMAGINARY.search(leaf) and not REAL.search(leaf)}
    for leaf, tensor in bodies.items():
        if leaf in imaginary:
            continue
        names = {"weight": full(leaf)}
        partner = [other for other in imaginary if bodies[other].shape == tensor.shape and REAL.search(leaf)]
        if partner:
            names["imaginary"] = full(partner[0])
        if biases:
            names["bias"] = full(biases[0])
        if tensor.is_complex() or partner or tensor.ndim > 4:
            found.append(Part("spectral", owner, names))
        elif tensor.ndim == 4:
            found.append(Part("convolution", owner, names))
        elif tensor.ndim == 2:
            found.append(Part("linear", owner, names))
        else:
            raise ModelError(f"the tensor {full(leaf)!r} of {list(tensor.shape)} plays no part here: it has 3 axes")
    if not found and bodies:
        raise ModelError(f"the tensor {full(next(iter(bodies)))!r} looks like an imaginary part without a real one")
    return found


def position(part: Part) -> tuple[str, int] | None:
    """(parent, index) of a layer of a `torch.nn.Sequential`; None for a named one."""
    parent, _, last = part.owner.rpartition(".")
    return (parent, int(last)) if last.isdecimal() else None


def between(first: Part, second: Part) -> int | None:
    """How many layers without tensors stand between two of one `Sequential`; None where the names do not say."""
    here, there = position(first), position(second)
    if here is None or there is None or here[0] != there[0] or there[1] <= here[1]:
        return None
    return there[1] - here[1] - 1
