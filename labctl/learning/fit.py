"""Fitting one network: seeded epoch by epoch, so that a resumed fit ends in the same weights as an unbroken one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from labctl.learning.checkpoint import EpochRecord, Progress, load_checkpoint, save_checkpoint
from labctl.learning.recipe import AugmentSection, FitSection
from labctl.learning.scoring import as_images, device_of
from labctl.learning.segmentation import augmented_pairs
from labctl.learning.sharing import joint_norms, rank

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from labctl.learning.progress import StageReporter

Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(model, images in 0..1, labels, indices of the images in the training set) -> loss to be made small."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch's global generators at `seed`, then put the caller's state back (a GPU's too)."""
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
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


def learning_rate(section: FitSection, step: int, steps: int) -> float:
    """Linear warm-up over a tenth of the steps, then a cosine to zero. A function of the step alone, so it resumes."""
    warm = max(1, steps // 10)
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    return section.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class _Step(nn.Module):
    """The loss as a module, so that several processes can wrap it: what they have in common is its gradient."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, images: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        return self._objective(self.model, images, labels, chosen)


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
    report: StageReporter | None = None,
    fabric: Fabric | None = None,
) -> Progress:
    """Fit `model` in place and on the device where it is, from `checkpoint` where it holds this very fit.

    The order of the batches, and all that is drawn, come from the CPU's generator but for the bench's jitter, which
    comes from the device's. Batches are the same on every device and in every number of processes.

    Parameters
    ----------
    view
        Epoch -> uint8 training images [n, channels, y, x] and labels of that epoch.
    validate
        What is measured on held-back images after every epoch, for the record only: the last epoch's weights are kept,
        the schedule ends at rate zero.
    report
        Told of every twentieth batch and of every epoch, also of those that the checkpoint holds.
    fabric
        Launched, where several processes fit the network together; the first of them writes.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=section.learning_rate,
        weight_decay=section.weight_decay,
        fused=device_of(model).type in ("cpu", "cuda"),  # the same numbers in an eighth of the time
    )
    progress = load_checkpoint(checkpoint, model, optimizer, key=key)
    for record in progress.curve if report else ():
        done = (record.epoch + 1) / max(1, progress.epochs_done)
        report.epoch(record, progress.seconds * done, restored=True)  # type: ignore[union-attr]
    if progress.epochs_done < section.epochs:
        with joint_norms(model):
            progress = _go_on(
                model, optimizer, progress, view, validate, objective, section, seed, checkpoint, report, fabric
            )
    model.eval()
    return progress


def _go_on(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    view: Callable[[int], tuple[Tensor, Tensor]],
    validate: Callable[[nn.Module], float],
    objective: Objective,
    section: FitSection,
    seed: int,
    checkpoint: Path,
    report: StageReporter | None,
    fabric: Fabric | None,
) -> Progress:
    device = device_of(model)
    loss_of: nn.Module = _Step(model, objective)
    if fabric is not None:
        loss_of = fabric.setup_module(loss_of)
    for epoch in range(progress.epochs_done, section.epochs):
        start = time.perf_counter()
        model.train()
        # a whole set of bytes is small beside a GPU's memory, and a step then waits for no copy
        pixels, labels = (part.to(device) for part in view(epoch))
        losses: list[Tensor] = []
        count = len(labels)
        per_epoch = math.ceil(count / section.batch)
        steps = per_epoch * section.epochs
        with seeded(mix_seed(seed, epoch), device):
            order = torch.randperm(count)
            for number, chosen in enumerate(torch.split(order, section.batch)):
                step = epoch * per_epoch + number
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(section, step, steps)
                here = chosen.to(device)
                images = as_images(pixels[here]).contiguous(memory_format=torch.channels_last)
                value = loss_of(images, labels[here], chosen)
                optimizer.zero_grad()
                if fabric is None:
                    value.backward()
                else:
                    fabric.backward(value)
                optimizer.step()
                losses.append(value.detach())  # read later: reading waits for the GPU
                if report and number % 20 == 0:
                    last = progress.curve[-1].validation if progress.curve else None
                    report.batch(epoch, (step + 1) / steps, float(value.detach()), last)
        each = torch.stack(losses).tolist()
        total = sum(loss * min(section.batch, count - section.batch * number) for number, loss in enumerate(each))
        held_back = validate(model)
        progress = Progress(
            progress.key,
            epoch + 1,
            progress.seconds + time.perf_counter() - start,
            (*progress.curve, EpochRecord(epoch, total / count, held_back)),
        )
        if rank() == 0:
            save_checkpoint(checkpoint, model, optimizer, progress)
        if report:
            report.epoch(progress.curve[-1], progress.seconds, restored=False)
            report.batch(epoch + 1, (epoch + 1) / section.epochs, total / count, held_back)
    return progress
