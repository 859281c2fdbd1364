"""Calibration records: what one procedure learned about one bench, in one file that any HDF5 reader opens."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.errors import CalibrationError

FORMAT = "labctl calibration 1"
TEXTS = ("kind", "bench", "taken", "run", "bench_digest")


@dataclass(frozen=True, eq=False)
class CalibrationRecord:
    """What one procedure learned.

    Attributes
    ----------
    kind : str
        ``dark``, ``gain``, ``registration``, ``fourier-centre`` ...
    bench : str
    values : mapping of name to float array
        The result.
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

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.asarray(self.values[name])


def now_iso() -> str:
    """The present time, ISO 8601 with zone, to the second."""
    return dt.datetime.now(dt.UTC).astimezone().isoformat(timespec="seconds")


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
    if target.exists():
        history = folder / "history"
        history.mkdir(exist_ok=True)
        stamp = dt.datetime.fromtimestamp(target.stat().st_mtime, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        os.replace(target, history / f"{record.kind}-{stamp}.h5")
    os.replace(part, target)
    return target


def load_record(path: Path) -> CalibrationRecord:
    """Read one record.

    Raises
    ------
    CalibrationError
        If the file is missing, truncated, or not a calibration record.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise CalibrationError(f"{path} is not a labctl calibration record: move it away and calibrate again")
            return read_record(file)
    except (OSError, KeyError) as error:
        raise CalibrationError(f"{path} cannot be read as a calibration record ({error}): calibrate again") from error


def write_record(group: h5py.Group, record: CalibrationRecord, *, compress: bool = False) -> None:
    """Put a record into an empty group of an HDF5 file, bit for bit; `compress` its arrays, with a checksum each."""
    filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    group.attrs["format"] = FORMAT
    for name in TEXTS:
        group.attrs[name] = getattr(record, name)
    for folder, arrays in (("values", record.values), ("uncertainties", record.uncertainties)):
        for name, value in arrays.items():
            array = np.asarray(value)
            packed = compress and array.size > 0 and array.ndim > 0
            data = group.create_dataset(f"{folder}/{name}", data=array, **(filters if packed else {}))
            if folder == "values":
                data.attrs["unit"] = record.units[name]
    quality = group.create_group("quality")
    for name, figure in record.quality.items():
        quality.attrs[name] = float(figure)


def read_record(group: h5py.Group) -> CalibrationRecord:
    """The record that `write_record` put into a group.

    Raises
    ------
    OSError, KeyError
        If the group holds none, or it is damaged.
    """
    return CalibrationRecord(
        values={name: data[()] for name, data in group["values"].items()},
        units={name: str(data.attrs["unit"]) for name, data in group["values"].items()},
        uncertainties={name: data[()] for name, data in group.get("uncertainties", {}).items()},
        quality={name: float(figure) for name, figure in group["quality"].attrs.items()},
        **{name: str(group.attrs[name]) for name in TEXTS},
    )


def load_records(folder: Path) -> dict[str, CalibrationRecord]:
    """Every record of a bench, by kind; an empty mapping if it was never calibrated."""
    return {path.stem: load_record(path) for path in sorted(folder.glob("*.h5"))} if folder.is_dir() else {}
