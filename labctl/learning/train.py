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
from torch import nn
from torch.nn.functional import cross_entropy

from labctl.errors import ConfigError, ModelError
from labctl.learning.accounting import count_macs
from labctl.learning.arms import Views, make_student, objective_of
from labctl.learning.bundle import Bundle, save_bundle
from labctl.learning.card import write_card
from labctl.learning.checkpoint import Progress
from labctl.learning.data import NO_CLASS, known_set
from labctl.learning.fit import drawn_pairs, fit, mix_seed, seeded
from labctl.learning.metrics import ArmMetrics, DataMetrics, Metrics, RunMetrics, Selected
from labctl.learning.recipe import Arm, Images, Recipe, parse_recipe, recipe_text
from labctl.learning.scoring import confusions, count_correct, mean_iou, score
from labctl.learning.segmentation import class_weights
from labctl.learning.splits import Splits, splits_of
from labctl.learning.student import Student


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


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _teacher_key(recipe: Recipe, data: Splits) -> str:
    """What the teacher's weights depend on, hashed: a checkpoint is gone on from only where this is the same."""
    return _digest(
        data.source.sha256,
        recipe.data.model_dump_json(exclude={"source"}, exclude_defaults=True),
        recipe.teacher.model_dump_json(exclude_defaults=True),
    )


def _student_key(recipe: Recipe, teacher: str, at: _Planned) -> str:
    """The same for one student; more seeds, arms or variants leave the networks that are done as they are."""
    section = recipe.student.variant(at.variant)
    return _digest(
        teacher,
        section.model_dump_json(exclude={"seeds", "arms", "variants"}, exclude_defaults=True),
        recipe.distillation.model_dump_json(),
        recipe.robustness.model_dump_json(),
        recipe.transfer.model_dump_json() if at.arm == "transfer" else "",
        f"{at.arm} {at.seed}",
    )


@dataclass(frozen=True)
class _Planned:
    """One student to be trained: "" is the recipe's own variant."""

    variant: str
    arm: Arm
    seed: int

    @property
    def group(self) -> str:
        """Its name among the arms of metrics.json."""
        return f"{self.variant}/{self.arm}" if self.variant else self.arm

    @property
    def title(self) -> str:
        """Its name in the progress bar."""
        return f"{self.group} seed {self.seed}"


def _plan(recipe: Recipe, *, all_arms: bool) -> list[_Planned]:
    """The bundle's own arm first, over its seeds; then, with `all_arms`, all others and those of the variants."""
    own = recipe.student
    arms = own.arms if all_arms else own.arms[:1]
    plan = [_Planned("", arm, seed) for arm in arms for seed in own.seeds]
    for variant in own.variants if all_arms else ():
        section = own.variant(variant.name)
        plan += [_Planned(variant.name, arm, seed) for arm in section.arms for seed in section.seeds]
    return plan


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


def _costs(recipe: Recipe, images: Images) -> tuple[float, float]:
    """Relative cost of fitting the teacher and one student, for the ETA: MACs, and what every image costs besides.

    The latter is worth some 4 million MACs on the machine where the shipped bundles were trained.
    """
    with seeded(0):
        macs = count_macs(recipe.build_student(images=images), recipe.build_teacher(images))
    return (macs.teacher + 4e6) * recipe.teacher.epochs, (macs.student + 4e6) * recipe.student.epochs


def _validator(data: Splits) -> Callable[[nn.Module], float]:
    pixels, labels = data.validation

    def validate(model: nn.Module) -> float:
        if labels.ndim == 1:
            return count_correct(model, pixels, labels) / len(labels)
        return float(mean_iou(confusions(model, pixels, labels, data.classes).sum(0)))

    return validate


def _run_metrics(model: nn.Module, seed: int, progress: Progress, data: Splits) -> RunMetrics:
    test, shipped, classes = data.test, data.shipped, data.classes
    return RunMetrics(
        seed=seed,
        validation=score(model, *data.validation, classes),
        test=score(model, test.images, test.labels, classes),
        shipped_test=None if shipped is None else score(model, shipped.images, shipped.labels, classes),
        epochs=progress.epochs_done,
        seconds=round(progress.seconds, 1),
        curve=[(r.epoch, round(r.loss, 5), round(r.validation, 5)) for r in progress.curve],
    )


def _train_teacher(
    recipe: Recipe, data: Splits, images: Images, work: Path, key: str, report: Callable[..., None]
) -> tuple[nn.Module, RunMetrics]:
    section = recipe.teacher
    with seeded(mix_seed(section.seed, 1)):
        teacher = recipe.build_teacher(images).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels, labels = data.train
    power = section.class_weight_power
    weights = class_weights(labels, data.classes, power) if power else None
    progress = fit(
        teacher,
        lambda epoch: drawn_pairs(pixels, labels, section.augment, mix_seed(section.seed, 2, epoch)),
        _validator(data),
        lambda model, shown, truth, _: cross_entropy(
            model(shown),
            truth,
            None if weights is None else weights.to(shown.device),
            ignore_index=NO_CLASS,
            label_smoothing=section.label_smoothing,
        ),
        section,
        seed=mix_seed(section.seed, 3),
        key=key,
        checkpoint=work / "teacher.safetensors",
        report=report,
    )
    return teacher, _run_metrics(teacher, section.seed, progress, data)


def _train_student(
    recipe: Recipe,
    data: Splits,
    images: Images,
    views: Views,
    at: _Planned,
    work: Path,
    key: str,
    report: Callable[..., None],
    compiled: bool,
) -> tuple[Student, RunMetrics]:
    student = make_student(recipe, at.variant, at.arm, at.seed, images, data)
    student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    view, objective = objective_of(recipe, at.arm, views, compiled=compiled)
    progress = fit(
        student,
        view,
        _validator(data),
        objective,
        recipe.student,
        seed=mix_seed(at.seed, 6),
        key=key,
        checkpoint=work / f"{at.group.replace('/', '-')}-{at.seed}.safetensors",
        report=report,
    )
    student.front.settle()
    return student, _run_metrics(student, at.seed, progress, data)


def train(
    recipe: Recipe | Path,
    out_dir: Path,
    *,
    progress: Callable[[TrainProgress], None] | None = None,
    data_dir: Path | None = None,
    overwrite: bool = False,
    arms: bool = False,
    compiled: bool = False,
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
    arms
        Train every arm and variant of the recipe, not only the student that the bundle will hold.
    compiled
        Let torch.compile make the students' training step: faster, but it needs a C++ compiler and half a minute for
        each student. Results differ from those without in the last digits.

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
    images, data = recipe.images(), splits_of(recipe, data_dir)
    work = out_dir.with_name(f".{out_dir.name}.training")
    plan = _plan(recipe, all_arms=arms)
    teacher_cost, student_cost = _costs(recipe, images)
    reporter = _Reporter([("teacher", teacher_cost), *((at.title, student_cost) for at in plan)], progress)
    key = _teacher_key(recipe, data)
    teacher, teacher_run = _train_teacher(recipe, data, images, work, key, reporter.stage(recipe.teacher.epochs))
    views = Views(recipe, data, teacher)
    runs: dict[str, list[RunMetrics]] = {}
    best: tuple[float, Student, _Planned] | None = None
    for at in plan:
        report = reporter.stage(recipe.student.epochs)
        own = _student_key(recipe, key, at)
        student, run = _train_student(recipe, data, images, views, at, work, own, report, compiled)
        runs.setdefault(at.group, []).append(run)
        # chosen on held-back images, so that the test figures stay honest; within the first arm of the recipe
        if at.group == plan[0].group and (best is None or run.validation.accuracy > best[0]):
            best = (run.validation.accuracy, student, at)
    if best is None:
        raise ConfigError(f"recipe {recipe.name}: trains no student")
    student = best[1]
    measured = {"teacher": ArmMetrics.of([teacher_run], arm="teacher", parameters=_parameters(teacher))}
    for at in plan:
        section = recipe.student.variant(at.variant)
        with seeded(0):
            built = recipe.build_student(at.variant, images)
        measured[at.group] = ArmMetrics.of(
            runs[at.group],
            arm=at.arm,
            variant=at.variant,
            detection=section.detection,
            after_detection=section.backend.after_detection,
            parameters=_parameters(built.backend),
        )
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
            shape=images.shape,
            classes=images.classes,
            task=images.task,
            licence=known_set(data.source.name).licence,
        ),
        selected=Selected(arm=plan[0].group, seed=best[2].seed),
        arms=measured,
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


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _as_toml(recipe: Recipe) -> str:
    import tomlkit

    return tomlkit.dumps(recipe.model_dump(exclude_none=True, mode="json"))
