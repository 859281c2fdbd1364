"""Dry runs: what a procedure would take - exposures, pattern changes, time, disk - before anything moves.

The procedure is followed from beginning to end by the engine itself on a stand-in for the bench
(`labctl.runs.standin`), so that ordering, overlaps and repeated tries for the right exposure are those of the run to
come. Nothing is written.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.config.schema import BenchConfig
from labctl.errors import LabctlError, RunError
from labctl.procedures.messages import Measure, Message, Procedure, Prompt, Read, Set, Steps
from labctl.runs.catalogue import list_runs
from labctl.runs.engine import Engine
from labctl.runs.events import Captured, Event
from labctl.runs.facts import facts_of
from labctl.runs.recorded import open_run
from labctl.runs.session import calibrations_in
from labctl.runs.standin import StandIn

log = logging.getLogger(__name__)
PER_FRAME_BYTES = 400
"""Table row, tag and the file format's own, of each frame."""
PER_RUN_BYTES = 200_000
SAVING_S, SAVING_BYTES_PER_S = 1e-3, 5e8
"""What saving a frame takes where nothing else goes on meanwhile."""
START_S = 0.1
"""Making the run folder."""
LOOK_BACK = 200


@dataclass(frozen=True)
class Estimate:
    """What one procedure would take.

    Attributes
    ----------
    procedure : str
    exposures : int
    slm_changes, input_changes : int
        Patterns sent.
    seconds : float
        From the beginning to the end of the run, as people wait.
    bench_seconds : float
        On the bench's clock: settling, exposing, reading out, and the procedure's computing between.
    bytes : int
        On disk.
    shortest_s, longest_s : float
        Exposure times asked for.
    settings, prompts : int
        Instrument settings sent; questions to the person at the table.
    problems : tuple of str
        What would end the run, or keep it from beginning.
    """

    procedure: str
    exposures: int
    slm_changes: int
    input_changes: int
    seconds: float
    bench_seconds: float
    bytes: int
    shortest_s: float
    longest_s: float
    settings: int
    prompts: int
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "procedure": self.procedure, "exposures": self.exposures, "slm_changes": self.slm_changes,
            "input_changes": self.input_changes, "seconds": round(self.seconds, 3),
            "bench_seconds": round(self.bench_seconds, 3), "bytes": self.bytes, "shortest_exposure_s": self.shortest_s,
            "longest_exposure_s": self.longest_s, "settings": self.settings, "prompts": self.prompts,
            "problems": list(self.problems),
        }  # fmt: skip


@dataclass
class DryRun:
    """Follows procedures on one stand-in, one after another; what one calibrates is in force for the next.

    Parameters
    ----------
    standin : StandIn
    config : BenchConfig
    """

    standin: StandIn
    config: BenchConfig
    _followed: dict[str, Estimate] = field(default_factory=dict)

    def follow(self, procedure: Procedure[Any], kind: str = "") -> Estimate:
        """What a procedure would take, as the stand-in is calibrated now.

        Parameters
        ----------
        kind : str, optional
            Procedures of one kind take the same, as long as nothing is calibrated anew: they are followed once.
        """
        if not kind or kind not in self._followed:
            made = self._follow(procedure)
            if not kind:
                return made
            self._followed[kind] = made
        return self._followed[kind]

    def _follow(self, procedure: Procedure[Any]) -> Estimate:
        standin, problems = self.standin, list[str]()
        meter = _Meter(standin)
        engine = Engine(standin.bench, observer=meter.observe)
        clock_before, rendering_before = standin.clock.now(), standin.costs.rendering_s
        try:
            result = engine.run(_Metered(procedure, meter))
            if records := calibrations_in(result):
                standin.bench.with_calibrations({record.kind: record for record in records})
                self._followed.clear()
            problems += getattr(result, "problems", ())
        except LabctlError as error:
            problems.append(str(error) if standin.exact else f"on an ideal bench it ends with: {error}")
        except Exception as error:  # what a procedure does not survive here, it does not survive at the bench
            log.debug("%s", error, exc_info=True)
            problems.append(f"it ends with {type(error).__name__}: {error}")
        meant = int(procedure.exposures(standin.bench.facts))
        bench_seconds = max(standin.clock.now(), meter.time) - clock_before
        rendering = standin.costs.rendering_s - rendering_before
        seconds = START_S + self._as_people_wait(bench_seconds, rendering, meter)
        if problems and 0 < meter.exposures < meant:  # the rest like what was seen of it
            part = meant / meter.exposures
            meter.exposures, seconds, bench_seconds = meant, seconds * part, bench_seconds * part
            meter.bytes = int(meter.bytes * part)
        return Estimate(
            procedure=procedure.name, exposures=meter.exposures, slm_changes=meter.slm_changes,
            input_changes=meter.input_changes, seconds=seconds, bench_seconds=bench_seconds,
            bytes=meter.bytes + PER_RUN_BYTES, shortest_s=0.0 if math.isinf(meter.shortest) else meter.shortest,
            longest_s=meter.longest, settings=meter.settings, prompts=meter.prompts, problems=tuple(problems),
        )  # fmt: skip

    def _as_people_wait(self, bench_seconds: float, rendering: float, meter: _Meter) -> float:
        simulation = self.config.simulation
        if not self.standin.exact:
            return bench_seconds
        if simulation is not None and simulation.clock == "real":
            return bench_seconds / simulation.speed
        # In virtual time nobody waits for the devices, and one thing is done after the other.
        saving = meter.exposures * SAVING_S + meter.bytes / SAVING_BYTES_PER_S
        return rendering + meter.computing_s + meter.driving_s + saving


def known_facts(config: BenchConfig, runs_dir: Path) -> BenchFacts | None:
    """What the newest recorded run on a bench knew of it; None if there is none of this bench file."""
    for summary in list_runs(runs_dir, bench=config.bench.name, limit=LOOK_BACK):
        try:
            facts = facts_of(open_run(summary.path))
        except RunError:
            continue
        if facts.digest == config.digest():
            return facts
    return None


def free_bytes(folder: Path) -> int:
    """Room on the disk where `folder` is, or would be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def limits(estimates: Sequence[Estimate], config: BenchConfig, free: int) -> list[str]:
    """Limits that would be hit, and what a person has to know before: one line each."""
    found = [f"{estimate.procedure}: {problem}" for estimate in estimates for problem in estimate.problems]
    needed = sum(estimate.bytes for estimate in estimates)
    if needed > free:
        found.append(f"disk: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: make room first")
    if any(estimate.prompts for estimate in estimates) and not config.simulated:
        found.append(f"{sum(estimate.prompts for estimate in estimates)} questions need a person at the table")
    return found


class _Meter:
    """Counts what goes by, and keeps the procedure's own time beside the bench's.

    The procedure computes in its time, the devices work in theirs. Who waits for the other is brought to the other's
    time: the devices for a request, the procedure for an answer, or for frames that are taken ahead when it looks at
    them.
    """

    def __init__(self, standin: StandIn) -> None:
        self._clock, self._costs, self._camera = standin.clock, standin.costs, standin.camera
        self.exposures = self.slm_changes = self.input_changes = self.bytes = self.settings = self.prompts = 0
        self.shortest, self.longest = math.inf, 0.0
        self.computing_s = self.driving_s = 0.0
        self.time = self._clock.now()
        self._since = time.perf_counter()
        self._now = ("", "")
        self._patterns: set[str] = set()
        self._ready: dict[int, float] = {}
        self._spent = self._showing = 0.0

    def observe(self, event: Event) -> None:
        """An observer of the engine."""
        if not isinstance(event, Captured):
            return
        frame, exposure = event.frame, event.exposure
        self._ready[id(frame)] = self._clock.now()
        self.exposures += 1
        self.bytes += frame.data.nbytes + PER_FRAME_BYTES
        self.shortest, self.longest = min(self.shortest, frame.exposure_s), max(self.longest, frame.exposure_s)
        self.slm_changes += frame.slm not in ("", self._now[0])
        self.input_changes += frame.input not in ("", self._now[1])
        self._now = frame.slm, frame.input
        if frame.slm and frame.slm not in self._patterns and exposure.slm is not None:
            self._patterns.add(frame.slm)
            self.bytes += exposure.slm.nbytes

    def resumed(self) -> None:
        """The procedure goes on."""
        self._since = time.perf_counter()

    def computed(self) -> None:
        """The procedure has computed since then."""
        seconds = time.perf_counter() - self._since
        self._since += seconds
        self.computing_s += seconds
        self.time += seconds * self._costs.computing

    def looked_at(self, frame: Frame) -> None:
        """The procedure needs a frame that was asked for ahead."""
        self.computed()
        self.time = max(self.time, self._ready.get(id(frame), self.time))

    def asked(self, message: Message) -> None:
        """A request goes out."""
        self.settings += isinstance(message, Set)
        self.prompts += isinstance(message, Prompt)
        if isinstance(message, Measure):
            self._camera.label = message.label
        if isinstance(message, Measure | Set | Read):
            self._clock.sleep(self.time - self._clock.now())
        self._since, self._spent, self._showing = time.perf_counter(), self._costs.spent_s, self._costs.showing_s

    def answered(self, message: Message, answer: Any) -> Any:
        """The answer is there; what the procedure is given for it."""
        seconds = time.perf_counter() - self._since - (self._costs.spent_s - self._spent)
        self.driving_s += seconds
        if isinstance(message, Measure):  # ordering, checking, handing on; showing has been counted
            self._clock.sleep((seconds - (self._costs.showing_s - self._showing)) * self._costs.computing)
        if isinstance(message, Measure) and message.ahead:
            return _Watched(answer, self)
        if isinstance(message, Measure | Set | Read):
            self.time = max(self.time, self._clock.now())
        return answer


class _Watched(Sequence[Frame]):
    """Frames that were asked for ahead: each is waited for, on the procedure's time, when it is looked at."""

    def __init__(self, frames: Sequence[Frame], meter: _Meter) -> None:
        self._frames, self._meter = list(frames), meter

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: Any) -> Any:
        found = self._frames[index]
        for frame in found if isinstance(found, list) else [found]:
            self._meter.looked_at(frame)
        return found


@dataclass(frozen=True)
class _Metered:
    """A procedure whose requests and computing are counted on the way."""

    procedure: Procedure[Any]
    meter: _Meter

    @property
    def name(self) -> str:
        return self.procedure.name

    def exposures(self, facts: BenchFacts) -> int:
        return self.procedure.exposures(facts)

    def steps(self, facts: BenchFacts) -> Steps[Any]:
        inner = self.procedure.steps(facts)
        answer: Any = None
        failure: BaseException | None = None
        try:
            while True:
                self.meter.resumed()
                try:
                    message = inner.send(answer) if failure is None else inner.throw(failure)
                except StopIteration as stop:
                    return stop.value
                finally:
                    self.meter.computed()
                failure = None
                self.meter.asked(message)
                try:
                    answer = self.meter.answered(message, (yield message))
                except Exception as error:  # the procedure's to deal with
                    failure = error
        finally:
            inner.close()
