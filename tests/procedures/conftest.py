"""The simulated bench of the example workspace, with any preset, and its hidden truth for scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from labctl.bench import Bench, opening
from labctl.bench.records import CalibrationRecord
from labctl.config.load import load_bench
from labctl.simulation.transforms import camera_to_metres, rotation
from labctl.simulation.world import World

BENCH = Path(__file__).resolve().parents[2] / "configs" / "benches" / "sim-4f.toml"


@dataclass
class Scored:
    """A bench and the world behind it. Only scoring may look at the world."""

    bench: Bench
    world: World

    @property
    def fourier_centre(self) -> NDArray[np.float64]:
        return np.asarray(self.bench.facts.geometry.slm.centre) + self.world._truth.fourier_shift

    @property
    def input_to_camera(self) -> NDArray[np.float64]:
        geometry, truth = self.bench.facts.geometry, self.world._truth
        to_metres = camera_to_metres(geometry, truth)
        back = np.linalg.inv(to_metres[:, :2])
        turn = truth.input_scale / truth.fourier_scale * rotation(truth.input_rotation - truth.fourier_rotation)
        linear = -geometry.f2 / geometry.f1 * turn @ np.diag(geometry.input.pitch)
        start = linear @ (np.asarray(truth.input_shift) - geometry.input.centre)
        return np.column_stack([back @ linear, back @ (start - to_metres[:, 2])])


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scored]]:
    """Opens the example bench with another preset, seed or effects; closed after the test."""
    opened: list[Bench] = []
    worlds: list[World] = []
    make_world = opening._world

    def remember(*args: Any) -> Any:
        worlds.append(make_world(*args))
        return worlds[-1]

    monkeypatch.setattr(opening, "_world", remember)

    def make(preset: str = "typical", seed: int = 7, **effects: Any) -> Scored:
        config = load_bench(BENCH)
        simulation = config.simulation.model_copy(update={"preset": preset, "seed": seed, "effects": effects})  # type: ignore[union-attr]
        opened.append(opening.open_bench(config.model_copy(update={"simulation": simulation})))
        return Scored(opened[-1], worlds[-1])

    yield make
    for bench in opened:
        bench.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scored]]:
    """Opens benches with a smaller SLM whose registration and Fourier centre are known already, as they truly are."""
    made: list[Bench] = []
    worlds: list[World] = []
    make_world = opening._world

    def remember(*args: Any) -> Any:
        worlds.append(make_world(*args))
        return worlds[-1]

    monkeypatch.setattr(opening, "_world", remember)

    def make(preset: str = "ideal", seed: int = 1, side: int = 256, camera: int = 768, **effects: Any) -> Scored:
        config = load_bench(BENCH)
        simulation = config.simulation.model_copy(update={"preset": preset, "seed": seed, "effects": effects})  # type: ignore[union-attr]
        slm = config.slm.model_copy(update={"options": {**config.slm.options, "resolution": [side, side]}})
        sensor = config.camera.model_copy(update={"options": {**config.camera.options, "resolution": [camera, camera]}})
        bench = opening.open_bench(config.model_copy(update={"simulation": simulation, "slm": slm, "camera": sensor}))
        made.append(bench)
        scored = Scored(bench, worlds[-1])
        geometry = bench.facts.geometry
        back = np.linalg.inv(camera_to_metres(geometry, scored.world._truth)[:, :2])
        known = {
            "registration": {
                "input_to_camera": scored.input_to_camera,
                "carrier_to_camera": back @ np.diag(geometry.field_of_view),
            },
            "fourier-centre": {"centre": scored.fourier_centre},
        }
        bench.with_calibrations(
            {kind: CalibrationRecord(kind, bench.facts.name, values, {}) for kind, values in known.items()}
        )
        return scored

    yield make
    for bench in made:
        bench.close()
