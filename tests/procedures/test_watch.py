"""A watch over a long run: it finds what happened, hands on what mends it, and says what nothing mends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from labctl.bench import Bench, Frame
from labctl.errors import CalibrationError
from labctl.optics.detection import expected_tiles
from labctl.optics.fidelity import pearson
from labctl.procedures.calibrations import Calibrate
from labctl.procedures.deployment import Reader, compile_deployment, show_image
from labctl.procedures.exposing import laser_on
from labctl.procedures.messages import Exposure, Log, Measure, Publish, Set, Steps
from labctl.procedures.watch import Drift, Drifted, Gathered, Watch, Watcher, align, watched
from labctl.runs.engine import Engine

sys.path.insert(0, str(Path(__file__).parent))  # pytest's import mode leaves helper modules to be found by ourselves
from drifting_bench import opened

HOUR = 3600.0


def picture(seed: int = 1) -> NDArray[np.float32]:
    dots = (np.random.default_rng(seed).random((90, 120)) > 0.97).astype(np.float32)
    return np.asarray(40 * gaussian_filter(dots, 2.0), np.float32)


@pytest.mark.parametrize(("by", "factor"), [((0.0, 0.0), 1.0), ((0.3, -0.2), 0.9), ((-4.6, 7.3), 1.2)])
def test_a_picture_that_moves_and_dims_is_followed_closely(by: tuple[float, float], factor: float) -> None:
    start = picture()
    noise = 0.02 * np.random.default_rng(2).standard_normal(start.shape)
    now = np.asarray(factor * shift(start, by, order=3) + noise, np.float32)
    found, moved, there = align(start, now)
    assert moved == pytest.approx(by, abs=0.02)
    assert found == pytest.approx(factor, rel=0.01)
    assert np.corrcoef(there[12:-12, 12:-12].ravel(), now[12:-12, 12:-12].ravel())[0, 1] > 0.998


def test_noise_is_no_movement() -> None:
    dice = np.random.default_rng(3)
    dark = [np.abs(dice.standard_normal((60, 60))).astype(np.float32) for _ in range(2)]
    watcher = Watcher(Watch("correct"), Exposure(), None)  # type: ignore[arg-type]
    factor, moved, _ = align(*dark)
    assert watcher.wrong(Drift(0.0, factor**2, moved, 0.9))


class Bright:
    """Any procedure: it asks for frames, some of them ahead, and adds up what they say of themselves."""

    def __init__(self, exposure: Exposure, batches: int, size: int, rest_s: float = 0.0) -> None:
        self.exposure, self.batches, self.size, self.rest_s = exposure, batches, size, rest_s
        self.frames: list[Frame] = []
        self.drifted: list[Drift] = []

    def steps(self) -> Steps[int]:
        for number in range(self.batches):
            try:
                frames = yield Measure([self.exposure] * self.size, "work", ahead=number % 2 == 1)
            except Drifted as error:
                self.drifted.append(error.drift)
                return -1
            self.frames += list(frames)
        return len(self.frames)


class Run:
    """The procedure that the engine runs: one under a watch."""

    name = "watched"

    def __init__(self, inner: Bright, watcher: Watcher) -> None:
        self.inner, self.watcher = inner, watcher

    def exposures(self, facts: Any) -> int:
        return self.inner.batches * self.inner.size

    def steps(self, facts: Any) -> Steps[int]:
        yield from laser_on(facts)  # the end of the run before left the bench safe
        return (yield from watched(self.inner.steps(), self.watcher))


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bench that creeps and whose laser drifts, calibrated."""
    bench = opened(tmp_path_factory.mktemp("bench"), creep_px_per_h=1.0, laser_drift=0.05, camera_shift_px=4)
    records = Engine(bench).run(Calibrate(only=("dark", "registration", "fourier-centre"), strict=True)).records
    bench.with_calibrations({record.kind: record for record in records})
    yield bench
    bench.close()


def shown(bench: Bench) -> tuple[Any, torch.Tensor]:
    """A small deployment and an image."""
    dice = torch.Generator().manual_seed(5)
    kernels, image = torch.randn(1, 1, 3, 3, generator=dice), (torch.rand(16, 16, generator=dice) > 0.6).float()
    return compile_deployment(kernels, bench.facts, image=(16, 16), margin_px=14), image


def test_it_follows_camera_and_laser_over_hours_and_readers_read_on(drifting: Bench) -> None:
    """Camera creep and drift are what the check exposures find; tiles read with what they find stay as they were."""
    deployment, image = shown(drifting)
    drifting.set("camera", "window", deployment.window)
    exposure = Exposure(deployment.pattern, show_image(image, drifting.facts, deployment), 2e-3)
    expected = expected_tiles(image[None, None], deployment.kernels, deployment.detection)
    watcher = Watcher(Watch("correct", every=4), exposure, drifting.facts)
    engine = Engine(drifting)
    inner = Bright(exposure, 2, 4)
    assert engine.run(Run(inner, watcher)) == 8
    reader = Reader(deployment, drifting.facts)
    began = inner.frames[0].started
    first = torch.stack([reader.intensity(frame) for frame in inner.frames[:4]]).mean(0)
    drifting.clock.sleep(4 * HOUR)
    late = Bright(exposure, 1, 4)
    engine.run(Run(late, watcher))
    drift = watcher.latest
    assert drift is not None
    assert drift.seconds - began == pytest.approx(4 * HOUR, rel=0.01)
    assert 0.5 < np.hypot(*drift.moved) < 6
    frame = late.frames[0]
    assert frame.moved == pytest.approx(drift.moved, abs=0.02)
    assert frame.light == drift.light

    def likeness(one: Frame) -> float:
        return float(pearson(reader.intensity(one).clamp(min=0).sqrt()[None], expected).mean())

    mended, raw = likeness(frame), likeness(replace(frame, moved=(0.0, 0.0), light=1.0))
    assert mended > likeness(inner.frames[0]) - 0.01
    assert raw < mended - 0.02
    now = torch.stack([reader.intensity(frame) for frame in late.frames]).mean(0)
    assert float(now.sum() / first.sum()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("policy", ["off", "log"])
def test_frames_are_left_alone_where_nothing_is_to_be_corrected(drifting: Bench, policy: Any) -> None:
    deployment, image = shown(drifting)
    drifting.set("camera", "window", deployment.window)
    exposure = Exposure(deployment.pattern, show_image(image, drifting.facts, deployment), 2e-3)
    watcher = Watcher(Watch(policy, every=2, at_start=2), exposure, drifting.facts)
    inner = Bright(exposure, 3, 2)
    engine = Engine(drifting)
    assert engine.run(Run(inner, watcher)) == 6
    assert {(frame.moved, frame.light) for frame in inner.frames} == {((0.0, 0.0), 1.0)}
    assert engine.snapshot().captured == (6 if policy == "off" else 6 + 2 + 2)
    assert len(watcher.found) == (0 if policy == "off" else 2)


def drive(steps: Steps[Any], pictures: Sequence[NDArray[Any]]) -> tuple[Any, list[str]]:
    """Answer every measurement with the next pictures; what the steps return, and warnings."""
    there, said, answer = list(pictures), [], None
    try:
        while True:
            message = steps.send(answer)
            answer = None
            if isinstance(message, Measure):
                answer = [
                    Frame(there.pop(0) if exposure.tag.get("for") == "watch" else there[0], 0, 0.0, 0.0, 1.0, "", "")
                    for exposure in message.exposures
                ]
            elif isinstance(message, Log) and message.level == "warning":
                said.append(message.text)
            else:
                assert isinstance(message, Publish | Set | Log)
    except StopIteration as stop:
        return stop.value, said


class Facts:
    """As much of a bench as a watch looks at."""

    calibrations: dict[str, Any] = {}
    camera_bitdepth = 12


def counts(scene: NDArray[np.float32], factor: float = 1.0) -> NDArray[np.uint16]:
    return np.clip(np.rint(900 * factor * scene / scene.max()), 0, 4095).astype(np.uint16)


CHANGES = {
    "another picture": (counts(picture(2)), "calibrate again"),
    "moved too far": (counts(np.roll(picture(), 9, axis=0)), "has moved by "),
    "no light": (counts(picture(), 0.0), "the check exposure is dark"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_cannot_be_mended_is_a_warning_or_is_thrown_into_the_procedure(what: str) -> None:
    late, said = CHANGES[what]
    start = counts(picture())
    watch = Watch("correct", every=1, at_start=2, farthest_px=5.0)
    result, warnings = drive(
        watched((inner := Bright(Exposure(), 3, 1)).steps(), Watcher(watch, Exposure(), Facts())),  # type: ignore[arg-type]
        [start, start, late, late, late],
    )
    assert result == 3
    assert said in warnings[0]
    assert warnings[0].endswith("calibrate again")
    assert inner.frames[-1].moved == (0.0, 0.0)  # what is wrong is not handed on
    strict = replace(watch, policy="recalibrate")
    result, warnings = drive(
        watched((inner := Bright(Exposure(), 3, 1)).steps(), Watcher(strict, Exposure(), Facts())),  # type: ignore[arg-type]
        [start, start, late, late, late],
    )
    assert (result, warnings) == (-1, [])
    assert len(inner.drifted) == 1
    assert len(inner.frames) == 1


def test_a_procedure_that_does_not_deal_with_it_ends_with_the_reason() -> None:
    def deaf() -> Steps[None]:
        for _ in range(3):
            yield Measure([Exposure()])

    start = counts(picture())
    watcher = Watcher(Watch("recalibrate", every=1, at_start=1), Exposure(), Facts())  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match=r"watch: the check exposure is dark: calibrate again"):
        drive(watched(deaf(), watcher), [start, counts(picture(), 0.0), start])


def test_failures_of_the_bench_reach_the_procedure() -> None:
    def careful() -> Steps[str]:
        try:
            yield Measure([Exposure()])
        except OSError as error:
            return str(error)
        return ""

    steps = watched(careful(), Watcher(Watch("log", at_start=1), Exposure(), Facts()))  # type: ignore[arg-type]
    next(steps)
    message = steps.send([Frame(counts(picture()), 0, 0.0, 0.0, 1.0, "", "")])
    assert isinstance(message, Measure)
    with pytest.raises(StopIteration, match="cable"):
        steps.throw(OSError("cable"))


def test_what_was_gathered_stays_when_a_capture_is_broken_off() -> None:
    gathered = Gathered()
    gathered.maps += [torch.zeros(3, 1, 2, 2), torch.zeros(2, 1, 2, 2)]
    assert gathered.count == 5
    assert Watch("correct", every=10, at_start=3).frames(100) == 13
    assert Watch().frames(100) == 0
