"""Refitting the electronic back end to features that a bench delivered.

The optics stay as they are. Batch-norm statistics are estimated anew on the captured features, then the back end is
fine-tuned from its trained weights with the distillation loss. A few hundred captures are little for some 200,000
weights, so the fit is pulled towards where it started and stops early on captures held back.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from labctl.errors import ModelError
from labctl.learning.backend import Backend
from labctl.learning.data import balanced_order
from labctl.learning.fit import mix_seed, seeded
from labctl.learning.scoring import logits_of
from labctl.learning.transfer import distillation_loss


@dataclass(frozen=True)
class RefitProgress:
    """One epoch of a refit: losses in nats (training, held back), and whether this is the best so far."""

    epoch: int
    epochs: int
    loss: float
    held_back_loss: float
    best: bool


def restandardised(backend: Backend, features: Float[Tensor, "n maps y x"]) -> Backend:
    """A copy whose batch-norm mean and variance are those of `features`; nothing else changes.

    This alone undoes every gain and offset that is constant per map.
    """
    refitted = copy.deepcopy(backend)
    norm = refitted.norm
    with torch.no_grad():
        variance, mean = torch.var_mean(refitted.used(features).float(), dim=(0, 2, 3))
        if norm is not None and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
    return refitted.eval()


def _check(backend: Backend, features: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> None:
    backend.check(features)
    if len(features) != len(labels) or (teacher_logits is not None and len(teacher_logits) != len(labels)):
        raise ModelError(
            f"{len(features)} features, {len(labels)} labels"
            + (f", {len(teacher_logits)} teacher logits" if teacher_logits is not None else "")
            + ": one of each is needed per image"
        )
    if len(features) < 20:
        raise ModelError(f"{len(features)} captures are too few to refit a back end; take at least 20, better 500")
    if not bool(torch.isfinite(features).all()):
        raise ModelError("features hold values that are not finite: look at the captures before refitting")


def refit_backend(
    backend: Backend,
    features: Float[Tensor, "n maps y x"],
    labels: Int64[Tensor, " n"],
    teacher_logits: Float[Tensor, "n classes"] | None,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    epochs: int = 40,
    seed: int = 0,
    batch: int = 50,
    learning_rate: float = 2e-4,
    pull: float = 1e-2,
    patience: int = 10,
    progress: Callable[[RefitProgress], None] | None = None,
) -> Backend:
    """A new back end, fitted to captured features; `backend` is left as it is.

    Parameters
    ----------
    features
        Signed maps as the bench delivered them, in the units of conv2d or near them.
    teacher_logits
        Of the same images, or None to fit to the labels alone.
    temperature, alpha
        Of the distillation loss.
    epochs, patience
        At most so many; ends when the held-back loss has not fallen for `patience` epochs.
    pull
        Weight of the decay towards the starting weights, per unit of learning rate.

    Returns
    -------
    Backend
        In eval mode: the state with the lowest loss on a held-back tenth (at least 10 images, balanced), among the
        trained back end as it was, the same with new batch-norm statistics, and every epoch of the fine-tuning.

    Raises
    ------
    ModelError
        Shapes or counts do not match, fewer than 20 captures, or values that are not finite.
    """
    _check(backend, features, labels, teacher_logits)
    features = features.detach().float()
    count = len(labels)
    order = torch.from_numpy(balanced_order(labels.numpy(), seed))
    held, kept = order[: max(10, count // 10)], order[max(10, count // 10) :]

    def loss_of(logits: Tensor, chosen: Tensor) -> Tensor:
        soft = None if teacher_logits is None else teacher_logits[chosen]
        return distillation_loss(logits, labels[chosen], soft, temperature=temperature, alpha=alpha)

    def held_back(candidate: Backend) -> float:
        return float(loss_of(logits_of(candidate, features[held]), held))

    model = restandardised(backend, features)
    best, best_loss = copy.deepcopy(backend).eval(), held_back(backend)
    if (value := held_back(model)) < best_loss:
        best, best_loss = copy.deepcopy(model), value
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    steps, step, since = epochs * math.ceil(len(kept) / batch), 0, 0
    for epoch in range(epochs):
        total = 0.0
        with seeded(mix_seed(seed, epoch)):
            for chosen in torch.split(kept[torch.randperm(len(kept))], batch):
                rate = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                # eval mode: the statistics of all captures are better than those of one small batch
                value_of = loss_of(model(features[chosen]), chosen)
                optimizer.zero_grad()
                value_of.backward()
                optimizer.step()
                with torch.no_grad():
                    for parameter, origin in zip(model.parameters(), start, strict=True):
                        parameter.lerp_(origin, min(1.0, pull * rate / learning_rate))
                total += float(value_of.detach()) * len(chosen)
                step += 1
        value = held_back(model)
        improved = value < best_loss
        if improved:
            best, best_loss, since = copy.deepcopy(model), value, 0
        else:
            since += 1
        if progress:
            progress(RefitProgress(epoch + 1, epochs, total / len(kept), value, improved))
        if since >= patience:
            break
    return best.eval()
