"""Benches to break: a tiny one whose frames tell which patterns made them, and a small simulated one from a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.bench.interlocks import Interlocks
from labctl.clock import Clock, DrivenClock
from labctl.config.schema import RecoverySection, SafetySection
from labctl.devices.contract import RawFrame
from labctl.devices.faults import FaultPlan, Rehearsal
from labctl.optics.geometry import Geometry, Plane

SHAPE = (8, 6)
DEVICES = ("slm", "input", "camera", "laser")


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

    def restart(self) -> None:
        """As after its power was off."""
        self.shown = np.full(SHAPE, 7, np.uint8)


class FakeLaser:
    name = "laser"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"power": 1.0, "enabled": True}
        self.sent: list[tuple[str, Any]] = []
        self.closed = 0

    def set(self, setting: str, value: Any) -> None:
        self.sent.append((setting, value))
        self.settings[setting] = value

    def read(self, setting: str) -> Any:
        return self.settings[setting]

    def make_safe(self) -> None:
        self.settings["enabled"] = False

    def close(self) -> None:
        self.closed += 1

    def restart(self) -> None:
        self.settings = {"power": 0.1, "enabled": False}


class FakeCamera:
    """Each pixel is 16 times the SLM's level plus the input's, both as they are when the exposure begins.

    Free-running, it always has one frame in flight: the one that began when the last was handed out. With a laser, the
    pixel also tells its power, and is dark without its light.
    """

    name, shape, pitch, bitdepth, readout_s = "camera", SHAPE, (5e-6, 5e-6), 12, 1e-3

    def __init__(
        self,
        clock: Clock,
        slm: FakePanel,
        input: FakePanel,
        *,
        free_run: bool = False,
        laser: FakeLaser | None = None,
    ) -> None:
        self.clock, self.slm, self.input, self.free_run, self.laser = clock, slm, input, free_run, laser
        self.in_flight: tuple[float, np.ndarray] | None = None
        self.serial, self.closed = "C-17", 0
        self.window = (0, SHAPE[0], 0, SHAPE[1])

    def set_window(self, window: Any) -> Any:
        self.window = tuple(window or (0, SHAPE[0], 0, SHAPE[1]))
        return self.window

    def grab(self, exposure_s: float) -> RawFrame:
        started, data = self.in_flight or self.begin()
        ended = started + exposure_s
        self.clock.sleep(ended + self.readout_s - self.clock.now())
        self.in_flight = self.begin() if self.free_run else None
        return RawFrame(data, started, ended, (self.window[0], self.window[2]))

    def begin(self) -> tuple[float, np.ndarray]:
        light = 16 * self.slm.shown.astype(np.uint16) + self.input.shown
        if self.laser is not None:
            power = 256 * round(10 * self.laser.settings["power"])
            light = np.where(self.laser.settings["enabled"], light + power, 0).astype(np.uint16)
        rows, end_row, columns, end_column = self.window
        return self.clock.now(), light[rows:end_row, columns:end_column].copy()

    def close(self) -> None:
        self.closed += 1

    def restart(self) -> None:
        self.window = (0, SHAPE[0], 0, SHAPE[1])
        self.in_flight = None


class OverlappingCamera(FakeCamera):
    """Exposes while it reads out. Its read-out takes longer than the input settles, or nothing would overlap."""

    overlaps = True
    readout_s = 0.02

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.exposed: deque[RawFrame] = deque()
        self.overlapped = 0

    def expose(self, exposure_s: float) -> None:
        started, data = self.begin()
        self.clock.sleep(exposure_s)
        self.exposed.append(RawFrame(data, started, self.clock.now(), (self.window[0], self.window[2])))
        self.overlapped += len(self.exposed) > 1

    def read_out(self) -> RawFrame:
        if not self.exposed:
            self.clock.sleep(2.0)
            raise TimeoutError("no frame within 2 s")
        frame = self.exposed.popleft()
        self.clock.sleep(frame.ended + self.readout_s - self.clock.now())
        return frame

    def grab(self, exposure_s: float) -> RawFrame:
        raise AssertionError("an overlapping camera is not grabbed from")

    def discard(self) -> None:
        self.exposed.clear()

    def restart(self) -> None:
        super().restart()
        self.exposed.clear()


class FaultyRig:
    """The tiny bench, armed with a plan.

    Parameters
    ----------
    faults : entries of a plan
    seed : int
    free_run, overlaps : bool
        The camera's manner.
    lit : bool
        Whether the laser's light makes the frames.
    reopens : bool
        Whether devices can be opened again: they come back with other settings than they had.
    """

    def __init__(
        self,
        faults: Sequence[dict[str, Any]] = (),
        seed: int = 0,
        *,
        free_run: bool = False,
        overlaps: bool = False,
        lit: bool = False,
        reopens: bool = False,
        recovery: RecoverySection | None = None,
        safety: SafetySection | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or DrivenClock(50.0)
        self.slm, self.input, self.laser = FakePanel(), FakePanel(), FakeLaser()
        make = OverlappingCamera if overlaps else FakeCamera
        laser = self.laser if lit else None
        self.camera = make(self.clock, self.slm, self.input, free_run=free_run, laser=laser)
        self.rehearsal = Rehearsal(FaultPlan.model_validate({"seed": seed, "plan": list(faults)}), self.clock)
        self.reopened: list[str] = []
        plane = Plane(SHAPE, (8e-6, 8e-6))
        facts = BenchFacts(
            name="tiny", geometry=Geometry(638e-9, 0.1, 0.1, plane, plane, plane), slm_levels=256, input_levels=256,
            camera_bitdepth=12, exposure_s=0.005, slm_settle_s=0.1, input_settle_s=0.005,
            readout_s=self.camera.readout_s, instruments={"laser": "laser"}, simulated=True, digest="d",
        )  # fmt: skip
        self.wrapped: dict[str, Any] = {name: self.rehearsal.inject(getattr(self, name), name) for name in DEVICES}
        interlocks = safety and Interlocks(safety, roles=facts.instruments, full_scale=4095, clock=self.clock)
        self.bench = Bench(
            facts, slm=self.wrapped["slm"], input=self.wrapped["input"], camera=self.wrapped["camera"],
            instruments={"laser": self.wrapped["laser"]}, clock=self.clock, injected=self.rehearsal.injected,
            recovery=recovery, interlocks=interlocks,
            reopeners={name: partial(self.again, name) for name in DEVICES} if reopens else None,
        )  # fmt: skip

    def again(self, name: str) -> Any:
        device = getattr(self, name)
        device.restart()
        self.reopened.append(name)
        self.wrapped[name].renew(device)
        return self.wrapped[name]

    def disarm(self) -> None:
        """The devices are healthy from now on."""
        disarm(self.bench)

    def done(self) -> list[tuple[str, int, str]]:
        return [(item.device, item.call, item.fault) for item in self.rehearsal.injected]

    def show(self, slm: int, input: int) -> None:
        self.bench.show(slm=np.full(SHAPE, slm, np.uint8), input=np.full(SHAPE, input, np.uint8))

    @property
    def is_safe(self) -> bool:
        return not (self.laser.settings["enabled"] or self.slm.shown.any() or self.input.shown.any())

    @property
    def closed(self) -> list[int]:
        return [getattr(self, name).closed for name in DEVICES]


def disarm(bench: Bench) -> None:
    """Its devices are healthy from now on."""
    for name in DEVICES:
        trouble = bench.device(name)._trouble
        trouble.faults = ()
        trouble._gone_until = -np.inf
        trouble._stuck = False
    bench.device("laser")._dead_until = -np.inf


SIMULATED = """
[bench]
name = "faulty"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [64, 60], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [32, 32], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [40, 30], pitch_um = 5.5, readout_ms = 20.0, timestamps = true }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "ideal"
"""
