"""Evaluating under a watch on a bench that creeps: it is followed, or calibrated again on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_lab import EVALUATE, SmallLab

from labctl.bench import open_bench
from labctl.bench.records import load_records
from labctl.procedures.watch import Watch
from labctl.runs.events import Captured, Event
from labctl.runs.offers import prepare
from labctl.runs.session import Outcome, execute

BEFORE, NIGHT_H = 4, 3.0


def evaluate(lab: SmallLab, root: Path, watch: Watch, **effects: Any) -> tuple[Outcome[Any], list[int]]:
    """With a night between two images; which images were shown, in order."""
    assert lab.config.simulation is not None
    simulation = lab.config.simulation.model_copy(update={"effects": effects})
    config = lab.config.model_copy(update={"simulation": simulation})
    bench = open_bench(config)
    bench.with_calibrations(load_records(lab.workspace.calibration / "small"))
    shown: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, Captured) and "image" in event.exposure.tag:
            shown.append(event.exposure.tag["image"])
            if len(shown) == BEFORE:
                bench.clock.sleep(NIGHT_H * 3600)

    made = replace(prepare("evaluate", EVALUATE, lab.workspace, config).procedure, watch=watch)  # type: ignore[type-var]
    places = {"runs_dir": root / "runs", "calibration_dir": root / "calibration"}
    try:
        return execute(made, bench, observer=observe, **places), shown
    finally:
        bench.close()


def test_a_watch_that_corrects_follows_the_creep(small_lab: SmallLab, tmp_path: Path) -> None:
    outcome, shown = evaluate(small_lab, tmp_path, Watch("correct", every=BEFORE, at_start=1), creep_px_per_h=1.0)
    (night,) = outcome.result.drift
    assert 0.2 < float(np.hypot(*night.moved)) < 1.5 * NIGHT_H
    assert night.seconds > NIGHT_H * 3600
    assert shown == list(range(EVALUATE["images"]))  # type: ignore[call-overload]
    assert outcome.records == ()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_watch_that_recalibrates_goes_on_with_the_next_image(small_lab: SmallLab, tmp_path: Path) -> None:
    watch = Watch("recalibrate", every=BEFORE, at_start=1, farthest_px=0.2)
    outcome, shown = evaluate(small_lab, tmp_path, watch, creep_px_per_h=1.0)
    assert outcome.result.arm.count == EVALUATE["images"]
    assert set(shown) == set(range(EVALUATE["images"]))  # type: ignore[call-overload]
    kinds = {record.kind for record in outcome.records}
    assert "registration" in kinds
    kept = load_records(tmp_path / "calibration" / "small")
    assert set(kept) == kinds
    assert kept["registration"].run == outcome.run_id
