"""What a user adds, whatever its format, as images and labels that are read one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labctl.errors import DataError
from labctl.learning.sets.cifar import CLASSES as CIFAR_CLASSES
from labctl.learning.sets.colours import MaskTable, find_table, read_names
from labctl.learning.sets.known import KNOWN, SPLITS, VOID, Format, Split, Task
from labctl.learning.sets.layouts import Listing, read_layout
from labctl.learning.sets.npz import classes_of, splits_of
from labctl.learning.sets.official import CIFAR_FOLDERS, read_files, split_files
from labctl.learning.sets.pictures import Header, Size, fit, palette_of, read_header, read_mask, read_picture

Label = int | NDArray[np.uint8]


class Source(ABC):
    """Images and labels of something that a user adds.

    Attributes
    ----------
    kind
        What it is, in words.
    classes
        Their names, or None where only the labels tell how many there are.
    counts
        Images of each split that it has; only "train" where it is not divided.
    size, channels
        (y, x) and number of channels of the images that `read` gives.
    """

    kind: str
    task: Task
    classes: tuple[str, ...] | None
    counts: dict[Split, int]
    size: Size
    channels: int

    @abstractmethod
    def read(self, split: Split, index: int) -> tuple[NDArray[np.uint8], Label]:
        """One image uint8 [y, x, channels], and its class or the labels uint8 [y, x] of its pixels (255: no class).

        May be called on several threads. DataError when the image, or its mask, is damaged.
        """

    @abstractmethod
    def where(self, split: Split, index: int) -> str:
        """Names one image in a message."""

    @abstractmethod
    def labels(self, split: Split) -> NDArray[np.integer] | None:
        """Class of every image, or None for segmentation."""


class PictureSource(Source):
    """A folder of pictures: by class, or with masks."""

    def __init__(self, folder: Path, *, size: Size | None, grey: bool, void: int | None) -> None:
        listing = read_layout(folder)
        self._listing, self._fit = listing, size
        self.kind, self.task = listing.kind, listing.task
        self._table = find_table(folder, void) if self.task == "segmentation" else MaskTable()
        self.classes = listing.classes or self._table.classes
        self.counts = {split: len(listing.pictures[split]) for split in SPLITS if split in listing.pictures}
        headers = _headers(listing)
        _check_masks(listing, headers)
        self._colour = not grey and any(header.colour for header in headers.values())
        self.channels = 3 if self._colour else 1
        self.size = size or _one_size(headers)

    def read(self, split: Split, index: int) -> tuple[NDArray[np.uint8], Label]:
        path, label = self._listing.pictures[split][index]
        image = read_picture(path, colour=self._colour, size=self._fit)
        if isinstance(label, int):
            return image, label
        palette = palette_of(label) if self._table.colours is not None else None
        mask = self._table.decode(label, read_mask(label, self._fit), palette)
        return image, mask

    def where(self, split: Split, index: int) -> str:
        return str(self._listing.pictures[split][index][0])

    def labels(self, split: Split) -> NDArray[np.integer] | None:
        if self.task == "segmentation":
            return None
        return np.array([label for _, label in self._listing.pictures[split]], dtype=np.int64)


def _headers(listing: Listing) -> dict[Path, Header]:
    """The headers of all images, in their order."""
    return {path: read_header(path) for pictures in listing.pictures.values() for path, _ in pictures}


def _check_masks(listing: Listing, headers: dict[Path, Header]) -> None:
    for pictures in listing.pictures.values():
        for path, mask in pictures:
            if isinstance(mask, Path) and (size := read_header(mask).size) != headers[path].size:
                raise DataError(
                    f"{mask}: is {size[0]}x{size[1]} pixels (y x x), its image {path.name} is "
                    f"{headers[path].size[0]}x{headers[path].size[1]}; make them the same"
                )


def _one_size(headers: dict[Path, Header]) -> Size:
    """The size that all images have; DataError when they do not agree."""
    sizes = [header.size for header in headers.values()]
    for path, header in headers.items():
        if header.size != sizes[0]:
            raise DataError(
                f"{path}: is {header.size[0]}x{header.size[1]} pixels (y x x), {next(iter(headers)).name} is "
                f"{sizes[0][0]}x{sizes[0][1]}; say one size for all with --size, for example --size 32"
            )
    return sizes[0]


class ArraySource(Source):
    """Images that lie together in a file: npz, IDX, or CIFAR-10 batches."""

    def __init__(
        self,
        kind: str,
        form: Format,
        files: dict[Split, list[Path]],
        *,
        classes: tuple[str, ...] | None,
        size: Size | None,
        grey: bool,
        void: int | None,
    ) -> None:
        self.kind, self.classes, self._files, self._void = kind, classes, files, void
        self._arrays = {split: read_files(form, paths, split) for split, paths in files.items()}
        images, labels = self._arrays["train"]
        self.task = "classification" if labels.ndim == 1 else "segmentation"
        for split, (others, tags) in self._arrays.items():
            if others.shape[1:] != images.shape[1:] or tags.ndim != labels.ndim:
                raise DataError(
                    f"{files[split][0]}: its {split} images are {list(others.shape[1:])}, the training images "
                    f"{list(images.shape[1:])} (channels, y, x); make them the same"
                )
        if void is not None and self.task == "classification":
            raise DataError(f"{files['train'][0]}: has one label per image; --void is for masks")
        self._grey, self._fit = grey, size
        self.channels = 1 if grey else int(images.shape[1])
        self.size = size or (int(images.shape[2]), int(images.shape[3]))
        self.counts = {split: len(self._arrays[split][1]) for split in SPLITS if split in self._arrays}

    def read(self, split: Split, index: int) -> tuple[NDArray[np.uint8], Label]:
        images, labels = self._arrays[split]
        image = images[index].transpose(1, 2, 0)
        if self._grey and image.shape[2] == 3:
            image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[:, :, None]
        label = int(labels[index]) if labels.ndim == 1 else self._mask(labels[index])
        if self._fit is not None and image.shape[:2] != self._fit:
            image = _fitted(image, self._fit)
            label = label if isinstance(label, int) else _fitted(label[:, :, None], self._fit, nearest=True)[:, :, 0]
        return image, label

    def _mask(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return stored if self._void is None else np.where(stored == self._void, np.uint8(VOID), stored)

    def where(self, split: Split, index: int) -> str:
        return f"{self._files[split][0]}, image {index}"

    def labels(self, split: Split) -> NDArray[np.integer] | None:
        labels = self._arrays[split][1]
        return labels if labels.ndim == 1 else None


def _fitted(image: NDArray[np.uint8], size: Size, *, nearest: bool = False) -> NDArray[np.uint8]:
    plain = np.ascontiguousarray(image if image.shape[2] == 3 else image[:, :, 0])
    values = np.asarray(fit(Image.fromarray(plain), size, nearest=nearest))
    return values if values.ndim == 3 else values[:, :, None]


def open_source(path: Path, *, size: Size | None, grey: bool, void: int | None) -> Source:
    """Find out what `path` holds: an .npz file, a folder in IDX or CIFAR-10's format, or a folder of pictures.

    Raises
    ------
    DataError
        None of these, or something in it is not right. Names the file.
    """
    options = {"size": size, "grey": grey, "void": void}
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(
                f"{path}: is neither a folder nor an .npz file; unpack an archive first, or give the folder of a file"
            )
        files: dict[Split, list[Path]] = {split: [path] for split in SPLITS if split in splits_of(path)}
        if "train" not in files:
            raise DataError(f"{path}: has no array x_train")
        return ArraySource(".npz file", "npz", files, classes=classes_of(path), **options)  # type: ignore[arg-type]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    form: Format
    for form, kind in (("idx", "IDX files"), ("cifar10", "CIFAR-10 batches")):
        for folder in (path, *(path / name for name in CIFAR_FOLDERS)):
            files = {split: found for split in SPLITS if (found := split_files(form, folder, split))}
            if "train" in files:
                classes = _named_in(folder) or (KNOWN["cifar10"].classes if form == "cifar10" else None)
                return ArraySource(kind, form, files, classes=classes, **options)  # type: ignore[arg-type]
            if files:
                raise DataError(f"{folder}: has {files[next(iter(files))][0].name} but no training images; add them")
    return PictureSource(path, **options)  # type: ignore[arg-type]


def _named_in(folder: Path) -> tuple[str, ...] | None:
    for name in ("classes.txt", "batches.meta.txt"):
        if (folder / name).is_file():
            return read_names(folder / name)[: CIFAR_CLASSES if name == "batches.meta.txt" else None]
    return None
