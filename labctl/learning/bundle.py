"""The model bundle: a folder that holds a trained network, how it was made, and how good it is.

`recipe.toml`, `student.safetensors`, `teacher.safetensors` (absent for a student that was imported), `metrics.json`,
`README.md` (the card). The loader rebuilds the modules from the recipe and puts the weights in; nothing is unpickled.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from labctl.errors import ConfigError, ModelError
from labctl.learning.checkpoint import write_tensors
from labctl.learning.fit import seeded
from labctl.learning.metrics import Metrics
from labctl.learning.recipe import Recipe, parse_recipe
from labctl.learning.student import Student

FILES = ("recipe.toml", "student.safetensors", "teacher.safetensors", "metrics.json", "README.md")
TEACHER = FILES[2]


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; both networks are in eval mode.

    Attributes
    ----------
    teacher
        None for a student that was trained elsewhere and imported.
    sha256
        Of the recipe (line ends normalised) and both weight files: two bundles that compute the same have the same.
    """

    name: str
    path: Path
    recipe: Recipe
    student: Student
    teacher: nn.Module | None
    metrics: Metrics
    sha256: str

    def guide(self) -> nn.Module:
        """The teacher; ModelError where there is none."""
        if self.teacher is None:
            raise ModelError(
                f"model '{self.name}' was imported and has no teacher: use its labels alone, or a model trained here"
            )
        return self.teacher


def _put_weights(module: nn.Module, content: bytes, path: Path) -> None:
    """Load safetensors bytes into `module`; ModelError that names the first misfit."""
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: is damaged or no safetensors file ({error}); restore it or train the recipe again"
        ) from error
    wanted = module.state_dict()
    if missing := sorted(set(wanted) - set(tensors)):
        raise ModelError(f"{path}: does not fit its recipe.toml: {missing[0]} is missing ({len(missing)} in all)")
    if foreign := sorted(set(tensors) - set(wanted)):
        raise ModelError(f"{path}: does not fit its recipe.toml: it holds {foreign[0]}, which the recipe has not")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"{path}: does not fit its recipe.toml: {name} is {list(tensor.shape)}, "
                f"the recipe asks for {list(wanted[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: {name} holds values that are not finite; train the recipe again")
    module.load_state_dict(tensors)
    module.eval()


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle.

    Raises
    ------
    ModelError
        The folder or a file is missing, damaged, or does not fit the others. Names the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelError(f"{path}: no such model bundle; `labctl models list` shows those there are")
    missing = [name for name in FILES[:4] if not (path / name).is_file()]
    if [name for name in missing if name != TEACHER]:
        raise ModelError(f"{path}: is no whole model bundle, {', '.join(missing)} missing")
    try:
        content = {name: (path / name).read_bytes() for name in FILES[:4] if name not in missing}
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read ({error.strerror})") from error
    try:
        text = content["recipe.toml"].decode("utf-8")
        recipe = parse_recipe(text, path=path / "recipe.toml")
        metrics = Metrics.model_validate_json(content["metrics.json"])
    except ConfigError as error:
        raise ModelError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path / 'metrics.json'}: is damaged ({where or 'file'}: {first['msg']})") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path / 'recipe.toml'}: is no UTF-8 text ({error})") from error
    if missing and recipe.imported is None:
        raise ModelError(f"{path}: is no whole model bundle, {TEACHER} missing")
    images = metrics.data.images() or recipe.images()
    with seeded(0):
        student = recipe.build_student(images=images)
        teacher = None if missing else recipe.build_teacher(images)
    _put_weights(student, content["student.safetensors"], path / "student.safetensors")
    if teacher is not None:
        _put_weights(teacher, content[TEACHER], path / TEACHER)
    digest = hashlib.sha256("\n".join(text.splitlines()).encode())
    digest.update(content["student.safetensors"])
    digest.update(content.get(TEACHER, b""))
    return Bundle(path.resolve().name, path, recipe, student, teacher, metrics, digest.hexdigest())


def save_bundle(
    path: Path,
    *,
    recipe_text: str,
    student: Student,
    teacher: nn.Module | None,
    metrics: Metrics,
    card: str,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle whole or not at all: into a temporary folder beside `path`, checked by loading it, then renamed.

    Raises
    ------
    ModelError
        `path` exists and `overwrite` is off, or the disk refuses.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ModelError(f"{path}: exists already; choose another place, or say to overwrite it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error.strerror or error})") from error
    old = path.with_name(f".{path.name}.old")
    try:
        write_tensors(part / "student.safetensors", student.state_dict())
        if teacher is not None:
            write_tensors(part / TEACHER, teacher.state_dict())
        for name, text in (
            ("recipe.toml", recipe_text),
            ("metrics.json", metrics.model_dump_json(indent=1) + "\n"),
            ("README.md", card),
        ):
            with (part / name).open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        load_bundle(part)
        part.chmod(0o755)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        part.rename(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be written ({error})") from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)  # stopped between the two renames: the old bundle comes back
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(part, ignore_errors=True)
    return load_bundle(path)


def list_bundles(models_dir: Path) -> list[Path]:
    """The folders in `models_dir` that hold a recipe, by name. They may still turn out damaged when loaded."""
    if not models_dir.is_dir():
        return []
    return sorted(p for p in models_dir.iterdir() if not p.name.startswith(".") and (p / "recipe.toml").is_file())


def find_bundle(name: str, models_dir: Path) -> Path:
    """The folder of the bundle called `name` in `models_dir`; `models_dir` itself when it is a bundle of that name.

    Raises
    ------
    ModelError
        There is none. Names the nearest.
    """
    if (models_dir / "recipe.toml").is_file():
        return models_dir
    path = models_dir / name
    if path.is_dir() and (path / "recipe.toml").is_file():
        return path
    names = [bundle.name for bundle in list_bundles(models_dir)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else f" (there: {', '.join(names) or 'none'})"
    raise ModelError(f"no model {name!r} in {models_dir}{hint}")
