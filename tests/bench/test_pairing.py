"""Frames belong to the patterns that made them: by when they were exposed, never by when they arrived.

The bench, the camera's adapter and the simulated camera's timing are the real ones. Light is not rendered: the world
here gives frames that carry the numbers of the patterns really shown during the exposure, and whether these stood
still. So a million exposures take minutes, and every wrong pair is seen.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from labctl.bench import Bench, BenchFacts, Frame, token
from labctl.bench.proof import Proof
from labctl.bench.taking import Shot, Taker
from labctl.clock import DrivenClock
from labctl.config.schema import RecoverySection
from labctl.devices.adapter import SlmsuiteSensor
from labctl.devices.faults import Fault, FaultPlan, Rehearsal
from labctl.errors import DeviceError
from labctl.optics.geometry import Geometry, Plane
from labctl.procedures.messages import Exposure
from labctl.simulation.devices import SimulatedCamera
from labctl.simulation.history import History

SHAPE = (2, 6)
MOVED = 1 << 15
MIXED = 0.2
SIZE = 64
"""Codes of the proof here; marks of the SLM are numbers modulo 4."""
EXPOSURES = 10_000
MANY = 1_000_000
SHARDS = 10


class NamedLight:
    """A world whose frames say which patterns were shown: [SLM, input, mark, code, moved, mixed], in two rows.

    Moved: not all of the exposure was of these patterns, settled. Mixed: a fifth or more was not; then mark and code
    cannot be read, as dots that are neither on nor off.
    """

    def __init__(self, clock: DrivenClock, settle_s: tuple[float, float]) -> None:
        self.clock = clock
        self._settle_s = settle_s
        self.slm: History[np.ndarray] = History(np.zeros(SHAPE, np.uint8))
        self.input: History[np.ndarray] = History(np.zeros(SHAPE, np.uint8))

    def show_slm(self, gray: np.ndarray, *, latency_s: float = 0.0) -> None:
        self.slm.change(gray.copy(), self.clock.now() + latency_s)

    def show_input(self, gray: np.ndarray, *, latency_s: float = 0.0) -> None:
        self.input.change(gray.copy(), self.clock.now() + latency_s)

    def expose(
        self, exposure_s: float, window: Any = None, *, start: float | None = None, number: int | None = None
    ) -> np.ndarray:
        if start is None:
            start = self.clock.now()
            self.clock.sleep(exposure_s)
        middle = start + exposure_s / 2
        frame = np.zeros(SHAPE, np.uint16)
        for place, (history, settle_s) in enumerate(zip((self.slm, self.input), self._settle_s, strict=True)):
            shown = history.at(middle)
            frame[:, place] = number_in(shown.state)
            frame[:, 2 + place] = shown.state[1, 0]
            end = start + exposure_s
            # a change in the same nanosecond as an edge of the exposure is rounding
            before = shown.since + settle_s - start
            after = max((end - change for change in history.changes(middle, end)), default=0.0)
            if max(before, after) > 1e-9:
                frame[:, 4] = MOVED
            if max(before, 0.0) + after >= MIXED * exposure_s:
                frame[:, 5] = MOVED
                frame[:, 2:4] = 0
        return frame


def pattern(number: int) -> np.ndarray:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[0, :3] = number & 255, number >> 8 & 255, number >> 16
    return drawn


def number_in(gray: np.ndarray) -> int:
    """Modulo 2 ** 16, which is more patterns than can be in flight."""
    return int(gray[0, 0]) | int(gray[0, 1]) << 8


@dataclass
class NamedPanel:
    """A panel that changes up to `latency_s` after it was told to, or `late_s` later still; it may say when."""

    show_in_world: Callable[..., None]
    latency_s: float
    rng: np.random.Generator
    clock: DrivenClock
    tells: bool = False
    shown_at: float = -math.inf
    late_rate: float = 0.0
    late_s: float = 0.0
    name: str = "panel"
    shape: tuple[int, int] = SHAPE
    pitch: tuple[float, float] = (1e-5, 1e-5)
    levels: int = 256

    def show(self, gray: np.ndarray) -> None:
        late = self.late_rate and self.rng.random() < self.late_rate
        delay_s = self.latency_s * self.rng.random() + (self.late_s if late else 0.0)
        if self.tells:
            self.shown_at = max(self.shown_at, self.clock.now() + delay_s)
        self.show_in_world(gray, latency_s=delay_s)

    def blank(self) -> None:
        self.show(np.zeros(SHAPE, np.uint8))

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Scenario:
    """What a bench is like. Times in ms; a camera without timestamps that is triggered by hardware is refused."""

    trigger: str
    timestamps: bool
    exposure: float
    readout: float
    period: float
    jitter: float
    latency: float
    in_flight: int
    slm_settle: float
    input_settle: float
    faults: dict[str, float] = field(default_factory=dict)
    late_rate: float = 0.0
    tells: bool = False

    @staticmethod
    def draw(rng: np.random.Generator) -> Scenario:
        trigger, timestamps = [
            ("software", True), ("software", False), ("hardware", True), ("free-run", True), ("free-run", True),
            ("free-run", False),
        ][rng.integers(6)]  # fmt: skip
        exposure = float(rng.uniform(0.1, 8))
        readout = float(rng.uniform(0.1, 8))
        faults = {name: float(rng.choice([0, 0, 0.01, 0.1])) for name in ("dropped", "duplicated", "stale")}
        return Scenario(
            trigger, timestamps, exposure, readout, float(rng.choice([0, 0, 2, 12])), float(rng.choice([0, 0.05, 2])),
            float(rng.choice([0, 0.3, 4])), int(rng.integers(1, 9)), float(rng.uniform(0.5, 30)),
            float(rng.choice([0.0, 0.2, 5.0])), {name: rate for name, rate in faults.items() if rate},
        )  # fmt: skip


class Rig:
    """The real bench in front of `NamedLight`."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self.scenario, self.rng = scenario, rng
        self.clock = DrivenClock(float(rng.uniform(0, 1e4)))
        settle_s = (scenario.slm_settle / 1e3, scenario.input_settle / 1e3)
        # what a panel declares is its latency and its settling; the light knows of each for itself
        latency_s = [s * float(rng.uniform(0, 1)) for s in settle_s]
        self.world = NamedLight(self.clock, (settle_s[0] - latency_s[0], settle_s[1] - latency_s[1]))
        late_s = 3 * scenario.slm_settle / 1e3 + 0.05
        panels = [
            NamedPanel(show, delay, rng, self.clock, scenario.tells, late_rate=scenario.late_rate, late_s=late_s)
            for show, delay in zip((self.world.show_slm, self.world.show_input), latency_s, strict=True)
        ]
        camera = SimulatedCamera(
            self.world,  # type: ignore[arg-type]
            resolution=(SHAPE[1], SHAPE[0]), pitch_um=5.0, bitdepth=16, readout_ms=scenario.readout,
            latency_ms=scenario.latency, trigger=scenario.trigger, frame_period_ms=scenario.period or None,
            in_flight=scenario.in_flight, jitter_ms=scenario.jitter, timestamps=scenario.timestamps,
        )  # fmt: skip
        sensor: Any = SlmsuiteSensor(camera, clock=self.clock, trigger=scenario.trigger, timeout_s=2.0)
        faults = tuple(Fault(device="camera", fault=name, rate=rate) for name, rate in scenario.faults.items())  # type: ignore[arg-type]
        if faults:
            sensor = Rehearsal(FaultPlan(plan=faults), self.clock, rng).inject(sensor, "camera")
        plane = Plane(SHAPE, (1e-5, 1e-5))
        facts = BenchFacts(
            "named", Geometry(5e-7, 0.1, 0.1, plane, plane, plane), 256, 256, 16, scenario.exposure / 1e3,
            *settle_s, scenario.readout / 1e3,
        )  # fmt: skip
        self.bench = Bench(
            facts, slm=panels[0], input=panels[1], camera=sensor, clock=self.clock,
            recovery=RecoverySection(mismatches=200),
        )  # fmt: skip
        self.sensor, self.failed, self.judged = sensor, 0, 0

    def wrong(self, frame: Frame, slm: int, image: int, *, proven: bool = False) -> bool:
        """Whether the light came by way of other patterns; a proof sees what is mixed, but not the last per cent."""
        self.judged += 1
        said = frame.data[0]
        return bool(said[5 if proven else 4]) or (int(said[0]), int(said[1])) != (slm & 0xFFFF, image & 0xFFFF)

    def exposures(self, count: int) -> Iterator[tuple[int, int, float]]:
        """SLM and input pattern numbers, and exposure time: now the one changes, now the other, both, or neither."""
        slm = image = 1
        exposure_s = self.scenario.exposure / 1e3
        chances = self.rng.random((count, 4))
        for chance in chances:
            slm += bool(chance[0] < 0.2)
            image += bool(chance[1] < 0.8)
            if chance[2] < 0.01:
                exposure_s = self.scenario.exposure / 1e3 * float(self.rng.uniform(0.3, 3))
            if chance[3] < 0.3:  # the procedure computes, now short now long
                self.clock.sleep(float(self.rng.exponential(5e-3)))
            yield slm, image, exposure_s

    def take(self, slm: np.ndarray, image: np.ndarray, exposure_s: float) -> Frame:
        """One frame, asked for again when the camera fails, as a run would."""
        for attempt in range(50):
            try:
                self.bench.show(slm=slm, input=image)
                return self.bench.capture(exposure_s)
            except DeviceError:
                self.failed += 1
                last = attempt
        raise AssertionError(f"no frame in {last + 1} attempts: {self.scenario}")

    def one_by_one(self, count: int) -> int:
        """Wrong pairs among so many exposures."""
        return sum(
            self.wrong(self.take(pattern(slm), pattern(image), t), slm, image)
            for slm, image, t in self.exposures(count)
        )

    def overlapping(self, count: int) -> int:
        """The same where patterns for the next exposure are shown, and it is begun, before a frame is read out."""
        wrong, waiting = 0, None
        for slm, image, t in self.exposures(count):
            try:
                self.bench.show(slm=pattern(slm), input=pattern(image))
                taking = self.bench.begin(t)
                if waiting is not None:
                    done, waiting = waiting, (taking, slm, image)
                    wrong += self.wrong(self.bench.finish(done[0]), *done[1:])
                else:
                    waiting = (taking, slm, image)
            except DeviceError:  # a run would repeat both
                self.failed += 1
                waiting = None
                self.bench.discard()
        self.bench.discard()
        return wrong

    def as_a_run_does(self, count: int, proof: Proof | None = None) -> tuple[int, Taker]:
        """The same by what a run takes its exposures with: overlapping where it can, and trying again what failed."""
        taken = Taken(self)
        taker = Taker(self.bench, taken, proof)
        for slm, image, t in self.exposures(count):
            asked = Exposure(pattern(slm), pattern(image), t)
            assert asked.slm is not None
            assert asked.input is not None
            shot = Shot(asked, (token(asked.slm), token(asked.input)), (slm, image), last=bool(self.rng.random() < 0.1))
            try:
                taker.take(shot)
            except DeviceError:  # not within its limits
                self.failed += 1
                taker.drop()
        return taken.wrong, taker

    @property
    def injected(self) -> int:
        return len(getattr(self.sensor, "injected", ()))


@dataclass
class Taken:
    """Judges the frames that a `Taker` takes."""

    rig: Rig
    wrong: int = 0

    def gate(self, before_waiting: Callable[[], None]) -> None:
        """Goes on."""

    def took(self, shot: Shot, frame: Frame) -> None:
        self.wrong += self.rig.wrong(frame, *shot.place, proven=shot.code >= 0)

    def trouble(self, error: DeviceError, what: str) -> None:
        """Expected."""

    def recovered(self) -> None:
        """Expected."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Failures that are asked for would fill the log."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def drive(seed: int, count: int, each: int = 250) -> tuple[int, int, int, dict[str, int]]:
    """Wrong pairs, frames, faults, and frames by kind, over benches drawn by chance."""
    wrong = done = faults = number = 0
    kinds: dict[str, int] = {}
    while done < count:
        rng = np.random.default_rng([seed, number])
        number += 1
        rig = Rig(Scenario.draw(rng), rng)
        together = rig.bench.overlaps and rng.random() < 0.5
        if rng.random() < 0.4:
            way, found = "as a run", rig.as_a_run_does(each)[0]
        elif together:
            way, found = "overlapping", rig.overlapping(each)
        else:
            way, found = "one by one", rig.one_by_one(each)
        assert not found, f"{found} wrong pairs: {rig.scenario}, seed {seed}, {number - 1}"
        wrong, done, faults = wrong + found, done + rig.judged, faults + rig.injected
        timing = "" if rig.scenario.timestamps else ", untimed"
        kind = f"{rig.scenario.trigger}{timing}, {way}"
        kinds[kind] = kinds.get(kind, 0) + rig.judged
    return wrong, done, faults, kinds


def test_the_light_tells_right_from_wrong() -> None:
    """The double is worth something only if it sees what a hasty bench would do."""
    rng = np.random.default_rng(0)
    rig = Rig(Scenario("free-run", True, 2.0, 3.0, 0.0, 0.0, 4.0, 6, 20.0, 5.0), rng)
    driver = rig.sensor.driver
    hasty = 0
    for n in range(1, 200):
        rig.bench.show(slm=pattern(n // 5 + 1), input=pattern(n))
        data = driver.get_image()
        hasty += rig.wrong(Frame(data, 0, 0, 0, 0, "", ""), n // 5 + 1, n)
        rig.clock.sleep(0.02)
    assert hasty > 150
    assert rig.one_by_one(200) == 0


def test_no_wrong_pair_in_ten_thousand_exposures() -> None:
    wrong, done, faults, kinds = drive(seed=1, count=EXPOSURES)
    assert wrong == 0
    assert done >= EXPOSURES
    assert faults > 100
    assert {kind.rpartition(", ")[0] for kind in kinds} >= {"software", "free-run", "free-run, untimed"}
    assert {kind.rpartition(", ")[2] for kind in kinds} == {"as a run", "one by one", "overlapping"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_wrong_pair_in_a_million_exposures(shard: int, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, done, faults, kinds = drive(seed=100 + shard, count=MANY // SHARDS)
    with capsys.disabled():
        sys.stdout.write(f"\nshard {shard}: {wrong} wrong pairs in {done} frames ({faults} faults): {kinds}\n")
    assert wrong == 0
    assert done >= MANY // SHARDS


def test_a_panel_that_says_when_it_swapped_may_be_late() -> None:
    """As the display driver does: its time counts, and settling begins then."""
    judged = 0
    for number in range(20):
        rng = np.random.default_rng([9, number])
        rig = Rig(replace(Scenario.draw(rng), late_rate=0.2, tells=True), rng)
        assert rig.one_by_one(50) == 0
        assert rig.as_a_run_does(50)[0] == 0
        judged += rig.judged
    assert judged > 1900


class NamedProof:
    """Reads code and mark from where the light carries them; knows nothing of the numbers."""

    size = SIZE
    window = (0, 1, 0, 6)

    def __init__(self) -> None:
        self._marks: dict[str, int] = {}
        self._last: tuple[bytes, int] = (b"", 0)

    def stamp(self, slm: Any, input: Any, code: int) -> tuple[Any, Any]:
        if slm.tobytes() != self._last[0]:
            self._last = (slm.tobytes(), (self._last[1] + 1) % 4)
        given = token(slm)
        slm, input = slm.copy(), input.copy()
        slm[1, 0], input[1, 0] = self._last[1] + 1, code + 1  # a blank panel shows neither
        self._marks[given] = self._marks[token(slm)] = self._last[1] + 1
        return slm, input

    def agrees(self, frame: Frame, code: int) -> bool:
        return int(frame.data[0, 3]) == code + 1 and int(frame.data[0, 2]) == self._marks[frame.slm]


def test_with_late_swaps_only_a_proof_keeps_wrong_pairs_out() -> None:
    """A panel that takes effect after its settle time deceives the clock; no frame that the proof accepts is wrong."""
    proof = NamedProof()
    assert isinstance(proof, Proof)
    accepted = refused = deceived = 0
    for number in range(20):
        rng = np.random.default_rng([7, number])
        rig = Rig(replace(Scenario.draw(rng), late_rate=0.05), rng)
        for n, (slm, image, t) in enumerate(rig.exposures(200)):
            drawn = proof.stamp(pattern(slm), pattern(image), n % SIZE)
            for _ in range(60):
                frame = rig.take(*drawn, t)
                said = [int(v) for v in frame.data[0, :4]]
                wrong = rig.wrong(frame, slm, image, proven=True)
                deceived += wrong
                if proof.agrees(frame, n % SIZE):
                    assert not wrong
                    accepted += 1
                    break
                assert wrong or said != [slm, image, n % SIZE + 1, int(drawn[0][1, 0])]
                refused += 1
                rig.clock.sleep(5e-3)
            else:
                raise AssertionError("never agreed")
    assert accepted == 20 * 200
    assert deceived > 50
    assert refused >= deceived


def test_a_run_with_a_proof_keeps_late_swaps_out_too() -> None:
    """Through overlaps, and what is taken again: whatever is shown again carries another code."""
    mismatches = kept = 0
    for number in range(40):
        rng = np.random.default_rng([8, number])
        rig = Rig(replace(Scenario.draw(rng), late_rate=0.05), rng)
        wrong, taker = rig.as_a_run_does(100, NamedProof())
        assert wrong == 0, f"bench {number}: {rig.scenario}"
        mismatches, kept = mismatches + taker.mismatches, kept + rig.judged
    assert mismatches > 200
    assert kept > 3900
