"""How near a run comes to the rate that settling, exposure and read-out allow.

    python tests/benchmarks/acquisition.py            (without a window)
    python tests/benchmarks/acquisition.py --gui      (run from labctl's window, frames shown; Xvfb will do)

The devices take their time in reality and give canned frames (212 x 704 pixels, 16 bit). Two benches: *slow* (SLM
settles in 100 ms, input in 5 ms, exposure 5 ms, read-out 10 ms) and *fast* (1 ms, 0.1 ms, 1 ms, 2 ms). The possible
time is that of the same exposures, in the engine's order, on devices that nothing and nobody holds up: a pattern is
sent when the exposure before it has ended, an exposure begins when both patterns have settled and ends no earlier than
the sensor has been read out. Frames are saved as ever; the procedure asks ahead and computes on every frame.

Prints one line for each bench and workload: possible and achieved frames per second, their ratio, and what a bare loop
over the same devices achieves of the possible rate just before: a machine that wakes sleepers late costs both the same.
Bars: 97 % on the slow bench, 90 % on the fast one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from labctl.bench.bench import Bench  # noqa: E402
from labctl.bench.facts import BenchFacts  # noqa: E402
from labctl.clock import RealClock  # noqa: E402
from labctl.devices.contract import RawFrame  # noqa: E402
from labctl.optics.geometry import Geometry, Plane  # noqa: E402
from labctl.procedures.messages import Exposure, Measure, Publish, Steps  # noqa: E402
from labctl.runs import events  # noqa: E402
from labctl.runs.engine import Engine  # noqa: E402
from labctl.runs.ordering import Shown, plan  # noqa: E402
from labctl.runs.store import RunStore  # noqa: E402

SLM, INPUT, FRAME = (1024, 1024), (256, 256), (212, 704)
BATCH = 25


@dataclass(frozen=True)
class Times:
    """What the devices take, s."""

    slm: float
    input: float
    exposure: float
    readout: float


BENCHES = {"slow": Times(0.1, 0.005, 0.005, 0.010), "fast": Times(1e-3, 1e-4, 1e-3, 2e-3)}


class Panel:
    """Takes a pattern at once; settling is the bench's to wait for."""

    def __init__(self, name: str, shape: tuple[int, int]) -> None:
        self.name, self.shape, self.pitch, self.levels = name, shape, (8e-6, 8e-6), 256

    def show(self, gray: np.ndarray) -> None:
        """Take it."""

    def blank(self) -> None:
        """Take nothing."""

    def close(self) -> None:
        """Nothing to release."""


class Camera:
    """Exposes and reads out in real time; the frames are canned."""

    def __init__(self, times: Times, clock: RealClock) -> None:
        self.name, self.shape, self.pitch, self.bitdepth = "camera", FRAME, (5.5e-6, 5.5e-6), 12
        self.readout_s, self.overlaps = times.readout, True
        self.clock, self.free_at = clock, 0.0
        self.exposed: deque[tuple[float, float]] = deque()
        self.canned = np.random.default_rng(0).integers(0, 4096, (8, *FRAME), dtype=np.uint16)

    def set_window(self, window: Any) -> tuple[int, int, int, int]:
        """Always the same."""
        return (0, FRAME[0], 0, FRAME[1])

    def expose(self, exposure_s: float) -> None:
        """Ends no earlier than the sensor is free."""
        self.clock.sleep(self.free_at - exposure_s - self.clock.now())
        started = self.clock.now()
        self.clock.sleep(exposure_s)
        ended = self.clock.now()
        self.free_at = ended + self.readout_s
        self.exposed.append((started, ended))

    def read_out(self) -> RawFrame:
        """When it has left the sensor."""
        started, ended = self.exposed.popleft()
        self.clock.sleep(ended + self.readout_s - self.clock.now())
        return RawFrame(self.canned[int(started * 1e3) % 8].copy(), started, ended)

    def grab(self, exposure_s: float) -> RawFrame:
        """Both."""
        self.expose(exposure_s)
        return self.read_out()

    def discard(self) -> None:
        """Forget."""
        self.exposed.clear()

    def close(self) -> None:
        """Nothing to release."""


def make_bench(times: Times) -> Bench:
    """A bench of such devices."""
    clock = RealClock()
    geometry = Geometry(
        638e-9, 0.1, 0.1, Plane(SLM, (8e-6, 8e-6)), Plane(INPUT, (8e-6, 8e-6)), Plane(FRAME, (5e-6, 5e-6))
    )
    facts = BenchFacts(
        name="canned", geometry=geometry, slm_levels=256, input_levels=256, camera_bitdepth=12,
        exposure_s=times.exposure, slm_settle_s=times.slm, input_settle_s=times.input, readout_s=times.readout,
    )  # fmt: skip
    return Bench(facts, slm=Panel("slm", SLM), input=Panel("input", INPUT), camera=Camera(times, clock), clock=clock)


@dataclass(frozen=True)
class Images:
    """Every image with every mask, asked ahead in batches, and a little computing on every frame."""

    images: int
    masks: int = 1
    name: str = "images"

    def exposures(self, facts: BenchFacts) -> int:
        """All of them."""
        return self.images * self.masks

    def batches(self) -> list[list[Exposure]]:
        """What is asked, in batches."""
        dice = np.random.default_rng(1)
        masks = [dice.integers(0, 256, SLM, dtype=np.uint8) for _ in range(self.masks)]
        pictures = [dice.integers(0, 256, INPUT, dtype=np.uint8) for _ in range(40)]
        asked = [Exposure(mask, pictures[i % 40], tag={"image": i}) for mask in masks for i in range(self.images)]
        return [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]

    def steps(self, facts: BenchFacts) -> Steps[float]:
        """The procedure."""
        total, before = 0.0, None
        for batch in self.batches():
            frames = yield Measure(batch, "images", ahead=True)
            total += self.compute(before or ())
            yield Publish("sum", total)
            before = frames
        return total + self.compute(before or ())

    def compute(self, frames: Sequence[Any]) -> float:
        """Some work on each frame."""
        return sum(float(np.sqrt(frame.data.astype(np.float32)).sum()) for frame in frames)


def possible_s(procedure: Images, times: Times) -> float:
    """The least time for these exposures in the engine's order, s."""
    now = settled = free = 0.0
    shown, slm, image = Shown(), "", ""
    for batch in procedure.batches():
        for item in plan(batch, shown):
            shown = item.shown
            if shown.slm_token != slm:
                settled = max(settled, now + times.slm)
            if shown.input_token != image:
                settled = max(settled, now + times.input)
            slm, image = shown.slm_token, shown.input_token
            now = max(max(settled, now) + times.exposure, free)
            free = now + times.readout
    return free


def bare_s(procedure: Images, times: Times) -> float:
    """What these exposures take in a loop that does nothing else: no engine, no disk, no computing, s."""
    clock = RealClock()
    camera = Camera(times, clock)
    shown, slm, image, settled, batches = Shown(), "", "", 0.0, []
    for batch in procedure.batches():
        batches += plan(batch, shown)
        shown = batches[-1].shown
    began = clock.now()
    for item in batches:
        now = clock.now()
        if item.shown.slm_token != slm:
            settled = max(settled, now + times.slm)
        if item.shown.input_token != image:
            settled = max(settled, now + times.input)
        slm, image = item.shown.slm_token, item.shown.input_token
        if len(camera.exposed) > 1:
            camera.read_out()
        clock.sleep(settled - clock.now())
        camera.expose(times.exposure)
    while camera.exposed:
        camera.read_out()
    return clock.now() - began


def measure(bench: Bench, procedure: Images, folder: Path, observe: Callable[[events.Event], None]) -> float:
    """Seconds from the first exposure's beginning to the last frame's arrival in the procedure's hands."""
    marks: list[float] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.Captured):
            marks.append(event.frame.shown_input)
            marks.append(time.perf_counter())
        observe(event)

    Engine(bench, observer=watch, store=RunStore(folder)).run(procedure)
    return max(marks) - min(marks)


def report(name: str, procedure: Images, took: float, bare: float) -> None:
    """One line."""
    count, least = procedure.images * procedure.masks, possible_s(procedure, BENCHES[name])
    sys.stdout.write(
        f"{name:5} {procedure.masks:3} masks x {procedure.images:5} images: possible {count / least:7.1f} /s, "
        f"achieved {count / took:7.1f} /s, {100 * least / took:5.1f} % (a bare loop {100 * least / bare:5.1f} %)\n"
    )
    sys.stdout.flush()


def workloads(name: str, seconds: float) -> list[Images]:
    """One mask with many images, and several masks."""
    times = BENCHES[name]
    frames = int(seconds / max(times.input + times.exposure, times.readout))
    return [Images(frames), Images(max(frames // 8, 25), 4)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run, about")
    parser.add_argument("--bench", choices=list(BENCHES), action="append")
    parser.add_argument("--gui", action="store_true", help="in the window, with the frames shown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.bench or list(BENCHES):
            for procedure in workloads(name, arguments.seconds):
                bare = bare_s(procedure, BENCHES[name])
                if arguments.gui:
                    took = in_window(name, procedure, Path(folder))
                else:
                    bench = make_bench(BENCHES[name])
                    took = measure(bench, procedure, Path(folder), lambda event: None)
                    bench.close()
                report(name, procedure, took, bare)


@dataclass
class Job:
    """The run, as the window starts it."""

    name: str
    procedure: Images
    folder: Path
    title: str = "images"
    took: float = 0.0

    def __call__(self, bench: Bench, hooks: Any) -> Any:
        from labctl.gui.status import Outcome

        self.took = measure(bench, self.procedure, self.folder, hooks.observe)
        return Outcome(self.title, "done")


@dataclass
class Workplace:
    """What the window asks for: this bench and this job."""

    job: Job
    where: str = "a benchmark"

    def benches(self) -> list[str]:
        """One."""
        return ["canned"]

    def models(self) -> list[str]:
        """One, by name."""
        return ["none"]

    def open(self, name: str) -> Bench:
        """The canned bench."""
        return make_bench(BENCHES[self.job.name])

    def demo(self, bench: str, model: str, images: int) -> Job:
        """The job."""
        return self.job

    def calibration(self) -> Job:
        """The job."""
        return self.job


def in_window(name: str, procedure: Images, folder: Path) -> float:
    """The same, started by labctl's window."""
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from labctl.gui.settings import Settings
    from labctl.gui.status import Phase, Status
    from labctl.gui.window import MainWindow

    app = QApplication.instance() or QApplication(["labctl"])
    job = Job(name, procedure, folder)
    window = MainWindow(Workplace(job), Settings(bench="canned"))
    window.resize(1600, 1000)
    started: list[bool] = []

    def on_status(status: Status) -> None:
        if status.phase is Phase.IDLE and not started:
            started.append(True)
            QTimer.singleShot(2000, window.on_start)  # the window has been built by then

    window.bridge.session.connect(on_status)
    window.bridge.outcome.connect(lambda _: window.close())
    window.closed.connect(app.quit)
    window.show()
    app.exec()
    return job.took


if __name__ == "__main__":
    main()
