"""slmsuite's blocking calibrations, turned inside out: they run on a thread, and their exposures are handed out.

Thread and caller take turns: while one runs, the other waits, so that the same frames always give the same calibration.
Nothing waits for any time of its own. A conversation that is closed ends its thread: the call that waits for a frame
raises a `BaseException` there, which slmsuite lets through, where it would try again after an `Exception`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.clock import DrivenClock
from labctl.errors import CalibrationError

Work = Callable[[Any], Any]
"""Takes slmsuite's `FourierSLM` and gives the result."""
ENDING_S = 30.0
"""How long a thread that was told to end may take: it computes until it asks for its next frame."""


class _Ended(BaseException):
    """The conversation was closed."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """A frame that slmsuite waits for: gray pattern [row, column], and exposure time, s."""

    slm: NDArray[Any]
    exposure_s: float


@dataclass(frozen=True, eq=False)
class Done:
    """What the work gave."""

    result: Any


class Conversation:
    """Runs `work` on a virtual `FourierSLM` of a bench.

    Use as a context; what leaves the block ends the thread::

        with Conversation(facts, work) as talk:
            said = talk.begin()
            while isinstance(said, Wanted):
                said = talk.answer(frame)
        said.result

    Parameters
    ----------
    facts : BenchFacts
    work : callable
    seed : int
        Of numpy's global random state, from which slmsuite draws; it is put back in the end.
    """

    def __init__(self, facts: BenchFacts, work: Work, *, seed: int = 0) -> None:
        self._facts, self._work, self._seed = facts, work, seed
        self._asked: queue.SimpleQueue[Wanted | Done | BaseException] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[NDArray[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="slmsuite calibration", daemon=True)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> Wanted | Done:
        """Start; what is wanted first."""
        self._thread.start()
        return self._next()

    def answer(self, frame: NDArray[Any]) -> Wanted | Done:
        """Give the frame that was wanted [row, column]; what is wanted next.

        Raises
        ------
        Exception
            What the work failed with.
        """
        self._answers.put(np.array(frame))
        return self._next()

    def close(self) -> None:
        """End the thread and wait for it. Safe to call twice, and before it was started.

        Raises
        ------
        CalibrationError
            If it does not end.
        """
        if self._thread.ident is None:
            return
        if self._thread.is_alive():
            self._answers.put(None)
            self._thread.join(ENDING_S)
        if self._thread.is_alive():
            raise CalibrationError("slmsuite's calibration does not end although it was told to: start labctl again")

    def _next(self) -> Wanted | Done:
        said = self._asked.get()
        if isinstance(said, BaseException):
            self._thread.join(ENDING_S)
            raise said
        if isinstance(said, Done):
            self._thread.join(ENDING_S)
        return said

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _take(self, shown: NDArray[Any], exposure_s: float) -> NDArray[Any]:
        self._asked.put(Wanted(shown, exposure_s))
        frame = self._answers.get()
        if frame is None:
            raise _Ended
        return frame

    def _run(self) -> None:
        before = np.random.get_state()  # noqa: NPY002 - slmsuite's
        try:
            np.random.seed(self._seed)  # noqa: NPY002
            with self._system() as system:
                result = self._work(system)
        except _Ended:
            return
        except BaseException as error:  # the caller's to raise: nobody reads what a thread dies of
            self._asked.put(error)
        else:
            self._asked.put(Done(result))
        finally:
            np.random.set_state(before)  # noqa: NPY002

    def _system(self) -> Any:
        from labctl.devices.fourier import fourier_slm  # slmsuite takes a second to import
        from labctl.devices.virtual import VirtualCamera, VirtualSLM

        facts, geometry = self._facts, self._facts.geometry
        slm = VirtualSLM(
            shape=geometry.slm.shape,
            pitch=geometry.slm.pitch,
            wavelength=geometry.wavelength,
            bitdepth=int(facts.slm_levels - 1).bit_length(),
        )
        camera = VirtualCamera(
            slm,
            self._take,
            shape=geometry.camera.shape,
            pitch=geometry.camera.pitch,
            bitdepth=facts.camera_bitdepth,
            exposure_s=facts.exposure_s,
            longest_s=min(1.0, facts.longest_exposure_s),
        )
        return fourier_slm(slm, camera, clock=DrivenClock(), settle_s=0.0, longest_exposure_s=facts.longest_exposure_s)
