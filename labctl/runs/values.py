"""Values of procedures as JSON: dataclasses, numpy values and paths become plain trees; big arrays go to a file beside.

Tagged forms, so that a reader gets back what was written:

===================================  ========================================================
``{"$type": "Name", ...}``           a dataclass and its fields
``{"$array": [...], "dtype": ...}``  a small finite array
``{"$ref": "arrays/3", ...}``        an array in the HDF5 file beside
``{"$float": "nan"}``                a float that JSON has no word for
``{"$repr": "..."}``                 something that could not be kept
===================================  ========================================================
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)
INLINE_LIMIT = 10_000
"""Arrays of more elements than this are not written into JSON."""

KeepArray = Callable[[NDArray[Any]], Any]


def to_json(value: Any, keep: KeepArray | None = None) -> Any:
    """Turn a value into what `json.dumps` takes.

    Parameters
    ----------
    value : any
        Dataclasses, mappings, sequences, numpy values, paths, enums and tensors are understood; anything else is kept
        as its ``repr``, with a warning in the log, so that a result is never lost for one odd field.
    keep : callable, optional
        Called with every array that cannot stand inline (more than 10,000 elements, complex, or not finite); returns
        what to write in its place. Default: its shape, type and hash.
    """
    keep = keep or describe_array
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return to_json(value.value, keep)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else {"$float": str(number)}
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {"$type": type(value).__name__} | recorded_fields(value, keep)
    if isinstance(value, Mapping):
        return {str(key): to_json(item, keep) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item, keep) for item in value]
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a tensor, without importing torch for it
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        inline = value.size <= INLINE_LIMIT and value.dtype.kind != "c" and bool(np.all(np.isfinite(value)))
        return {"$array": value.tolist(), "dtype": value.dtype.name} if inline else keep(value)
    if isinstance(value, np.ndarray):
        return to_json(value.tolist(), keep)
    log.warning("a value of type %s cannot be kept as JSON: only its description is", type(value).__name__)
    return {"$repr": repr(value)[:500]}


def recorded_fields(value: Any, keep: KeepArray | None = None) -> dict[str, Any]:
    """A dataclass's fields as JSON, but for those marked ``field(metadata={"record": False})``: networks, data sets."""
    return {f.name: to_json(getattr(value, f.name), keep) for f in fields(value) if f.metadata.get("record", True)}


def describe_array(array: NDArray[Any]) -> dict[str, Any]:
    """Shape, type and hash of an array that is not kept itself."""
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
    return {"$digest": digest, "shape": list(array.shape), "dtype": array.dtype.name}


def from_json(value: Any, arrays: h5py.File | None = None) -> Any:
    """The tree that `to_json` wrote: arrays as arrays, dataclasses as dicts (with their ``$type``)."""
    if isinstance(value, list):
        return [from_json(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return np.asarray(value["$array"], dtype=value["dtype"])
    if "$float" in value:
        return float(value["$float"])
    if "$ref" in value and arrays is not None:
        return arrays[value["$ref"]][()]
    return {key: from_json(item, arrays) for key, item in value.items()}


class ArrayFile:
    """Where the arrays of one JSON document go: made when the first one comes, so that most runs have none.

    Use as a context manager and pass it as `keep`; close it before anything refers to the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._count = 0

    @property
    def used(self) -> bool:
        """Whether there is a file at all."""
        return self._file is not None

    def __call__(self, array: NDArray[Any]) -> dict[str, Any]:
        if self._file is None:
            self._file = h5py.File(self.path, "w")
        name = f"arrays/{self._count}"
        self._count += 1
        self._file.create_dataset(name, data=array)
        return {"$ref": name, "shape": list(array.shape), "dtype": array.dtype.name}

    def write_text(self, name: str, text: str) -> None:
        """Keep a text in the same file."""
        if self._file is None:
            self._file = h5py.File(self.path, "w")
        self._file.create_dataset(name, data=text, dtype=h5py.string_dtype())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write JSON whole or not at all: temp file, sync, rename, and a sync of the folder where the OS has one."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, indent=indent, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(part).replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut; nothing on an OS that cannot (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems refuse it
        log.debug("%s cannot be synced: %s", folder, error)
    finally:
        os.close(handle)
