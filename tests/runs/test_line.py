"""A run on threads of its own: the same results, nothing waited for that hangs, computing while exposures go on."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_fakes import SHAPE, FakeCamera, FakePanel, Pairs, Rig, Script, gray

from labctl.bench.facts import BenchFacts
from labctl.clock import Clock, RealClock, ScaledClock
from labctl.config.schema import RecoverySection
from labctl.devices.contract import RawFrame
from labctl.errors import Aborted, DeviceError, RunError, Stopped
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps
from labctl.runs import events
from labctl.runs.engine import Engine
from labctl.runs.events import State
from labctl.runs.store import RunStore, open_run

PATIENCE_S = 20.0


class OverlappingCamera(FakeCamera):
    """Exposes while it reads out; writes down the order of its calls."""

    overlaps = True

    def __init__(self, clock: Clock, slm: FakePanel, input: FakePanel) -> None:
        super().__init__(clock, slm, input)  # type: ignore[arg-type]
        self.calls: list[str] = []
        self.exposed: deque[RawFrame] = deque()
        self.lost: set[int] = set()
        self.count = 0

    def expose(self, exposure_s: float) -> None:
        self.calls.append(f"expose {self.count}")
        started = self.clock.now()
        self.clock.sleep(exposure_s)
        value = 16 * int(self.slm.shown[0, 0]) + int(self.input.shown[0, 0])
        frame = RawFrame(np.full(SHAPE, value, np.uint16), started, self.clock.now())
        if self.count not in self.lost:
            self.exposed.append(frame)
        self.count += 1

    def read_out(self) -> RawFrame:
        self.calls.append("read out")
        if not self.exposed:
            raise TimeoutError("no frame")
        frame = self.exposed.popleft()
        self.clock.sleep(frame.ended + self.readout_s - self.clock.now())
        return frame

    def grab(self, exposure_s: float) -> RawFrame:
        raise AssertionError("an overlapping camera is not grabbed from")

    def discard(self) -> None:
        self.exposed.clear()


def with_overlap(rig: Rig, *, readout_s: float) -> OverlappingCamera:
    """The rig's bench with such a camera, whose read-out takes longer than the input settles."""
    camera = OverlappingCamera(rig.clock, rig.slm, rig.input)
    camera.readout_s = readout_s
    rig.bench.facts = replace(rig.bench.facts, readout_s=readout_s)
    rig.bench._camera.sensor = camera
    return camera


@pytest.fixture
def real() -> Rig:
    """A bench whose time passes by itself, ten times as fast as on the wall."""
    return Rig(ScaledClock(10.0))  # type: ignore[arg-type]


# -- the same as one thing after another ------------------------------------------------------------------------------


def test_threads_change_nothing_in_the_result(real: Rig, runs_dir: Path) -> None:
    seen: list[int] = []
    engine = Engine(
        real.bench,
        observer=lambda e: seen.append(e.frame.number) if isinstance(e, events.Captured) else None,
        store=RunStore(runs_dir),
    )
    procedure = Pairs(batches=3)
    assert engine.run(procedure).values == procedure.expected()
    assert seen == list(range(18))
    assert [frame.number for frame in open_run(engine.folder).frames(check=True)] == list(range(18))
    assert engine.snapshot().captured == engine.snapshot().saved == 18


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("readout_s", [1e-3, 0.05])
def test_an_overlapping_camera_pairs_rightly(rig: Rig, real: Rig, threads: bool, readout_s: float) -> None:
    one = real if threads else rig
    camera = with_overlap(one, readout_s=readout_s)
    procedure = Pairs(batches=3)
    assert Engine(one.bench).run(procedure).values == procedure.expected()
    overlapped = [a for a, b in zip(camera.calls, camera.calls[1:], strict=False) if a[:3] == b[:3] == "exp"]
    assert bool(overlapped) == (readout_s > 0.01)  # else there is time to read out while the patterns settle


def test_the_next_pattern_is_shown_while_a_frame_is_read_out(rig: Rig) -> None:
    camera = with_overlap(rig, readout_s=0.05)
    order: list[str] = camera.calls
    rig.input.before_show = lambda: order.append("show")
    Engine(rig.bench).run(Pairs(((1, 1), (1, 2), (1, 3))))
    assert order == [
        "show", "expose 0", "show", "expose 1", "show", "read out", "expose 2", "read out", "read out",
    ]  # fmt: skip


@pytest.mark.parametrize("lost", [{0}, {2}, {3, 4}, {17}])
def test_a_lost_frame_is_never_taken_for_another(rig: Rig, lost: set[int]) -> None:
    camera = with_overlap(rig, readout_s=0.05)
    camera.lost = lost
    procedure = Pairs(batches=3)
    engine = Engine(rig.bench)
    assert engine.run(procedure).values == procedure.expected()
    assert engine.snapshot().repeated >= len(lost)


# -- ahead ------------------------------------------------------------------------------------------------------------


def test_exposures_go_on_while_the_procedure_computes(real: Rig) -> None:
    reached = threading.Event()
    real.camera.before_grab = lambda number: reached.set() if number == 5 else None

    def body(_: BenchFacts) -> Steps[list[int]]:
        first = yield Measure([Exposure(gray(1), gray(i)) for i in range(1, 4)], ahead=True)
        second = yield Measure([Exposure(gray(2), gray(i)) for i in range(1, 4)], ahead=True)
        values = [int(frame.data[0, 0]) for frame in first]
        assert reached.wait(PATIENCE_S)  # computing: the exposures of the second batch go on all the same
        return values + [int(frame.data[0, 0]) for frame in second]

    assert Engine(real.bench).run(Script(body)) == [17, 18, 19, 33, 34, 35]


@pytest.mark.parametrize("threads", [False, True])
def test_frames_nobody_looked_at_are_taken_and_saved(rig: Rig, real: Rig, threads: bool, runs_dir: Path) -> None:
    def body(_: BenchFacts) -> Steps[str]:
        yield Measure([Exposure(gray(1), gray(i)) for i in range(1, 8)], ahead=True)
        return "done"

    engine = Engine((real if threads else rig).bench, store=RunStore(runs_dir))
    assert engine.run(Script(body)) == "done"
    assert open_run(engine.folder).frame_count == 7


@pytest.mark.parametrize("threads", [False, True])
def test_what_fails_ahead_is_raised_where_a_frame_is_looked_at(rig: Rig, real: Rig, threads: bool) -> None:
    one = real if threads else rig

    def fail(number: int) -> None:
        if number >= 2 and not healed:
            raise OSError("cable pulled")

    healed: list[bool] = []
    one.camera.before_grab = fail
    caught: list[str] = []

    def body(_: BenchFacts) -> Steps[list[int]]:
        first: Any = ()
        second: Any = ()
        try:
            first = yield Measure([Exposure(gray(1), gray(i)) for i in range(1, 5)], ahead=True)
            second = yield Measure([Exposure(gray(2), gray(2))], ahead=True)
            [frame.data for frame in first]
        except DeviceError as error:
            caught.append(str(error))
        for frames in (first, second):
            with pytest.raises((DeviceError, IndexError)):
                frames[len(frames) - 1]
        healed.append(True)
        again = yield Measure([Exposure(gray(3), gray(3))])
        return [int(frame.data[0, 0]) for frame in again]

    assert Engine(one.bench).run(Script(body)) == [51]
    assert caught == ["camera: OSError: cable pulled (tried 3 times)"]


def test_settings_wait_for_the_exposures_before_them(real: Rig) -> None:
    powers: list[float] = []
    real.camera.before_grab = lambda _: powers.append(real.laser.settings["power"])

    def body(_: BenchFacts) -> Steps[None]:
        for power in (0.25, 0.5):
            yield Set("laser", "power", power)
            yield Measure([Exposure(gray(1), gray(i)) for i in range(1, 4)], ahead=True)

    Engine(real.bench).run(Script(body))
    assert powers == [0.25] * 3 + [0.5] * 3


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["camera", "slm", "laser"])
def test_an_abort_does_not_wait_for_a_device_that_hangs(real: Rig, where: str) -> None:
    hangs, release = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        if armed:
            armed.clear()
            hangs.set()
            assert release.wait(PATIENCE_S)

    armed: list[bool] = [True]
    plain_set = real.laser.set
    if where == "laser":
        real.laser.set = lambda s, v: (hang(), plain_set(s, v))  # type: ignore[method-assign]
    real.camera.before_grab = hang if where == "camera" else lambda _: None
    real.slm.before_show = hang if where == "slm" else lambda: None

    def body(_: BenchFacts) -> Steps[None]:
        yield Set("laser", "power", 1.0)
        yield Measure([Exposure(gray(1), gray(1))])

    engine = Engine(real.bench)
    other = threading.Thread(target=lambda: (hangs.wait(PATIENCE_S), engine.abort()))
    other.start()
    try:
        with pytest.raises(Aborted):
            engine.run(Script(body, 1))
        assert not release.is_set()  # it hangs still, and the rest of the bench is safe
        assert where == "laser" or real.laser.safe >= 1
        assert where == "slm" or not real.slm.shown.any()
        assert engine.snapshot().state is State.IDLE
    finally:
        release.set()
        other.join()
    for thread in [t for t in threading.enumerate() if t.name == "labctl-hardware"]:
        thread.join(PATIENCE_S)
    assert engine.run(Pairs()).values == Pairs().expected()


def test_a_hang_ends_the_run_when_patience_is_over(real: Rig, runs_dir: Path) -> None:
    release = threading.Event()
    real.bench.recovery = RecoverySection(hang_s=0.05)
    real.bench._timeout_s = 0.05
    real.camera.before_grab = lambda number: release.wait(PATIENCE_S) if number == 1 else None
    engine = Engine(real.bench, store=RunStore(runs_dir))
    try:
        with pytest.raises(DeviceError, match=r"^camera: does not answer: check its cable") as caught:
            engine.run(Pairs())
        assert caught.value.device == "camera"
        assert real.laser.safe >= 1
        assert open_run(engine.folder).outcome == "failed"
        assert open_run(engine.folder).frame_count == 1
        with pytest.raises(DeviceError, match="still hangs in an earlier call"):
            engine.run(Pairs())
    finally:
        release.set()
    for thread in [t for t in threading.enumerate() if t.name == "labctl-hardware"]:
        thread.join(PATIENCE_S)
    assert engine.run(Pairs()).values == Pairs().expected()


@pytest.mark.parametrize("ending", ["resume", "stop", "abort"])
def test_a_pause_between_two_exposures(real: Rig, runs_dir: Path, ending: str) -> None:
    paused = threading.Event()

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StateChanged) and event.state is State.PAUSED:
            counts.append(real.camera.grabs)
            paused.set()

    def other() -> None:
        assert paused.wait(PATIENCE_S)
        counts.append(real.camera.grabs)  # none was taken meanwhile
        getattr(engine, ending)()

    counts: list[int] = []
    engine = Engine(real.bench, observer=watch, store=RunStore(runs_dir))
    real.camera.before_grab = lambda number: engine.pause() if number == 3 else None
    thread = threading.Thread(target=other)
    thread.start()
    procedure = Pairs(batches=2)
    if ending == "resume":
        assert engine.run(procedure).values == procedure.expected()
        assert [frame.number for frame in open_run(engine.folder).frames()] == list(range(12))
    else:
        with pytest.raises(Stopped if ending == "stop" else Aborted):
            engine.run(procedure)
        assert open_run(engine.folder).frame_count == 4
    thread.join()
    assert counts == [4, 4]


def test_a_stop_keeps_the_frame_that_was_being_read_out(real: Rig, runs_dir: Path) -> None:
    camera = with_overlap(real, readout_s=0.05)
    plain = camera.expose

    def expose(exposure_s: float) -> None:
        plain(exposure_s)
        if camera.count == 4:
            engine.stop()

    camera.expose = expose  # type: ignore[method-assign]
    engine = Engine(real.bench, store=RunStore(runs_dir))
    with pytest.raises(Stopped):
        engine.run(Pairs(batches=2))
    assert [frame.number for frame in open_run(engine.folder).frames()] == [0, 1, 2, 3]


def test_a_disk_that_fails_ends_the_run_and_loses_nothing_before(real: Rig, runs_dir: Path, monkeypatch: Any) -> None:
    from labctl.runs.store import RunFolder

    plain = RunFolder.write_frame

    def write(self: RunFolder, frame: Any, *rest: Any, **more: Any) -> None:
        if frame.number == 4:
            raise RunError("the disk is full")
        plain(self, frame, *rest, **more)

    monkeypatch.setattr(RunFolder, "write_frame", write)
    engine = Engine(real.bench, store=RunStore(runs_dir))
    with pytest.raises(RunError, match="the disk is full"):
        engine.run(Pairs(batches=2))
    assert real.is_safe
    assert open_run(engine.folder).outcome == "failed"
    assert [frame.number for frame in open_run(engine.folder).frames(check=True)] == [0, 1, 2, 3]
    monkeypatch.undo()
    assert engine.run(Pairs()).values == Pairs().expected()


def test_no_thread_is_left(real: Rig) -> None:
    Engine(real.bench).run(Script(lambda _: iter_publish(), 0))
    Engine(real.bench).run(Pairs())
    assert not [t for t in threading.enumerate() if t.name.startswith("labctl-")]


def iter_publish() -> Steps[None]:
    yield Publish("nothing", 0)


def test_a_real_clock_is_a_clock_that_passes_by_itself() -> None:
    rig = Rig(RealClock())  # type: ignore[arg-type]
    assert Engine(rig.bench).run(Pairs(((1, 1), (1, 2)))).values == [17, 18]
