"""The thread that touches the devices while a run goes on, so that nobody else has to wait for a vendor's call."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class HardwareThread:
    """Does jobs in the order given, on one thread. A daemon: a vendor's call that never returns cannot keep labctl.

    Parameters
    ----------
    idle : callable
        Called on the thread each time that no job is waiting, before it waits for one.
    """

    def __init__(self, idle: Job) -> None:
        self._idle = idle
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="labctl-hardware", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """One more job. A job reports its own failures: what it raises ends the thread."""
        self._jobs.put(job)

    def close(self, timeout_s: float) -> bool:
        """Let the jobs that were given end, then the thread; whether it ended in time."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        """The thread's identity, as `threading.get_ident` gives it."""
        return self._thread.ident

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                self._idle()
                job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except Abandoned:
                return


class Abandoned(BaseException):
    """Raised on a thread whose device call came back after everyone had given it up: the thread ends."""
