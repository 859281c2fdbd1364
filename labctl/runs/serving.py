"""Where a procedure's exposures, settings and readings are answered from: a recorded run, then the bench."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from labctl.bench.bench import Bench
from labctl.bench.frames import Frame
from labctl.bench.proof import Proof, widened
from labctl.bench.taking import Shot
from labctl.procedures.messages import Exposure, Gray, Measure, Read, Set
from labctl.runs import events
from labctl.runs.answers import Frames, Place
from labctl.runs.control import Control
from labctl.runs.line import Line
from labctl.runs.ordering import Planned, Shown, plan
from labctl.runs.past import Past
from labctl.runs.telling import Telling


class Serving:
    """The answers of one run. On the engine's thread only.

    Parameters
    ----------
    bench : Bench
    control : Control
    telling : Telling
    inbox : queue
        Of jobs for the engine's thread.
    past : Past, optional
        What a recorded run answered.
    proof : Proof, optional
    """

    def __init__(
        self,
        bench: Bench,
        control: Control,
        telling: Telling,
        *,
        inbox: queue.SimpleQueue[Callable[[], None]],
        past: Past | None,
        proof: Proof | None,
    ) -> None:
        self._bench, self._control, self._telling, self._inbox = bench, control, telling, inbox
        self._past, self._proof = past, proof
        self._line: Line | None = None
        self._shown = Shown()
        self._slm_patterns: dict[str, Gray] = {}
        self._skipped: dict[tuple[str, str], Any] = {}
        self._pending: list[Frames] = []
        self._batch = self._served = 0

    @property
    def awaited(self) -> bool:
        """Whether exposures that were asked for go on."""
        return any(frames.awaited for frames in self._pending)

    def measure(self, message: Measure) -> Sequence[Frame]:
        """The frames of a batch."""
        planned = plan(message.exposures, self._shown)
        frames = Frames(len(planned), self._wait_for)
        batch, self._batch = self._batch, self._batch + 1
        left = planned[self._recorded(planned, message, batch, frames) :]
        if left:
            self._pending = [*(asked for asked in self._pending if asked.awaited), frames]
            line = self._live(in_batch=len(left) < len(planned))
            self._telling.record("measure", label=message.label, exposures=len(left), batch=batch)
            place = Place(batch, message, frames)
            shots = [
                Shot(item.exposure, (item.shown.slm_token, item.shown.input_token), (place, item.position))
                for item in left
            ]
            shots[-1].last = not (message.ahead and line.threaded)
            self._shown = left[-1].shown
            line.submit(shots)
        return frames if message.ahead else list(frames)

    def set(self, message: Set) -> None:
        """Change a setting."""
        instrument, setting, value = message.instrument, message.setting, message.value
        if self._past is not None:
            self._past.note_set(instrument, setting, value)
            self._skipped.pop((instrument, setting), None)
            self._skipped[instrument, setting] = value
            return
        given = widened(self._proof, instrument, setting, value)
        self._live().call(instrument, partial(self._bench.set, instrument, setting, given))
        self._telling.record("set", instrument=instrument, setting=setting, value=value)

    def read(self, message: Read) -> Any:
        """A reading."""
        instrument, setting = message.instrument, message.setting
        if self._past is not None:
            found, reading = self._past.reading(instrument, setting)
            if found:
                return reading
        reading = self._live().call(instrument, partial(self._bench.read, instrument, setting))
        self._telling.record("read", instrument=instrument, setting=setting, value=reading)
        return reading

    def choice(self, text: str) -> str | None:
        """What the person at the table answered to this prompt, if that was recorded."""
        return None if self._past is None else self._past.choice(text)

    def wait_all(self) -> None:
        """Wait for every frame that is still to come."""
        pending, self._pending = self._pending, []
        for frames in pending:
            frames.wait()

    def drain(self) -> None:
        """Where nothing goes on by itself: read out what has been exposed."""
        if self._line is not None:
            self._line.drain()

    def make_safe(self) -> list[str]:
        """Leave the bench safe; what failed, one line each."""
        return self._bench.make_safe() if self._line is None else self._line.make_safe()

    def close(self) -> None:
        """End the threads, and let go of the recorded run."""
        if self._line is not None:
            self._line.close()
        if self._past is not None:
            self._past.close()

    # -- the bench ----------------------------------------------------------------------------------------------------

    def _live(self, *, in_batch: bool = False) -> Line:
        """The line to the bench; the first time, the bench is brought to where the recorded run left it."""
        if self._line is not None:
            return self._line
        self._line = line = Line(
            self._bench, self._control, save=self._save, deliver=self._deliver, lose=self._lose,
            say=self._telling.say, inbox=self._inbox, proof=self._proof,
        )  # fmt: skip
        past, self._past = self._past, None
        if past is None:
            return line
        self._telling.muted = False
        last = past.last
        past.close()  # HDF5 does not open a file for reading and for writing at once
        self._telling.record("resumed", after=self._served)
        for (instrument, setting), value in self._skipped.items():
            given = widened(self._proof, instrument, setting, value)
            line.call(instrument, partial(self._bench.set, instrument, setting, given))
            self._telling.record("set", instrument=instrument, setting=setting, value=value)
        if last is not None:
            take_up = partial(
                self._bench.take_up,
                last,
                slm=self._slm_patterns.get(last.slm),
                input=self._shown.input,
                slm_before=self._slm_patterns.get(last.slm_before),
                idle=not in_batch,
            )
            line.call("slm", take_up)
        return line

    def _save(self, shot: Shot, frame: Frame) -> None:
        """On the saver's thread."""
        if self._telling.folder is not None:
            place, position = shot.place
            asked: Exposure = shot.asked  # type: ignore[assignment]
            self._telling.folder.write_frame(frame, asked, batch=place.batch, position=position)

    def _deliver(self, shot: Shot, frame: Frame) -> None:
        """A frame that is on disk."""
        place, position = shot.place
        place.frames.put(position, frame)
        self._tell(place.message, position, frame)

    def _lose(self, failure: BaseException) -> None:
        """The exposures that were asked for and not taken are not taken any more."""
        for frames in self._pending:
            frames.lose(failure)

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        if self._line is not None:
            self._line.wait(ready)

    # -- the recorded run ---------------------------------------------------------------------------------------------

    def _recorded(self, planned: Sequence[Planned], message: Measure, batch: int, frames: Frames) -> int:
        """Fill in what the recorded run has of these exposures; how many that are."""
        for number, item in enumerate(planned):
            if self._past is None:
                return number
            frame = self._past.take(batch, item.position, item.exposure, item.shown.slm_token, item.shown.input_token)
            if frame is None:
                return number
            self._shown = item.shown
            if item.shown.slm is not None:
                self._slm_patterns[item.shown.slm_token] = item.shown.slm
            self._served += 1
            frames.put(item.position, frame)
            self._tell(message, item.position, frame)
        return len(planned)

    def _tell(self, message: Measure, position: int, frame: Frame) -> None:
        captured = self._served + (0 if self._line is None else self._line.captured)
        mismatches = 0 if self._line is None else self._line.mismatches
        event = events.Captured(frame, message.exposures[position])
        self._telling.frame(event, captured=captured, mismatches=mismatches, label=message.label)
