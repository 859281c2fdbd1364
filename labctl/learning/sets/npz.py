"""Image sets in one `.npz` file: `x_train`, `y_train`, `x_test`, `y_test`, maybe `x_val`, `y_val`, and `classes`.

Nothing in such a file is ever unpickled: an array of objects is refused. Arrays that lie uncompressed in the file are
mapped, so that a few images of a large set cost no more than those images.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError

#: The names that the splits have in the file.
PARTS = {"train": "train", "validation": "val", "test": "test"}
_LOCAL_HEADER = 30
_BLOCK = 1 << 20


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
    uint8 images [n, channels, y, x] (a view, maybe of the file itself) and uint8 labels [n] or [n, y, x].

    Raises
    ------
    DataError
        Truncated, damaged or foreign; an array is missing or has another type or shape.
    """
    part = PARTS[split]
    with _opened(path) as archive:
        images, labels = _array(path, archive, f"x_{part}"), _array(path, archive, f"y_{part}")
    shape = _checked_shape(path, part, images.dtype, images.shape)
    if labels.dtype.kind not in "iu" or labels.shape not in (shape[:1], (shape[0], *shape[2:])):
        raise DataError(
            f"{path}: y_{part} is {labels.dtype} {list(labels.shape)}, expected whole numbers [{shape[0]}], "
            f"or {[shape[0], *shape[2:]]} for a label per pixel"
        )
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"{path}: y_{part} holds labels {labels.min()} to {labels.max()}, expected 0 to 255")
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return images, labels.astype(np.uint8, copy=False)


def splits_of(path: Path) -> dict[str, int]:
    """Images of each split that the file has, from the headers of its arrays; DataError when it is no such file."""
    counts = {}
    with _opened(path) as archive:
        names = {Path(name).stem for name in archive.namelist()}
        for split, part in PARTS.items():
            if f"x_{part}" in names:
                counts[split] = _checked_shape(path, part, *_header(path, archive, f"x_{part}"))[0]
    if not counts:
        raise DataError(f"{path}: has no array x_train (it has {', '.join(sorted(names)) or 'none'})")
    return counts


def classes_of(path: Path) -> tuple[str, ...] | None:
    """The names in the array `classes`, or None where the file has none; DataError when they are no names."""
    with _opened(path) as archive:
        if "classes.npy" not in archive.namelist():
            return None
        names = _array(path, archive, "classes")
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: classes is {names.dtype} {list(names.shape)}, expected one name for each class")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def _checked_shape(path: Path, part: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(n, channels, y, x) of images that can be an image set's."""
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"{path}: x_{part} is {dtype} {list(shape)}, expected uint8 [n, y, x] or [n, y, x, channels] with 1 or 3 "
            "channels, values 0 to 255"
        )
    if 0 in shape:
        raise DataError(f"{path}: x_{part} is empty ({list(shape)})")
    return (shape[0], shape[3] if len(shape) == 4 else 1, shape[1], shape[2])


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever can be wrong with a damaged one is a DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        OverflowError,
        MemoryError,
        RuntimeError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        why = str(error) or type(error).__name__
        raise DataError(f"{path}: is truncated, damaged or no .npz file ({why}); fetch or write it again") from error


def _header(path: Path, archive: zipfile.ZipFile, key: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if f"{key}.npy" not in archive.namelist():
        names = ", ".join(Path(name).stem for name in archive.namelist())
        raise DataError(f"{path}: has no array {key} (it has {names or 'none'})")
    with archive.open(f"{key}.npy") as stream:
        dtype, shape, _, _ = _read_header(stream)
    return dtype, shape


def _read_header(stream: Any) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """dtype, shape, whether in Fortran order, and the bytes that the header takes."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array is in version {version} of the npy format, expected 1 or 2")
    if dtype.hasobject:
        raise ValueError("an array holds Python objects, which are never read")
    return dtype, shape, fortran, stream.tell()


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    dtype, shape = _header(path, archive, key)
    entry = archive.getinfo(f"{key}.npy")
    with archive.open(entry) as stream:
        _, _, fortran, start = _read_header(stream)
        size = math.prod(shape) * dtype.itemsize
        if start + size != entry.file_size:
            raise ValueError(f"{key} should take {start + size} bytes and takes {entry.file_size}")
        if entry.compress_type == zipfile.ZIP_STORED and size > _BLOCK and not fortran:
            at = _data_offset(path, entry) + start
            if at + size > path.stat().st_size:
                raise ValueError(f"{key} ends after the file")
            return np.memmap(path, dtype=dtype, mode="r", offset=at, shape=shape)
        content = stream.read()
    order = "F" if fortran else "C"
    return np.frombuffer(content, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: after its local header, whose name and extra field have lengths of their own.

    Source: PKWARE APPNOTE 6.3.10, section 4.3.7.
    """
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        local = file.read(_LOCAL_HEADER)
    name, extra = struct.unpack("<HH", local[26:30])
    return entry.header_offset + _LOCAL_HEADER + int(name) + int(extra)


class NpzWriter:
    """Writes an image set into an `.npz` file, block by block, so that it never lies in memory as a whole.

    Examples
    --------
    >>> with NpzWriter(path) as writer:
    ...     writer.write("x_train", (2, 28, 28, 1), iter([block]))  # doctest: +SKIP
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self._archive = zipfile.ZipFile(path, "a" if append else "w", zipfile.ZIP_STORED, allowZip64=True)

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def write(self, key: str, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> None:
        """One array of uint8, from blocks that follow each other along its first axis."""
        with self._archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
            stream.write(_npy_header("|u1", shape))
            for block in blocks:
                stream.write(np.ascontiguousarray(block, dtype=np.uint8).data.cast("B"))

    def write_small(self, key: str, values: NDArray[Any]) -> None:
        """One small array of any plain type."""
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, values, allow_pickle=False)
        self._archive.writestr(f"{key}.npy", buffer.getvalue())


def _npy_header(code: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": code, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def digest_of(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> str:
    """SHA-256 of decoded pixels and labels: the bytes of images [n, channels, y, x], then those of the labels.

    Parameters
    ----------
    images
        uint8 [n, channels, y, x], in the order of the file.
    labels
        uint8 [n] or [n, y, x]; 255 where a pixel belongs to no class.
    """
    digest = hashlib.sha256()
    for first in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[first : first + 1024]).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
