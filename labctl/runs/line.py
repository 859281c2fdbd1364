"""The line from the procedure to the bench and back: exposures go out, frames come in, on as many threads as it pays.

Where time passes by itself, devices are called on a thread of their own and frames are saved on another, so that
uploading, settling, exposing, reading out, saving and the procedure's own computing go on at the same time, and a
device that hangs holds up nobody. On a driven clock everything happens on the calling thread, one thing after another,
because then the order of things decides the time at which they happen.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from labctl.bench.bench import Bench
from labctl.bench.frames import Frame
from labctl.bench.hardware import Abandoned, HardwareThread
from labctl.bench.taking import Shot, Taker
from labctl.clock import passes_by_itself
from labctl.errors import Aborted, DeviceError, LabctlError
from labctl.runs.control import Control
from labctl.runs.events import State
from labctl.runs.saving import Saver

if TYPE_CHECKING:
    from labctl.bench.proof import Proof

Answer = TypeVar("Answer")
LOOK_S = 0.05
ABORT_S = 0.4
"""After an abort, a call to a device is waited for so much longer than it should take, real seconds."""
SWITCH_S = 3e-4
"""How long a thread may keep Python's lock while others wait; the default of 5 ms is several exposures."""


class Line:
    """One run's connection with its bench. Used by the engine's thread.

    Parameters
    ----------
    bench : Bench
    control : Control
    save : callable
        Puts a frame on disk.
    deliver : callable
        Takes a frame that is on disk, on the engine's thread.
    lose : callable
        Told why the exposures that were submitted are not taken any more, on the engine's thread.
    say : callable
        Takes a line for the log and its level, on the engine's thread.
    proof : Proof, optional
    """

    def __init__(
        self,
        bench: Bench,
        control: Control,
        *,
        save: Callable[[Shot, Frame], None],
        deliver: Callable[[Shot, Frame], None],
        lose: Callable[[BaseException], None],
        say: Callable[[str, str], None],
        inbox: queue.SimpleQueue[Callable[[], None]],
        proof: Proof | None = None,
    ) -> None:
        self._bench, self._control, self._inbox = bench, control, inbox
        self._save, self._deliver, self._lose, self._say = save, deliver, lose, say
        self._taker = Taker(bench, self, proof)
        self._batch = 0  # exposures of an earlier batch than this are not taken any more
        self._broken = -1  # nor are those of this one: something failed
        self._failure: BaseException | None = None
        self._ending_since: float | None = None
        self._troubled = False
        self.captured = 0
        self._hardware: HardwareThread | None = None
        self._saver: Saver | None = None
        self._switch_s = sys.getswitchinterval()
        if passes_by_itself(bench.clock):
            sys.setswitchinterval(min(SWITCH_S, self._switch_s))
            self._hardware = HardwareThread(self._idle)
            self._saver = Saver(self._saving_failed)

    @property
    def mismatches(self) -> int:
        """Frames that did not show the code of their proof."""
        return self._taker.mismatches

    # -- the engine's thread ------------------------------------------------------------------------------------------

    def submit(self, shots: Sequence[Shot]) -> None:
        """Take these exposures; on a driven clock they are taken when this returns."""
        for shot in shots:
            if self._hardware is None:
                self._take_here(shot)
            else:
                self._hardware.put(partial(self._guarded, self._batch, self._taker.take, shot))

    def call(self, device: str, what: Callable[[], Answer]) -> Answer:
        """Ask a device after the exposures that were submitted, again where it fails.

        Raises
        ------
        LabctlError
        """
        return self._on_hardware(lambda: self._taker.insist(device, what), after_exposures=True)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Do what comes in until `ready`.

        Raises
        ------
        LabctlError
            What a device or the disk failed with; the exposures that were submitted and not taken are forgotten.
        """
        while True:
            self.pump()
            if ready():
                return
            if self._failure is not None:
                failure, self._failure = self._failure, None
                self._batch += 1
                self._lose(failure)
                raise failure
            self._watch()
            with suppress(queue.Empty):
                self._inbox.get(timeout=LOOK_S)()

    def pump(self) -> None:
        """Do what has come in."""
        with suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()

    @property
    def threaded(self) -> bool:
        """Whether things go on at the same time."""
        return self._hardware is not None

    def _take_here(self, shot: Shot) -> None:
        try:
            self._taker.take(shot)
        except BaseException as error:
            with suppress(DeviceError):
                self._taker.drop()
            self._lose(error)
            raise
        self.pump()

    def drain(self) -> None:
        """Where nothing goes on by itself: read out what has been exposed."""
        if self._hardware is None:
            self._taker.drain()

    def make_safe(self) -> list[str]:
        """Leave the bench safe, however the run ends; what failed, one line each."""
        self._batch += 1
        self._failure = None
        while True:
            try:
                return self._on_hardware(self._bench.make_safe)
            except (Aborted, DeviceError) as error:  # a device hangs; the others are made safe on a fresh thread
                self._say(str(error), "error")

    def close(self) -> None:
        """End the threads. A thread that hangs in a device's call is left to end when that call does."""
        sys.setswitchinterval(self._switch_s)
        self._control.update(mismatches=self.mismatches)
        if self._saver is not None:
            self._saver.close()
        if self._hardware is not None and not self._hardware.close(ABORT_S):
            self._bench.calls.give_up()
        self.pump()

    def _on_hardware(self, what: Callable[[], Answer], *, after_exposures: bool = False) -> Answer:
        """Do this where devices are called, and wait for it."""
        if self._hardware is None:
            if after_exposures:
                self._taker.drain()
            answer = what()
            self.pump()
            return answer
        done: list[tuple[Answer | None, BaseException | None]] = []
        batch = self._batch

        def job() -> None:
            if after_exposures:
                self._guarded(batch, self._taker.drain)
                if self._broken == batch:
                    return
            try:
                done.append((what(), None))
            except Abandoned:
                raise
            except BaseException as error:
                done.append((None, error))
            self._inbox.put(lambda: None)  # to wake whoever waits

        self._hardware.put(job)
        if after_exposures:
            self.wait(lambda: bool(done))
        while not done:
            self._watch()
            with suppress(queue.Empty):
                self._inbox.get(timeout=LOOK_S)()
        found, error = done[0]
        if error is not None:
            raise error
        return found  # type: ignore[return-value]

    def _watch(self) -> None:
        """Give up a device that hangs: at once after an abort, otherwise when the bench's patience is over.

        Raises
        ------
        Aborted, DeviceError
        """
        aborting = self._control.state is State.ABORTING
        if not aborting:
            self._ending_since = None
        elif self._ending_since is None:
            self._ending_since = time.monotonic()
        late = self._ending_since is not None and time.monotonic() - self._ending_since > ABORT_S
        patience = ABORT_S if late else self._bench.patience_s
        if self._hardware is None or not self._bench.calls.overdue(patience, hurry=late):
            return
        device = self._bench.calls.give_up()
        if not device:
            return
        self._hardware = HardwareThread(self._idle)
        self._taker.forget()
        self._batch += 1
        line = f"{device}: does not answer: check its cable and power, then open the bench again"
        error: LabctlError = DeviceError(line, device=device, passing=False)
        if aborting:
            error = Aborted(f"the run was aborted ({line})")
        self._lose(error)
        if aborting:
            self._say(line, "error")
        raise error

    # -- the hardware thread (on a driven clock the engine's) ---------------------------------------------------------

    def gate(self, before_waiting: Callable[[], None]) -> None:
        """`labctl.bench.taking.Watcher`."""
        meanwhile = self.pump if self._hardware is None else (lambda: None)
        self._control.gate(before_waiting, meanwhile)

    def took(self, shot: Shot, frame: Frame) -> None:
        """`labctl.bench.taking.Watcher`."""
        self.captured += 1
        if self._saver is None:
            self._save(shot, frame)
            self._deliver(shot, frame)
            return

        def job() -> None:
            self._save(shot, frame)
            self._inbox.put(lambda: self._deliver(shot, frame))

        batch = self._batch
        self._saver.put(job, wanted=lambda: self._batch == batch)

    def trouble(self, error: DeviceError, what: str) -> None:
        """`labctl.bench.taking.Watcher`."""
        self._troubled = True
        self._control.trouble()
        self._control.update(mismatches=self.mismatches)
        self._tell(lambda: self._say(f"{error}: {what}", "warning"))

    def recovered(self) -> None:
        """`labctl.bench.taking.Watcher`."""
        if self._troubled:
            self._troubled = False
            self._control.recovered()

    def _tell(self, job: Callable[[], None]) -> None:
        self._inbox.put(job)
        if self._hardware is None:
            self.pump()

    def _idle(self) -> None:
        self._guarded(self._batch, self._taker.drain)

    def _guarded(self, batch: int, what: Callable[..., None], *arguments: Any) -> None:
        """A job on the hardware thread: what it raises ends the batch, after the frames before it are saved."""
        if batch != self._batch or batch == self._broken:
            return
        try:
            what(*arguments)
        except Abandoned:
            raise
        except BaseException as error:
            self._broken = batch
            with suppress(DeviceError):
                self._taker.drop()
            self._broke(error)

    def _broke(self, failure: BaseException) -> None:
        def fail() -> None:
            if self._failure is None:
                self._failure = failure

        if self._saver is None:
            fail()
        else:
            self._saver.put(lambda: self._inbox.put(fail), always=True)

    def _saving_failed(self, failure: BaseException) -> None:
        def fail() -> None:
            self._failure = failure

        self._inbox.put(fail)
