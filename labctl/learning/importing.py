"""A network that was trained elsewhere becomes a model bundle that computes the same.

    weights = read_weights(Path("net.pth"))                  # tensors only, no code is run
    guess = guess_mapping(weights.tensors)                   # the wiring, which a state dict does not hold
    student = import_student(weights, guess.mapping)         # folded into front and back end, and compared
    save_import(Path("models/net"), student, name="net")     # a bundle

What the input panel shows is the image itself, from 0 to 1: the network's input normalisation is in the kernels and in
the back end's fixed offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit
import torch
from torch import Tensor

import labctl
from labctl.errors import ModelError
from labctl.learning.accounting import count_macs
from labctl.learning.bundle import Bundle, save_bundle
from labctl.learning.data import ImageSet, known_set, load
from labctl.learning.import_card import write_import_card
from labctl.learning.import_folding import Folded, fold
from labctl.learning.import_fusing import sampled
from labctl.learning.import_mapping import Mapping, mapping_values
from labctl.learning.import_reading import Weights
from labctl.learning.import_wiring import run_network
from labctl.learning.imported import ImportedSection
from labctl.learning.metrics import ArmMetrics, DataMetrics, Metrics, RunMetrics, Score, Selected
from labctl.learning.recipe import parse_recipe
from labctl.learning.scoring import logits_of
from labctl.learning.student import Student

EQUAL = 1e-4
"""Bundle and network may differ by this part of the largest logit."""
PROBES = 32
IMPORTED = "imported"
"""The arm of an imported student's figures."""


@dataclass(frozen=True, eq=False)
class Imported:
    """A foreign network as a student.

    Attributes
    ----------
    student
        In eval mode.
    section
        What its recipe says of it.
    notes
        What was moved or folded to make it.
    weights
        Where it came from.
    """

    student: Student
    section: ImportedSection
    notes: tuple[str, ...]
    weights: Weights


def _build(folded: Folded, mapping: Mapping, weights: Weights) -> tuple[Student, ImportedSection]:
    front, maps = folded.front, len(folded.front.kernels)
    section = ImportedSection(
        file=weights.path.name,
        sha256=weights.sha256,
        key=weights.key,
        classes=len(folded.linears[-1][1]),
        maps=maps,
        kernel=front.kernels.shape[-1],
        start=front.start,
        stride=front.stride,
        size=front.size,
        norm=folded.norm is not None,
        offset=folded.offset is not None,
        after_detection="relu" if folded.relu else "linear",
        pool=folded.pool,
        hidden=tuple(len(bias) for _, bias in folded.linears[:-1]),
        deviation=0.0,
        mapping=mapping,
    )
    student = section.build_student()
    state: dict[str, Tensor] = {"front.layers.0.weight": front.kernels}
    if folded.offset is not None:
        image = torch.zeros(maps, *mapping.input.shape[1:], dtype=torch.float64)
        sampled(image, front.start, front.stride, front.size).copy_(folded.offset)
        state["backend.offset"] = image
    if folded.norm is not None:
        roles = {"running_mean": "mean", "running_var": "variance", "weight": "weight", "bias": "bias"}
        state |= {f"backend.norm.{name}": getattr(folded.norm, role) for name, role in roles.items()}
        state["backend.norm.num_batches_tracked"] = torch.tensor(0)
    for number, (weight, bias) in enumerate(folded.linears, start=1):
        state |= {f"backend.fc{number}.weight": weight, f"backend.fc{number}.bias": bias}
    student.load_state_dict(
        {name: t.to(torch.int64 if t.dtype == torch.int64 else torch.float32) for name, t in state.items()}
    )
    return student.eval(), section


def difference(student: Student, mapping: Mapping, tensors: dict[str, Tensor], images: Tensor) -> float:
    """Largest difference of a student's logits to the mapped network's, relative to the largest of these."""
    wanted = run_network(mapping, images, tensors)
    got = logits_of(student, images).double()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _probes(shape: tuple[int, int, int]) -> Tensor:
    """Images of noise, of few bright pixels, black and white: (PROBES + 2) of them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(PROBES, *shape, generator=generator)
    images[PROBES // 2 :] *= images[PROBES // 2 :] > 0.9
    return torch.cat([images, torch.zeros(1, *shape), torch.ones(1, *shape)])


def import_student(weights: Weights, mapping: Mapping, *, images: Tensor | None = None) -> Imported:
    """Fold a mapped network into a student, and compare the two.

    Parameters
    ----------
    images
        Real ones to compare on, besides the made-up ones; float32 [n, channels, y, x], 0 to 1.

    Raises
    ------
    ModelError
        A part of the network has no place on a bench, or (with exact borders) the two differ by more than `EQUAL`.
    """
    unknown = [name for name in mapping.tensors() if name not in weights.tensors]
    if unknown:
        raise ModelError(f"{weights.path}: has no tensor {unknown[0]!r}, which the mapping names")
    try:
        folded = fold(mapping, weights.tensors)
    except ModelError as error:
        raise ModelError(f"{weights.path}: cannot be imported: {error}") from error
    student, section = _build(folded, mapping, weights)
    probes = _probes(mapping.input.shape)
    worst = difference(student, mapping, weights.tensors, probes)
    if images is not None and len(images):
        worst = max(worst, difference(student, mapping, weights.tensors, images))
    if worst > EQUAL and mapping.borders == "exact":
        raise ModelError(
            f"{weights.path}: the bundle's logits would differ from the network's by {worst:.1e} of the largest, more "
            f"than {EQUAL:.0e}: its weights lose too much in single precision"
        )
    unused = sorted(set(weights.tensors) - set(mapping.tensors()))
    unused = [name for name in unused if not name.endswith("num_batches_tracked")]
    notes = [*weights.notes, *folded.notes]
    if unused:
        notes.append(f"{len(unused)} tensors play no part in the mapping: {', '.join(unused[:4])}")
    return Imported(student, section.model_copy(update={"deviation": worst}), tuple(notes), weights)


def recipe_text(name: str, imported: Imported, data: str, description: str) -> str:
    """The recipe of a bundle that was imported; `data` is "" where no image set is known."""
    section = imported.section
    document = tomlkit.document()
    document["name"] = name
    document["description"] = description
    document["data"] = {"name": data}
    backend = {"after_detection": section.after_detection, "norm": section.norm, "offset": section.offset}
    document["student"] = {
        "maps": section.maps,
        "kernel_sizes": [section.kernel],
        "detection": "paired",
        "backend": backend | {"hidden": list(section.hidden)},
    }
    document["imported"] = section.model_dump(mode="json", exclude={"mapping"}, exclude_none=True) | {
        "mapping": mapping_values(section.mapping)
    }
    return tomlkit.dumps(document)


def images_for(name: str, shape: tuple[int, int, int], *, data_dir: Path | None = None) -> ImageSet:
    """The test images of a set, if they are what a network of this input shape takes.

    Raises
    ------
    ModelError, DataError
        They are not, or the set is not here.
    """
    found = load(name, "test", data_dir=data_dir)
    if tuple(found.images.shape[1:]) != shape or found.labels.ndim != 1:
        raise ModelError(
            f"{name} has images of {list(found.images.shape[1:])} with "
            f"{'one label each' if found.labels.ndim == 1 else 'a label per pixel'}, this network takes {list(shape)} "
            "and gives one answer per image"
        )
    return found


def _data_metrics(test: ImageSet | None, section: ImportedSection) -> DataMetrics:
    shape = section.mapping.input.shape
    if test is None:
        classes = tuple(f"class {i}" for i in range(section.classes))
        return DataMetrics(
            name="", source="none", train=0, validation=0, test=0, train_sha256="", test_sha256="", shape=shape,
            classes=classes,
        )  # fmt: skip
    return DataMetrics(
        name=test.name, source=test.source, train=0, validation=0, test=len(test), train_sha256="",
        test_sha256=test.sha256, shape=shape, classes=test.classes, licence=known_set(test.name).licence,
    )  # fmt: skip


def _metrics(recipe_sha256: str, imported: Imported, test: ImageSet | None) -> Metrics:
    arms: dict[str, ArmMetrics] = {}
    if test is not None:
        if imported.section.classes != len(test.classes):
            raise ModelError(
                f"{imported.weights.path}: gives {imported.section.classes} logits, "
                f"{test.name} has {len(test.classes)} classes"
            )
        answers = logits_of(imported.student, test.images).argmax(1)
        score = Score.of(int((answers == test.labels).sum()), len(test))
        run = RunMetrics(seed=0, validation=score, test=score, epochs=0, seconds=0.0, curve=[])
        parameters = sum(p.numel() for p in imported.student.backend.parameters())
        arms[IMPORTED] = ArmMetrics.of(
            [run],
            arm=IMPORTED,
            detection="paired",
            after_detection=imported.section.after_detection,
            parameters=parameters,
        )
    return Metrics(
        recipe_sha256=recipe_sha256,
        detection="paired",
        data=_data_metrics(test, imported.section),
        selected=Selected(arm=IMPORTED, seed=0, by="import"),
        arms=arms,
        macs=count_macs(imported.student, None).as_dict(),
        made_with={"labctl": labctl.__version__, "torch": str(torch.__version__)},
    )


def save_import(
    path: Path,
    imported: Imported,
    *,
    name: str,
    data: str | None = None,
    data_dir: Path | None = None,
    overwrite: bool = False,
    assumed: Sequence[str] = (),
) -> Bundle:
    """Write an imported student as a bundle, with its accuracy where `data` names an image set.

    Parameters
    ----------
    assumed
        What of the mapping nobody confirmed, for the card.

    Raises
    ------
    ModelError, DataError, ConfigError
        The name or the image set does not fit, or the bundle cannot be written.
    """
    test = images_for(data, imported.section.mapping.input.shape, data_dir=data_dir) if data else None
    description = f"Imported from {imported.section.file}"
    text = recipe_text(name, imported, data or "", description)
    recipe = parse_recipe(text, path=path / "recipe.toml")
    metrics = _metrics(recipe.sha256, imported, test)
    card = write_import_card(recipe.name, imported.section, metrics, imported.notes, assumed)
    return save_bundle(
        path, recipe_text=text, student=imported.student, teacher=None, metrics=metrics, card=card, overwrite=overwrite
    )
