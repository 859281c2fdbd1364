"""Fitting one network: seeded epoch by epoch, so that a resumed fit ends in the same weights as an unbroken one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from labctl.learning.checkpoint import EpochRecord, Progress, load_checkpoint, save_checkpoint
from labctl.learning.recipe import AugmentSection, FitSection, RobustnessSection
from labctl.learning.scoring import as_images, device_of
from labctl.learning.segmentation import augmented_pairs

Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, images in 0..1, labels, indices of the images in the training set) -> loss to be made small."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's global CPU generator at `seed`, and put the caller's state back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def mix_seed(*parts: int) -> int:
    """One seed out of several numbers; different for (0, 1) and (1, 0)."""
    mixed = 0x9E3779B9
    for part in parts:
        mixed = (mixed * 1_000_003 ^ (part + 0x85EBCA6B)) & 0x7FFF_FFFF_FFFF_FFFF
    return mixed


def augmented(
    images: UInt8[Tensor, "n channels y x"], augment: AugmentSection, seed: int
) -> UInt8[Tensor, "n channels y x"]:
    """One seeded draw of flips and shifts for every image; pixels shifted in are 0."""
    if not augment.flip and not augment.shift_px:
        return images
    generator = torch.Generator().manual_seed(seed)
    drawn = images
    if augment.flip:
        flip = torch.rand(len(images), generator=generator) < 0.5
        drawn = torch.where(flip[:, None, None, None], images.flip(-1), images)
    reach = augment.shift_px
    if reach:
        span = 2 * reach + 1
        place = torch.randint(span * span, (len(images),), generator=generator)
        padded = nn.functional.pad(drawn, (reach, reach, reach, reach))
        height, width = images.shape[-2:]
        drawn = torch.empty_like(images)
        for index in range(span * span):
            chosen = torch.nonzero(place == index)[:, 0]
            dy, dx = divmod(index, span)
            drawn[chosen] = padded[chosen, :, dy : dy + height, dx : dx + width]
    return drawn


def drawn_pairs(
    images: UInt8[Tensor, "n channels y x"], labels: Int64[Tensor, "n ..."], augment: AugmentSection, seed: int
) -> tuple[UInt8[Tensor, "n channels y x"], Int64[Tensor, "n ..."]]:
    """One seeded draw of all that `augment` asks for; labels of pixels move with the images."""
    if labels.ndim == 1 and augment.zoom == (1, 1) and not augment.colour:
        return augmented(images, augment, seed), labels
    return augmented_pairs(
        images, labels, seed, flip=augment.flip, shift_px=augment.shift_px, zoom=augment.zoom, colour=augment.colour
    )


def jittered(features: Float[Tensor, "n maps y x"], robustness: RobustnessSection) -> Float[Tensor, "n maps y x"]:
    """Feature maps as a bench might read them; draws from torch's global generator."""
    n, maps = features.shape[:2]
    rms = features.detach().square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
    if robustness.gain:
        features = features * (1 + robustness.gain * torch.randn(n, maps, 1, 1))
    if robustness.offset:
        features = features + robustness.offset * rms * torch.randn(n, maps, 1, 1)
    if robustness.noise:
        features = features + robustness.noise * rms * torch.randn_like(features)
    return features


def learning_rate(section: FitSection, step: int, steps: int) -> float:
    """Linear warm-up over a tenth of the steps, then a cosine to zero. A function of the step alone, so it resumes."""
    warm = max(1, steps // 10)
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    return section.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def fit(
    model: nn.Module,
    view: Callable[[int], tuple[Tensor, Tensor]],
    validate: Callable[[nn.Module], float],
    objective: Objective,
    section: FitSection,
    *,
    seed: int,
    key: str,
    checkpoint: Path,
    report: Callable[[int, float, float, float | None], None] | None = None,
) -> Progress:
    """Fit `model` in place, from `checkpoint` where it holds this very fit.

    Parameters
    ----------
    view
        Epoch -> uint8 training images [n, channels, y, x] and labels of that epoch.
    validate
        What is measured on held-back images after every epoch, for the record only: the last epoch's weights are kept,
        the schedule ends at rate zero.
    report
        Called as (epochs done, fraction of the whole fit, running loss, last validation).
    """
    device = device_of(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=section.learning_rate, weight_decay=section.weight_decay)
    progress = load_checkpoint(checkpoint, model, optimizer, key=key)
    for epoch in range(progress.epochs_done, section.epochs):
        start = time.perf_counter()
        model.train()
        (pixels, labels), total = view(epoch), 0.0
        count = len(labels)
        per_epoch = math.ceil(count / section.batch)
        steps = per_epoch * section.epochs
        with seeded(mix_seed(seed, epoch)):
            order = torch.randperm(count)
            for number, chosen in enumerate(torch.split(order, section.batch)):
                step = epoch * per_epoch + number
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(section, step, steps)
                images = as_images(pixels[chosen].to(device)).contiguous(memory_format=torch.channels_last)
                value = objective(model, images, labels[chosen].to(device), chosen)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                total += float(value.detach()) * len(chosen)
                if report and number % 20 == 0:
                    last = progress.curve[-1].validation if progress.curve else None
                    report(epoch, (step + 1) / steps, float(value.detach()), last)
        held_back = validate(model)
        progress = Progress(
            key,
            epoch + 1,
            progress.seconds + time.perf_counter() - start,
            (*progress.curve, EpochRecord(epoch, total / count, held_back)),
        )
        save_checkpoint(checkpoint, model, optimizer, progress)
        if report:
            report(epoch + 1, (epoch + 1) / section.epochs, total / count, held_back)
    model.eval()
    return progress
