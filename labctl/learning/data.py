"""Image sets: where they are found, what they hold, and how they are read.

Search order of `load`: the folder asked for, else the environment variable `LABCTL_DATA`, the platform's user cache
(`platformdirs`), `~/.cache/labctl/data`, and last the small subset that labctl ships (Fashion-MNIST only). Sets that a
user has added (`labctl data add`) lie in the same places and are loaded by their name like any other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from labctl.errors import DataError
from labctl.learning.sets.added import added_folders, find_added, known_from, read_record, summary_of
from labctl.learning.sets.known import KNOWN, NO_CLASS, SPLITS, VOID, KnownSet, Split, Task
from labctl.learning.sets.npz import digest_of
from labctl.learning.sets.official import CIFAR_FOLDERS, count_split, read_split, split_files
from labctl.learning.sets.places import collections, default_dir

__all__ = [
    "ADDED_SET",
    "FULL_SET",
    "KNOWN",
    "NO_CLASS",
    "SHIPPED",
    "SHIPPED_SUBSET",
    "SPLITS",
    "Found",
    "ImageSet",
    "KnownSet",
    "Source",
    "Split",
    "Task",
    "balanced_order",
    "default_dir",
    "fetch_hint",
    "find_sets",
    "known_from",
    "known_set",
    "load",
    "read_raw",
    "summary_of",
]

Source = Literal["any", "full", "shipped"]

FULL_SET = "full set"
SHIPPED_SUBSET = "shipped subset"
ADDED_SET = "added set"
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one split.

    Attributes
    ----------
    name, split
        Which set, and "train", "validation" (where the set has an official one) or "test".
    images
        float32 [n, channels, y, x], 0 (dark) to 1; row 0 at the top. Amplitudes of the input modulator.
    labels
        int64 [n], index into `classes`; for segmentation [n, y, x], -100 where a pixel belongs to no class.
    source
        "full set", "shipped subset", or "added set".
    sha256
        Of the decoded pixels and labels of these images, in this order.
    folder
        Where the files lay.
    """

    name: str
    split: Split
    images: Float[Tensor, "n channels y x"]
    labels: Int64[Tensor, "n ..."]
    classes: tuple[str, ...]
    source: str
    sha256: str
    folder: Path

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def task(self) -> Task:
        """One label per image, or one per pixel."""
        return "classification" if self.labels.ndim == 1 else "segmentation"


@dataclass(frozen=True)
class Found:
    """Where a set was found, and how many images its splits hold there.

    Attributes
    ----------
    problem
        What is wrong with it, if anything is.
    genuine
        Whether every split agrees with its checksum; None when that was not asked, or none is known.
    task
        "classification" or "segmentation".
    """

    name: str
    folder: Path
    source: str
    train: int
    test: int
    problem: str = ""
    validation: int = 0
    genuine: bool | None = None
    task: Task = "classification"


def known_set(name: str, data_dir: Path | None = None) -> KnownSet:
    """The public or added set called `name`: its shape, classes and task, without reading a pixel.

    Parameters
    ----------
    data_dir
        Look for added sets here and nowhere else.

    Raises
    ------
    DataError
        No such set, with the nearest name; or an added set whose files are damaged.
    """
    if name in KNOWN:
        return KNOWN[name]
    folder = find_added(name, data_dir)
    if folder is not None:
        return read_record(folder).known()
    names = [*KNOWN, *(folder.name for folder in added_folders(data_dir))]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"data set {name!r} is not known (known: {', '.join(names)}){hint}")


def fetch_hint(name: str) -> str:
    """One line that says how to get the full set called `name`."""
    if name not in KNOWN and find_added(name, None) is not None:
        return f"run `labctl data remove {name}`, then `labctl data add {name} PATH`"
    known = known_set(name)
    return known.hint.format(folder=default_dir() / known.folder_name)


def _candidates(known: KnownSet, data_dir: Path | None, source: Source) -> Iterator[tuple[Path, str]]:
    """(folder, source) pairs in search order."""
    if known.added:
        folder = find_added(known.name, data_dir)
        if folder is not None and source != "shipped":
            yield folder, ADDED_SET
        return
    if source in ("any", "full"):
        for base in collections(data_dir):
            # the folder may be the collection or the set itself, or what an archive of it unpacks to
            own = base / known.folder_name
            inner = [own / name for name in CIFAR_FOLDERS] if known.format == "cifar10" else []
            for folder in (own, *inner, base):
                yield folder, FULL_SET
    if source == "shipped" or (source == "any" and data_dir is None):
        yield SHIPPED / known.name, SHIPPED_SUBSET


def _locate(known: KnownSet, split: Split, data_dir: Path | None, source: Source) -> tuple[list[Path], str]:
    if data_dir is not None and source != "shipped" and not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder; name the one that holds {known.name}")
    looked = []
    for folder, kind in _candidates(known, data_dir, source):
        looked.append(folder)
        if folder.is_dir() and (files := split_files(known.format, folder, split, npz=known.file)):
            return files, kind
    places = ", ".join(str(folder) for folder in looked) or "no place"
    hint = known.hint.format(folder=default_dir() / known.folder_name)
    raise DataError(f"{known.name}: no {split} images found (looked in {places}); to get them, {hint}")


def read_raw(
    name: str, split: Split, *, data_dir: Path | None = None, source: Source = "any"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Path, str]:
    """One whole split as it is stored.

    Returns
    -------
    images uint8 [n, channels, y, x], labels uint8 [n] or [n, y, x] (255 where a pixel belongs to no class), the folder
    that they came from, and "full set", "shipped subset" or "added set".

    Raises
    ------
    DataError
        As `load`.
    """
    known = known_set(name, data_dir)
    if split not in known.splits:
        raise DataError(f"{name}: has no official split {split!r} (it has {', '.join(known.splits)})")
    files, kind = _locate(known, split, data_dir, source)
    return *read_split(known, files, split), files[0].parent, kind


def balanced_order(labels: NDArray[np.integer], seed: int | None) -> NDArray[np.intp]:
    """An order of all images whose every prefix is as balanced over the classes as the labels allow.

    Parameters
    ----------
    labels
        [n] class indices; labels of pixels, [n, y, x], have no balance to keep and are only shuffled.
    seed
        Shuffles within each class; None keeps the order of the file (first come, first taken).
    """
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim > 1:
        return order
    ranked = labels[order]
    turn = np.empty(len(labels), dtype=np.intp)
    for label in np.unique(ranked):
        at = np.flatnonzero(ranked == label)
        turn[at] = np.arange(len(at))
    return order[np.argsort(turn, kind="stable")]


def load(
    name: str,
    split: Split,
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    source: Source = "any",
) -> ImageSet:
    """Read one split of an image set.

    Parameters
    ----------
    name
        A public set (one of `KNOWN`), or one that was added.
    data_dir
        Look here and nowhere else: the folder of the set, or the one that holds it.
    limit
        Take only this many images, balanced over the classes and drawn by `seed`; None takes all, in file order.
    source
        "full" or "shipped" refuses the other; "any" prefers the full set.

    Raises
    ------
    DataError
        The set is unknown or not found, or a file is truncated, damaged or foreign. Says what to do.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{name}: limit is {limit}, expected 1 or more")
    images, labels, folder, kind = read_raw(name, split, data_dir=data_dir, source=source)
    known = known_set(name, data_dir)
    whole = limit is None or limit >= len(labels)
    if not whole:
        chosen = balanced_order(labels, seed)[:limit]
        images, labels = images[chosen], labels[chosen]
    digest = digest_of(images, labels)
    if known.added and whole and digest != known.digests[split]:
        raise DataError(f"{folder}: its {split} images were changed after they were added; add {name} again")
    pixels = images.astype(np.float32, order="C")
    pixels /= np.float32(255)
    targets = labels.astype(np.int64)
    if labels.ndim > 1:
        targets[labels == VOID] = NO_CLASS
    return ImageSet(
        name=name,
        split=split,
        images=torch.from_numpy(pixels),
        labels=torch.from_numpy(targets),
        classes=known.classes,
        source=kind,
        sha256=digest,
        folder=folder,
    )


def find_sets(data_dir: Path | None = None, *, verify: bool = False) -> list[Found]:
    """Every place where a set lies, public ones first, in search order; damaged ones with their problem.

    Parameters
    ----------
    verify
        Read every pixel and compare each split with its checksum.
    """
    found = []
    for known in KNOWN.values():
        seen: set[Path] = set()
        for folder, kind in _candidates(known, data_dir, "any"):
            if folder.resolve() in seen or not folder.is_dir():
                continue
            seen.add(folder.resolve())
            place = _looked_at(known, folder, kind, verify)
            if place.train or place.validation or place.test or place.problem:
                found.append(place)
    for folder in added_folders(data_dir):
        try:
            found.append(_looked_at(read_record(folder).known(), folder, ADDED_SET, verify))
        except DataError as error:
            found.append(Found(folder.name, folder, ADDED_SET, 0, 0, str(error)))
    return found


def _looked_at(known: KnownSet, folder: Path, kind: str, verify: bool) -> Found:
    """What lies in `folder` of `known`."""
    digests = known.subset_digests if kind == SHIPPED_SUBSET else known.digests
    counts, problem, genuine = dict.fromkeys(SPLITS, 0), "", []
    for split in known.splits:
        try:
            files = split_files(known.format, folder, split, npz=known.file)
            if files and verify:
                images, labels = read_split(known, files, split)
                counts[split] = len(labels)
                genuine.append(digest_of(images, labels) == digests.get(split))
            elif files:
                counts[split] = count_split(known, files, split)
        except DataError as error:
            problem = problem or str(error)
    return Found(
        known.name,
        folder,
        kind,
        counts["train"],
        counts["test"],
        problem,
        counts["validation"],
        all(genuine) if genuine and digests and not problem else None,
        known.task,
    )
