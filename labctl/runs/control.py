"""The engine's state and the requests of other threads, behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from labctl.errors import Aborted, RunError
from labctl.runs.events import State

WAIT_S = 0.2
"""A paused main thread looks up this often: on Windows, Ctrl-C does not wake a thread that waits for ever."""


@dataclass(frozen=True)
class Snapshot:
    """The engine at one moment.

    Attributes
    ----------
    state : State
    done, total : int
        Exposures done, of those meant.
    captured, saved : int
        Frames the camera gave, and frames on disk (0 if nothing is recorded).
    eta_s : float or None
        Seconds left; None until a rate is known.
    procedure : str
        Name of the running procedure; "" when idle.
    run_id : str
        "" if nothing is recorded.
    """

    state: State = State.IDLE
    done: int = 0
    total: int = 0
    captured: int = 0
    saved: int = 0
    eta_s: float | None = None
    procedure: str = ""
    run_id: str = ""


class Control:
    """State, counts and requests. Every method may be called from any thread, and from a signal handler.

    ::

                  begin            pause (at the next boundary)
          IDLE ----------> RUNNING ----------------------------> PAUSED
           ^                | |  ^                                | |
           |      end       | |  +------------ resume ------------+ |
           +----------------+ |                                     |
           |                  | abort                         abort |
           |      end         v                                     |
           +-------------- ABORTING <-------------------------------+

          close: IDLE -> CLOSED at once; from any other state the run is aborted, and its end leads to CLOSED.
    """

    def __init__(self) -> None:
        # Reentrant, because a signal handler runs on the thread that may be holding it.
        self._changed = threading.Condition(threading.RLock())
        self._now = Snapshot()
        self._pause = self._abort = self._close = False

    def snapshot(self) -> Snapshot:
        """State and counts, all of the same moment."""
        with self._changed:
            return self._now

    def begin(self, procedure: str) -> None:
        """IDLE to RUNNING.

        Raises
        ------
        RunError
            If the engine is busy or closed.
        """
        with self._changed:
            if self._now.state is State.CLOSED:
                raise RunError("the engine is closed: open the bench again to run anything")
            if self._now.state is not State.IDLE:
                raise RunError(f"the engine is busy with '{self._now.procedure}': wait for it, or abort it")
            self._pause = self._abort = False
            self._now = Snapshot(state=State.RUNNING, procedure=procedure)

    def end(self) -> State:
        """Back to IDLE, or to CLOSED if that was asked meanwhile. The counts stay readable."""
        with self._changed:
            self._pause = self._abort = False
            self._now = replace(self._now, state=State.CLOSED if self._close else State.IDLE, procedure="", eta_s=None)
            self._changed.notify_all()
            return self._now.state

    def update(self, *, done: int, total: int, captured: int, saved: int, eta_s: float | None) -> None:
        """New counts."""
        with self._changed:
            self._now = replace(self._now, done=done, total=total, captured=captured, saved=saved, eta_s=eta_s)

    def recording(self, run_id: str) -> None:
        """The run has a folder."""
        with self._changed:
            self._now = replace(self._now, run_id=run_id)

    def pause(self) -> None:
        """Ask to stop before the next exposure, with the bench as it is. Nothing when nothing runs."""
        with self._changed:
            if self._now.state is State.RUNNING:
                self._pause = True

    def resume(self) -> None:
        """Go on; nothing when not paused."""
        with self._changed:
            self._pause = False
            self._changed.notify_all()

    def abort(self) -> None:
        """Ask to end the run before the next exposure. Nothing when nothing runs; harmless twice."""
        with self._changed:
            if self._now.state in (State.RUNNING, State.PAUSED):
                self._abort = True
                self._now = replace(self._now, state=State.ABORTING)
                self._changed.notify_all()

    def close(self) -> State:
        """No run after this one."""
        with self._changed:
            self._close = True
            if self._now.state in (State.IDLE, State.CLOSED):
                self._now = replace(self._now, state=State.CLOSED)
            else:
                self.abort()
            return self._now.state

    def boundary(self, tell: Callable[[State], None]) -> bool:
        """Between two exposures, on the engine's thread: honour what was asked.

        Parameters
        ----------
        tell : callable
            Told of PAUSED and RUNNING when it pauses and goes on.

        Returns
        -------
        bool
            Whether it had paused.

        Raises
        ------
        Aborted
            If the run is to end.
        """
        with self._changed:
            self.raise_if_aborted()
            if not self._pause:
                return False
            self._now = replace(self._now, state=State.PAUSED, eta_s=None)
        tell(State.PAUSED)  # outside the lock: an observer may ask for a snapshot, or resume
        with self._changed:
            while self._pause and not self._abort:
                self._changed.wait(WAIT_S)
            self.raise_if_aborted()
            self._now = replace(self._now, state=State.RUNNING)
        tell(State.RUNNING)
        return True

    def abandon(self) -> None:
        """The run is ending by Ctrl-C or an abort of its own: show it."""
        with self._changed:
            self._now = replace(self._now, state=State.ABORTING, eta_s=None)

    def raise_if_aborted(self) -> None:
        """Raise `Aborted` if the run is to end."""
        with self._changed:
            if self._abort:
                raise Aborted("the run was aborted")
