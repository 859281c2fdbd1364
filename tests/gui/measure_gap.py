"""How long the event loop is away while 5 MPx frames arrive as fast as they can: `python tests/gui/measure_gap.py`.

A script, not a test: it prints the figures for the budget (p99 at most 33 ms). Run it on an X server (Xvfb will do).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import conftest  # noqa: E402
from PySide6.QtCore import QTimer  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402

from labctl.bench.soundness import Soundness  # noqa: E402
from labctl.devices.contract import RawFrame  # noqa: E402
from labctl.gui.heartbeat import Heartbeat  # noqa: E402
from labctl.gui.settings import Settings  # noqa: E402
from labctl.gui.status import Outcome, Phase, Status  # noqa: E402
from labctl.gui.window import MainWindow  # noqa: E402
from labctl.runs.engine import Engine  # noqa: E402

SHAPE = (2048, 2448)


@dataclass
class Camera(conftest.FakeCamera):
    """Hands out prepared frames at a rate that a real camera has, in wall time."""

    rate: float = 100.0
    frames: list[Any] = field(default_factory=list)

    def grab(self, exposure_s: float) -> RawFrame:
        if not self.frames:
            random = np.random.default_rng(0)
            self.frames = [random.integers(0, 4096, self.shape, dtype=np.uint16) for _ in range(4)]
        time.sleep(1 / self.rate)
        started = self.clock.now()
        self.clock.sleep(exposure_s)
        self.grabbed += 1
        return RawFrame(self.frames[self.grabbed % 4], started, self.clock.now())


@dataclass(frozen=True)
class Unrecorded:
    """A burst that is not written to disk: it is the display that is measured."""

    frames: int
    title: str = "burst"

    def __call__(self, bench: Any, hooks: Any) -> Outcome:
        engine = Engine(bench, observer=hooks.observe)
        hooks.attach(engine)
        engine.run(conftest.Burst(self.frames))
        return Outcome(self.title, "done")


class Place(conftest.FakeWorkplace):
    """A bench with that camera."""

    def open(self, name: str) -> Any:
        bench = super().open(name)
        self.camera = Camera(bench.clock, self.shape, gate=self.gate)
        bench._camera.sensor, bench._camera.soundness = self.camera, Soundness(self.camera.shape)
        return bench

    def demo(self, bench: str, model: str, images: int) -> Any:
        return Unrecorded(self.frames)


def main() -> int:
    """Measure, print, and exit 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=600)
    options = parser.parse_args()
    app = QApplication(["labctl"])
    app.setStyle("Fusion")
    place = Place(Path(tempfile.mkdtemp()), shape=SHAPE, frames=options.frames)
    window = MainWindow(place, Settings(bench="fake"))
    window.resize(1920, 1080)
    heartbeat = Heartbeat(window)

    def on_status(status: Status) -> None:
        if status.phase is Phase.IDLE and not heartbeat.gaps:
            window.on_start()
            QTimer.singleShot(1000, heartbeat.start)

    def on_outcome(_outcome: Outcome) -> None:
        heartbeat.stop()
        figures = ", ".join(
            f"{n} {1e3 * heartbeat.quantile(q):.1f} ms" for n, q in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        )
        sys.stdout.write(f"event-loop gap at {SHAPE[1]} x {SHAPE[0]}: {figures}; {window.mailbox.counts()}\n")
        window.close()

    window.bridge.session.connect(on_status)
    window.bridge.outcome.connect(on_outcome)
    window.closed.connect(app.quit)
    window.show()
    app.exec()
    return 0


if __name__ == "__main__":
    sys.exit(main())
