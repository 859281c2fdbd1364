"""What the values of a mask stand for: a table of classes, or plain indices."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError
from labctl.learning.sets.known import VOID

#: Files in which a table is looked for, in a folder of pairs.
TABLES = ("classes.csv", "class_dict.csv", "label_colors.txt", "classes.txt")
#: Names of pixels that belong to no class.
NOTHING = frozenset(("void", "unlabelled", "unlabeled", "ignore", "unknown"))


@dataclass(frozen=True)
class MaskTable:
    """Classes of masks.

    Attributes
    ----------
    classes
        Their names, in the order of their labels; None where only the masks tell how many there are.
    colours
        uint8 [entries, 3], or None where masks hold indices.
    labels
        uint8 [entries]: the label of each colour, 255 for no class.
    void
        Index in the masks that belongs to no class, besides 255.
    """

    classes: tuple[str, ...] | None = None
    colours: NDArray[np.uint8] | None = None
    labels: NDArray[np.uint8] | None = None
    void: int | None = None

    def decode(self, path: Path, mask: NDArray[np.uint8], palette: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        """Labels uint8 [y, x], 255 for no class, from a mask as `labctl.learning.sets.pictures.read_mask` gives it.

        Raises
        ------
        DataError
            Colours without a table, a colour that is not in it, or an index that has no class.
        """
        if self.colours is None or self.labels is None:
            return self._from_indices(path, mask)
        if mask.ndim == 2:
            mask = palette[mask] if palette is not None else np.repeat(mask[..., None], 3, axis=2)
        found = _packed(mask)
        known = _packed(self.colours)
        order = np.argsort(known)
        at = np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)
        entry = order[at]
        wrong = known[entry] != found
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            colour = ", ".join(str(int(value)) for value in mask[row, column])
            raise DataError(
                f"{path}: has the colour ({colour}) at row {row}, column {column}, which the table of classes does not "
                f"have ({int(wrong.sum())} such pixels); add it to the table, or save the mask without smoothing"
            )
        return self.labels[entry]

    def _from_indices(self, path: Path, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if mask.ndim == 3:
            raise DataError(
                f"{path}: is a mask with colours; put a table beside the folders that says what they are, "
                "classes.csv with the columns name,r,g,b"
            )
        if self.void is not None:
            mask = np.where(mask == self.void, np.uint8(VOID), mask)
        if self.classes is not None:
            highest = int(mask.max(where=mask != VOID, initial=0))
            if highest >= len(self.classes):
                raise DataError(
                    f"{path}: holds label {highest}, the {len(self.classes)} classes are 0 to {len(self.classes) - 1} "
                    "(255 for none); name the class in the table, or correct the mask"
                )
        return mask


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """One number for each colour [..., 3]."""
    wide = colours.astype(np.uint32)
    packed: NDArray[np.uint32] = wide @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return packed


def find_table(folder: Path, void: int | None) -> MaskTable:
    """The table of classes in `folder`, or that of plain indices where there is none.

    `classes.csv` or `class_dict.csv`: a header line, then name,r,g,b. `label_colors.txt`: r g b name in each line.
    `classes.txt`: a name in each line, for masks that hold indices. A class called void, unlabelled, ignore or unknown
    stands for pixels that belong to none.

    Raises
    ------
    DataError
        The table cannot be read, or names a class or a colour twice.
    """
    path = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if path is None:
        return MaskTable(void=void)
    if path.name == "classes.txt":
        names = read_names(path)
        kept = tuple(name for name in names if name.lower() not in NOTHING)
        if names[: len(kept)] != kept:
            raise DataError(f"{path}: the class for no class must come last, the others are labels 0, 1, ...")
        return MaskTable(kept, void=len(kept) if len(kept) < len(names) and void is None else void)
    if void is not None:
        raise DataError(f"{path}: masks with a table of colours have no --void; call that colour's class void instead")
    entries = _entries(path)
    kept = tuple(dict.fromkeys(name for name, _ in entries if name.lower() not in NOTHING))
    colours = [colour for _, colour in entries]
    if len(set(colours)) < len(colours) or len(kept) > VOID:
        raise DataError(f"{path}: names a colour twice, or more than {VOID} classes")
    labels = [kept.index(name) if name.lower() not in NOTHING else VOID for name, _ in entries]
    return MaskTable(kept, np.array(colours, dtype=np.uint8), np.array(labels, dtype=np.uint8))


def read_names(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line; DataError when there are none, or one is there twice."""
    names = tuple(line.strip() for line in _lines(path) if line.strip())
    if not names or len(set(names)) < len(names) or len(names) > VOID:
        raise DataError(f"{path}: names no class, one twice, or more than {VOID}; write each once, one a line")
    return names


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from error


def _entries(path: Path) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, colour) of every line of a table."""
    if path.suffix == ".csv":
        rows = [row for row in csv.reader(_lines(path)) if any(cell.strip() for cell in row)][1:]
        split = [(number, row[0].strip(), row[1:4]) for number, row in enumerate(rows, 2)]
    else:
        lines = [(number, line.split(maxsplit=3)) for number, line in enumerate(_lines(path), 1) if line.strip()]
        split = [(number, cells[3].strip() if len(cells) == 4 else "", cells[:3]) for number, cells in lines]
    entries = []
    for number, name, cells in split:
        try:
            red, green, blue = (int(cell) for cell in cells)
        except ValueError:
            red = green = blue = -1
        if not name or not all(0 <= value <= 255 for value in (red, green, blue)):
            raise DataError(f"{path}: line {number} is no class with a colour; write name,r,g,b with values 0 to 255")
        entries.append((name, (red, green, blue)))
    if not entries:
        raise DataError(f"{path}: names no class; write a header line, then name,r,g,b in each line")
    return entries
