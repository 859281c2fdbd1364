"""Knowledge distillation: the loss of Hinton, Vinyals, Dean (arXiv:1503.02531), as used in arXiv:2102.13323."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax


def distillation_loss(
    logits: Float[Tensor, "n classes"],
    labels: Int64[Tensor, " n"],
    teacher_logits: Float[Tensor, "n classes"] | None,
    *,
    temperature: float,
    alpha: float,
) -> Float[Tensor, ""]:
    """alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) CE(student, labels).

    Mean over the batch, in nats. Without teacher logits, or with `alpha` 0, the plain cross entropy. T^2 keeps the
    size of the soft term's gradient when T changes.
    """
    if teacher_logits is None or alpha == 0:
        return cross_entropy(logits, labels)
    soft = kl_div(
        log_softmax(logits / temperature, dim=1),
        log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    loss = alpha * temperature**2 * soft
    return loss if alpha == 1 else loss + (1 - alpha) * cross_entropy(logits, labels)
