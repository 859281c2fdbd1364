"""A small simulated bench that can be changed behind its records' back: the same dice, other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from labctl.bench import Bench, CalibrationRecord, open_bench
from labctl.config.load import load_bench
from labctl.simulation.effects import PRESETS, Truth

TEXT = """
[bench]
name = "drifting"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [320, 320], pitch_um = 8.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [112, 112], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [448, 448], pitch_um = 8.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "typical"
seed = 3
"""
SEED = 3
TRUTH = Truth.draw(PRESETS["typical"], SEED)
"""Where camera and Fourier plane stand: only to change it by so many pixels."""


def opened(folder: Path, records: dict[str, CalibrationRecord] | None = None, **effects: Any) -> Bench:
    """The bench, with some effects of other sizes."""
    path = folder / "drifting.toml"
    path.write_text(TEXT, encoding="utf-8")
    config = load_bench(path)
    assert config.simulation is not None
    simulation = config.simulation.model_copy(update={"effects": effects})
    bench = open_bench(config.model_copy(update={"simulation": simulation}))
    if records:
        bench.with_calibrations(records)
    return bench


def further(size: float, drawn: tuple[float, float], by_px: float) -> float:
    """The size of an effect that moves what was drawn for it by so many pixels more."""
    return float(size * (1 + by_px / np.hypot(*drawn)))
