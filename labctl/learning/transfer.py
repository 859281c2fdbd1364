"""Knowledge transfer from teacher to student: soft labels, and the tangent kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, layer_norm, log_softmax

from labctl.learning.data import NO_CLASS


def _per_decision(logits: Tensor) -> Tensor:
    """[decisions, classes]: one row per image, or per pixel where logits are [n, classes, y, x]."""
    return logits if logits.ndim == 2 else logits.movedim(1, -1).flatten(0, -2)


def distillation_loss(
    logits: Float[Tensor, "n classes *size"],
    labels: Int64[Tensor, "n ..."],
    teacher_logits: Float[Tensor, "n classes *size"] | None,
    *,
    temperature: float,
    alpha: float,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) CE(student, labels).

    The loss of Hinton, Vinyals, Dean (arXiv:1503.02531), as used in arXiv:2102.13323. Mean over the batch (and over
    pixels), in nats. Without teacher logits, or with `alpha` 0, the plain cross entropy. T^2 keeps the size of the soft
    term's gradient when T changes. Pixels without a class count in the soft term alone. `class_weights` weigh both
    terms: the hard one by the label's class, the soft one by those that the teacher sees, each as likely as it says.
    """

    def hard() -> Tensor:
        return cross_entropy(logits, labels, class_weights, ignore_index=NO_CLASS, label_smoothing=label_smoothing)

    if teacher_logits is None or alpha == 0:
        return hard()
    told = log_softmax(_per_decision(teacher_logits) / temperature, dim=1)
    said = log_softmax(_per_decision(logits) / temperature, dim=1)
    if class_weights is None:
        soft = kl_div(said, told, reduction="batchmean", log_target=True)
    else:
        weights = told.exp() @ class_weights
        each = kl_div(said, told, reduction="none", log_target=True).sum(1)
        soft = (weights * each).sum() / weights.sum()
    loss = alpha * temperature**2 * soft
    return loss if alpha == 1 else loss + (1 - alpha) * hard()


def alignment(first: Float[Tensor, "n n"], second: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Centred kernel alignment of two Gram matrices of the same images, -1 to 1 (Cortes et al., JMLR 13)."""
    first, second = (
        kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()
        for kernel in (first, second)
    )
    scale = first.square().sum().sqrt() * second.square().sum().sqrt()
    return (first * second).sum() / scale.clamp_min(1e-12)


class FeatureHint(nn.Module):
    """How far the student's last hidden layer, seen through a linear map trained with it, is from the teacher's.

    The regression of FitNets (arXiv:1412.6550), onto the teacher's features whitened and layer-normalised: every
    direction in which the teacher tells images apart counts alike. The map is thrown away after training.

    Parameters
    ----------
    hidden
        Units of the student's last hidden layer.
    features : float tensor [n, features]
        The teacher's on training images, whose mean and covariance say what white is.
    """

    def __init__(self, hidden: int, features: Float[Tensor, "n features"]) -> None:
        super().__init__()
        features = features.double()
        values, vectors = torch.linalg.eigh(torch.cov(features.T))
        matrix = vectors @ torch.diag((values.clamp_min(0) + 1e-2 * values.mean()).rsqrt()) @ vectors.T
        self.mean: Tensor
        self.matrix: Tensor
        self.register_buffer("mean", features.mean(0).float())
        self.register_buffer("matrix", matrix.float())
        self.project = nn.Linear(hidden, features.shape[1])

    def forward(self, hidden: Float[Tensor, "n hidden"], features: Float[Tensor, "n features"]) -> Float[Tensor, ""]:
        """Mean square, about 2 for unrelated features and 0 for equal ones."""
        size = self.mean.shape
        wanted = layer_norm((features - self.mean) @ self.matrix, size)
        return (layer_norm(self.project(hidden), size) - wanted).square().mean()
