"""What lies in a folder of pictures: folders by class, or pairs of images and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labctl.errors import DataError
from labctl.learning.sets.known import Split, Task
from labctl.learning.sets.pictures import MASK_SUFFIXES, is_picture

#: Names that the folders of a split may have.
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
IMAGES, MASKS = ("images", "imgs", "image"), ("masks", "labels", "annotations", "mask")


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes
    ----------
    kind
        What the folder was taken for, in words.
    classes
        Names of the folders by class, sorted; None for pairs.
    pictures
        Of each split that the folder has: (image, class index or mask).
    """

    kind: str
    task: Task
    classes: tuple[str, ...] | None
    pictures: dict[Split, list[tuple[Path, int | Path]]]


def read_layout(folder: Path) -> Listing:
    """List the pictures of a folder in one of these layouts.

    ``CLASS/*`` or ``train/CLASS/*`` with ``test/CLASS/*`` and maybe ``val/CLASS/*``: images by class.
    ``images/*`` with ``masks/*``, or the same within ``train``, ``test`` and maybe ``val``, or ``train/*`` with
    ``trainannot/*`` and so on (SegNet's): pairs, matched by the names without their ends.

    Raises
    ------
    DataError
        None of these; an empty class, one class only, another set of classes in another split, an image without its
        mask, or a mask without its image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    splits = {split: found for split, names in SPLIT_FOLDERS.items() if (found := _inside(folder, names))}
    if splits and ("train" not in splits or "test" not in splits) and not _pair_folders(folder):
        there = ", ".join(path.name for path in splits.values())
        raise DataError(f"{folder}: has {there} but not both train and test; add the other, or take the splits away")
    if _pair_folders(folder):
        return _pairs({"train": _pair_folders(folder)})
    if splits:
        within = {split: _pair_folders(path) or _annotated(path) for split, path in splits.items()}
        if all(within.values()):
            return _pairs(within)
        return _by_class(splits)
    return _by_class({"train": folder})


def _inside(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The subfolder with one of these names, whatever its case."""
    inside = {path.name.lower(): path for path in _folders(folder)}
    return next((inside[name] for name in names if name in inside), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")


def _pair_folders(folder: Path) -> tuple[Path, Path] | None:
    images, masks = _inside(folder, IMAGES), _inside(folder, MASKS)
    return (images, masks) if images and masks else None


def _annotated(folder: Path) -> tuple[Path, Path] | None:
    masks = folder.with_name(f"{folder.name}annot")
    return (folder, masks) if masks.is_dir() else None


def _by_class(splits: dict[Split, Path]) -> Listing:
    found: dict[Split, dict[str, list[Path]]] = {}
    for split, folder in splits.items():
        found[split] = {path.name: sorted(filter(is_picture, path.rglob("*"))) for path in _folders(folder)}
        for name, inside in found[split].items():
            if not inside:
                raise DataError(f"{folder / name}: holds no picture; fill the class or remove its folder")
    classes = tuple(sorted(found["train"]))
    folder = splits["train"]
    if not classes:
        raise DataError(
            f"{folder}: has neither folders of images by class (CLASS/*.png) nor images/ with masks/; "
            "see docs/how-to/data.md for what can be added"
        )
    if len(classes) < 2:
        raise DataError(f"{folder}: has one class only ({classes[0]}); a classifier needs two or more folders")
    for split, names in found.items():
        if odd := sorted(set(names) ^ set(classes)):
            raise DataError(f"{splits[split]}: class {odd[0]!r} is not in both {split} and train; make them agree")
    pictures: dict[Split, list[tuple[Path, int | Path]]] = {
        split: [(path, label) for label, name in enumerate(classes) for path in names[name]]
        for split, names in found.items()
    }
    return Listing("folder of images by class", "classification", classes, pictures)


def _pairs(folders: dict[Split, tuple[Path, Path] | None]) -> Listing:
    pictures: dict[Split, list[tuple[Path, int | Path]]] = {}
    for split, both in folders.items():
        if both is None:
            continue
        images, masks = _by_stem(both[0]), _by_stem(both[1])
        # names are matched as they are, and only then without what tools add to those of masks
        masks = {stem if stem in images else _plain(stem): path for stem, path in masks.items()}
        if not images:
            raise DataError(f"{both[0]}: holds no picture; put the images there, and their masks into {both[1]}")
        for stem, path in images.items():
            if stem not in masks:
                raise DataError(f"{path}: has no mask {both[1].name}/{path.stem}.png; add it, or take the image out")
        for stem, path in masks.items():
            if stem not in images:
                raise DataError(f"{path}: is a mask without an image of its name in {both[0].name}; take it out")
            if path.suffix.lower() not in MASK_SUFFIXES:
                raise DataError(f"{path}: this format changes labels (it is lossy); save masks as PNG")
        pictures[split] = [(path, masks[stem]) for stem, path in images.items()]
    return Listing("pairs of images and masks", "segmentation", None, pictures)


#: Ends that tools add to the names of masks.
_MASK_ENDS = ("_mask", "-mask", "_labels", "_label", "_gt", "_l")


def _plain(stem: str) -> str:
    return stem.removesuffix(next((end for end in _MASK_ENDS if stem.endswith(end)), ""))


def _by_stem(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by their name without its end, in order."""
    found: dict[str, Path] = {}
    for path in sorted(filter(is_picture, folder.rglob("*"))):
        stem = path.relative_to(folder).with_suffix("").as_posix().lower()
        if stem in found:
            raise DataError(f"{path}: {found[stem].name} has the same name; keep one of the two")
        found[stem] = path
    return found
