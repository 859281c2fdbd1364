"""Putting frames on disk while the next ones are taken."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

DEPTH = 16
"""Frames that may wait for the disk; then the camera waits too, because saving never drops."""
LOOK_S = 0.1


class Saver:
    """Does jobs in the order given, on a thread of its own. Made and closed by one run.

    Parameters
    ----------
    failed : callable
        Told the first error that a job raises; later jobs are not done, but those with ``always`` are.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._jobs: queue.Queue[tuple[Callable[[], None], bool] | None] = queue.Queue(DEPTH)
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="labctl-saver", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None], *, always: bool = False, wanted: Callable[[], bool] = lambda: True) -> None:
        """One more job; waits while `DEPTH` are waiting, for as long as it is `wanted`."""
        while wanted():
            try:
                self._jobs.put((job, always), timeout=LOOK_S)
            except queue.Full:
                continue
            return

    def close(self) -> None:
        """Let every job that was given end, then the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._broken and not job[1]:
                continue
            try:
                job[0]()
            except Exception as error:  # whatever it is, it is the run's to report
                self._broken = True
                self._failed(error)
