"""A tiny bench whose frames tell which patterns made them, and how to arm it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.clock import DrivenClock
from labctl.devices.contract import RawFrame
from labctl.devices.faults import FaultPlan, Rehearsal
from labctl.optics.geometry import Geometry, Plane

SHAPE = (8, 6)


class FakePanel:
    name, shape, pitch, levels = "panel", SHAPE, (8e-6, 8e-6), 256

    def __init__(self) -> None:
        self.shown: np.ndarray = np.zeros(SHAPE, np.uint8)
        self.closed = 0

    def show(self, gray: np.ndarray) -> None:
        self.shown = gray.copy()

    def blank(self) -> None:
        self.shown = np.zeros(SHAPE, np.uint8)

    def close(self) -> None:
        self.closed += 1


class FakeCamera:
    """Each pixel is 16 times the SLM's level plus the input's, both as they are when the exposure begins.

    Free-running, it always has one frame in flight: the one that began when the last was handed out.
    """

    name, shape, pitch, bitdepth, readout_s = "camera", SHAPE, (5e-6, 5e-6), 12, 1e-3

    def __init__(self, clock: DrivenClock, slm: FakePanel, input: FakePanel, *, free_run: bool = False) -> None:
        self.clock, self.slm, self.input, self.free_run = clock, slm, input, free_run
        self.in_flight: tuple[float, np.ndarray] | None = None
        self.serial, self.closed = "C-17", 0

    def set_window(self, window: Any) -> Any:
        return window or (0, SHAPE[0], 0, SHAPE[1])

    def grab(self, exposure_s: float) -> RawFrame:
        started, data = self.in_flight or self.begin()
        ended = started + exposure_s
        self.clock.sleep(ended + self.readout_s - self.clock.now())
        self.in_flight = self.begin() if self.free_run else None
        return RawFrame(data, started, ended)

    def begin(self) -> tuple[float, np.ndarray]:
        level = 16 * int(self.slm.shown[0, 0]) + int(self.input.shown[0, 0])
        return self.clock.now(), np.full(SHAPE, level, np.uint16)

    def close(self) -> None:
        self.closed += 1


class FakeLaser:
    name = "laser"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"power": 1.0, "enabled": True}
        self.closed = 0

    def set(self, setting: str, value: Any) -> None:
        self.settings[setting] = value

    def read(self, setting: str) -> Any:
        return self.settings[setting]

    def make_safe(self) -> None:
        self.settings["enabled"] = False

    def close(self) -> None:
        self.closed += 1


class FaultyRig:
    """The tiny bench, armed with a plan."""

    def __init__(self, faults: Sequence[dict[str, Any]] = (), seed: int = 0, *, free_run: bool = False) -> None:
        self.clock = DrivenClock(50.0)
        self.slm, self.input, self.laser = FakePanel(), FakePanel(), FakeLaser()
        self.camera = FakeCamera(self.clock, self.slm, self.input, free_run=free_run)
        self.rehearsal = Rehearsal(FaultPlan.model_validate({"seed": seed, "plan": list(faults)}), self.clock)
        plane = Plane(SHAPE, (8e-6, 8e-6))
        facts = BenchFacts(
            name="tiny", geometry=Geometry(638e-9, 0.1, 0.1, plane, plane, plane), slm_levels=256, input_levels=256,
            camera_bitdepth=12, exposure_s=0.005, slm_settle_s=0.1, input_settle_s=0.005, readout_s=1e-3,
            instruments={"laser": "laser"}, simulated=True, digest="d",
        )  # fmt: skip
        self.wrapped = {
            name: self.rehearsal.inject(getattr(self, name), name) for name in ("slm", "input", "camera", "laser")
        }
        self.bench = Bench(
            facts, slm=self.wrapped["slm"], input=self.wrapped["input"], camera=self.wrapped["camera"],
            instruments={"laser": self.wrapped["laser"]}, clock=self.clock, injected=self.rehearsal.injected,
        )  # fmt: skip

    def disarm(self) -> None:
        """The devices are healthy from now on."""
        for wrapped in self.wrapped.values():
            wrapped._trouble.faults = ()
            wrapped._trouble._gone_until = -np.inf

    def done(self) -> list[tuple[str, int, str]]:
        return [(item.device, item.call, item.fault) for item in self.rehearsal.injected]

    def show(self, slm: int, input: int) -> None:
        self.bench.show(slm=np.full(SHAPE, slm, np.uint8), input=np.full(SHAPE, input, np.uint8))


@pytest.fixture(scope="session")
def rig() -> type[FaultyRig]:
    """The class: property tests make one for each example."""
    return FaultyRig
