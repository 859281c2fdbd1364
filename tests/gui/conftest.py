"""A fake workplace: the real `Bench` and the real engine around devices that cost nothing and keep a driven clock."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import cv2  # noqa: F401 - it points Qt to its own plugins, which the app must undo

from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.clock import DrivenClock
from labctl.devices.contract import RawFrame
from labctl.errors import DeviceError
from labctl.gui.app import clean_environment
from labctl.optics.geometry import Geometry, Plane
from labctl.procedures.messages import Exposure, Log, Measure, Prompt, Publish

clean_environment()


@dataclass
class FakePanel:
    """Remembers what it was shown."""

    name: str
    shape: tuple[int, int]
    pitch: tuple[float, float] = (8e-6, 8e-6)
    levels: int = 256
    blanked: int = 0
    closed: bool = False
    shown: Any = None

    def show(self, gray: Any) -> None:
        self.shown = gray

    def blank(self) -> None:
        self.blanked += 1

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeCamera:
    """Random counts at once. `gate` holds a frame back; `broken` makes it fail."""

    clock: DrivenClock
    shape: tuple[int, int]
    name: str = "fake camera"
    pitch: tuple[float, float] = (5e-6, 5e-6)
    bitdepth: int = 12
    readout_s: float = 0.01
    gate: threading.Event = field(default_factory=threading.Event)
    broken: bool = False
    grabbed: int = 0
    closed: bool = False

    def grab(self, exposure_s: float) -> RawFrame:
        if not self.gate.wait(20):
            raise DeviceError("the fake camera's gate stayed shut", device="camera")
        if self.broken:
            raise RuntimeError("cable out")
        started = self.clock.now()
        self.clock.sleep(exposure_s + self.readout_s)
        self.grabbed += 1
        data = np.random.default_rng(self.grabbed).integers(0, 4096, self.shape, dtype=np.uint16)
        return RawFrame(data, started, self.clock.now())

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Burst:
    """A procedure of so many frames, with everything that a run may tell."""

    frames: int = 20
    shape: tuple[int, int] = (64, 64)
    asks: bool = False

    @property
    def name(self) -> str:
        return "burst"

    def exposures(self, facts: BenchFacts) -> int:
        return self.frames

    def steps(self, facts: BenchFacts) -> Any:
        yield Log("a burst begins")
        if self.asks:
            answer = yield Prompt("Block the beam.", ("continue", "skip"))
            yield Log(f"the answer is {answer}")
        for i in range(self.frames):
            pattern = np.full(self.shape, i % 256, np.uint8)
            yield Measure([Exposure(slm=pattern, input=pattern, tag={"image": i})], label="test images")
            yield Publish("accuracy", (i + 1) / self.frames)
            yield Publish("residual_px", 0.25)
        yield Publish("picture", np.eye(8))
        return [{"arm": "deployed", "accuracy": 0.87}]


@dataclass(frozen=True)
class BurstJob:
    """Runs a `Burst` with the real engine, recorded in `folder`."""

    frames: int
    folder: Path
    title: str = "demo"
    fails: bool = False
    asks: bool = False

    def __call__(self, bench: Bench, hooks: Any) -> Any:
        from labctl.gui.status import Outcome
        from labctl.runs.engine import Engine
        from labctl.runs.store import RunStore

        if self.fails:
            raise RuntimeError("a defect")
        hooks.check()
        engine = Engine(bench, observer=hooks.observe, store=RunStore(self.folder), answer=hooks.ask)
        hooks.attach(engine)
        table = engine.run(Burst(self.frames, asks=self.asks))
        return Outcome(self.title, "done", table=table, folder=engine.folder)


@dataclass
class FakeWorkplace:
    """Two benches: "fake", and "broken", which does not open."""

    folder: Path
    shape: tuple[int, int] = (96, 128)
    frames: int = 20
    fails: bool = False
    asks: bool = False
    camera: FakeCamera | None = None
    panels: dict[str, FakePanel] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    where: str = "a fake workplace"

    def __post_init__(self) -> None:
        self.gate.set()

    def benches(self) -> list[str]:
        return ["broken", "fake"]

    def models(self) -> list[str]:
        return ["fake-model"]

    def open(self, name: str) -> Bench:
        if name == "broken":
            raise DeviceError("slm: nothing answers on HDMI-2: is it switched on?", device="slm")
        clock = DrivenClock()
        plane = Plane((64, 64), (8e-6, 8e-6))
        geometry = Geometry(633e-9, 0.2, 0.2, plane, plane, Plane(self.shape, (5e-6, 5e-6)))
        facts = BenchFacts(name, geometry, 256, 256, 12, 0.01, 0.02, 0.01, 0.01, simulated=True, digest="d")
        self.camera = FakeCamera(clock, self.shape, gate=self.gate)
        self.panels = {key: FakePanel(f"fake {key}", (64, 64)) for key in ("slm", "input")}
        return Bench(facts, slm=self.panels["slm"], input=self.panels["input"], camera=self.camera, clock=clock)

    def demo(self, bench: str, model: str, images: int) -> BurstJob:
        return BurstJob(self.frames, self.folder, fails=self.fails, asks=self.asks)

    def calibration(self) -> BurstJob:
        return BurstJob(3, self.folder, title="calibration")


@pytest.fixture
def workplace(tmp_path: Path) -> FakeWorkplace:
    return FakeWorkplace(tmp_path / "runs")


@pytest.fixture
def make_window(qtbot: Any, workplace: FakeWorkplace, tmp_path: Path) -> Iterator[Any]:
    """Windows that are closed, with their threads, whatever the test did; a leak fails the test."""
    from labctl.gui.settings import Settings
    from labctl.gui.window import MainWindow

    level = logging.getLogger("labctl").level
    logging.getLogger("labctl").setLevel(logging.DEBUG)
    made: list[MainWindow] = []

    def make(**choices: Any) -> MainWindow:
        autostart = choices.pop("autostart", False)
        window = MainWindow(
            workplace, Settings(**({"bench": "fake"} | choices)), tmp_path / "gui.json", autostart=autostart
        )
        made.append(window)
        window.resize(1366, 768)
        window.show()
        qtbot.waitUntil(lambda: window.views is not None)
        return window

    yield make
    workplace.gate.set()
    for window in made:
        window.close()
        qtbot.waitUntil(lambda window=window: not window.isVisible(), timeout=15000)
        window.deleteLater()
    logging.getLogger("labctl").setLevel(level)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "labctl-hardware"]


@pytest.fixture
def window(make_window: Any, qtbot: Any) -> Any:
    """A window with the fake bench open."""
    from labctl.gui.status import Phase

    made = make_window()
    qtbot.waitUntil(lambda: made.session.status.phase is Phase.IDLE)
    qtbot.waitUntil(made.actions_by_key["run.start"].isEnabled)
    return made
