"""One batch shared out to several processes, so that they compute what one process would.

Every process has the whole batch, takes its own rows through the network, and puts the outputs of all rows together
again before the loss. What looks at a whole batch (batch norm, the tangent kernel, the bench's jitter) thereby sees the
whole batch, and weights end as on one process up to rounding. In one process everything here hands back what it was
given.

Gradients: the sum over processes that goes forward goes backward too, so each process holds, for its own rows, the
gradient of the sum of all processes' equal losses. Averaging weights' gradients over processes, as DDP does, makes that
the gradient of the one loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def rank() -> int:
    """This process's number, from 0."""
    return torch.distributed.get_rank() if _several() else 0


def mine(batch: Tensor) -> Tensor:
    """The rows of a batch that this process computes: every so manieth."""
    return batch[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if _several() else batch


def whole(rows: Tensor, count: int) -> Tensor:
    """A batch of `count` rows put together from what every process made of its own; differentiable."""
    if not _several():
        return rows
    parts = rows.new_zeros(count, *rows.shape[1:])
    parts[torch.distributed.get_rank() :: torch.distributed.get_world_size()] = rows
    return _added_up(parts)


def count_of_all(rows: Tensor) -> int:
    """Rows of all processes together."""
    if not _several():
        return len(rows)
    return int(_added_up(torch.tensor(float(len(rows)), device=rows.device)))


def mean_of_all(values: Float[Tensor, "n maps *size"]) -> Float[Tensor, "1 maps *ones"]:
    """Mean over rows, of all processes, and pixels; differentiable."""
    dims = [0, *range(2, values.ndim)]
    if not _several():
        return values.mean(dim=dims, keepdim=True)
    return _added_up(values.sum(dim=dims, keepdim=True)) / (count_of_all(values) * values.shape[2:].numel())


class JointBatchNorm(_BatchNorm):
    """Batch norm over the rows of all processes, with the weights and running statistics of another, which it shares.

    torch's own `SyncBatchNorm` does this on GPUs alone.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        return

    def forward(self, input: Float[Tensor, "n maps *size"]) -> Float[Tensor, "n maps *size"]:  # noqa: A002 (torch's name)
        """Normalised maps, or units."""
        if not self.training:
            return super().forward(input)
        mean = mean_of_all(input)
        centred = input - mean
        variance = mean_of_all(centred.square())
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                count = count_of_all(input) * input.shape[2:].numel()
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.flatten(), share)
                self.running_var.lerp_(variance.flatten() * (count / max(1, count - 1)), share)
        normed = centred * (variance + self.eps).rsqrt()
        if not self.affine:
            return normed
        shape = [1, -1, *(1 for _ in input.shape[2:])]
        return normed * self.weight.view(shape) + self.bias.view(shape)


@contextmanager
def joint_norms(model: nn.Module) -> Iterator[None]:
    """While inside, the batch norms of a model look at the rows of all processes; nothing changes in one process."""
    replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _several() and isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    for parent, name, child in replaced:
        setattr(parent, name, JointBatchNorm(child))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)


def _several() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum over processes of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _reduced(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _reduced(gradients[0])


def _reduced(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total


def _added_up(values: Tensor) -> Tensor:
    """The sum over processes, forward and backward."""
    total: Tensor = _Sum.apply(values)
    return total
