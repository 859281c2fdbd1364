"""The training recipe: a TOML file that holds all that is needed to train a bundle again, strictly validated."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labctl.errors import ConfigError
from labctl.learning.data import KNOWN, KnownSet, Source
from labctl.learning.student import Backend, SpectralCascade, Student
from labctl.learning.teacher import Teacher

Arm = Literal["distilled", "undistilled"]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the recipe: frozen, no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(Section):
    """[data]: which set, how many training images (all when absent), and how many of them are held back."""

    name: str = "fashion-mnist"
    source: Source = "any"
    limit: Positive | None = None
    validation: Positive = 5000
    seed: int = 0


class AugmentSection(Section):
    """[teacher.augment], [student.augment]: flips and shifts of the training images, left to right and by pixels.

    The teacher sees a fresh draw in every epoch; the students cycle through `views` fixed draws, so that the teacher's
    logits on them are computed once.
    """

    flip: bool = False
    shift_px: Annotated[int, Field(ge=0, le=8)] = 0
    views: Positive = 1


class FitSection(Section):
    """How one network is fitted: AdamW, a linear warm-up over a tenth of the steps, then a cosine to zero."""

    epochs: Positive = 10
    batch: Positive = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    augment: AugmentSection = AugmentSection()


class TeacherSection(FitSection):
    """[teacher]: widths of its blocks, its seed, and how it is fitted."""

    widths: tuple[Positive, ...] = (32, 64, 128)
    seed: int = 0


class BackendSection(Section):
    """[student.backend]: see `labctl.learning.student.Backend`."""

    pool: Positive = 2
    hidden: Positive = 128
    relu_after_detection: bool = False


class StudentSection(FitSection):
    """[student]: the optical front, the detection that it is trained for, the seeds and arms, and how it is fitted."""

    maps: Positive = 8
    kernel_sizes: tuple[Positive, ...] = (3, 3, 3)
    hidden: tuple[Positive, ...] | None = None
    detection: Literal["paired"] = "paired"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("distilled",)
    backend: BackendSection = BackendSection()


class DistillSection(Section):
    """[distillation]: temperature T and the weight alpha of the teacher's soft labels."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    alpha: Fraction = 0.9


class RobustnessSection(Section):
    """[robustness]: what a bench does to feature maps, drawn afresh for every image and map while training.

    gain : relative standard deviation of a map's gain. offset, noise : standard deviation of a map's offset and of
    white noise, in units of the map's rms. All 0 switches it off.
    """

    gain: Fraction = 0.0
    offset: Fraction = 0.0
    noise: Fraction = 0.0


class Recipe(Section):
    """A whole recipe. `description` heads the card of the bundle, `notes` end it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    notes: str = ""
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    distillation: DistillSection = DistillSection()
    robustness: RobustnessSection = RobustnessSection()

    @model_validator(mode="after")
    def _known(self) -> Recipe:
        if self.data.name not in KNOWN:
            near = difflib.get_close_matches(self.data.name, KNOWN, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"data.name is {self.data.name!r}, known sets are {', '.join(KNOWN)}{hint}")
        if any(size % 2 == 0 for size in self.student.kernel_sizes) or not self.student.kernel_sizes:
            raise ValueError(f"student.kernel_sizes is {list(self.student.kernel_sizes)}, expected odd sizes")
        hidden = self.student.hidden
        if hidden is not None and len(hidden) != len(self.student.kernel_sizes) - 1:
            raise ValueError("student.hidden needs one width fewer than student.kernel_sizes")
        return self

    @property
    def known(self) -> KnownSet:
        """The data set of this recipe."""
        return KNOWN[self.data.name]

    @property
    def sha256(self) -> str:
        """Of every value that is not its default, without the prose: two files that ask for the same have the same.

        A key that is added later, with a default that changes nothing, leaves the hash of older recipes as it is.
        """
        said = self.model_dump_json(exclude_defaults=True, exclude={"description", "notes"})
        return hashlib.sha256(said.encode()).hexdigest()

    def build_student(self) -> Student:
        """A student of this recipe with fresh weights from torch's global generator."""
        channels, image, _ = self.known.shape
        section = self.student
        front = SpectralCascade(section.maps, channels, section.kernel_sizes, section.hidden, image)
        options = section.backend
        backend = Backend(
            section.maps,
            image,
            len(self.known.classes),
            pool=options.pool,
            hidden=options.hidden,
            relu_after_detection=options.relu_after_detection,
        )
        return Student(front, backend)

    def build_teacher(self) -> Teacher:
        """A teacher of this recipe with fresh weights from torch's global generator."""
        channels, image, _ = self.known.shape
        return Teacher(self.teacher.widths, channels, image, len(self.known.classes))


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


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises
    ------
    ConfigError
        Missing, no TOML, an unknown key or a value out of range. Names the file, the key and the nearest known one.
    """
    return parse_recipe(recipe_text(path), path=path)


def recipe_text(path: Path) -> str:
    """The text of a recipe file; ConfigError when it cannot be read."""
    if path.is_dir():
        path = path / "recipe.toml"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe ({error})") from error
