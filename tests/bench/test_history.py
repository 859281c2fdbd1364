"""Earlier records: found by what people type, compared in units of their uncertainty, and put back in force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.bench.history import compare, find_record, history, restore
from labctl.bench.records import CalibrationRecord, load_records, save_record
from labctl.errors import CalibrationError


def record(value: float, day: int = 1, **more: Any) -> CalibrationRecord:
    given = {
        "kind": "gain", "bench": "b",
        "values": {"gain": np.asarray(value), "map": np.full((2, 3), value), "method": np.asarray("zernike")},
        "units": {"gain": "electrons/count", "map": "1", "method": "1"},
        "uncertainties": {"gain": np.asarray(0.3), "map": np.full((2, 3), 0.1)},
        "quality": {"residual": 0.5}, "taken": f"2026-01-0{day}T00:00:00+00:00",
    }  # fmt: skip
    return CalibrationRecord(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for day in (1, 2, 3):
        save_record(tmp_path / "b", record(float(day), day))
    return tmp_path / "b"


def test_records_are_found_by_what_people_type(place: Path) -> None:
    assert [float(kept.record["gain"]) for kept in history(place, "gain") if kept.record] == [3.0, 2.0, 1.0]
    assert [kept.in_force for kept in history(place, "gain")] == [True, False, False]
    for name, value in (("gain", 3.0), ("gain~1", 2.0), ("gain~2", 1.0), ("gain-20260101", 1.0)):
        assert float(find_record(place, name)["gain"]) == value
    older = history(place, "gain")[1].path
    assert float(find_record(place, str(older))["gain"]) == 2.0
    assert float(find_record(place, older.stem)["gain"]) == 2.0
    for name, said in (
        ("gain~3", "2 earlier records of 'gain': there is no gain~3"),
        ("gain-2026", "the beginning of 2 records"),
        ("gian", "no record is called 'gian'.*in force are gain"),
    ):
        with pytest.raises(CalibrationError, match=said):
            find_record(place, name)
    assert history(place, "dark") == []


def test_a_kind_whose_name_begins_another_keeps_its_own_history(place: Path) -> None:
    for day in (1, 2):
        save_record(place, record(9.0 + day, day, kind="gain-map"))
    assert len(history(place, "gain")) == 3
    assert len(history(place, "gain-map")) == 2


def test_differences_are_in_units_of_the_combined_uncertainty(place: Path) -> None:
    found = {d.name: d for d in compare(find_record(place, "gain~2"), find_record(place, "gain"))}
    gain = found["gain"]
    assert (gain.one, gain.other, gain.largest) == (1.0, 3.0, 2.0)
    assert gain.sigmas == pytest.approx(2.0 / np.hypot(0.3, 0.3))
    assert found["map"].rms == 2.0
    assert found["map"].sigmas == pytest.approx(2.0 / np.hypot(0.1, 0.1))
    assert found["method"].note == ""


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"map": np.zeros((3, 2))}, r"shape (2, 3) and (3, 2)"),
        ({"method": np.asarray("speckle")}, "changed"),
        ({"map": np.full((2, 3), np.nan)}, "nowhere finite in both"),
    ],
)
def test_what_cannot_be_subtracted_is_said(change: dict[str, Any], note: str) -> None:
    one = record(1.0)
    found = compare(one, replace(one, values={**one.values, **change}))
    assert {d.name: d.note for d in found}[next(iter(change))] == note


def test_values_of_one_record_only_and_no_uncertainty(place: Path) -> None:
    one = record(1.0)
    bare = replace(one, values={"gain": np.asarray(1.5)}, uncertainties={})
    found = {d.name: d for d in compare(replace(one, uncertainties={}), bare)}
    assert found["map"].note == "only in the first"
    assert np.isnan(found["gain"].sigmas)
    half = {d.name: d for d in compare(one, bare)}
    assert half["gain"].sigmas == pytest.approx(0.5 / 0.3)
    with pytest.raises(CalibrationError, match="a 'gain' cannot be compared with a 'dark'"):
        compare(one, replace(one, kind="dark"))


def test_an_earlier_record_is_put_back_and_nothing_is_lost(place: Path) -> None:
    back = restore(place, "gain~2")
    assert float(back["gain"]) == float(load_records(place)["gain"]["gain"]) == 1.0
    values = {float(kept.record["gain"]) for kept in history(place, "gain") if kept.record}
    assert values == {1.0, 2.0, 3.0}
    with pytest.raises(CalibrationError, match="is in force already"):
        restore(place, "gain")


def test_a_damaged_or_foreign_one_is_not_put_back(place: Path) -> None:
    damaged = history(place, "gain")[1].path
    damaged.write_bytes(damaged.read_bytes()[:700])
    with pytest.raises(CalibrationError, match="cannot be read"):
        restore(place, damaged.stem)
    assert next(kept for kept in history(place, "gain") if kept.path == damaged).reason
    foreign = save_record(place.parent / "c", record(7.0, bench="c"))
    with pytest.raises(CalibrationError, match="of bench 'c', not 'b'"):
        restore(place, str(foreign))
    assert float(load_records(place)["gain"]["gain"]) == 3.0
