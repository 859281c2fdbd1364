"""The training recipe: a TOML file that holds all that is needed to train a bundle again, strictly validated."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labctl.errors import ConfigError, DataError
from labctl.learning.backend import AfterDetection, Backend, PoolKind
from labctl.learning.data import Source, Task, known_set
from labctl.learning.imported import ImportedSection
from labctl.learning.readout import ReadoutSection
from labctl.learning.segmentation import SegmentationBackend, UNet
from labctl.learning.student import SpectralCascade, Student
from labctl.learning.teacher import ResidualTeacher, Teacher
from labctl.optics.detection import Detection

Arm = Literal["distilled", "undistilled", "transfer", "random", "digital"]
"""How a student is trained: with the teacher's soft labels; with labels alone; with soft labels and the teacher's
tangent kernel; as distilled, but behind random masks that stay; as distilled, but with the image itself in place of the
maps."""
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Images(typing.Protocol):
    """What the networks must know of a data set."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, y, x)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def task(self) -> Task:
        """One label per image, or one per pixel."""


class Section(BaseModel):
    """A table of the recipe: frozen, no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(Section):
    """[data]: which set, how many training images (all when absent), and how many of them are held back.

    Sets with an official validation split hold that back, and `validation` is not used. `size` resizes every image to
    (y, x) pixels, or to a square.
    """

    name: str = "fashion-mnist"
    source: Source = "any"
    limit: Positive | None = None
    validation: Positive = 5000
    seed: int = 0
    size: Positive | tuple[Positive, Positive] | None = None


class AugmentSection(Section):
    """[teacher.augment], [student.augment]: flips and shifts of the training images, left to right and by pixels.

    `zoom` is the least and greatest magnification, `colour` the spread of brightness, channels and gamma (see
    `labctl.learning.segmentation.augmented_pairs`). The teacher sees a fresh draw in every epoch; the students cycle
    through `views` fixed draws, so that the teacher's logits on them are computed once.
    """

    flip: bool = False
    shift_px: Annotated[int, Field(ge=0, le=8)] = 0
    zoom: tuple[Annotated[float, Field(gt=0, le=8)], Annotated[float, Field(gt=0, le=8)]] = (1.0, 1.0)
    colour: Fraction = 0.0
    views: Positive = 1


class FitSection(Section):
    """How one network is fitted: AdamW, a linear warm-up over a tenth of the steps, then a cosine to zero.

    `label_smoothing` is the share of every hard label that goes to all classes alike. `class_weight_power` weighs
    labels by the share of their class to the minus that power: 0 all labels alike, 1 all classes alike.
    """

    epochs: Positive = 10
    batch: Positive = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weight_power: Fraction = 0.0
    augment: AugmentSection = AugmentSection()


class TeacherSection(FitSection):
    """[teacher]: its network (see `labctl.learning.teacher`), widths of its blocks, its seed, and how it is fitted."""

    network: Literal["cnn", "resnet", "unet"] = "cnn"
    widths: tuple[Positive, ...] = (32, 64, 128)
    seed: int = 0


class BackendSection(Section):
    """[student.backend]: see `labctl.learning.backend.Backend`."""

    pool: Positive = 2
    pool_kind: PoolKind = "average"
    hidden: Positive | tuple[Positive, ...] = 128
    after_detection: AfterDetection = "linear"
    norm: bool = True
    hidden_norm: bool = False
    offset: bool = False


DetectionName = Literal["paired", "intensity", "incoherent"]


class VariantSection(Section):
    """[[student.variants]]: the same student read in another way, trained beside it by `labctl train --arms`.

    What is absent is as in [student]. Figures of its arms are called "NAME/ARM". One that is `ideal` is trained for an
    ideal bench, without [robustness] and [readout]: what these cost is the difference.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    detection: DetectionName | None = None
    after_detection: AfterDetection | None = None
    pool: Positive | None = None
    hidden: Positive | tuple[Positive, ...] | None = None
    epochs: Positive | None = None
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    ideal: bool = False


class StudentSection(FitSection):
    """[student]: the optical front, the detection that it is trained for, the seeds and arms, and how it is fitted.

    The bundle holds the best seed, on held-back images, of the first arm. `whitened` trains the first layer's kernels
    in the coordinates in which patches of the images are white (`SpectralCascade.whiten`): the same kernels in the end,
    found in fewer epochs.
    """

    maps: Positive = 8
    kernel_sizes: tuple[Positive, ...] = (3, 3, 3)
    hidden: tuple[Positive, ...] | None = None
    spectral_pool: Positive = 1
    whitened: bool = False
    detection: DetectionName = "paired"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("distilled",)
    backend: BackendSection = BackendSection()
    variants: tuple[VariantSection, ...] = ()

    def variant(self, name: str) -> StudentSection:
        """This section with the values of one variant put in; "" is the section itself."""
        if not name:
            return self.model_copy(update={"variants": ()})
        found = next(variant for variant in self.variants if variant.name == name)
        own = found.model_dump(exclude_none=True, exclude={"name", "ideal", "after_detection", "pool", "hidden"})
        inner = found.model_dump(exclude_none=True, include={"after_detection", "pool", "hidden"})
        backend = self.backend.model_copy(update=inner)
        return self.model_copy(update={**own, "backend": backend, "variants": ()})


class DistillSection(Section):
    """[distillation]: temperature T and the weight alpha of the teacher's soft labels."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Fraction = 0.9


class TransferSection(Section):
    """[transfer]: what the arm "transfer" adds to the loss, `weight` times.

    For classes of images by `kind`: "features" makes the last hidden layer tell what the teacher's features are,
    "tangent-kernel" aligns the tangent kernels of both last layers (see `learning.transfer`). For classes of pixels
    channel-wise distillation at the temperature of [distillation] (see `learning.segmentation`).
    """

    kind: Literal["features", "tangent-kernel"] = "features"

    weight: Annotated[float, Field(ge=0)] = 1.0


class RobustnessSection(Section):
    """[robustness]: what a bench does to feature maps, drawn afresh for every image and map while training.

    gain : relative standard deviation of a map's gain. offset, noise : standard deviation of a map's offset and of
    white noise, in units of the map's rms. tiles : white noise in each tile, in units of the tile's rms; a map that is
    the small difference of two bright tiles suffers from it most. kernels : white errors of the delivered kernels,
    relative to the norm of each, drawn for every batch. All 0 switches it off.
    """

    gain: Fraction = 0.0
    offset: Fraction = 0.0
    noise: Fraction = 0.0
    tiles: Fraction = 0.0
    kernels: Fraction = 0.0


class Recipe(Section):
    """A whole recipe. `description` heads the card of the bundle, `notes` end it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    notes: str = ""
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    distillation: DistillSection = DistillSection()
    transfer: TransferSection = TransferSection()
    robustness: RobustnessSection = RobustnessSection()
    readout: ReadoutSection = ReadoutSection()
    imported: ImportedSection | None = None

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if any(size % 2 == 0 for size in self.student.kernel_sizes) or not self.student.kernel_sizes:
            raise ValueError(f"student.kernel_sizes is {list(self.student.kernel_sizes)}, expected odd sizes")
        hidden = self.student.hidden
        if hidden is not None and len(hidden) != len(self.student.kernel_sizes) - 1:
            raise ValueError("student.hidden needs one width fewer than student.kernel_sizes")
        if self.readout.active and self.student.spectral_pool > 1:
            raise ValueError("readout is for maps that are as large as the image: leave out student.spectral_pool")
        if (self.robustness.tiles or self.robustness.kernels) and self.student.spectral_pool > 1:
            raise ValueError("robustness.tiles and robustness.kernels need maps that are as large as the image")
        names = [variant.name for variant in self.student.variants]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"student.variants has {twice!r} twice; give each its own name")
        return self

    def images(self, data_dir: Path | None = None) -> Images:
        """What the networks see of this recipe's data set, resized as asked for; DataError where it is not known."""
        known = known_set(self.data.name, data_dir)
        size = self.data.size
        if size is None:
            return known
        rows, columns = (size, size) if isinstance(size, int) else size
        return dataclasses.replace(known, shape=(known.shape[0], rows, columns))

    def for_variant(self, name: str) -> Recipe:
        """The recipe that one variant is trained by: an ideal one knows of no bench."""
        if not any(variant.ideal for variant in self.student.variants if variant.name == name):
            return self
        return self.model_copy(update={"robustness": RobustnessSection(), "readout": ReadoutSection()})

    @property
    def sha256(self) -> str:
        """Of every value that is not its default, without the prose: two files that ask for the same have the same.

        A key that is added later, with a default that changes nothing, leaves the hash of older recipes as it is.
        """
        said = self.model_dump_json(exclude_defaults=True, exclude={"description", "notes"})
        return hashlib.sha256(said.encode()).hexdigest()

    def build_student(self, variant: str = "", images: Images | None = None) -> Student:
        """A student of this recipe with fresh weights from torch's global generator.

        Parameters
        ----------
        variant
            Of `student.variants`; "" is the student itself.
        images
            What is known of the data set; default: as the set called `data.name` says.
        """
        if self.imported is not None:
            return self.imported.build_student()
        about, section = images or self.images(), self.student.variant(variant)
        channels, *size = about.shape
        front = SpectralCascade(
            section.maps, channels, section.kernel_sizes, section.hidden, size, Detection(section.detection),
            section.spectral_pool,
        )  # fmt: skip
        options = section.backend
        chosen = options.model_dump()
        electronics: type[Backend] = Backend
        if about.task == "segmentation":
            electronics = SegmentationBackend
            del chosen["hidden_norm"]  # its convolutions have batch norms anyhow
        return Student(front, electronics(section.maps, front.map_size, len(about.classes), **chosen))

    def build_teacher(self, images: Images | None = None) -> Teacher | ResidualTeacher | UNet:
        """A teacher of this recipe with fresh weights from torch's global generator."""
        about = images or self.images()
        channels, *size = about.shape
        networks: dict[str, type[Teacher | ResidualTeacher | UNet]] = {
            "cnn": Teacher,
            "resnet": ResidualTeacher,
            "unet": UNet,
        }
        return networks[self.teacher.network](self.teacher.widths, channels, size, len(about.classes))


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table holding `location` may have."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _explain(error: ValidationError) -> str:
    """One clause per problem, with the dotted key."""
    clauses = []
    for problem in error.errors():
        location = problem["loc"]
        key = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _keys_at(location), n=1, cutoff=0.5)
            known = ", ".join(_keys_at(location))
            clauses.append(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else f" (known: {known})"))
        elif problem["type"] == "missing":
            clauses.append(f"key {key!r} is missing")
        elif problem["type"] == "value_error":
            clauses.append(str(problem["msg"]).removeprefix("Value error, "))
        else:
            got = f" (got {problem['input']!r})" if not isinstance(problem["input"], dict) else ""
            clauses.append(f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}{got}")
    return "; ".join(clauses)


def parse_recipe(text: str, *, path: Path | str = "recipe") -> Recipe:
    """Read a recipe from TOML text; `path` names it in messages. ConfigError when it is not right."""
    try:
        values: dict[str, typing.Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is no valid TOML: {error}") from error
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def load_recipe(path: Path, data_dir: Path | None = None) -> Recipe:
    """Read a recipe file.

    Raises
    ------
    ConfigError
        Missing, no TOML, an unknown key or a value out of range. Names the file, the key and the nearest known one.
        Also a data set that is neither known nor added in `data_dir`, or where added sets lie.
    """
    recipe = parse_recipe(recipe_text(path), path=path)
    if recipe.imported is not None:
        raise ConfigError(
            f"{path}: its student was imported from {recipe.imported.file}; there is nothing to train again"
        )
    try:
        recipe.images(data_dir)
    except DataError as error:
        raise ConfigError(f"{path}: data.name: {error}") from error
    return recipe


def recipe_text(path: Path) -> str:
    """The text of a recipe file; ConfigError when it cannot be read."""
    if path.is_dir():
        path = path / "recipe.toml"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe ({error})") from error
