"""The engine's state and the requests of other threads, behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from labctl.errors import Aborted, RunError, Stopped
from labctl.runs.events import State

WAIT_S = 0.1
"""A paused main thread looks up this often: on Windows, Ctrl-C does not wake a thread that waits for ever."""
HOLDABLE = (State.OPENING, State.RUNNING, State.RECOVERING)
STOPPABLE = (*HOLDABLE, State.PAUSING, State.PAUSED)
ABORTABLE = (*STOPPABLE, State.STOPPING)
ACTIVE = (*ABORTABLE, State.ABORTING)


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
    repeated, mismatches : int
        Exposures that had to be repeated, and frames that did not show the code of their proof of pairing.
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
    repeated: int = 0
    mismatches: int = 0
    eta_s: float | None = None
    procedure: str = ""
    run_id: str = ""


class Control:
    r"""State, counts and requests. Every method may be called from any thread, and from a signal handler.

    ::

                      +----------------------------- IDLE <---------------------------+
                      |                               ^                               |
                begin |                               | end                           | end
                      v     opened                    |                               |
                   OPENING ---------> RUNNING --------+                               |
                                      |  ^  ^ \                                       |
                                pause |  |  |  \ trouble                              |
                                      v  |  |   v                                     |
                               PAUSING   |  |  RECOVERING                             |
                       at the next |  \  |  |   /                                     |
                          exposure |   `-+  `--+ recovered                            |
                                   v    resume                                        |
                                PAUSED ---> RUNNING                                   |
                                                                                      |
          OPENING, RUNNING, RECOVERING, PAUSING, PAUSED -- stop --> STOPPING ---------+
          the same, and STOPPING ----------------------- abort --> ABORTING ----------+

          close: IDLE -> CLOSED at once; from any other state as abort, and the end then leads to CLOSED.

    A pause asked for while OPENING or RECOVERING is kept until RUNNING, which it turns into PAUSING. Any request that
    the drawing does not show for a state changes nothing: twice is as good as once. Only `begin` raises.

    - *stop* ends the run after the exposure under way: its frame is read out and kept.
    - *abort* ends it at once: what has been exposed and not read out is dropped, and a device that hangs is not waited
      for.

    Parameters
    ----------
    listener : callable, optional
        Told of each new state, on the thread that brought it about, with the lock held: it may only take note.
    """

    def __init__(self, listener: Callable[[State], None] = lambda _: None) -> None:
        # Reentrant, because a signal handler runs on the thread that may be holding it.
        self._changed = threading.Condition(threading.RLock())
        self._now = Snapshot()
        self._hold = self._close = False
        self._listener = listener

    def snapshot(self) -> Snapshot:
        """State and counts, all of the same moment."""
        with self._changed:
            return self._now

    @property
    def state(self) -> State:
        """The state now."""
        return self._now.state

    # -- asked by anyone ----------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Ask to wait before the next exposure, with the bench as it is."""
        with self._changed:
            if self._now.state in HOLDABLE:
                self._hold = True
            self._move({State.RUNNING: State.PAUSING})

    def resume(self) -> None:
        """Go on."""
        with self._changed:
            self._hold = False
            self._move({State.PAUSING: State.RUNNING, State.PAUSED: State.RUNNING})

    def stop(self) -> None:
        """Ask to end the run after the exposure under way."""
        self._move(dict.fromkeys(STOPPABLE, State.STOPPING))

    def abort(self) -> None:
        """Ask to end the run at once."""
        self._move(dict.fromkeys(ABORTABLE, State.ABORTING))

    def close(self) -> State:
        """No run after this one."""
        with self._changed:
            self._close = True
            self._move(dict.fromkeys(ABORTABLE, State.ABORTING) | {State.IDLE: State.CLOSED})
            return self._now.state

    # -- told by the engine -------------------------------------------------------------------------------------------

    def begin(self, procedure: str) -> None:
        """IDLE to OPENING.

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
            self._hold = False
            self._now = Snapshot(procedure=procedure)
            self._move({State.IDLE: State.OPENING})

    def opened(self) -> None:
        """The run has its folder: OPENING to RUNNING."""
        with self._changed:
            self._move({State.OPENING: State.PAUSING if self._hold else State.RUNNING})

    def trouble(self) -> None:
        """A device failed and is being brought back."""
        self._move({State.RUNNING: State.RECOVERING, State.PAUSING: State.RECOVERING})

    def recovered(self) -> None:
        """It is back."""
        with self._changed:
            self._move({State.RECOVERING: State.PAUSING if self._hold else State.RUNNING})

    def abandon(self) -> None:
        """The run is ending by Ctrl-C or an abort of its own: show it."""
        self.abort()

    def end(self) -> State:
        """Back to IDLE, or to CLOSED if that was asked meanwhile. The counts stay readable."""
        with self._changed:
            self._hold = False
            self._now = replace(self._now, procedure="", eta_s=None)
            self._move(dict.fromkeys(ACTIVE, State.CLOSED if self._close else State.IDLE))
            return self._now.state

    def update(self, **counts: int | float | None) -> None:
        """New counts: the fields of `Snapshot`."""
        with self._changed:
            self._now = replace(self._now, **counts)  # type: ignore[arg-type]

    def recording(self, run_id: str) -> None:
        """The run has a folder."""
        with self._changed:
            self._now = replace(self._now, run_id=run_id)

    def gate(self, before_waiting: Callable[[], None], meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Between two exposures: wait while paused.

        Parameters
        ----------
        before_waiting : callable
            Called before a pause, and before a stop is honoured, to bring in what is under way.
        meanwhile : callable
            Called when the pause begins, and now and then while it lasts.

        Returns
        -------
        bool
            Whether it had paused.

        Raises
        ------
        Stopped, Aborted
            If the run is to end.
        """
        if self._now.state in (State.OPENING, State.RUNNING, State.RECOVERING, State.IDLE, State.CLOSED):
            return False
        if self._now.state is not State.ABORTING:
            before_waiting()
        with self._changed:
            self._move({State.PAUSING: State.PAUSED})
            held = self._now.state is State.PAUSED
        while self._now.state is State.PAUSED:
            meanwhile()  # outside the lock: it may tell someone who asks for a snapshot, or resumes
            with self._changed:
                if self._now.state is State.PAUSED:
                    self._changed.wait(WAIT_S)
        self.raise_if_ending()
        return held

    def raise_if_ending(self) -> None:
        """Raise if the run is to end."""
        if self._now.state is State.ABORTING:
            raise Aborted("the run was aborted")
        if self._now.state is State.STOPPING:
            raise Stopped("the run was stopped")

    def _move(self, leads: dict[State, State]) -> None:
        with self._changed:
            state = leads.get(self._now.state)
            if state is None or state is self._now.state:
                return
            self._now = replace(self._now, state=state)
            if state is State.PAUSED:
                self._now = replace(self._now, eta_s=None)
            self._listener(state)
            self._changed.notify_all()
