"""Training a recipe into a bundle: the teacher, then every student arm and seed, then the best by validation.

Work in progress lies in `.NAME.training/` beside the bundle, one checkpoint per network and epoch; a training that was
cut off goes on from there and ends in the same weights. The bundle itself appears whole, by a rename.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from labctl.errors import ConfigError, ModelError
from labctl.learning.accounting import count_macs
from labctl.learning.arms import Through, Views, give_hint, make_student, objective_of
from labctl.learning.bundle import Bundle, load_bundle, save_bundle
from labctl.learning.card import write_card
from labctl.learning.checkpoint import Progress
from labctl.learning.data import NO_CLASS, known_set
from labctl.learning.fit import drawn_pairs, fit, mix_seed, seeded
from labctl.learning.metrics import ArmMetrics, DataMetrics, Metrics, RunMetrics, Selected
from labctl.learning.placing import describe, find_device, spread
from labctl.learning.progress import DataRead, Reporter, Stage, StageReporter, TrainProgress, Watch
from labctl.learning.readout import FOR_EXPOSURE
from labctl.learning.recipe import Arm, Images, Recipe, parse_recipe, recipe_text
from labctl.learning.scoring import as_images, confusions, count_correct, device_of, mean_iou, score
from labctl.learning.segmentation import class_weights
from labctl.learning.sharing import mine, rank, whole
from labctl.learning.splits import Splits, splits_of
from labctl.learning.student import Student

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["TrainProgress", "train"]


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
    section, recipe = recipe.student.variant(at.variant), recipe.for_variant(at.variant)
    return _digest(
        teacher,
        section.model_dump_json(exclude={"seeds", "arms", "variants"}, exclude_defaults=True),
        recipe.distillation.model_dump_json(),
        recipe.robustness.model_dump_json(exclude_defaults=True),
        recipe.transfer.model_dump_json() if at.arm == "transfer" else "",
        f"{at.arm} {at.seed}",
        *([recipe.readout.model_dump_json(exclude_defaults=True)] if recipe.readout.active else []),
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


def _stages(recipe: Recipe, images: Images, plan: list[_Planned]) -> list[Stage]:
    """All networks with their relative cost, for the ETA: MACs, and what every image costs besides.

    The latter is worth some 4 million MACs on the machine where the shipped bundles were trained. A front that stays as
    it is needs no gradient, which is two thirds of its work.
    """
    with seeded(0):
        macs = count_macs(recipe.build_student(images=images), recipe.build_teacher(images))
    stages = [
        Stage("teacher", "teacher", recipe.teacher.seed, "teacher", (macs.teacher + 4e6) * recipe.teacher.epochs,
              recipe.teacher.epochs)
    ]  # fmt: skip
    for at in plan:
        frozen = at.arm in ("random", "digital")
        how = "frozen" if frozen else at.arm if at.arm == "transfer" else "trained"
        cost = (macs.student + 4e6) * (0.7 if frozen else 1.0)
        epochs = recipe.student.variant(at.variant).epochs
        stages.append(Stage(at.title, at.group, at.seed, f"{at.variant}/{how}", cost * epochs, epochs))
    return stages


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
    recipe: Recipe,
    data: Splits,
    images: Images,
    work: Path,
    key: str,
    device: torch.device,
    report: StageReporter,
    fabric: Fabric | None,
) -> tuple[nn.Module, RunMetrics]:
    section = recipe.teacher
    with seeded(mix_seed(section.seed, 1)):
        teacher = recipe.build_teacher(images).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher.to(device)
    pixels, labels = data.train
    power = section.class_weight_power
    weights = class_weights(labels, data.classes, power) if power else None
    progress = fit(
        teacher,
        lambda epoch: drawn_pairs(pixels, labels, section.augment, mix_seed(section.seed, 2, epoch)),
        _validator(data),
        lambda model, shown, truth, _: cross_entropy(
            whole(model(mine(shown)), len(shown)),
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
        fabric=fabric,
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
    device: torch.device,
    report: StageReporter,
    fabric: Fabric | None,
    compiled: bool,
) -> tuple[Student, RunMetrics]:
    student = make_student(recipe, at.variant, at.arm, at.seed, images, data)
    recipe = recipe.for_variant(at.variant)
    if at.arm == "transfer":
        give_hint(recipe, student, views, at.seed)
    student = student.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
    view, objective = objective_of(recipe, at.arm, views, compiled=compiled)
    progress = fit(
        student,
        view,
        _validator(data),
        objective,
        recipe.student.variant(at.variant),
        seed=mix_seed(at.seed, 6),
        key=key,
        checkpoint=work / f"{at.group.replace('/', '-')}-{at.seed}.safetensors",
        report=report,
        fabric=fabric,
    )
    student.settle()
    metrics = _run_metrics(student, at.seed, progress, data)
    if recipe.readout.active:
        test, seen = data.test, as_images(data.train[0][:FOR_EXPOSURE].to(device_of(student)))
        with seeded(mix_seed(at.seed, 8)):
            read_test = score(Through(student, recipe.readout, seen), test.images, test.labels, data.classes)
        metrics = metrics.model_copy(update={"read_test": read_test})
    return student, metrics


def train(
    recipe: Recipe | Path,
    out_dir: Path,
    *,
    progress: Callable[[TrainProgress], None] | None = None,
    data_dir: Path | None = None,
    overwrite: bool = False,
    arms: bool = False,
    compiled: bool = False,
    watch: Watch | None = None,
    device: str = "auto",
    devices: int = 1,
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
    watch
        Told when the images are read, and of every epoch. What it raises ends the training too.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps": see `labctl.learning.placing.find_device`. A training that was cut off
        on one may go on on another.
    devices
        Processes that train together, on so many GPUs from `device` on, or all on the CPU; needs `labctl[gpus]`.

    Raises
    ------
    ConfigError, DataError, ModelError
        The recipe, the data or the device are not right, or `out_dir` exists and `overwrite` is off.
    """
    if isinstance(recipe, Recipe):
        text = as_toml(recipe)
    else:
        text = recipe_text(recipe)
        recipe = parse_recipe(text, path=recipe)
    out_dir = Path(out_dir)
    if out_dir.exists() and not overwrite:
        raise ModelError(f"{out_dir}: exists already; choose another place, or say to overwrite it")
    where = find_device(device)
    if devices > 1 and compiled:
        raise ConfigError("a compiled step runs in one process only: leave out --compile, or --devices")
    job = _Job(recipe, text, out_dir, data_dir, overwrite, arms, compiled, devices)
    if devices == 1:
        _train_here(job, where, None, progress, watch)
    else:
        spread(_train_here, job, where, devices, progress, watch)
    return load_bundle(out_dir)


class _Job(NamedTuple):
    """What `train` was asked for, as it is sent to processes."""

    recipe: Recipe
    text: str
    out_dir: Path
    data_dir: Path | None
    overwrite: bool
    arms: bool
    compiled: bool
    devices: int


def _train_here(
    job: _Job,
    device: torch.device,
    fabric: Fabric | None,
    progress: Callable[[TrainProgress], None] | None,
    watch: Watch | None,
) -> None:
    """Train everything on one device, together with other processes where there is a `fabric`."""
    recipe, out_dir = job.recipe, job.out_dir
    images, data = recipe.images(job.data_dir), splits_of(recipe, job.data_dir)
    work = out_dir.with_name(f".{out_dir.name}.training")
    plan = _plan(recipe, all_arms=job.arms)
    reporter = Reporter(_stages(recipe, images, plan), progress, watch)
    if watch is not None:
        about, source = (len(data.train[1]), len(data.validation[1]), len(data.test)), data.source
        watch(DataRead(source.name, source.source, source.sha256, *about))
    key = _teacher_key(recipe, data)
    teacher, teacher_run = _train_teacher(recipe, data, images, work, key, device, reporter.stage(), fabric)
    views = Views(recipe, data, teacher)
    runs: dict[str, list[RunMetrics]] = {}
    best: tuple[float, Student, _Planned] | None = None
    for at in plan:
        own, report = _student_key(recipe, key, at), reporter.stage()
        student, run = _train_student(
            recipe, data, images, views, at, work, own, device, report, fabric, job.compiled
        )  # fmt: skip
        runs.setdefault(at.group, []).append(run)
        # chosen on held-back images, so that the test figures stay honest; within the first arm of the recipe
        if at.group == plan[0].group and (best is None or run.validation.accuracy > best[0]):
            best = (run.validation.accuracy, student, at)
    if best is None:
        raise ConfigError(f"recipe {recipe.name}: trains no student")
    if rank():
        return
    student, teacher = best[1].cpu(), teacher.cpu()
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
            licence=known_set(data.source.name, job.data_dir).licence,
        ),
        selected=Selected(arm=plan[0].group, seed=best[2].seed),
        arms=measured,
        macs=count_macs(student, teacher).as_dict(),
        made_with={
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": str(torch.get_num_threads()),
            "device": describe(device, job.devices),
        },
    )
    save_bundle(
        out_dir,
        recipe_text=job.text,
        student=student,
        teacher=teacher,
        metrics=metrics,
        card=write_card(recipe, metrics),
        overwrite=job.overwrite,
    )
    shutil.rmtree(work, ignore_errors=True)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def as_toml(recipe: Recipe) -> str:
    """A recipe as the text of a file."""
    import tomlkit

    return tomlkit.dumps(recipe.model_dump(exclude_none=True, mode="json"))
