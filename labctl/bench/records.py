"""Calibration records: what one procedure learned about one bench, in one file that any HDF5 reader opens.

A file holds a hash of its content. One that is truncated, edited, of another bench, of another kind than its name says
or of another program is refused by name; the others are still used. ``calibration/README.md`` describes the format.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.errors import CalibrationError

log = logging.getLogger(__name__)
FORMAT = "labctl calibration 2"
VERSIONS = {"labctl calibration 1": 1, FORMAT: 2}
TEXTS = ("kind", "bench", "taken", "run", "bench_digest")
MAPPINGS = ("parents", "devices", "sections")
HISTORY = "history"
SMALL = 16
"""Values of up to so many elements must all be finite; larger ones may be undefined in places."""


@dataclass(frozen=True, eq=False)
class CalibrationRecord:
    """What one procedure learned.

    Attributes
    ----------
    kind : str
        ``dark``, ``gain``, ``registration``, ``fourier-centre`` ...
    bench : str
    values : mapping of name to array
        The result; a text is an array without axes.
    units : mapping of name to unit
        One for every value.
    uncertainties : mapping of name to float array
        One standard deviation, in the value's unit.
    quality : mapping of name to float
        Figures of merit, e.g. ``residual_px``.
    taken : str
        ISO 8601 time with zone.
    run : str
        The run it came from.
    bench_digest : str
        Hash of the bench file it was taken with.
    parents : mapping of kind to hash
        The records that it was made from, by their `digest`.
    devices : mapping of name to identity
        Of the bench's devices then.
    sections : mapping of name to hash
        Of each section of the bench file then, without what no calibration depends on.
    version : int
        Of the file format it was read from. Files of version 1 have no hash, and say nothing of parents and devices.
    """

    kind: str
    bench: str
    values: Mapping[str, NDArray[Any]]
    units: Mapping[str, str]
    uncertainties: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    taken: str = ""
    run: str = ""
    bench_digest: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    version: int = 2

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.asarray(self.values[name])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what was measured, and of what; not of when and in which run.

        By this name other records say that they were made from it.
        """
        told = {name: getattr(self, name) for name in TEXTS if name not in ("run", "taken")}
        told |= {name: dict(getattr(self, name)) for name in (*MAPPINGS, "units")}
        told["quality"] = {name: float(figure).hex() for name, figure in self.quality.items()}
        found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for folder, arrays in (("values", self.values), ("uncertainties", self.uncertainties)):
            for name in sorted(arrays):
                array = np.ascontiguousarray(arrays[name])
                shape = np.shape(arrays[name])  # ascontiguousarray gives every scalar an axis
                found.update(f"\n{folder}/{name} {array.dtype.newbyteorder('<').str} {shape}\n".encode())
                found.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return found.hexdigest()

    @property
    def seal(self) -> str:
        """SHA-256 of `digest`, time and run: what its file says of itself."""
        return hashlib.sha256(f"{self.digest} {self.taken} {self.run}".encode()).hexdigest()


def now_iso() -> str:
    """The present time, ISO 8601 with zone, to the second."""
    return dt.datetime.now(dt.UTC).astimezone().isoformat(timespec="seconds")


def moment(taken: str) -> dt.datetime | None:
    """The time that a record says it was taken, in UTC; None if it does not say."""
    try:
        return dt.datetime.fromisoformat(taken).astimezone(dt.UTC)
    except ValueError:
        return None


def standing_in(record: CalibrationRecord, values: Mapping[str, NDArray[Any]]) -> CalibrationRecord:
    """A record with other values that passes for the same: for a stand-in of the bench, never for a file."""
    made = replace(record, values={**record.values, **values})
    made.__dict__["digest"] = record.digest  # as `cached_property` keeps it
    return made


def unsound(record: CalibrationRecord) -> str:
    """What makes a record no result whatever it measures; "" if nothing does.

    Scalars, small arrays, uncertainties and quality figures must be finite, and so must half of every larger array.
    """
    for name, figure in record.quality.items():
        if not np.isfinite(figure):
            return f"its quality figure {name} is not finite"
    for name, value in [*record.values.items(), *record.uncertainties.items()]:
        array = np.asarray(value)
        if array.dtype.kind not in "fc" or array.size == 0:
            continue
        finite = np.isfinite(array).mean()
        if finite < (1.0 if array.size <= SMALL else 0.5):
            return f"{name} is not finite" if array.ndim == 0 else f"only {100 * finite:.0f} % of {name} is finite"
    return ""


def save_record(folder: Path, record: CalibrationRecord) -> Path:
    """Write ``folder/KIND.h5``, whole or not at all; the record it replaces is kept under ``history/``.

    Parameters
    ----------
    folder : Path
        ``calibration/BENCH``.

    Returns
    -------
    Path
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{record.kind}.h5"
    part = target.with_suffix(".h5.part")
    with h5py.File(part, "w") as file:
        write_record(file, record)
    keep_in_history(target)
    os.replace(part, target)
    return target


def keep_in_history(current: Path) -> Path | None:
    """Copy a record's file to ``history/``, by the time it was taken and its hash; None if there is none.

    A file that cannot be read is kept too, by the time it was last written.
    """
    if not current.exists():
        return None
    history = current.parent / HISTORY
    history.mkdir(exist_ok=True)
    try:
        record = load_record(current)
        taken, end = moment(record.taken), record.seal[:8]  # of two runs that found the same, too
    except CalibrationError:
        taken, end = None, "unreadable"
    taken = taken or dt.datetime.fromtimestamp(current.stat().st_mtime, dt.UTC)
    kept = history / f"{current.stem}-{taken.strftime('%Y%m%dT%H%M%SZ')}-{end}.h5"
    if not kept.exists():
        part = kept.with_suffix(".h5.part")
        shutil.copy2(current, part)
        os.replace(part, kept)
    return kept


def load_record(path: Path, *, kind: str = "", bench: str = "") -> CalibrationRecord:
    """Read one record.

    Parameters
    ----------
    kind, bench : str, optional
        What it must be a record of.

    Raises
    ------
    CalibrationError
        If the file is missing, truncated, edited, no calibration record, or one of another kind or bench.
    """
    try:
        with h5py.File(path, "r") as file:
            said = str(file.attrs.get("format", ""))
            if said not in VERSIONS:
                newer = "of a newer labctl" if re.fullmatch(r"labctl calibration \d+", said) else "not a labctl record"
                raise CalibrationError(f"{path} is {newer}: move it away and calibrate again")
            record = read_record(file)
            seal = str(file.attrs.get("sha256", ""))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"{path} cannot be read as a calibration record ({error}): calibrate again") from error
    if record.version > 1 and seal != record.seal:
        raise CalibrationError(
            f"{path} was edited or damaged, its content does not match its hash: put the original back, "
            "or calibrate again"
        )
    for what, wanted, found in (("kind", kind, record.kind), ("bench", bench, record.bench)):
        if wanted and wanted != found:
            raise CalibrationError(
                f"{path} is a record of {what} '{found}', not '{wanted}': move it away and calibrate again"
            )
    return record


def write_record(group: h5py.Group, record: CalibrationRecord, *, compress: bool = False) -> None:
    """Put a record into an empty group of an HDF5 file, bit for bit; `compress` its arrays, with a checksum each."""
    filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    group.attrs["format"] = FORMAT if record.version > 1 else "labctl calibration 1"
    for name in TEXTS:
        group.attrs[name] = getattr(record, name)
    if record.version > 1:
        group.attrs["sha256"] = record.seal
        for folder in MAPPINGS:
            attrs = group.create_group(folder).attrs
            for name, text in getattr(record, folder).items():
                attrs[name] = text
    for folder, arrays in (("values", record.values), ("uncertainties", record.uncertainties)):
        for name, value in arrays.items():
            array = np.asarray(value)
            if array.dtype.kind == "U" and array.ndim == 0:
                data = group.create_dataset(f"{folder}/{name}", data=str(array), dtype=h5py.string_dtype())
            else:
                packed = compress and array.size > 0 and array.ndim > 0
                data = group.create_dataset(f"{folder}/{name}", data=array, **(filters if packed else {}))
            if folder == "values":
                data.attrs["unit"] = record.units[name]
    quality = group.create_group("quality")
    for name, figure in record.quality.items():
        quality.attrs[name] = float(figure)


def read_record(group: h5py.Group) -> CalibrationRecord:
    """The record that `write_record` put into a group; its hash is not looked at.

    Raises
    ------
    OSError, KeyError
        If the group holds none, or it is damaged.
    """
    texts: dict[str, Any] = {name: str(group.attrs[name]) for name in TEXTS}
    for folder in MAPPINGS:
        texts[folder] = {name: str(text) for name, text in group[folder].attrs.items()} if folder in group else {}
    return CalibrationRecord(
        values={name: _value(data) for name, data in group.get("values", {}).items()},
        units={name: str(data.attrs["unit"]) for name, data in group.get("values", {}).items()},
        uncertainties={name: _value(data) for name, data in group.get("uncertainties", {}).items()},
        quality={name: float(figure) for name, figure in group["quality"].attrs.items()},
        version=VERSIONS.get(str(group.attrs["format"]), 2),
        **texts,
    )


def _value(data: h5py.Dataset) -> NDArray[Any]:
    found, text = data[()], h5py.check_string_dtype(data.dtype)
    # text is kept in strings of any length; bytes of a fixed length were bytes
    return np.asarray(
        found.decode() if text is not None and text.length is None and isinstance(found, bytes) else found
    )


def read_folder(folder: Path) -> tuple[dict[str, CalibrationRecord], dict[str, str]]:
    """Every record of a bench, by kind, and why others are refused, by the name of the kind.

    Parameters
    ----------
    folder : Path
        ``calibration/BENCH``: its name is the bench's.
    """
    good: dict[str, CalibrationRecord] = {}
    refused: dict[str, str] = {}
    for path in sorted(folder.glob("*.h5")) if folder.is_dir() else ():
        try:
            good[path.stem] = load_record(path, kind=path.stem, bench=folder.name)
        except CalibrationError as error:
            refused[path.stem] = str(error)
    return good, refused


def load_records(folder: Path) -> dict[str, CalibrationRecord]:
    """Every record of a bench, by kind; an empty mapping if it was never calibrated.

    What is no record of this bench is left out, with a warning that names the file.
    """
    good, refused = read_folder(folder)
    for reason in refused.values():
        log.warning("%s", reason)
    return good
