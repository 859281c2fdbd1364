"""The files of a set in one of the official formats: which they are, and what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError
from labctl.learning.sets.cifar import read_cifar10, read_cifar10_python
from labctl.learning.sets.idx import read_idx
from labctl.learning.sets.known import VOID, Format, KnownSet, Split
from labctl.learning.sets.npz import read_npz, splits_of

#: Folders that the archives of CIFAR-10 unpack to.
CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")


def split_files(form: Format, folder: Path, split: Split, *, npz: str = "") -> list[Path]:
    """The files of one split in `folder`, [] when none is there; DataError when only some are.

    Parameters
    ----------
    npz
        Name of the file, where the format is "npz".
    """
    if form == "npz":
        return [folder / npz] if (folder / npz).is_file() else []
    if form == "cifar10":
        if split == "validation":
            return []
        stems = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        # all of one version: five binary batches, or else five of Python's
        versions = [[[folder / f"{stem}{end}"] for stem in stems] for end in (".bin", "")]
        options = next((paths for paths in versions if any(path.is_file() for (path,) in paths)), versions[0])
    else:
        stem = {"train": "train", "validation": "validation", "test": "t10k"}[split]
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


def read_files(form: Format, files: list[Path], split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 images [n, channels, y, x] and labels [n] or [n, y, x] as they stand in the files of one split.

    Raises
    ------
    DataError
        A file is truncated, damaged or foreign, or two files do not belong together.
    """
    if form == "npz":
        return read_npz(files[0], split)
    if form == "cifar10":
        batches = _read_batches(files)
        return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])
    images, labels = read_idx(files[0], dims=3), read_idx(files[1], dims=1)
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(
            f"{files[0]}: holds {len(images)} images but {files[1].name} {len(labels)} labels; fetch both again"
        )
    return images[:, None], labels


def _read_batches(files: list[Path]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Images and labels of each batch; DataError when one is shorter than the others."""
    batches = [read_cifar10(path) if path.suffix == ".bin" else read_cifar10_python(path) for path in files]
    most = max(len(labels) for _, labels in batches)
    for path, (_, labels) in zip(files, batches, strict=True):
        # a batch cut off between two records looks whole by itself
        if len(labels) != most:
            raise DataError(
                f"{path}: is truncated ({len(labels)} images, the batches beside it hold {most}); fetch it again"
            )
    return batches


def read_split(known: KnownSet, files: list[Path], split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 images [n, channels, y, x] and labels [n] or [n, y, x] of one split of a set, checked against it.

    Pixels that belong to no class are 255, whatever the file says for them.

    Raises
    ------
    DataError
        As `read_files`; or images of another size, or a label that the set does not have.
    """
    images, labels = read_files(known.format, files, split)
    if known.parent:
        kept = np.isin(labels, known.parent[1])
        images, labels = images[kept], np.searchsorted(known.parent[1], labels[kept]).astype(np.uint8)
    if images.shape[1:] != known.shape:
        size, wanted = ("x".join(str(length) for length in shape) for shape in (images.shape[1:], known.shape))
        raise DataError(
            f"{files[0]}: its images are {size} (channels x y x x), those of {known.name} are {wanted}; "
            "put the original there"
        )
    if (labels.ndim == 3) != (known.task == "segmentation"):
        wanted = "one label per pixel" if known.task == "segmentation" else "one label per image"
        raise DataError(f"{files[-1]}: its labels are {list(labels.shape)}, {known.name} has {wanted}")
    void = labels == known.void if known.void is not None else None
    highest = int(labels.max(initial=0) if void is None else labels.max(where=~void, initial=0))
    if highest >= len(known.classes):
        raise DataError(
            f"{files[-1]}: holds label {highest}, {known.name} has classes 0 to {len(known.classes) - 1}; "
            "put the original file there"
        )
    if void is not None and known.void != VOID:
        labels = np.where(void, np.uint8(VOID), labels)
    return images, labels


def count_split(known: KnownSet, files: list[Path], split: Split) -> int:
    """Images in the files of one split. Cheaper than reading: the pixels are not looked at where that saves time."""
    if known.format == "npz":
        return splits_of(files[0]).get(split, 0)
    if known.format == "cifar10":
        labels = np.concatenate([labels for _, labels in _read_batches(files)])
        return int(np.isin(labels, known.parent[1]).sum()) if known.parent else len(labels)
    return len(read_split(known, files, split)[1])
