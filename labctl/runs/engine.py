"""The engine: drives one procedure against one bench, records all that comes of it, and leaves the bench safe."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labctl.bench.bench import Bench
from labctl.clock import Clock, RealClock
from labctl.errors import Aborted, DeviceError, LabctlError, RunError
from labctl.procedures.messages import (
    AT_ITS_END,
    MEANWHILE,
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
from labctl.runs.events import StateChanged
from labctl.runs.interrupt import interruptible
from labctl.runs.past import Past
from labctl.runs.serving import Serving
from labctl.runs.store import RunFolder, RunStore
from labctl.runs.telling import Observer, Telling, in_short

if TYPE_CHECKING:
    from labctl.bench.hand import Hand
    from labctl.bench.proof import Proof

__all__ = ["Answer", "Engine", "Observer", "Snapshot", "interruptible"]

log = logging.getLogger(__name__)
Answer = Callable[[Prompt], str]
Result = TypeVar("Result")
CLEANUP_LIMIT = 100
"""Requests that a procedure may still make while it is being ended."""


class Engine:
    """Runs procedures, one at a time.

    `run` blocks its caller until the run has ended; the procedure and every observer are called on that thread, the
    devices and the disk as `labctl.runs.line` says. `pause`, `resume`, `stop`, `abort`, `close` and `snapshot` may be
    called from any thread. The states and what leads from one to another are drawn in
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
        Asks the person at the table, and returns one of the prompt's options, or `MEANWHILE` after the prompt's
        `wait_s`. Default: the first option, with a line in the log. A bench with a hand answers itself where a screw is
        to be turned.
    proof : Proof, optional
        Proof of pairing, for every exposure of the runs to come.

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
        proof: Proof | None = None,
    ) -> None:
        self.bench = bench
        self.store = store
        self.proof = proof
        self.run_id = ""
        self.folder: Path | None = None
        self._answer = answer
        self._asked: Prompt | None = None  # still stands, while the procedure goes on measuring
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._control = Control(lambda state: self._inbox.put(lambda: self._telling.tell(StateChanged(state))))
        self._telling = Telling(self._control, clock or RealClock(), observer)

    @property
    def observer(self) -> Observer | None:
        """Who is told every event."""
        return self._telling.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._telling.observer = observer

    def snapshot(self) -> Snapshot:
        """State and counts, all of the same moment."""
        return self._control.snapshot()

    def pause(self) -> None:
        """Wait before the next exposure, the bench as it is. Nothing when nothing runs."""
        self._control.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._control.resume()

    def stop(self) -> None:
        """End the run after the exposure under way, and keep it; twice is harmless."""
        self._control.stop()

    def abort(self) -> None:
        """End the run at once; twice is harmless. A prompt must be answered first."""
        self._control.abort()

    def close(self) -> None:
        """Take no more runs; a run under way is aborted. The bench stays open: its owner closes it."""
        self._control.close()

    def run(
        self,
        procedure: Procedure[Result],
        *,
        provenance: Mapping[str, Any] | None = None,
        past: Past | None = None,
        folder: RunFolder | None = None,
    ) -> Result:
        """Run a procedure to its end, record it, and leave the bench safe.

        Parameters
        ----------
        procedure : Procedure
        provenance : mapping, optional
            Goes into ``run.json``: ``config``, ``seeds``, ``models``.
        past : Past, optional
            What a recorded run of this procedure was answered: the procedure is given that, and the bench goes on where
            it ends.
        folder : RunFolder, optional
            To go on with, instead of a new one from the store.

        Returns
        -------
        What the procedure returns.

        Raises
        ------
        Aborted
            After `stop`, `abort` or Ctrl-C.
        LabctlError
            A device failed, the disk is full, or the procedure gave up.
        """
        self._control.begin(procedure.name)
        self.run_id, self.folder, self._asked = "", None, None
        self._telling.begin(folder, muted=past is not None)
        self._serving = Serving(
            self.bench, self._control, self._telling, inbox=self._inbox, past=past, proof=self.proof
        )
        try:
            try:
                self._start(procedure, provenance)
                result = self._drive(procedure.steps(self.bench.facts))
            except KeyboardInterrupt:
                self._control.abort()  # no device is waited for any longer
                raise
            finally:
                self._make_safe()
                self._pump()
            if self._folder is not None:
                self._folder.finish("done", result, captured=self._telling.done)
        except (Aborted, KeyboardInterrupt) as error:
            self._control.abort()
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

    @property
    def _folder(self) -> RunFolder | None:
        return self._telling.folder

    def _start(self, procedure: Procedure[Any], provenance: Mapping[str, Any] | None) -> None:
        self._pump()
        telling = self._telling
        telling.total = int(procedure.exposures(self.bench.facts))
        if telling.folder is None and self.store is not None:
            telling.folder = self.store.create(procedure, self.bench, provenance=provenance)
        if telling.folder is not None:
            self.run_id, self.folder = telling.folder.id, telling.folder.path
            self._control.recording(self.run_id)
        telling.tell(events.RunStarted(self.run_id, procedure.name, self.folder, telling.total))
        telling.count(captured=0, mismatches=0, label="")
        telling.record("started", procedure=procedure.name, exposures=telling.total)
        self._control.opened()
        self._pump()

    def _drive(self, steps: Steps[Result]) -> Result:
        """Answer the generator's requests until it returns."""
        answer: Any = None
        failure: DeviceError | None = None
        try:
            while True:
                try:
                    message = steps.send(answer) if failure is None else steps.throw(failure)
                except StopIteration as stop:
                    self._serving.wait_all()
                    self._control.raise_if_ending()  # whoever asked in time is not told that the run was done
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
        self._telling.record("ending")  # readings from here on are no answers for a procedure that is resumed
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
        telling = self._telling
        try:
            if telling.folder is not None and outcome != "done":
                telling.record("finished", outcome=outcome, message=message)
                telling.folder.finish(outcome, message=message, captured=telling.done)
        except RunError as error:
            log.error("%s", error)
        finally:
            if telling.folder is not None:
                telling.folder.close()
            telling.folder = None
            self._pump()
            self._control.end()
            telling.tell(events.RunFinished(self.run_id, outcome, message))
            self._pump()

    def _make_safe(self) -> None:
        try:
            failures = self._serving.make_safe()
        except KeyboardInterrupt:  # an impatient second Ctrl-C must not leave the laser on
            self._serving.make_safe()
            raise
        finally:
            self._serving.close()
        for failure in failures:
            self._telling.say(f"the bench could not be made safe: {failure}", "error")

    def _boundary(self) -> None:
        """Between two requests. Where exposures go on meanwhile, a pause is theirs to honour."""
        self._pump()
        if self._serving.awaited:
            self._control.raise_if_ending()
            return
        paused = self._control.gate(self._serving.drain, self._pump)
        self._pump()
        if paused:
            self._telling.restart_pace()

    def _pump(self) -> None:
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return
            job()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _serve(self, message: Message) -> Any:
        match message:
            case Measure():
                return self._serving.measure(message)
            case Set():
                self._serving.set(message)
            case Read():
                return self._serving.read(message)
            case Checkpoint(state):
                if self._folder is not None and not self._telling.muted:
                    self._folder.checkpoint(state)
                self._telling.record("checkpoint")
            case Publish(name, value):
                self._telling.record("published", name=name, value=in_short(value))
                self._telling.tell(events.Published(name, value))
            case Log(text, level):
                self._telling.say(text, level)
            case Prompt():
                return self._prompt(message)
            case _:
                raise RunError(f"the procedure yielded {message!r:.80}, which is not a request that the engine knows")
        return None

    def _prompt(self, prompt: Prompt) -> str:
        self._serving.wait_all()
        choice = self._serving.choice(prompt.text)
        hand = None if prompt.adjust is None else getattr(self.bench, "hand", None)
        if choice is not None:
            if hand is not None and choice in (prompt.options[0], AT_ITS_END):
                _turn(hand, prompt)  # where the recorded run ends, the screws have to stand as they did
            return choice
        if hand is None and prompt != self._asked:
            self._telling.tell(events.Prompted(prompt))
        if hand is not None:
            choice = prompt.options[0] if _turn(hand, prompt) else AT_ITS_END
            self._telling.say(f"{prompt.text} -> {choice} (the bench's own hand)")
        elif self._answer is None:
            choice = prompt.options[0]
            self._telling.say(f"{prompt.text} -> {choice} (nobody to ask)")
        else:
            choice = self._answer(prompt)
            if choice not in prompt.options and not (choice == MEANWHILE and prompt.wait_s is not None):
                raise RunError(f"'{choice}' is no answer to '{prompt.text}': choose one of {', '.join(prompt.options)}")
        self._asked = prompt if choice == MEANWHILE else None
        self._telling.record("prompt", text=prompt.text, choice=choice)
        if choice == "abort":
            raise Aborted(f"aborted at the prompt: {prompt.text}")
        return choice


def _turn(hand: Hand, prompt: Prompt) -> bool:
    adjust = prompt.adjust
    return adjust is None or hand.turn(adjust.part, adjust.axis, adjust.by)
