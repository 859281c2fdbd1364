"""From names on a command line, or in the window, to a procedure and its provenance: shared by both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import ModelError

if TYPE_CHECKING:
    from labctl.procedures.evaluate import Task

TRAINING_CAPTURES = 500


def prepare_task(model: str, models_dir: Path, *, images: int, train: int = TRAINING_CAPTURES, seed: int = 0) -> Task:
    """Load a model and the images to try it on.

    Parameters
    ----------
    model : str
        Bundle, by name or folder.
    images, train : int
        How many test and training images; balanced over the classes, drawn by `seed`.

    Raises
    ------
    ModelError, DataError
    """
    from labctl.learning.bundle import find_bundle, load_bundle
    from labctl.learning.data import load
    from labctl.procedures.evaluate import Task

    bundle = load_bundle(find_bundle(model, models_dir))
    name = bundle.recipe.data.name
    if not name:
        raise ModelError(f"model '{bundle.name}' was imported without an image set: import it again, with --data SET")
    test = load(name, "test", limit=images, seed=seed)
    if images > len(test):
        raise ModelError(
            f"{name} has {len(test)} test images here, {images} were asked for: ask for fewer, or fetch the full set"
        )
    return Task.of(bundle, test, load(name, "train", limit=train, seed=seed))


def provenance(task: Task, *, seed: int) -> dict[str, Any]:
    """What a run of this task must remember, besides bench and recipe, to be repeated: hashes and seeds."""
    images = {f"{task.data_source}, {part.split}": part.sha256 for part in (task.test, task.train)}
    return {"models": {task.model: task.model_hash}, "data": images, "seeds": {"images and refit": seed}}
