"""The arms: one student trained in different ways, so that what distillation and optics bring can be told apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from labctl.learning.fit import Objective, drawn_pairs, mix_seed, seeded
from labctl.learning.jitter import jittered, shaken, tile_noise
from labctl.learning.readout import ReadoutSection, exposure_levels, ideal, read
from labctl.learning.recipe import Arm, Images, Recipe
from labctl.learning.scoring import as_images, device_of
from labctl.learning.segmentation import channel_wise_loss, class_weights
from labctl.learning.sharing import mine, whole
from labctl.learning.splits import Splits
from labctl.learning.student import Student
from labctl.learning.transfer import FeatureHint, alignment, distillation_loss

FOR_WHITENING = 500
"""Training images whose patches say what white is."""


class Views:
    """The fixed draws of augmented training images, with what the teacher says of each, made when first asked for."""

    def __init__(self, recipe: Recipe, data: Splits, teacher: nn.Module) -> None:
        self._recipe, self._data, self._teacher = recipe, data, teacher
        self._made: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def at(
        self, epoch: int
    ) -> tuple[UInt8[Tensor, "n c y x"], Int64[Tensor, "n ..."], Float[Tensor, "n classes *size"], Tensor]:
        """(uint8 images, labels, teacher logits, teacher features) of the view that `epoch` trains on.

        Logits of every pixel would take gigabytes: then there are none, and `said` makes them from the features.
        """
        section = self._recipe.student.augment
        index = epoch % section.views
        if index not in self._made:
            pixels, labels = self._data.train
            pixels, labels = drawn_pairs(pixels, labels, section, mix_seed(self._recipe.data.seed, 4, index))
            self._made[index] = (pixels, labels, *self._told(pixels))
        return self._made[index]

    @torch.no_grad()
    def said(self, logits: Tensor, features: Tensor, chosen: Int64[Tensor, " m"]) -> Float[Tensor, "m classes *size"]:
        """The teacher's logits on some images of a view, from what `at` gave of it."""
        if len(logits):
            return logits[chosen]
        embedded = features[chosen].to(device_of(self._teacher), torch.float32)
        made: Tensor = self._teacher.decide(embedded)  # type: ignore[operator]
        return made

    def class_weights(self) -> Float[Tensor, " classes"] | None:
        """Weights of the students' hard labels; None where all count alike."""
        power = self._recipe.student.class_weight_power
        return class_weights(self._data.train[1], self._data.classes, power) if power else None

    @torch.no_grad()
    def _told(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (none for pixels), and what the last layer was given, of the teacher in eval mode."""
        teacher, device = self._teacher.eval(), device_of(self._teacher)
        logits, features = [], []
        dense = self._data.train[1].ndim > 1
        for part in torch.split(pixels, 25 if dense else 500):
            embedded = teacher.embed(as_images(part.to(device)))  # type: ignore[operator]
            logits.append(torch.empty(0) if dense else teacher.decide(embedded).cpu())  # type: ignore[operator]
            features.append(embedded.half().cpu())
        return torch.cat(logits), torch.cat(features)


def make_student(recipe: Recipe, variant: str, arm: Arm, seed: int, images: Images, data: Splits) -> Student:
    """The student of one arm before training; the same seed draws the same weights in every arm."""
    with seeded(mix_seed(seed, 5)):
        student = recipe.build_student(variant, images)
        if arm in ("random", "digital"):
            student.front.freeze(identity=arm == "digital")
        elif recipe.student.whitened:
            student.front.whiten(as_images(data.train[0][:FOR_WHITENING]))
    return student


class Through(nn.Module):
    """A student as it answers through the camera of a recipe's [readout], exposed as `images` (training ones) ask."""

    def __init__(self, student: Student, readout: ReadoutSection, images: Float[Tensor, "n channels y x"]) -> None:
        super().__init__()
        self.student, self.readout = student, readout
        front = student.front
        self.levels = exposure_levels(images, front.fused_kernels(), front.detection, readout).detach()

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Float[Tensor, "n classes *size"]:
        """Logits; noise is drawn from torch's global generator."""
        front = self.student.front
        logits: Tensor = self.student.backend(
            read(images, front.fused_kernels(), front.detection, self.readout, levels=self.levels)
        )
        return logits


def give_hint(recipe: Recipe, student: Student, views: Views, seed: int) -> None:
    """Give a student of the arm "transfer" what it is trained with besides; `Student.settle` takes it away."""
    features = views.at(0)[3]
    if recipe.transfer.kind == "features" and features.ndim == 2:
        with seeded(mix_seed(seed, 7)):
            student.hint = FeatureHint(student.backend.layers()[-1].in_features, features)


def objective_of(
    recipe: Recipe, arm: Arm, views: Views, *, compiled: bool = False
) -> tuple[Callable[[int], tuple[Tensor, Tensor]], Objective]:
    """What `labctl.learning.fit.fit` needs to train one arm: images by epoch, and the loss (`compiled` by torch)."""
    section = recipe.distillation
    alpha = 0.0 if arm == "undistilled" else section.alpha
    current: dict[str, Tensor] = {}
    weights = views.class_weights()

    def view(epoch: int) -> tuple[Tensor, Tensor]:
        pixels, labels, current["logits"], current["features"] = views.at(epoch)
        return pixels, labels

    def graph(model: Student, images: Tensor, labels: Tensor, teacher_logits: Tensor, told: Tensor) -> Tensor:
        shown = mine(images)
        detection, robustness = model.front.detection, recipe.robustness
        noise = None
        if recipe.readout.active or robustness.tiles or robustness.kernels:
            kernels = shaken(model.fused_kernels(), robustness)
            noise = tile_noise(shown, kernels, detection, robustness)
            if recipe.readout.active:
                maps = read(shown, kernels, detection, recipe.readout)
            else:
                maps = ideal(shown, kernels, detection)
        else:
            maps = model.features(shown)
        maps = jittered(maps, robustness, noise)
        logits, hidden = (whole(rows, len(images)) for rows in model.backend.outputs(maps))
        loss = distillation_loss(
            logits,
            labels,
            teacher_logits,
            temperature=section.temperature,
            alpha=alpha,
            label_smoothing=recipe.student.label_smoothing,
            class_weights=None if weights is None else weights.to(logits.device),
        )
        if arm == "transfer" and logits.ndim > 2:
            places = channel_wise_loss(logits, teacher_logits, temperature=section.temperature)
            loss = loss + recipe.transfer.weight * places
        elif arm == "transfer" and model.hint is not None:
            loss = loss + recipe.transfer.weight * model.hint(hidden, told)
        elif arm == "transfer":
            loss = loss + recipe.transfer.weight * (1 - alignment(hidden @ hidden.T, told @ told.T))
        return loss

    if compiled:
        torch.compiler.reset()
        graph = torch.compile(graph, dynamic=False)

    def objective(model: nn.Module, images: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        if not isinstance(model, Student):
            raise TypeError("arms train students")
        teacher_logits = views.said(current["logits"], current["features"], chosen).to(images.device)
        told = current["features"][chosen].to(images.device, images.dtype) if arm == "transfer" else teacher_logits
        loss: Tensor = graph(model, images, labels, teacher_logits, told)
        return loss

    return view, objective
