"""A tiny bench and tiny procedures: what the engine sees of the world, with every failure on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.clock import DrivenClock
from labctl.devices.contract import RawFrame
from labctl.optics.geometry import Geometry, Plane
from labctl.procedures.messages import Exposure, Measure, Steps

SHAPE = (6, 8)


class FakePanel:
    def __init__(self, name: str) -> None:
        self.name, self.shape, self.pitch, self.levels = name, SHAPE, (8e-6, 8e-6), 256
        self.shown: np.ndarray = np.zeros(SHAPE, np.uint8)
        self.changes = 0
        self.blanked = 0
        self.before_show: Callable[[], None] = lambda: None

    def show(self, gray: np.ndarray) -> None:
        self.before_show()
        self.shown = gray.copy()
        self.changes += 1

    def blank(self) -> None:
        self.shown = np.zeros(SHAPE, np.uint8)
        self.blanked += 1

    def close(self) -> None:
        return


class FakeCamera:
    """Sees the sum of the panels' first pixels, so a frame tells which patterns made it."""

    def __init__(self, clock: DrivenClock, slm: FakePanel, input: FakePanel) -> None:
        self.name, self.shape, self.pitch, self.bitdepth, self.readout_s = "camera", SHAPE, (5e-6, 5e-6), 12, 1e-3
        self.clock, self.slm, self.input = clock, slm, input
        self.grabs = 0
        self.before_grab: Callable[[int], None] = lambda number: None

    def grab(self, exposure_s: float) -> RawFrame:
        self.before_grab(self.grabs)
        self.grabs += 1
        started = self.clock.now()
        self.clock.sleep(exposure_s)
        value = 16 * int(self.slm.shown[0, 0]) + int(self.input.shown[0, 0])
        data = np.full(SHAPE, value, np.uint16)
        data[-1, -1] = self.grabs
        self.clock.sleep(self.readout_s)
        return RawFrame(data, started, self.clock.now())

    def close(self) -> None:
        return


class FakeLaser:
    def __init__(self) -> None:
        self.name = "laser"
        self.settings: dict[str, Any] = {"power": 0.0}
        self.safe = 0

    def set(self, setting: str, value: Any) -> None:
        self.settings[setting] = value

    def read(self, setting: str) -> Any:
        return self.settings[setting]

    def make_safe(self) -> None:
        self.settings["power"] = 0.0
        self.safe += 1

    def close(self) -> None:
        return


@dataclass
class Rig:
    """The bench and the devices behind it."""

    clock: DrivenClock = field(default_factory=DrivenClock)

    def __post_init__(self) -> None:
        self.slm, self.input, self.laser = FakePanel("slm"), FakePanel("input"), FakeLaser()
        self.camera = FakeCamera(self.clock, self.slm, self.input)
        plane = Plane(SHAPE, (8e-6, 8e-6))
        facts = BenchFacts(
            name="fake", geometry=Geometry(638e-9, 0.1, 0.1, plane, plane, Plane(SHAPE, (5e-6, 5e-6))),
            slm_levels=256, input_levels=256, camera_bitdepth=12, exposure_s=0.005, slm_settle_s=0.1,
            input_settle_s=0.005, readout_s=1e-3, instruments={"laser": "laser"}, simulated=True, digest="d1",
        )  # fmt: skip
        self.bench = Bench(
            facts, slm=self.slm, input=self.input, camera=self.camera, instruments={"laser": self.laser},
            clock=self.clock,
        )  # fmt: skip

    @property
    def is_safe(self) -> bool:
        return self.laser.settings["power"] == 0.0 and not self.slm.shown.any() and not self.input.shown.any()


def gray(level: int) -> np.ndarray:
    return np.full(SHAPE, level, np.uint8)


@dataclass(frozen=True)
class Script:
    """A procedure from a function of the facts."""

    body: Callable[[BenchFacts], Steps[Any]]
    count: int = 0
    name: str = "script"

    def exposures(self, facts: BenchFacts) -> int:
        return self.count

    def steps(self, facts: BenchFacts) -> Steps[Any]:
        return self.body(facts)


@dataclass(frozen=True, eq=False)
class Counted:
    values: list[int]
    numbers: list[int]
    records: tuple[CalibrationRecord, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Every pair of these SLM and input levels, in the order given; two batches of each half."""

    pairs: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3))
    batches: int = 1
    name: str = "pairs"

    def exposures(self, facts: BenchFacts) -> int:
        return len(self.pairs) * self.batches

    def steps(self, facts: BenchFacts) -> Steps[Counted]:
        frames: list[Frame] = []
        for batch in range(self.batches):
            frames += yield Measure(
                [Exposure(gray(s), gray(i), tag={"pair": [s, i]}) for s, i in self.pairs], label=f"batch {batch}"
            )
        record = CalibrationRecord("pairing", facts.name, {"gain": np.array(2.5)}, {"gain": "count/e-"})
        return Counted([int(f.data[0, 0]) for f in frames], [f.number for f in frames], (record,))

    def expected(self) -> list[int]:
        return [16 * s + i for s, i in self.pairs] * self.batches
