"""Reader of image sets in one `.npz` file: `x_train`, `y_train`, `x_test`, `y_test`, and maybe `x_val`, `y_val`.

Nothing in such a file is ever unpickled: an array of objects is refused.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError

#: The names that the splits have in the file.
PARTS = {"train": "train", "validation": "val", "test": "test"}


def read_npz(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one split of an image set.

    Parameters
    ----------
    path
        The file. Images `x_PART` are uint8, [n, y, x] or [n, y, x, channels]; labels `y_PART` are whole numbers
        0 to 255, [n] or [n, y, x].
    split
        "train", "validation" or "test".

    Returns
    -------
    uint8 images [n, channels, y, x] and uint8 labels [n] or [n, y, x].

    Raises
    ------
    DataError
        Truncated, damaged or foreign; an array is missing or has another type or shape.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = (_array(path, arrays, f"{letter}_{PARTS[split]}") for letter in "xy")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        raise DataError(f"{path}: is truncated, damaged or no .npz file ({error}); fetch it again") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(
            f"{path}: x_{PARTS[split]} is {images.dtype} {list(images.shape)}, expected uint8 [n, y, x] or "
            "[n, y, x, channels] with 1 or 3 channels"
        )
    images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if labels.dtype.kind not in "iu" or labels.shape not in (images.shape[:1], (len(images), *images.shape[2:])):
        raise DataError(
            f"{path}: y_{PARTS[split]} is {labels.dtype} {list(labels.shape)}, expected whole numbers "
            f"[{len(images)}], or one per pixel"
        )
    if len(images) == 0 or labels.min() < 0 or labels.max() > 255:
        raise DataError(f"{path}: split {split} is empty or has a label outside 0 to 255")
    return images, labels.astype(np.uint8)


def _array(path: Path, arrays: np.lib.npyio.NpzFile, key: str) -> NDArray[np.generic]:
    if key not in arrays:
        raise DataError(f"{path}: has no array {key} (it has {', '.join(arrays.files) or 'none'})")
    return arrays[key]
