"""Training a recipe into a bundle: the teacher, then every student arm and seed, then the best by validation.

Work in progress lies in `.NAME.training/` beside the bundle, one checkpoint per network and epoch; a training that was
cut off goes on from there and ends in the same weights. The bundle itself appears whole, by a rename.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labctl.errors import ConfigError, DataError, ModelError
from labctl.learning.accounting import count_macs
from labctl.learning.bundle import Bundle, save_bundle
from labctl.learning.card import write_card
from labctl.learning.checkpoint import Progress
from labctl.learning.data import ImageSet, balanced_order, load
from labctl.learning.distill import distillation_loss
from labctl.learning.fit import augmented, count_correct, fit, logits_of, mix_seed, seeded
from labctl.learning.metrics import ArmMetrics, DataMetrics, Metrics, RunMetrics, Score, Selected
from labctl.learning.recipe import Recipe, parse_recipe, recipe_text
from labctl.learning.student import Student
from labctl.learning.teacher import Teacher


@dataclass(frozen=True)
class TrainProgress:
    """Where a training stands.

    Attributes
    ----------
    stage
        "teacher", "distilled seed 0", ...; `stage_index` of `stages`, from 0.
    epoch, epochs
        Epochs done and in all of this stage.
    fraction
        0..1 of the whole training, by estimated cost.
    loss
        Running training loss, nats.
    validation
        Last accuracy on held-back images, 0..1, or None.
    eta_s
        Seconds left, from this process's own pace; None until there is one.
    """

    stage: str
    stage_index: int
    stages: int
    epoch: int
    epochs: int
    fraction: float
    loss: float
    validation: float | None
    eta_s: float | None


@dataclass(frozen=True)
class _Split:
    """uint8 pixels and labels for training and validation, and the sets they came from."""

    train: tuple[UInt8[Tensor, "n c y x"], Int64[Tensor, " n"]]
    validation: tuple[UInt8[Tensor, "m c y x"], Int64[Tensor, " m"]]
    test: ImageSet
    shipped: ImageSet | None
    source: ImageSet


def _as_pixels(images: Tensor) -> UInt8[Tensor, "n c y x"]:
    return (images * 255).round().to(torch.uint8)


def _split(recipe: Recipe, data_dir: Path | None) -> _Split:
    """Official train images cut into training and a balanced held-back part; official test images untouched."""
    section = recipe.data
    whole = load(
        section.name, "train", data_dir=data_dir, limit=section.limit, seed=section.seed, source=section.source
    )
    if section.validation >= len(whole):
        raise ConfigError(f"recipe {recipe.name}: data.validation is {section.validation} of {len(whole)} images")
    order = torch.from_numpy(balanced_order(whole.labels.numpy(), section.seed))
    held, kept = order[: section.validation], order[section.validation :].sort().values
    pixels = _as_pixels(whole.images)
    test = load(section.name, "test", data_dir=data_dir, source=section.source)
    try:
        shipped = load(section.name, "test", source="shipped")
    except DataError:
        shipped = None
    return _Split((pixels[kept], whole.labels[kept]), (pixels[held], whole.labels[held]), test, shipped, whole)


@dataclass(frozen=True)
class _Keys:
    """What a network's weights depend on, hashed: a checkpoint is gone on from only where this is the same."""

    teacher: str
    student: str

    @classmethod
    def of(cls, recipe: Recipe, data: _Split) -> _Keys:
        def digest(*parts: str) -> str:
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()

        teacher = digest(
            data.source.sha256,
            recipe.data.model_dump_json(exclude={"source"}),
            recipe.teacher.model_dump_json(),
        )
        # more seeds or arms leave the networks that are done as they are
        student = digest(
            teacher,
            recipe.student.model_dump_json(exclude={"seeds", "arms"}),
            recipe.distillation.model_dump_json(),
            recipe.robustness.model_dump_json(),
        )
        return cls(teacher, student)


class _Reporter:
    """Turns progress within a stage into progress of the whole, with an ETA."""

    def __init__(self, costs: list[tuple[str, float]], progress: Callable[[TrainProgress], None] | None) -> None:
        self._costs, self._progress = costs, progress
        self._total = sum(cost for _, cost in costs)
        self._index, self._start = -1, time.perf_counter()
        self._first: float | None = None

    def stage(self, epochs: int) -> Callable[[int, float, float, float | None], None]:
        """The next stage's report function for `fit`."""
        self._index += 1
        before = sum(cost for _, cost in self._costs[: self._index])
        name, cost = self._costs[self._index]

        def report(epoch: int, part: float, loss: float, validation: float | None) -> None:
            if self._progress is None:
                return
            fraction = min(1.0, (before + part * cost) / self._total)
            now = time.perf_counter()
            if self._first is None:
                self._first, self._start = fraction, now
            done, eta = fraction - self._first, None
            if done > 0:
                eta = (now - self._start) * (1 - fraction) / done
            self._progress(
                TrainProgress(name, self._index, len(self._costs), epoch, epochs, fraction, loss, validation, eta)
            )

        return report


def _costs(recipe: Recipe) -> tuple[float, float]:
    """Relative cost of fitting the teacher and one student, for the ETA: MACs, and what every image costs besides.

    The latter is worth some 4 million MACs on the machine where the shipped bundle was trained.
    """
    with seeded(0):
        macs = count_macs(recipe.build_student(), recipe.build_teacher())
    return (macs.teacher + 4e6) * recipe.teacher.epochs, (macs.student + 4e6) * recipe.student.epochs


def _run_metrics(model: nn.Module, seed: int, progress: Progress, data: _Split) -> RunMetrics:
    test, shipped = data.test, data.shipped
    return RunMetrics(
        seed=seed,
        validation=Score.of(count_correct(model, *data.validation), len(data.validation[1])),
        test=Score.of(count_correct(model, test.images, test.labels), len(test)),
        shipped_test=None
        if shipped is None
        else Score.of(count_correct(model, shipped.images, shipped.labels), len(shipped)),
        epochs=progress.epochs_done,
        seconds=round(progress.seconds, 1),
        curve=[(r.epoch, round(r.loss, 5), round(r.validation, 5)) for r in progress.curve],
    )


def _train_teacher(
    recipe: Recipe, data: _Split, work: Path, key: str, report: Callable[..., None]
) -> tuple[Teacher, RunMetrics]:
    section = recipe.teacher
    with seeded(mix_seed(section.seed, 1)):
        teacher = recipe.build_teacher().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels, labels = data.train
    progress = fit(
        teacher,
        lambda epoch: augmented(pixels, section.augment, mix_seed(section.seed, 2, epoch)),
        labels,
        data.validation,
        lambda logits, targets, _: cross_entropy(logits, targets),
        section,
        seed=mix_seed(section.seed, 3),
        key=key,
        checkpoint=work / "teacher.safetensors",
        report=report,
    )
    return teacher, _run_metrics(teacher, section.seed, progress, data)


class _Views:
    """The fixed draws of augmented training images, with the teacher's logits on each, made when first asked for."""

    def __init__(self, recipe: Recipe, data: _Split, teacher: Teacher) -> None:
        self._recipe, self._pixels, self._teacher = recipe, data.train[0], teacher
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, epoch: int) -> tuple[Tensor, Tensor]:
        """(uint8 images, teacher logits) of the view that `epoch` trains on."""
        index = epoch % self._recipe.student.augment.views
        if index not in self._made:
            pixels = augmented(self._pixels, self._recipe.student.augment, mix_seed(self._recipe.data.seed, 4, index))
            self._made[index] = (pixels, logits_of(self._teacher, pixels))
        return self._made[index]


def _train_student(
    recipe: Recipe, data: _Split, views: _Views, arm: str, seed: int, work: Path, key: str, report: Callable[..., None]
) -> tuple[Student, RunMetrics]:
    with seeded(mix_seed(seed, 5)):
        student = recipe.build_student()
    alpha = recipe.distillation.alpha if arm == "distilled" else 0.0
    current: dict[str, Tensor] = {}

    def view(epoch: int) -> Tensor:
        pixels, current["teacher"] = views.at(epoch)
        return pixels

    def loss(logits: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
        return distillation_loss(
            logits,
            targets,
            current["teacher"][chosen],
            temperature=recipe.distillation.temperature,
            alpha=alpha,
        )

    progress = fit(
        student,
        view,
        data.train[1],
        data.validation,
        loss,
        recipe.student,
        seed=mix_seed(seed, 6),
        key=f"{key} {arm} {seed}",
        checkpoint=work / f"{arm}-{seed}.safetensors",
        robustness=recipe.robustness,
        report=report,
    )
    return student, _run_metrics(student, seed, progress, data)


def train(
    recipe: Recipe | Path,
    out_dir: Path,
    *,
    progress: Callable[[TrainProgress], None] | None = None,
    data_dir: Path | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Train a recipe, or go on with a training of it that was cut off, and write the bundle.

    Parameters
    ----------
    recipe
        A recipe, a recipe file, or a bundle folder whose recipe is to be trained again.
    out_dir
        The bundle's folder; it appears when training is complete, never before.
    progress
        Called about every twenty batches. What it raises ends the training, which can then be resumed.

    Raises
    ------
    ConfigError, DataError, ModelError
        The recipe or the data are not right, or `out_dir` exists and `overwrite` is off.
    """
    if isinstance(recipe, Recipe):
        text = _as_toml(recipe)
    else:
        text = recipe_text(recipe)
        recipe = parse_recipe(text, path=recipe)
    out_dir = Path(out_dir)
    if out_dir.exists() and not overwrite:
        raise ModelError(f"{out_dir}: exists already; choose another place, or say to overwrite it")
    data = _split(recipe, data_dir)
    work = out_dir.with_name(f".{out_dir.name}.training")
    keys = _Keys.of(recipe, data)
    plan = [(arm, seed) for arm in recipe.student.arms for seed in recipe.student.seeds]
    teacher_cost, student_cost = _costs(recipe)
    reporter = _Reporter(
        [("teacher", teacher_cost), *((f"{arm} seed {seed}", student_cost) for arm, seed in plan)], progress
    )
    teacher, teacher_run = _train_teacher(recipe, data, work, keys.teacher, reporter.stage(recipe.teacher.epochs))
    views = _Views(recipe, data, teacher)
    trained: dict[tuple[str, int], tuple[Student, RunMetrics]] = {}
    for arm, seed in plan:
        report = reporter.stage(recipe.student.epochs)
        trained[arm, seed] = _train_student(recipe, data, views, arm, seed, work, keys.student, report)
    first = recipe.student.arms[0]
    # chosen on held-back training images, so that the test figures stay honest; within the first arm of the recipe
    best = max(recipe.student.seeds, key=lambda seed: (trained[first, seed][1].validation.correct, -seed))
    student = trained[first, best][0]
    arms = {"teacher": ArmMetrics.of([teacher_run])}
    for arm in recipe.student.arms:
        arms[arm] = ArmMetrics.of([trained[arm, seed][1] for seed in recipe.student.seeds])
    metrics = Metrics(
        recipe_sha256=recipe.sha256,
        detection=recipe.student.detection,
        data=DataMetrics(
            name=data.source.name,
            source=data.source.source,
            train=len(data.train[1]),
            validation=len(data.validation[1]),
            test=len(data.test),
            train_sha256=data.source.sha256,
            test_sha256=data.test.sha256,
            shipped_test_sha256=data.shipped.sha256 if data.shipped else None,
        ),
        selected=Selected(arm=first, seed=best),
        arms=arms,
        macs=count_macs(student, teacher).as_dict(),
        made_with={
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": str(torch.get_num_threads()),
        },
    )
    bundle = save_bundle(
        out_dir,
        recipe_text=text,
        student=student,
        teacher=teacher,
        metrics=metrics,
        card=write_card(recipe, metrics),
        overwrite=overwrite,
    )
    shutil.rmtree(work, ignore_errors=True)
    return bundle


def _as_toml(recipe: Recipe) -> str:
    import tomlkit

    return tomlkit.dumps(recipe.model_dump(exclude_none=True, mode="json"))
