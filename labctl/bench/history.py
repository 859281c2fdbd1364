"""Earlier calibration records of a bench: finding them, comparing two, and putting one back in force."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.records import HISTORY, CalibrationRecord, keep_in_history, load_record, moment
from labctl.errors import CalibrationError


@dataclass(frozen=True)
class Kept:
    """A record's file: the one in force, or an earlier one.

    Attributes
    ----------
    path : Path
    record : CalibrationRecord or None
        None if it is refused.
    reason : str
        Why it is refused, or "".
    in_force : bool
    """

    path: Path
    record: CalibrationRecord | None
    reason: str
    in_force: bool


def history(folder: Path, kind: str) -> list[Kept]:
    """Every record of a kind, newest first; the one in force before all.

    Parameters
    ----------
    folder : Path
        ``calibration/BENCH``.
    """
    named = re.compile(re.escape(kind) + r"-\d{8}T\d{6}Z(-\w+)?")
    older = [path for path in (folder / HISTORY).glob(f"{kind}-*.h5") if named.fullmatch(path.stem)]
    found = [_kept(path, kind, folder.name, in_force=False) for path in sorted(older, key=_age, reverse=True)]
    current = folder / f"{kind}.h5"
    return [*([_kept(current, kind, folder.name, in_force=True)] if current.exists() else []), *found]


def find_record(folder: Path, name: str) -> CalibrationRecord:
    """A record by a name that a person types.

    Parameters
    ----------
    name : str
        ``KIND`` (in force), ``KIND~N`` (the Nth before it), the beginning of a file's name in ``history/``, or a path.

    Raises
    ------
    CalibrationError
        If there is none, more than one, or it is refused.
    """
    return load_record(find_file(folder, name))


def find_file(folder: Path, name: str) -> Path:
    """The file of `find_record`.

    Raises
    ------
    CalibrationError
        If there is none, or more than one.
    """
    if name.endswith(".h5") and Path(name).is_file():
        return Path(name)
    kind, _, back = name.partition("~")
    if back.isdigit():
        older = [kept.path for kept in history(folder, kind) if not kept.in_force]
        if 0 < int(back) <= len(older):
            return older[int(back) - 1]
        raise CalibrationError(f"{folder} has {len(older)} earlier records of '{kind}': there is no {name}")
    if (folder / f"{name}.h5").is_file():
        return folder / f"{name}.h5"
    fitting = sorted((folder / HISTORY).glob(f"{name}*.h5"))
    if len(fitting) == 1:
        return fitting[0]
    there = sorted(path.stem for path in folder.glob("*.h5"))
    if fitting:
        raise CalibrationError(f"'{name}' is the beginning of {len(fitting)} records in {folder / HISTORY}: say more")
    raise CalibrationError(f"no record is called '{name}' in {folder}: in force are {', '.join(there) or 'none'}")


def restore(folder: Path, name: str) -> CalibrationRecord:
    """Put an earlier record back in force; the present one goes to ``history/``.

    Raises
    ------
    CalibrationError
        If there is none, or it is refused: damaged, or of another bench.
    """
    path = find_file(folder, name)
    record = load_record(path, bench=folder.name)
    target = folder / f"{record.kind}.h5"
    if path.resolve() == target.resolve():
        raise CalibrationError(f"{path.name} is in force already: name an earlier one, as {record.kind}~1")
    part = target.with_suffix(".h5.part")
    shutil.copyfile(path, part)
    keep_in_history(target)
    os.replace(part, target)
    return record


@dataclass(frozen=True)
class Difference:
    """How one value differs between two records.

    Attributes
    ----------
    name, unit : str
    one, other : float or str
        The value, or the mean of an array; a text as it is.
    largest, rms : float
        Of the differences of the elements; nan where they cannot be subtracted.
    sigmas : float
        Largest difference in units of the combined uncertainty; nan where no record gives one.
    note : str
        What keeps them from being compared.
    """

    name: str
    unit: str
    one: float | str
    other: float | str
    largest: float = np.nan
    rms: float = np.nan
    sigmas: float = np.nan
    note: str = ""


def compare(one: CalibrationRecord, other: CalibrationRecord) -> list[Difference]:
    """Two records of one kind, value by value.

    Raises
    ------
    CalibrationError
        If they are of different kinds.
    """
    if one.kind != other.kind:
        raise CalibrationError(f"a '{one.kind}' cannot be compared with a '{other.kind}': name two of one kind")
    return [_difference(name, one, other) for name in dict.fromkeys([*one.values, *other.values])]


def _difference(name: str, one: CalibrationRecord, other: CalibrationRecord) -> Difference:
    unit = one.units.get(name, other.units.get(name, ""))
    if name not in one.values or name not in other.values:
        which = "first" if name in one.values else "second"
        return Difference(name, unit, _told(one, name), _told(other, name), note=f"only in the {which}")
    a, b = one[name], other[name]
    if a.dtype.kind not in "biufc" or b.dtype.kind not in "biufc":
        return Difference(name, unit, _told(one, name), _told(other, name), note="" if str(a) == str(b) else "changed")
    if a.shape != b.shape:
        return Difference(name, unit, _told(one, name), _told(other, name), note=f"shape {a.shape} and {b.shape}")
    if a.size == 0:
        return Difference(name, unit, _told(one, name), _told(other, name))
    away = np.abs(b.astype(complex) - a) if "c" in (a.dtype.kind, b.dtype.kind) else np.abs(b.astype(float) - a)
    away = np.where(np.isfinite(away), away, np.nan)
    sigma = _combined(one.uncertainties.get(name), other.uncertainties.get(name), a.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(away > 0, away / sigma, 0.0) if sigma is not None else np.full(a.shape, np.nan)
    if np.isnan(away).all():
        return Difference(name, unit, _told(one, name), _told(other, name), note="nowhere finite in both")
    return Difference(
        name, unit, _told(one, name), _told(other, name), float(np.nanmax(away)),
        float(np.sqrt(np.nanmean(away**2))), float(np.nanmax(ratio)) if sigma is not None else np.nan,
    )  # fmt: skip


def _combined(a: Any, b: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    known = [np.asarray(part, float) for part in (a, b) if part is not None]
    if not known or any(part.ndim and part.shape != shape for part in known):
        return None
    squares = [np.broadcast_to(part, shape) ** 2 for part in known]
    total = squares[0] + squares[1] if len(squares) == 2 else squares[0]
    return np.asarray(np.sqrt(total))


def _told(record: CalibrationRecord, name: str) -> float | str:
    if name not in record.values:
        return ""
    value = record[name]
    if value.dtype.kind not in "biuf" or value.size == 0:
        return str(value) if value.ndim == 0 else f"{value.dtype} {value.shape}"
    return float(np.nanmean(value)) if np.isfinite(value).any() else float("nan")


def _kept(path: Path, kind: str, bench: str, *, in_force: bool) -> Kept:
    try:
        return Kept(path, load_record(path, kind=kind, bench=bench), "", in_force)
    except CalibrationError as error:
        return Kept(path, None, str(error), in_force)


def _age(path: Path) -> tuple[str, int, str]:
    """What sorts files by when their records were taken; those of one second by when they were put away."""
    try:
        taken = moment(load_record(path).taken)
    except CalibrationError:
        taken = None
    stamp = re.search(r"\d{8}T\d{6}Z", path.stem)
    when = taken.strftime("%Y%m%dT%H%M%SZ") if taken else stamp[0] if stamp else ""
    return when, path.stat().st_mtime_ns, path.stem
