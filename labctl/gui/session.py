"""The hardware thread: it alone touches the bench. The window asks, and is told by events; it never waits.

    CLOSED -> OPENING -> IDLE <-> LIVE
                          |        |
                          v        v
                        RUNNING <-> PAUSING, PAUSED, RECOVERING   (as the engine says)
                          |                        |
                          +-> STOPPING, ABORTING <-+

From every phase, `shutdown` leads to CLOSED: a run is aborted, the bench left safe, the thread ended.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from labctl.bench.bench import Bench
from labctl.errors import Aborted, LabctlError, SafetyError
from labctl.gui.bridge import Bridge
from labctl.gui.mailbox import Mailbox, Shot
from labctl.gui.status import Outcome, Phase, Status
from labctl.procedures.messages import Gray, Prompt
from labctl.runs.events import Captured, Event, Logged, Progressed, Prompted, State, StateChanged

log = logging.getLogger(__name__)
LIVE_PERIOD_S = 1 / 30
PHASES = {
    state: Phase[state.name]
    for state in (
        State.RUNNING, State.PAUSING, State.PAUSED, State.RECOVERING, State.STOPPING, State.ABORTING,
    )
}  # fmt: skip
Opener = Callable[[str], Bench]


class Controls(Protocol):
    """What the session asks of an engine; every call is thread-safe and returns at once."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...

    def abort(self) -> None: ...


class Hooks(Protocol):
    """What a job gets from the session."""

    def observe(self, event: Event) -> None:
        """The engine's observer."""
        ...

    def attach(self, engine: Controls) -> None:
        """Tell the session which engine pauses and aborts this job."""
        ...

    def detach(self) -> None:
        """The engine attached last has finished; the job goes on."""
        ...

    def check(self) -> None:
        """Raise `Aborted` if the person has asked for it: call it between steps that have no engine."""
        ...

    def stage(self, text: str) -> None:
        """Say what goes on before or after the engine's part."""
        ...

    def ask(self, prompt: Prompt) -> str:
        """Wait for the person's answer to a prompt that the engine has told; raises `Aborted` on abort."""
        ...


class Job(Protocol):
    """Something to run on the open bench, on the hardware thread."""

    @property
    def title(self) -> str:
        """Short name for the window."""
        ...

    def __call__(self, bench: Bench, hooks: Hooks) -> Outcome:
        """Run it. Raises `Aborted` when stopped; any other exception is a failure."""
        ...


@dataclass(frozen=True)
class _Command:
    what: str
    argument: Any = None


class Session:
    """Owns the hardware thread, and on it the bench and the engine.

    Parameters
    ----------
    opener : callable
        Bench name -> opened `Bench`; called on the hardware thread.
    bridge : Bridge
        Gets every rare event.
    mailbox : Mailbox
        Gets every frame.
    """

    def __init__(self, opener: Opener, bridge: Bridge, mailbox: Mailbox) -> None:
        self._opener, self._bridge, self._mailbox = opener, bridge, mailbox
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._reply: str | None = None
        self._status = Status()
        self._engine: Controls | None = None
        self._ending = ""  # "stop" or "abort", once the person has asked for it
        self._quit = self._paused = False
        self._live = False
        self._live_at = 0.0
        self._bench: Bench | None = None
        self._slm: Gray | None = None
        self._input: Gray | None = None
        self._thread = threading.Thread(target=self._work, name="labctl-hardware", daemon=True)
        self._thread.start()

    # ---- asked by the window, from any thread; all return at once -------------------------------------------------

    @property
    def status(self) -> Status:
        """The present phase and bench."""
        with self._lock:
            return self._status

    @property
    def alive(self) -> bool:
        """Whether the hardware thread still runs."""
        return self._thread.is_alive()

    def open(self, name: str) -> None:
        """Close the bench that is open, and open this one."""
        self._commands.put(_Command("open", name))

    def release(self) -> None:
        """Leave the bench safe and release its devices."""
        self._commands.put(_Command("release"))

    def start(self, job: Job) -> None:
        """Run a job on the open bench."""
        self._commands.put(_Command("run", job))

    def live(self, on: bool) -> None:
        """Grab frames continuously while idle, with whatever patterns are shown."""
        self._commands.put(_Command("live", on))

    def pause(self) -> None:
        """Hold the run at the next frame."""
        self._tell("pause")

    def resume(self) -> None:
        """Go on with a held run."""
        self._tell("resume")

    def stop(self) -> None:
        """End the run after the exposure under way, leaving the bench safe; what was taken is kept."""
        self._end_run("stop", Phase.STOPPING)

    def abort(self) -> None:
        """End the run at once, leaving the bench safe."""
        self._end_run("abort", Phase.ABORTING)

    def _end_run(self, how: str, phase: Phase) -> None:
        with self._lock:
            running = self._status.phase.running
            if running and self._ending != "abort":
                self._ending = how
            self._changed.notify_all()
        if running:
            self._enter(phase)
            self._tell(how)

    def answer(self, option: str) -> None:
        """The person's answer to the prompt that a run waits for."""
        with self._lock:
            self._reply = option
            self._changed.notify_all()

    def shutdown(self) -> None:
        """Abort what runs, make the bench safe, close it, end the thread. Returns at once: see `join`."""
        with self._lock:
            self._quit = True
        self.abort()
        self._commands.put(_Command("quit"))

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end after `shutdown`; never from the GUI while it shows. True if it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the hooks of a job, on the hardware thread ---------------------------------------------------------------

    def observe(self, event: Event) -> None:
        """The engine's observer: frames to the mailbox, the rest to the bridge. Returns at once."""
        match event:
            case Captured(frame=frame, exposure=exposure):
                # The mailbox may drop the shot that brought a pattern, so every shot carries the present ones.
                self._slm = exposure.slm if exposure.slm is not None else self._slm
                self._input = exposure.input if exposure.input is not None else self._input
                self._mailbox.put(Shot(frame, self._slm, self._input, exposure.tag))
                return
            case Progressed(saved=saved):
                self._mailbox.saved(saved)
            case Prompted():
                with self._lock:
                    self._reply = None  # an answer to an earlier question is none to this one
            case StateChanged(state=state):
                self._follow(state)
            case Logged():
                return  # the engine has logged it too, and the log panel listens to the loggers
        self._bridge.post(event)

    def attach(self, engine: Controls) -> None:
        """Pause and abort go to this engine from now on; what was asked before is passed on when it runs."""
        with self._lock:
            self._engine = engine

    def detach(self) -> None:
        """No engine to tell for now."""
        with self._lock:
            self._engine = None

    def check(self) -> None:
        """Raise `Aborted` if the person has asked for it."""
        with self._lock:
            if self._ending:
                raise Aborted("ended by the user")

    def stage(self, text: str) -> None:
        """Say what goes on before or after the engine's part."""
        with self._lock:
            self._status = replace(self._status, message=text)
            now = self._status
        self._bridge.post(now)

    def ask(self, prompt: Prompt) -> str:
        """Wait for an answer; the window has the question from the engine's `Prompted`."""
        log.info("asked: %s", prompt.text)
        with self._lock:
            while self._reply is None and not self._ending:
                self._changed.wait()
            reply, self._reply = self._reply, None
        self.check()
        log.info("answered: %s", reply)
        return reply or ""

    # ---- the hardware thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        handlers: dict[str, Callable[[Any], None]] = {
            "open": self._open,
            "run": self._run,
            "live": self._set_live,
            "release": self._release,
        }
        try:
            while not self._quit:
                command = self._next()
                if command is None:
                    self._grab()
                elif command.what == "quit":
                    break
                else:
                    try:
                        handlers[command.what](command.argument)
                    except Exception as error:
                        log.error("%s failed: %s", command.what, error, exc_info=error)
        finally:
            self._close()
            self._enter(Phase.CLOSED)

    def _next(self) -> _Command | None:
        """The next command; None when it is time for a live frame instead."""
        if not self._live:
            return self._commands.get()
        try:
            wait = self._live_at + LIVE_PERIOD_S - time.monotonic()
            return self._commands.get(timeout=wait) if wait > 0 else self._commands.get_nowait()
        except queue.Empty:
            return None

    def _open(self, name: str) -> None:
        self._close()
        self._enter(Phase.OPENING, Status(Phase.OPENING, name))
        try:
            self._bench = self._opener(name)
        except Exception as error:
            known = isinstance(error, LabctlError)
            log.error("bench '%s' did not open: %s", name, error, exc_info=None if known else error)
            self._enter(Phase.CLOSED, Status(Phase.CLOSED, name, message=str(error)))
            return
        log.info("bench '%s' is open: %s", name, ", ".join(f"{k} {v}" for k, v in self._bench.devices.items()))
        self._enter(Phase.IDLE, Status(Phase.IDLE, name, self._bench.facts))

    def _release(self, _nothing: None) -> None:
        self._close()
        self._enter(Phase.CLOSED)

    def _set_live(self, on: bool) -> None:
        if self._bench is None:
            if on:
                log.warning("live view: no bench is open")
            return
        if on and not self._live:
            self._mailbox.reset()
        self._live = on
        self._enter(Phase.LIVE if on else Phase.IDLE)

    def _grab(self) -> None:
        if self._bench is None:
            self._live = False
            return
        self._live_at = time.monotonic()
        try:
            self._mailbox.put(Shot(self._bench.capture(), self._slm, self._input))
        except Exception as error:
            self._live = False
            log.error("live view stopped: %s", error, exc_info=None if isinstance(error, LabctlError) else error)
            if isinstance(error, SafetyError):
                self._bench.make_safe()  # which also lets the next run begin
            self._enter(Phase.IDLE)

    def _run(self, job: Job) -> None:
        if self._bench is None:
            log.warning("%s: no bench is open", job.title)
            return
        self._live = False
        with self._lock:
            self._ending, self._paused = "abort" if self._quit else "", False
        self._mailbox.reset()
        self._enter(Phase.RUNNING)
        try:
            outcome = job(self._bench, self)
        except Aborted as error:
            outcome = Outcome(job.title, "aborted", str(error))
        except Exception as error:
            known = isinstance(error, LabctlError)
            log.error("%s failed: %s", job.title, error, exc_info=None if known else error)
            outcome = Outcome(job.title, "failed", str(error) if known else f"{type(error).__name__}: {error}")
        self.detach()
        with self._lock:
            self._ending = ""
        self._slm = self._input = None
        self._bench.make_safe()
        self._bridge.post(outcome)
        self._enter(Phase.IDLE, replace(self.status, phase=Phase.IDLE, facts=self._bench.facts, message=""))

    def _close(self) -> None:
        self._live = False
        self._slm = self._input = None
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.close()

    def _follow(self, state: State) -> None:
        if state is State.RUNNING:
            # An engine forgets what it is asked before it runs, so what was asked meanwhile is said again.
            with self._lock:
                engine, ending, paused = self._engine, self._ending, self._paused
            if engine is not None and ending:
                getattr(engine, ending)()
            elif engine is not None and paused:
                engine.pause()
        # IDLE of one engine is not the end of the job: `_run` says when that is.
        phase = PHASES.get(state)
        if phase is not None and (phase is Phase.ABORTING or not self._ending):
            self._enter(phase)

    def _enter(self, phase: Phase, status: Status | None = None) -> None:
        with self._lock:
            if phase in (Phase.STOPPING, Phase.ABORTING) and not self._status.phase.running:
                return  # the run ended meanwhile
            self._status = status or replace(self._status, phase=phase, message="")
            if phase is Phase.CLOSED:
                self._status = replace(self._status, facts=None)
            now = self._status
        self._bridge.post(now)

    def _tell(self, what: str) -> None:
        with self._lock:
            engine = self._engine
            if what in ("pause", "resume"):
                self._paused = what == "pause"
        if engine is not None:
            getattr(engine, what)()
