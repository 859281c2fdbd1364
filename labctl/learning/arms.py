"""The arms: one student trained in different ways, so that what distillation and optics bring can be told apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from labctl.learning.fit import Objective, augmented, jittered, mix_seed, seeded
from labctl.learning.recipe import Arm, Images, Recipe
from labctl.learning.scoring import as_images, device_of
from labctl.learning.splits import Splits
from labctl.learning.student import Student
from labctl.learning.transfer import alignment, distillation_loss


class Views:
    """The fixed draws of augmented training images, with what the teacher says of each, made when first asked for."""

    def __init__(self, recipe: Recipe, data: Splits, teacher: nn.Module) -> None:
        self._recipe, self._data, self._teacher = recipe, data, teacher
        self._made: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def at(
        self, epoch: int
    ) -> tuple[UInt8[Tensor, "n c y x"], Int64[Tensor, "n ..."], Float[Tensor, "n classes *size"], Tensor]:
        """(uint8 images, labels, teacher logits, teacher features) of the view that `epoch` trains on."""
        section = self._recipe.student.augment
        index = epoch % section.views
        if index not in self._made:
            pixels, labels = self._data.train
            pixels = augmented(pixels, section, mix_seed(self._recipe.data.seed, 4, index))
            self._made[index] = (pixels, labels, *self._told(pixels))
        return self._made[index]

    @torch.no_grad()
    def _told(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what the last layer was given, of the teacher in eval mode."""
        teacher, device = self._teacher.eval(), device_of(self._teacher)
        logits, features = [], []
        for part in torch.split(pixels, 500):
            embedded = teacher.embed(as_images(part.to(device)))  # type: ignore[operator]
            logits.append(teacher.decide(embedded).cpu())  # type: ignore[operator]
            features.append(embedded.half().cpu())
        return torch.cat(logits), torch.cat(features)


def make_student(recipe: Recipe, variant: str, arm: Arm, seed: int, images: Images) -> Student:
    """The student of one arm before training; the same seed draws the same weights in every arm."""
    with seeded(mix_seed(seed, 5)):
        student = recipe.build_student(variant, images)
    if arm in ("random", "digital"):
        student.front.freeze(identity=arm == "digital")
    return student


def objective_of(recipe: Recipe, arm: Arm, views: Views) -> tuple[Callable[[int], tuple[Tensor, Tensor]], Objective]:
    """What `labctl.learning.fit.fit` needs to train one arm: images by epoch, and the loss."""
    section = recipe.distillation
    alpha = 0.0 if arm == "undistilled" else section.alpha
    current: dict[str, Tensor] = {}

    def view(epoch: int) -> tuple[Tensor, Tensor]:
        pixels, labels, current["logits"], current["features"] = views.at(epoch)
        return pixels, labels

    def objective(model: nn.Module, images: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        if not isinstance(model, Student):
            raise TypeError("arms train students")
        maps = jittered(model.features(images), recipe.robustness)
        logits, hidden = model.backend.outputs(maps)
        loss = distillation_loss(
            logits,
            labels,
            current["logits"][chosen].to(logits.device),
            temperature=section.temperature,
            alpha=alpha,
            label_smoothing=recipe.student.label_smoothing,
        )
        if arm == "transfer":
            told = current["features"][chosen].to(hidden.device, hidden.dtype)
            loss = loss + recipe.transfer.weight * (1 - alignment(hidden @ hidden.T, told @ told.T))
        return loss

    return view, objective
