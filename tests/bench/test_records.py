"""Calibration records: round trip, hash, history, and refusal by name of what is none."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from labctl.bench import CalibrationRecord, load_records, save_record
from labctl.bench.records import load_record, read_folder, standing_in, unsound
from labctl.config.load import load_bench
from labctl.errors import CalibrationError
from labctl.runs.values import from_json, to_json

CONFIG = load_bench(Path(__file__).resolve().parents[2] / "configs" / "benches" / "sim-4f.toml")


def record(value: float = 1.0, kind: str = "gain", **more: Any) -> CalibrationRecord:
    return CalibrationRecord(
        kind, "b", {"gain": np.asarray(value), "map": np.arange(6.0).reshape(2, 3), "hot": np.asarray([True, False])},
        {"gain": "electrons/count", "map": "1", "hot": "1"}, {"gain": np.asarray(0.1)}, {"residual": 0.5},
        **{"taken": "2026-01-01T01:00:00+01:00", "run": "run-1", "bench_digest": "ab", **more},
    )  # fmt: skip


def test_round_trip_keeps_values_units_and_history(tmp_path: Path) -> None:
    place = tmp_path / "b"
    full = record(2.0, parents={"dark": "aa"}, devices={"camera": "Basler 7"}, sections={"camera": "cc"})
    save_record(place, record(1.0))
    save_record(
        place,
        replace(full, values={**full.values, "method": np.asarray("zernike")}, units={**full.units, "method": "1"}),
    )
    back = load_records(place)["gain"]
    assert float(back["gain"]) == 2.0
    assert (back["map"] == record()["map"]).all()
    assert str(back["method"]) == "zernike"
    assert back.units["gain"] == "electrons/count"
    assert back.quality == {"residual": 0.5}
    assert (back.run, back.taken, back.bench_digest) == ("run-1", "2026-01-01T01:00:00+01:00", "ab")
    assert (back.parents, back.devices, back.sections) == ({"dark": "aa"}, {"camera": "Basler 7"}, {"camera": "cc"})
    (old,) = (place / "history").iterdir()
    assert old.name == f"gain-20260101T000000Z-{record(1.0).seal[:8]}.h5"
    assert float(load_record(old, kind="gain", bench="b")["gain"]) == 1.0


def test_records_of_the_same_second_do_not_displace_each_other_in_history(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0, 3.0):
        save_record(tmp_path / "b", record(value))
    kept = {float(load_record(path)["gain"]) for path in (tmp_path / "b" / "history").iterdir()}
    assert kept == {1.0, 2.0, 3.0}


def test_the_digest_is_of_what_was_measured_and_survives_file_and_json(tmp_path: Path) -> None:
    one = record(1.5)
    path = save_record(tmp_path / "b", one)
    assert load_record(path).digest == one.digest
    tree = from_json(to_json(one))
    assert CalibrationRecord(**{name: value for name, value in tree.items() if name != "$type"}).digest == one.digest
    for again in (replace(one, run="another"), replace(one, taken="2026-02-02T00:00:00Z")):  # a replay gives it again
        assert again.digest == one.digest
        assert again.seal != one.seal
    for other in (
        record(1.6), replace(one, bench="c"), replace(one, quality={"residual": 0.4}),
        replace(one, parents={"dark": "a"}), replace(one, units={**one.units, "map": "rad"}),
        replace(one, uncertainties={}),
        replace(one, values={**one.values, "map": np.arange(6.0).reshape(3, 2)}),
        replace(one, values={**one.values, "map": np.arange(6, dtype=np.float32).reshape(2, 3)}),
    ):  # fmt: skip
        assert other.digest != one.digest


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def not_hdf5(path: Path) -> None:
    path.write_bytes(b"not hdf5" * 100)


def edit_value(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["values/gain"][()] = 2.5


def edit_quality(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["quality"].attrs["residual"] = 0.1


def edit_run(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["run"] = "run-2"


def edit_time(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["taken"] = "2027-01-01T00:00:00Z"


def take_the_hash_off(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["sha256"]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.find(np.arange(6.0)[1:].tobytes())
    data[at + 3] ^= 1
    path.write_bytes(bytes(data))


def later_format(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "labctl calibration 9"


def other_program(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(3)


def other_kind(path: Path) -> None:
    shutil.copy(path.with_name("dark.h5"), path)


def other_bench(path: Path) -> None:
    save_record(path.parent, replace(record(), bench="c"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "cannot be read"), (empty, "cannot be read"), (not_hdf5, "cannot be read"),
        (edit_value, "does not match its hash"), (edit_quality, "does not match its hash"),
        (edit_run, "does not match its hash"), (edit_time, "does not match its hash"),
        (take_the_hash_off, "does not match its hash"),
        (flip_a_byte, "does not match its hash"), (later_format, "of a newer labctl"),
        (other_program, "not a labctl record"), (other_kind, "of kind 'dark', not 'gain'"),
        (other_bench, "of bench 'c', not 'b'"),
    ],
)  # fmt: skip
def test_what_is_no_record_of_the_bench_is_refused_by_name_and_others_are_used(
    tmp_path: Path, damage: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "b"
    path = save_record(place, record())
    save_record(place, record(kind="dark"))
    damage(path)
    with pytest.raises(CalibrationError, match=rf"gain\.h5 .*{said}.*calibrate again"):
        load_record(path, kind="gain", bench="b")
    good, refused = read_folder(place)
    assert (list(good), list(refused)) == (["dark"], ["gain"])
    with caplog.at_level(logging.WARNING):
        assert list(load_records(place)) == ["dark"]
    assert "gain.h5" in caplog.text
    save_record(place, record(3.0))  # calibrating again mends it, and what was there is kept
    assert float(load_records(place)["gain"]["gain"]) == 3.0
    assert len(list((place / "history").glob("gain-*.h5"))) >= 1


def test_a_record_of_the_first_format_is_read(tmp_path: Path) -> None:
    """It has no hash, and says nothing of parents and devices: `labctl calibrate` takes it for stale."""
    path = save_record(tmp_path / "b", replace(record(), version=1))
    with h5py.File(path) as file:
        assert file.attrs["format"] == "labctl calibration 1"
        assert "sha256" not in file.attrs
    assert load_record(path).version == 1


def test_a_bench_that_was_never_calibrated_has_no_records(tmp_path: Path) -> None:
    assert load_records(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gain": np.asarray(np.nan)}, "gain is not finite"),
        ({"map": np.array([1.0, np.inf, 2.0])}, "only 67 % of map is finite"),
        ({"phase": np.full((64, 64), np.nan)}, "only 0 % of phase is finite"),
        ({"phase": np.where(np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 1, 0.5, np.nan)}, ""),
    ],
)
def test_what_is_not_finite_is_unsound(values: dict[str, Any], said: str) -> None:
    assert unsound(replace(record(), values=values)) == said
    assert "residual is not finite" in unsound(replace(record(), quality={"residual": float("nan")}))


def test_the_sections_of_a_bench_file_change_with_what_matters_only() -> None:
    before = CONFIG.sections()
    assert set(before) == {"optics", "slm", "input", "camera", "instruments", "simulation"}
    slower = CONFIG.slm.model_copy(update={"settle_ms": 300.0})
    assert CONFIG.model_copy(update={"slm": slower}).sections() == before
    other = CONFIG.slm.model_copy(update={"driver": "slmsuite:holoeye.Holoeye"})
    after = CONFIG.model_copy(update={"slm": other}).sections()
    assert [name for name in before if before[name] != after[name]] == ["slm"]


def test_text_and_bytes_come_back_as_they_went(tmp_path: Path) -> None:
    """Or else the hash would call a file damaged that nobody touched."""
    for value in (np.asarray("speckle"), np.asarray(b"speckle")):
        made = CalibrationRecord("wavefront", "b", {"method": value}, {"method": "name"})
        path = save_record(tmp_path / "b", made)
        assert load_record(path)["method"].dtype == value.dtype


def test_a_stand_in_passes_for_the_record_it_stands_for() -> None:
    """So that a dry run finds the same records stale as the run to come."""
    one = record()
    other = standing_in(one, {"gain": np.asarray(7.0)})
    assert (float(other["gain"]), other.digest) == (7.0, one.digest)
    assert (other["map"] == one["map"]).all()
    assert replace(other).digest != one.digest
