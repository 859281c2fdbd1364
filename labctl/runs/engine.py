"""The engine: drives one procedure against one bench, on the calling thread, and leaves the bench safe at any end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from labctl.bench.bench import Bench
from labctl.bench.frames import Frame
from labctl.clock import Clock, RealClock
from labctl.errors import Aborted, DeviceError, LabctlError, RunError
from labctl.procedures.messages import (
    Checkpoint,
    Log,
    Measure,
    Message,
    Procedure,
    Prompt,
    Publish,
    Read,
    Set,
    Steps,
)
from labctl.runs import events
from labctl.runs.control import Control, Snapshot
from labctl.runs.events import Event, State
from labctl.runs.interrupt import interruptible
from labctl.runs.ordering import Shown, plan
from labctl.runs.progress import Pace
from labctl.runs.store import RunFolder, RunStore

__all__ = ["Answer", "Engine", "Observer", "Snapshot", "interruptible"]

log = logging.getLogger(__name__)
Observer = Callable[[Event], None]
Answer = Callable[[Prompt], str]
Result = TypeVar("Result")
CLEANUP_LIMIT = 100
"""Requests that a procedure may still make while it is being ended."""


class Engine:
    """Runs procedures, one at a time.

    `run` blocks the thread that owns the hardware; `pause`, `resume`, `abort`, `close` and `snapshot` may be called
    from any thread, and take effect before the next exposure. The states and their order are drawn in
    `labctl.runs.control.Control`.

    Parameters
    ----------
    bench : Bench
    observer : callable, optional
        Told every event on the engine's thread. What it raises is logged and goes no further.
    store : RunStore, optional
        Where runs are recorded; None records nothing.
    clock : Clock, optional
        For the ETA only; default wall time, because people wait in wall time whatever clock a simulated bench keeps.
    answer : callable, optional
        Asks the person at the table, and returns one of the prompt's options. Default: the first option, with a line
        in the log.

    Attributes
    ----------
    run_id : str
        Of the latest run; "" if it was not recorded.
    folder : Path or None
        Of the latest run.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        observer: Observer | None = None,
        store: RunStore | None = None,
        clock: Clock | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.bench = bench
        self.observer = observer
        self.store = store
        self.run_id = ""
        self.folder: Path | None = None
        self._clock = clock or RealClock()
        self._answer = answer
        self._control = Control()
        self._folder: RunFolder | None = None
        self._pace = Pace()
        self._shown = Shown()
        self._batch = self._captured = self._total = 0

    def snapshot(self) -> Snapshot:
        """State and counts, all of the same moment."""
        return self._control.snapshot()

    def pause(self) -> None:
        """Stop before the next exposure, the bench as it is. Nothing when nothing runs."""
        self._control.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._control.resume()

    def abort(self) -> None:
        """End the run before the next exposure; twice is harmless. A prompt must be answered first."""
        self._control.abort()

    def close(self) -> None:
        """Take no more runs; a run under way is aborted. The bench stays open: its owner closes it."""
        self._control.close()

    def run(self, procedure: Procedure[Result], *, provenance: Mapping[str, Any] | None = None) -> Result:
        """Run a procedure to its end, record it, and leave the bench safe.

        Parameters
        ----------
        procedure : Procedure
        provenance : mapping, optional
            Goes into ``run.json``: ``config``, ``seeds``, ``models``.

        Returns
        -------
        What the procedure returns.

        Raises
        ------
        Aborted
            After `abort` or Ctrl-C.
        LabctlError
            A device failed, the disk is full, or the procedure gave up.
        """
        self._control.begin(procedure.name)
        self.run_id, self.folder, self._folder = "", None, None
        self._shown, self._batch, self._captured, self._total = Shown(), 0, 0, 0
        try:
            try:
                self._start(procedure, provenance)
                result = self._drive(procedure.steps(self.bench.facts))
            finally:
                self._make_safe()
            if self._folder is not None:
                self._folder.finish("done", result, captured=self._captured)
        except (Aborted, KeyboardInterrupt) as error:
            self._control.abandon()
            message = str(error) or "interrupted with Ctrl-C"
            self._end("aborted", message)
            if isinstance(error, Aborted):
                raise
            raise Aborted("the run was aborted (Ctrl-C)") from error
        except BaseException as error:
            message = str(error) if isinstance(error, LabctlError) else f"{type(error).__name__}: {error}"
            self._end("failed", message)
            raise
        self._end("done")
        return result

    # -- the course of a run ------------------------------------------------------------------------------------------

    def _start(self, procedure: Procedure[Any], provenance: Mapping[str, Any] | None) -> None:
        self._tell(events.StateChanged(State.RUNNING))
        self._total = int(procedure.exposures(self.bench.facts))
        if self.store is not None:
            self._folder = self.store.create(procedure, self.bench, provenance=provenance)
            self.run_id, self.folder = self._folder.id, self._folder.path
            self._control.recording(self.run_id)
        self._pace.restart(self._clock.now())
        self._tell(events.RunStarted(self.run_id, procedure.name, self.folder, self._total))
        self._count(label="")
        self._record("started", procedure=procedure.name, exposures=self._total)

    def _drive(self, steps: Steps[Result]) -> Result:
        """Answer the generator's requests until it returns."""
        answer: Any = None
        failure: DeviceError | None = None
        try:
            while True:
                try:
                    message = steps.send(answer) if failure is None else steps.throw(failure)
                except StopIteration as stop:
                    self._control.raise_if_aborted()  # whoever asked in time is not told that the run was done
                    result: Result = stop.value
                    return result
                failure, answer = None, None
                try:
                    self._boundary()
                    answer = self._serve(message)
                except DeviceError as error:  # the procedure may know what to do without the device
                    failure = error
                except BaseException as error:
                    self._unwind(steps, error)
                    raise
        finally:
            steps.close()  # for a Ctrl-C that came between two lines above

    def _unwind(self, steps: Steps[Any], error: BaseException) -> None:
        """Let the generator clean up (its ``finally`` may still set instruments), whatever it makes of the error."""
        try:
            message = steps.throw(error)
            for _ in range(CLEANUP_LIMIT):
                if isinstance(message, Measure | Prompt):
                    message = steps.throw(error)
                else:
                    message = steps.send(self._serve(message))
            log.error("a procedure would not end: closed after %d more requests", CLEANUP_LIMIT)
        except StopIteration:
            return
        except (Exception, KeyboardInterrupt, GeneratorExit) as other:  # the first error is the one to report
            if other is not error:
                log.warning("while the procedure was being ended: %s", other, exc_info=True)

    def _end(self, outcome: str, message: str = "") -> None:
        """Close the folder and tell everyone. Runs to its end even through another Ctrl-C or a full disk."""
        try:
            if self._folder is not None and outcome != "done":
                self._record("finished", outcome=outcome, message=message)
                self._folder.finish(outcome, message=message, captured=self._captured)
        except RunError as error:
            log.error("%s", error)
        finally:
            if self._folder is not None:
                self._folder.close()
            self._folder = None
            state = self._control.end()
            self._tell(events.RunFinished(self.run_id, outcome, message))
            self._tell(events.StateChanged(state))

    def _make_safe(self) -> None:
        try:
            failures = self.bench.make_safe()
        except KeyboardInterrupt:  # an impatient second Ctrl-C must not leave the laser on
            self.bench.make_safe()
            raise
        for failure in failures:
            self._say(f"the bench could not be made safe: {failure}", "error")

    def _boundary(self) -> None:
        if self._control.snapshot().state is State.ABORTING:
            self._tell(events.StateChanged(State.ABORTING))
        if self._control.boundary(lambda state: self._tell(events.StateChanged(state))):
            self._pace.restart(self._clock.now())

    # -- requests -----------------------------------------------------------------------------------------------------

    def _serve(self, message: Message) -> Any:
        match message:
            case Measure():
                return self._measure(message)
            case Set(instrument, setting, value):
                self.bench.set(instrument, setting, value)
                self._record("set", instrument=instrument, setting=setting, value=value)
            case Read(instrument, setting):
                reading = self.bench.read(instrument, setting)
                self._record("read", instrument=instrument, setting=setting, value=reading)
                return reading
            case Checkpoint(state):
                if self._folder is not None:
                    self._folder.checkpoint(state)
                self._record("checkpoint")
            case Publish(name, value):
                self._record("published", name=name, value=_in_short(value))
                self._tell(events.Published(name, value))
            case Log(text, level):
                self._say(text, level)
            case Prompt():
                return self._prompt(message)
            case _:
                raise RunError(f"the procedure yielded {message!r:.80}, which is not a request that the engine knows")
        return None

    def _measure(self, message: Measure) -> list[Frame]:
        frames: dict[int, Frame] = {}
        self._record("measure", label=message.label, exposures=len(message.exposures), batch=self._batch)
        for item in plan(message.exposures, self._shown):
            self._boundary()
            exposure = item.exposure
            self.bench.show(slm=exposure.slm, input=exposure.input)
            self._shown = item.shown
            frame = self.bench.capture(exposure.exposure_s, tag=exposure.tag)
            self._captured += 1
            if self._folder is not None:
                self._folder.write_frame(frame, exposure, batch=self._batch, position=item.position)
            frames[item.position] = frame
            self._tell(events.Captured(frame, message.exposures[item.position]))
            self._pace.tick(self._clock.now())
            self._count(label=message.label)
        self._batch += 1
        return [frames[position] for position in range(len(message.exposures))]

    def _prompt(self, prompt: Prompt) -> str:
        self._tell(events.Prompted(prompt))
        if self._answer is None:
            choice = prompt.options[0]
            self._say(f"{prompt.text} -> {choice} (nobody to ask)")
        else:
            choice = self._answer(prompt)
            if choice not in prompt.options:
                raise RunError(f"'{choice}' is no answer to '{prompt.text}': choose one of {', '.join(prompt.options)}")
        self._record("prompt", text=prompt.text, choice=choice)
        if choice == "abort":
            raise Aborted(f"aborted at the prompt: {prompt.text}")
        return choice

    # -- telling ------------------------------------------------------------------------------------------------------

    def _count(self, *, label: str) -> None:
        done, total = self._captured, max(self._total, self._captured)
        saved = 0 if self._folder is None else self._folder.saved
        eta = self._pace.eta_s(total - done)
        self._control.update(done=done, total=total, captured=self._captured, saved=saved, eta_s=eta)
        self._tell(events.Progressed(done, total, label, eta, saved))

    def _say(self, text: str, level: str = "info") -> None:
        log.log(getattr(logging, level.upper(), logging.INFO), "%s", text)
        self._record("log", text=text, level=level)
        self._tell(events.Logged(text, level))

    def _record(self, kind: str, **values: Any) -> None:
        """A line in the folder's event log. Losing one is no reason to lose the run; losing a frame is."""
        if self._folder is None:
            return
        try:
            self._folder.event(kind, **values)
        except RunError as error:
            log.warning("%s", error)

    def _tell(self, event: Event) -> None:
        if self.observer is None:
            return
        try:
            self.observer(event)
        except Exception:  # whoever watches must not be able to break what is watched
            log.exception("an observer failed at %s", type(event).__name__)


def _in_short(value: Any) -> Any:
    """A published value for the event log: pictures by their shape only."""
    if isinstance(value, np.ndarray) and value.size > 16:
        return {"shape": list(value.shape), "dtype": value.dtype.name}
    return value
