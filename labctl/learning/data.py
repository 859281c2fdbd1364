"""Image sets: where they are found, what they hold, and how they are read.

Search order of `load`: the folder asked for, else the environment variable `LABCTL_DATA`, the platform's user cache
(`platformdirs`), `~/.cache/labctl/data`, and last the small subset that labctl ships (Fashion-MNIST only).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from labctl.errors import DataError
from labctl.learning.idx import read_cifar10, read_idx
from labctl.learning.npz import read_npz

Split = Literal["train", "validation", "test"]
Task = Literal["classification", "segmentation"]
Source = Literal["any", "full", "shipped"]

#: Label of pixels that belong to no class; torch's `ignore_index`.
NO_CLASS = -100
VOID = 255  # the same, in the uint8 arrays that files are decoded to
FULL_SET = "full set"
SHIPPED_SUBSET = "shipped subset"
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class KnownSet:
    """A public image set that `load` can read in its original format.

    Attributes
    ----------
    shape
        (channels, y, x) of every image.
    full_counts
        Images in the official (train, test) splits.
    task
        "classification": one label per image. "segmentation": one per pixel.
    validation
        Images in the official validation split; 0 where the set has none.
    void
        Stored label of pixels that belong to no class, or None.
    parent
        The set whose files this one is drawn from, and the labels of it that are kept, in the order of `classes`.
    hint
        One line that says how to get the full set.
    """

    name: str
    format: Literal["idx", "cifar10", "npz"]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    full_counts: tuple[int, int]
    licence: str
    hint: str
    task: Task = "classification"
    validation: int = 0
    void: int | None = None
    parent: tuple[str, tuple[int, ...]] | None = None

    @property
    def splits(self) -> tuple[Split, ...]:
        """The official splits."""
        return ("train", "validation", "test") if self.validation else ("train", "test")


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
        "full set", or "shipped subset".
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
    """Where a set was found, and how many images its two splits hold there; `problem` says what is wrong, if it is."""

    name: str
    folder: Path
    source: str
    train: int
    test: int
    problem: str = ""
    validation: int = 0


_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# SegNet's eleven classes in its order; checked against the label statistics and the pictures
_CAMVID = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)

KNOWN: dict[str, KnownSet] = {
    known.name: known
    for known in (
        KnownSet(
            "fashion-mnist",
            "idx",
            (1, 28, 28),
            _FASHION,
            (60000, 10000),
            "MIT",
            "download the four files *-ubyte.gz listed at https://github.com/zalandoresearch/fashion-mnist "
            "(or unpack Debian's package dataset-fashion-mnist) into {folder}",
        ),
        KnownSet(
            "mnist",
            "idx",
            (1, 28, 28),
            tuple("0123456789"),
            (60000, 10000),
            "CC BY-SA 3.0",
            "put the four files *-ubyte or *-ubyte.gz of https://yann.lecun.com/exdb/mnist into {folder}",
        ),
        KnownSet(
            "cifar10",
            "cifar10",
            (3, 32, 32),
            _CIFAR,
            (50000, 10000),
            "none stated by its authors",
            "unpack cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html into {folder}",
        ),
        KnownSet(
            "cats-dogs",
            "cifar10",
            (3, 32, 32),
            ("cat", "dog"),
            (10000, 2000),
            "none stated by its authors",
            "get cifar10, whose cats and dogs it is: unpack cifar-10-binary.tar.gz of "
            "https://www.cs.toronto.edu/~kriz/cifar.html into {folder}",
            parent=("cifar10", (3, 5)),
        ),
        KnownSet(
            "camvid-small",
            "npz",
            (3, 120, 160),
            _CAMVID,
            (367, 233),
            "research only (weights may be passed on, images not)",
            "put camvid_120x160.npz into {folder}",
            task="segmentation",
            validation=101,
            void=11,
        ),
    )
}


def known_set(name: str) -> KnownSet:
    """The known set called `name`; DataError with the nearest name otherwise."""
    if name not in KNOWN:
        import difflib

        near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"data set {name!r} is not known (known: {', '.join(KNOWN)}){hint}")
    return KNOWN[name]


def default_dir() -> Path:
    """Where a full set belongs when the user has no opinion: `LABCTL_DATA`, else the platform's user cache."""
    return Path(os.environ["LABCTL_DATA"]) if os.environ.get("LABCTL_DATA") else _cache_dirs()[0]


def _cache_dirs() -> list[Path]:
    both = [Path(platformdirs.user_cache_dir("labctl", appauthor=False)) / "data", Path.home() / ".cache/labctl/data"]
    return list(dict.fromkeys(both))


def _folder_name(known: KnownSet) -> str:
    """The folder that holds the files of `known` in a collection."""
    return known.parent[0] if known.parent else known.name


def fetch_hint(name: str) -> str:
    """One line that says how to get the full set called `name`."""
    return known_set(name).hint.format(folder=default_dir() / _folder_name(known_set(name)))


def _candidates(known: KnownSet, data_dir: Path | None, source: Source) -> Iterator[tuple[Path, str]]:
    """(folder, source) pairs in search order. A folder asked for is the only one looked at: no surprise sources."""
    if source in ("any", "full"):
        if data_dir is not None:
            bases = [data_dir]
        else:
            asked = os.environ.get("LABCTL_DATA")
            bases = ([Path(asked)] if asked else []) + _cache_dirs()
        for base in bases:
            # the folder may be the collection or the set itself
            own = base / _folder_name(known)
            for folder in (own, own / "cifar-10-batches-bin", base):
                yield folder, FULL_SET
    if source == "shipped" or (source == "any" and data_dir is None):
        yield SHIPPED / known.name, SHIPPED_SUBSET


def _files(known: KnownSet, folder: Path, split: Split) -> list[Path]:
    """The files of one split in `folder`, [] when none is there; DataError when only some are."""
    if known.format == "cifar10":
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
        options = [[folder / name] for name in names]
    elif known.format == "npz":
        options = [[folder / "camvid_120x160.npz"]]
    else:
        stem = "train" if split == "train" else "t10k"
        options = [
            [folder / f"{stem}-{kind}{joint}idx{dims}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
            for kind, dims in (("images", 3), ("labels", 1))
        ]
    found = [next((path for path in paths if path.is_file()), None) for paths in options]
    present = [path for path in found if path is not None]
    if present and len(present) < len(options):
        missing = options[found.index(None)][0].name
        raise DataError(f"{folder}: {missing} is missing beside {present[0].name}; put the original file there")
    return present


def _locate(known: KnownSet, split: Split, data_dir: Path | None, source: Source) -> tuple[list[Path], str]:
    if data_dir is not None and source != "shipped" and not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder; name the one that holds {known.name}")
    looked = []
    for folder, kind in _candidates(known, data_dir, source):
        looked.append(folder)
        if folder.is_dir() and (files := _files(known, folder, split)):
            return files, kind
    places = ", ".join(str(folder) for folder in looked)
    raise DataError(
        f"{known.name}: no {split} images found (looked in {places}); to get them, {fetch_hint(known.name)}"
    )


def _read(known: KnownSet, files: list[Path], split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 images [n, channels, y, x] and labels [n] or [n, y, x] (255: no class) of one split, checked."""
    if known.format == "cifar10":
        batches = [read_cifar10(path) for path in files]
        images, labels = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    elif known.format == "npz":
        images, labels = read_npz(files[0], split)
    else:
        images, labels = read_idx(files[0], dims=3)[:, None], read_idx(files[1], dims=1)
    if known.parent:
        kept = np.isin(labels, known.parent[1])
        images, labels = images[kept], np.searchsorted(known.parent[1], labels[kept]).astype(np.uint8)
    if images.shape[1:] != known.shape:
        size = "x".join(str(length) for length in images.shape[1:])
        wanted = "x".join(str(length) for length in known.shape)
        raise DataError(
            f"{files[0]}: its images are {size} (channels, y, x), those of {known.name} {wanted}; "
            "put the original there"
        )
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(
            f"{files[0]}: holds {len(images)} images but {files[-1].name} {len(labels)} labels; fetch both again"
        )
    void = labels == known.void if known.void is not None else np.zeros(labels.shape, dtype=bool)
    highest = labels.max(where=~void, initial=0)
    if highest >= len(known.classes):
        raise DataError(
            f"{files[-1]}: holds label {highest}, {known.name} has classes 0 to {len(known.classes) - 1}; "
            "put the original file there"
        )
    return images, np.where(void, np.uint8(VOID), labels) if void.any() else labels


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
    """Read one split of a known image set.

    Parameters
    ----------
    name
        One of `KNOWN`.
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
    known = known_set(name)
    if split not in known.splits:
        raise DataError(f"{name}: has no official split {split!r} (it has {', '.join(known.splits)})")
    if limit is not None and limit < 1:
        raise DataError(f"{name}: limit is {limit}, expected 1 or more")
    files, kind = _locate(known, split, data_dir, source)
    images, labels = _read(known, files, split)
    if limit is not None and limit < len(labels):
        chosen = balanced_order(labels, seed)[:limit]
        images, labels = images[chosen], labels[chosen]
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return ImageSet(
        name=name,
        split=split,
        images=torch.from_numpy(images.astype(np.float32) / np.float32(255)),
        labels=torch.from_numpy(_as_targets(labels)),
        classes=known.classes,
        source=kind,
        sha256=digest.hexdigest(),
        folder=files[0].parent,
    )


def _as_targets(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    targets = labels.astype(np.int64)
    if labels.ndim > 1:
        targets[labels == VOID] = NO_CLASS
    return targets


def find_sets(data_dir: Path | None = None) -> list[Found]:
    """Every place where a known set lies, in search order; counted from the files, damaged ones with their problem."""
    found = []
    for known in KNOWN.values():
        seen: set[Path] = set()
        for folder, kind in _candidates(known, data_dir, "any"):
            if folder.resolve() in seen or not folder.is_dir():
                continue
            seen.add(folder.resolve())
            counts, problem = {"train": 0, "validation": 0, "test": 0}, ""
            for split in known.splits:
                try:
                    files = _files(known, folder, split)
                    counts[split] = len(_read(known, files, split)[1]) if files else 0
                except DataError as error:
                    problem = problem or str(error)
            if any(counts.values()) or problem:
                found.append(
                    Found(known.name, folder, kind, counts["train"], counts["test"], problem, counts["validation"])
                )
    return found
