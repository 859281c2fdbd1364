"""The calibration `twin` on a small simulated bench: from a few records to a twin that predicts what it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from labctl.bench import Bench, opening
from labctl.bench.records import CalibrationRecord, load_record, save_record, unsound
from labctl.config.load import load_bench
from labctl.errors import CalibrationError
from labctl.procedures.calibrations import Dark, FourierCentre, Registration
from labctl.procedures.calibrations.twin import TwinFit
from labctl.runs.engine import Engine
from labctl.twin.model import Twin

BENCH = Path(__file__).resolve().parents[2] / "configs" / "benches" / "sim-4f.toml"
QUICK = TwinFit(
    masks=8, inputs=2, held_out=2, repeats=3, on_axis=3, levels=5, fit_steps=90, image=(20, 20)
)  # a tenth of what a real one computes


@pytest.fixture
def bench() -> Iterator[Bench]:
    config = load_bench(BENCH)
    slm = config.slm.model_copy(update={"options": {**config.slm.options, "resolution": [256, 256]}})
    made = opening.open_bench(config.model_copy(update={"slm": slm}))
    yield made
    made.close()


@pytest.fixture
def calibrated(bench: Bench) -> Bench:
    engine = Engine(bench)
    known: dict[str, CalibrationRecord] = {}
    for step in (Dark(), Registration(limit_px=1.0), FourierCentre()):
        known[step.name] = engine.run(step)
        bench.with_calibrations(known)
    return bench


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_predicts_masks_and_inputs_it_never_saw(calibrated: Bench, tmp_path: Path) -> None:
    engine = Engine(calibrated)
    record = engine.run(QUICK)
    assert unsound(record) == ""
    quality = record.quality
    assert quality["one_minus_r_mean"] < 0.02
    assert quality["one_minus_r_mean"] < 0.5 * quality["one_minus_r_mean_before_fit"]
    assert quality["relative_rms"] < 5 * quality["repeatability"]
    assert engine.snapshot().captured == pytest.approx(QUICK.exposures(calibrated.facts), abs=12)
    facts = replace(calibrated.facts, calibrations={"twin": load_record(save_record(tmp_path, record))})
    again = Twin.from_facts(facts)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, torch.as_tensor(record[name]).to(parameter.dtype))
    assert set(record.uncertainties) < set(record.values)
    assert QUICK.picture(record).ndim == 2


@dataclass(frozen=True)
class Strict(TwinFit):
    """Content with nothing."""

    limits: ClassVar[dict[str, float]] = {"relative_rms": 0.0}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_twin_that_predicts_poorly_is_refused_with_the_figure(calibrated: Bench) -> None:
    poor = Strict(masks=2, inputs=1, held_out=1, repeats=2, on_axis=1, levels=2, fit_steps=3, image=(20, 20))
    with pytest.raises(CalibrationError, match=r"twin: relative_rms is 0\.\d+ on held-out masks \(limit 0\)"):
        Engine(calibrated).run(poor)


def test_what_it_needs_is_named(bench: Bench) -> None:
    with pytest.raises(CalibrationError, match="no 'registration' calibration"):
        Engine(bench).run(QUICK)


def test_the_stages_make_up_the_whole_fit() -> None:
    plans = QUICK.plans()
    assert sum(plan.steps for plan in plans) == QUICK.fit_steps
    assert set(plans[0].free) | set(plans[1].free) < set(plans[3].free)
