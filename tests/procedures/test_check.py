"""`Check` names the record that no longer holds, in under 20 frames, whatever one thing has changed; and no other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.bench import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations import BASIC, Calibrate
from labctl.procedures.calibrations.check import Check, Checked, Reference
from labctl.runs.engine import Engine
from labctl.simulation.effects import TYPICAL

sys.path.insert(0, str(Path(__file__).parent))  # pytest's import mode leaves helper modules to be found by ourselves
from drifting_bench import TRUTH, further, opened

Records = dict[str, CalibrationRecord]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """What the bench was when it was calibrated."""
    bench = opened(tmp_path_factory.mktemp("bench"))
    result = Engine(bench).run(Calibrate(only=(*BASIC, "reference"), strict=True))
    bench.close()
    assert not result.refused
    return {record.kind: record for record in result.records}


def check(folder: Path, records: Records, **effects: Any) -> tuple[Checked, int]:
    bench = opened(folder, records, **effects)
    engine = Engine(bench)
    try:
        return engine.run(Check()), engine.snapshot().captured
    finally:
        bench.close()


CAMERA = {"camera_shift_px": further(TYPICAL.camera_shift_px, TRUTH.camera_shift, 2)}
FOURIER = {"fourier_shift_px": further(TYPICAL.fourier_shift_px, TRUTH.fourier_shift, 4)}
TURNED = float(TYPICAL.camera_rotation_deg * (1 + np.deg2rad(1.0) / abs(TRUTH.camera_rotation)))
CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nothing": ({}, ()),
    "camera moved by 2 px": (CAMERA, ("registration",)),
    "camera turned by a degree": ({"camera_rotation_deg": TURNED}, ("registration",)),
    "power 30 % less": ({"flux_e_per_s": 0.7 * TYPICAL.flux_e_per_s}, ("reference",)),
    "Fourier plane moved by 4 px": (FOURIER, ("fourier-centre",)),
    "another response of the SLM": ({"slm_lut": 1.0}, ("slm-response",)),
    "dark level up by 4 counts": ({"offset_counts": TYPICAL.offset_counts + 4}, ("dark",)),
    "camera gain up by 40 %": ({"full_well_e": 7000.0}, ("gain",)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_record_that_no_longer_holds_is_named(tmp_path: Path, records: Records, change: str) -> None:
    effects, redo = CHANGES[change]
    known = {**records, "slm-response": replace(records["gain"], kind="slm-response")}  # something to name
    found, frames = check(tmp_path, known, **effects)
    assert frames < 20
    assert found.redo == redo, [finding.text for finding in found.findings if not finding.good]
    assert found.good is (redo == ())
    assert {finding.record for finding in found.findings} >= set(redo)


def test_what_is_found_is_as_large_as_what_was_changed(tmp_path: Path, records: Records) -> None:
    found, _ = check(tmp_path, records, **CAMERA)
    by_name = {finding.name: finding for finding in found.findings}
    assert by_name["registration shift"].value == pytest.approx(2.0, abs=0.1)
    assert by_name["reference tile"].value < 0.02  # the tile is read where it is now
    found, _ = check(tmp_path, records, flux_e_per_s=0.7 * TYPICAL.flux_e_per_s)
    assert {f.name: f.value for f in found.findings}["light"] == pytest.approx(0.3, abs=0.03)


def test_without_a_reference_it_compares_with_the_records_themselves(tmp_path: Path, records: Records) -> None:
    bare = {kind: record for kind, record in records.items() if kind != "reference"}
    found, frames = check(tmp_path, bare)
    assert (found.redo, frames < 20) == ((), True)
    assert any("no reference record" in note for note in found.notes)
    moved, frames = check(tmp_path, bare, **CAMERA)
    assert (moved.redo, frames < 20) == (("registration",), True)


def test_a_tile_of_another_deployment_is_not_compared(tmp_path: Path, records: Records) -> None:
    centre = records["fourier-centre"]
    newer = {**records, "fourier-centre": replace(centre, values={"centre": centre["centre"] + 0.4})}
    found, _ = check(tmp_path, newer)
    assert any("newer than the reference" in note for note in found.notes)


def test_a_bench_that_was_never_registered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no 'registration' calibration"):
        check(tmp_path, {})


def test_the_reference_says_how_far_it_is_to_be_trusted(records: Records) -> None:
    record = records["reference"]
    assert record.parents.keys() == {"registration", "fourier-centre", "dark"}
    assert float(np.max(record.uncertainties["dots"])) < 0.1
    assert record.quality["light_spread"] < 0.01
    assert Reference().picture(record).ndim == 2
