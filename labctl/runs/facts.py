"""What a run knew of its bench, kept in the run folder: enough to run its procedure again with no bench.

``run.json`` holds every field of `BenchFacts` but the arrays of the calibrations, which are in ``calibrations.h5``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, read_record, write_record
from labctl.errors import RunError
from labctl.optics.geometry import Geometry, Plane
from labctl.runs.values import from_json, to_json

if TYPE_CHECKING:
    from labctl.runs.recorded import RecordedRun

NAME = "calibrations.h5"


def keep_facts(folder: Path, facts: BenchFacts) -> dict[str, Any]:
    """Write the calibrations to ``folder/calibrations.h5``, if there are any.

    Returns
    -------
    dict
        The rest as JSON, for ``run.json``; of each calibration when it was taken, in which run, and its hash.
    """
    if facts.calibrations:
        with h5py.File(folder / NAME, "w", track_order=True) as file:
            for kind, record in facts.calibrations.items():
                write_record(file.create_group(kind), record, compress=True)
    plain = {field.name: to_json(getattr(facts, field.name)) for field in fields(facts) if field.name != "calibrations"}
    return plain | {
        "calibrations": {
            kind: {"taken": record.taken, "run": record.run, "digest": record_digest(record)}
            for kind, record in facts.calibrations.items()
        }
    }


def facts_of(recorded: RecordedRun) -> BenchFacts:
    """What a recorded run knew of its bench, calibrations included, bit for bit.

    Raises
    ------
    RunError
        If the run was recorded by a labctl that kept less, or its calibrations are missing or damaged.
    """
    kept: Mapping[str, Any] = recorded.intent.get("bench", {})
    values: dict[str, Any] = {}
    for field in fields(BenchFacts):
        if field.name in ("calibrations", "geometry"):
            continue
        if field.name in kept:
            values[field.name] = from_json(kept[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RunError(
                f"run {recorded.id} was recorded by a labctl that did not keep '{field.name}' of its bench: "
                "it can be read and reported, but not run again"
            )
    return BenchFacts(
        geometry=_geometry(kept["geometry"]),
        calibrations=_calibrations(recorded, kept.get("calibrations", {})),
        **values,
    )


def record_digest(record: CalibrationRecord) -> str:
    """A hash of what a calibration record says."""
    digest = hashlib.blake2b(record.kind.encode(), digest_size=8)
    for name in sorted(record.values):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(record.values[name]).tobytes())
    return digest.hexdigest()


def _calibrations(recorded: RecordedRun, said: Mapping[str, Mapping[str, str]]) -> dict[str, CalibrationRecord]:
    if not said:
        return {}
    path = recorded.path / NAME
    try:
        with h5py.File(path, "r") as file:
            found = {kind: read_record(file[kind]) for kind in said}
    except (OSError, KeyError) as error:
        raise RunError(f"{path} cannot be read ({error}): run {recorded.id} cannot be run again") from error
    for kind, record in found.items():
        if record_digest(record) != said[kind]["digest"]:
            raise RunError(f"{path}: '{kind}' is not the calibration that run {recorded.id} had: the file was changed")
    return found


def _geometry(tree: Mapping[str, Any]) -> Geometry:
    values: dict[str, Any] = {name: value for name, value in tree.items() if name != "$type"}
    for name in ("slm", "input", "camera"):
        values[name] = Plane(tuple(tree[name]["shape"]), tuple(tree[name]["pitch"]))
    return Geometry(**values)
