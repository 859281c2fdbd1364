"""A proof of pairing for a run: learnt just before, and asked of every frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labctl.bench import open_bench
from labctl.config.load import load_bench
from labctl.errors import ConfigError
from labctl.procedures.calibrations import Dark
from labctl.procedures.evaluate import Evaluate
from labctl.runs.engine import Engine
from labctl.runs.events import Captured
from labctl.runs.preparing import prepare_task
from labctl.runs.proving import prove

ROOT = Path(__file__).resolve().parents[2]


def test_procedures_without_known_marks_are_refused() -> None:
    engine = Engine.__new__(Engine)
    with pytest.raises(ConfigError, match="offered for 'evaluate' so far, not for 'dark'"):
        prove(engine, Dark())


@pytest.mark.slow
def test_every_frame_of_an_evaluation_is_proven() -> None:
    bench = open_bench(load_bench(ROOT / "configs" / "benches" / "sim-4f.toml"))
    seen: list[Captured] = []
    try:
        engine = Engine(bench, observer=lambda event: seen.append(event) if isinstance(event, Captured) else None)
        task = prepare_task("fashion-mnist-sclc", ROOT / "models", images=8, train=40)
        proof = prove(engine, Evaluate(task, calibrated=False))
        seen.clear()
        result = engine.run(Evaluate(task, calibrated=False))
    finally:
        bench.close()
    assert engine.snapshot().mismatches == 0
    codes = [event.frame.proof for event in seen]
    assert len(codes) > 40
    assert codes == [(codes[0] + n) % proof.size for n in range(len(codes))]
    r0, r1, c0, c1 = proof.window
    last = seen[-1].frame
    assert last.origin <= (r0, c0)
    assert last.origin[0] + last.data.shape[0] >= r1
    assert last.origin[1] + last.data.shape[1] >= c1
    assert len(result.tile_r) == 16
    assert np.isfinite(result.tile_r).all()
