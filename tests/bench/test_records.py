"""Calibration records: round trip, history, and refusal by name of what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labctl.bench import CalibrationRecord, load_records, save_record
from labctl.bench.records import load_record
from labctl.errors import CalibrationError


def record(value: float = 1.0) -> CalibrationRecord:
    return CalibrationRecord(
        "gain", "b", {"gain": np.asarray(value), "map": np.arange(6.0).reshape(2, 3)},
        {"gain": "electrons/count", "map": "1"}, {"gain": np.asarray(0.1)}, {"residual": 0.5},
        "2026-01-01", "run-1", "ab",
    )  # fmt: skip


def test_round_trip_keeps_values_units_and_history(tmp_path: Path) -> None:
    save_record(tmp_path, record(1.0))
    save_record(tmp_path, record(2.0))
    back = load_records(tmp_path)["gain"]
    assert float(back["gain"]) == 2.0
    assert (back["map"] == record()["map"]).all()
    assert back.units["gain"] == "electrons/count"
    assert back.quality == {"residual": 0.5}
    assert (back.run, back.taken, back.bench_digest) == ("run-1", "2026-01-01", "ab")
    (old,) = (tmp_path / "history").iterdir()
    assert float(load_record(old)["gain"]) == 1.0


@pytest.mark.parametrize("content", [b"", b"not hdf5", None])
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = save_record(tmp_path, record())
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(CalibrationError, match=r"gain\.h5.*calibrate again"):
        load_records(tmp_path)


def test_a_bench_that_was_never_calibrated_has_no_records(tmp_path: Path) -> None:
    assert load_records(tmp_path / "none") == {}
