"""How good a network is on a set of images: always in eval mode, whatever mode it is in."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from labctl.learning.data import NO_CLASS
from labctl.learning.metrics import Score

DRAWS = 1000


def as_images(pixels: UInt8[Tensor, "n channels y x"]) -> Float[Tensor, "n channels y x"]:
    """0..255 as stored to 0..1 as shown."""
    return pixels.float() / 255


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(model.parameters()).device


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, *, batch: int = 500) -> Float[Tensor, "n classes *size"]:
    """Logits in eval mode, on the CPU; uint8 images are scaled to 0..1."""
    was_training, device = model.training, device_of(model)
    model.eval()
    out = []
    for part in torch.split(images, batch):
        here = part.to(device)
        out.append(model(as_images(here) if here.dtype == torch.uint8 else here).cpu())
    model.train(was_training)
    return torch.cat(out)


def count_correct(model: nn.Module, images: Tensor, labels: Int64[Tensor, " n"]) -> int:
    """Images whose largest logit is their label."""
    return int((logits_of(model, images).argmax(1) == labels).sum())


def confusions(
    model: nn.Module, images: Tensor, labels: Int64[Tensor, "n y x"], classes: int, *, batch: int = 25
) -> Int64[Tensor, "n classes classes"]:
    """Per image, pixels of each class (row) that were called each class (column); pixels of no class are left out."""
    found = []
    for part, truth in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
        called = logits_of(model, part, batch=batch).argmax(1)
        image = torch.arange(len(part))[:, None, None].expand_as(truth)
        valid = truth != NO_CLASS
        cells = (image[valid] * classes + truth[valid]) * classes + called[valid]
        counts = torch.bincount(cells, minlength=len(part) * classes**2)
        found.append(counts.reshape(len(part), classes, classes))
    return torch.cat(found)


def class_iou(confusion: Tensor) -> Float[Tensor, "*draws classes"]:
    """Intersection over union of every class of counts [..., true, called]; NaN for one neither there nor called."""
    both = confusion.diagonal(dim1=-2, dim2=-1).double()
    either = confusion.sum(-1) + confusion.sum(-2) - both
    return (both / either).float()


def mean_iou(confusion: Tensor) -> Float[Tensor, "*draws"]:
    """Mean over the classes that are there or called."""
    return class_iou(confusion).nanmean(-1)


def score(model: nn.Module, images: Tensor, labels: Tensor, classes: int) -> Score:
    """Accuracy with Wilson's interval, or for labels [n, y, x] the mean IoU with a bootstrap over images."""
    if labels.ndim == 1:
        return Score.of(count_correct(model, images, labels), len(labels))
    each = confusions(model, images, labels, classes).double()
    total = each.sum(0)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(each), (DRAWS, len(each)), generator=generator)
    weights = torch.zeros(DRAWS, len(each), dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones_like(drawn, dtype=torch.float64)
    )
    spread = mean_iou((weights @ each.flatten(1)).unflatten(1, (classes, classes)))
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975])).tolist()
    return Score(
        n=len(labels),
        accuracy=round(float(mean_iou(total)), 6),
        interval95=(round(low, 6), round(high, 6)),
        measure="mIoU",
        pixel_accuracy=round(float(total.diagonal().sum() / total.sum()), 6),
        class_iou=tuple(round(value, 6) for value in class_iou(total).nan_to_num().tolist()),
    )
