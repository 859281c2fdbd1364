"""Leaving a bench: every device is made safe and released, whatever the others do; one that hangs holds up nobody."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from labctl.bench.calls import Calls
from labctl.bench.hardware import Abandoned, HardwareThread
from labctl.clock import Clock
from labctl.config.schema import RecoverySection
from labctl.errors import DeviceError

log = logging.getLogger("labctl.bench.bench")
LOOK_S = 0.05
Action = tuple[str, Callable[[], Any]]


class Caller(Protocol):
    """Makes a call to a device of that name: `Calls`, or `PatientCalls`."""

    def __call__(self, device: str, call: Callable[[], Any]) -> Any:
        """The call's answer."""
        ...


class PatientCalls:
    """Calls devices on a thread of its own, and goes on on another where one hangs.

    Parameters
    ----------
    calls : Calls
        Of the bench.
    patience_s : float
        How long a call may take, real seconds.
    """

    def __init__(self, calls: Calls, patience_s: float) -> None:
        self._calls, self._patience_s = calls, patience_s
        self._thread = HardwareThread(lambda: None)

    def __call__(self, device: str, call: Callable[[], Any]) -> Any:
        """Make one call.

        Raises
        ------
        LabctlError
            As `Calls`; DeviceError also if it hangs.
        """
        ended = threading.Event()
        answers: list[Any] = []
        failures: list[BaseException] = []

        def job() -> None:
            try:
                answers.append(self._calls(device, call))
            except Abandoned:
                raise
            except BaseException as error:
                failures.append(error)
            ended.set()

        self._thread.put(job)
        while not ended.wait(LOOK_S):
            if self._calls.overdue(self._patience_s) and self._calls.give_up():
                self._thread = HardwareThread(lambda: None)
                raise DeviceError(f"{device}: does not answer: check its cable and power", device=device, passing=False)
        if failures:
            raise failures[0]
        return answers[0]

    def close(self) -> None:
        """End the thread."""
        self._thread.close(self._patience_s)


def make_safe(actions: Sequence[Action], call: Caller, *, recovery: RecoverySection, clock: Clock) -> list[str]:
    """Do all of these, and then again those that failed, as often as the bench's recovery says.

    Returns
    -------
    list of str
        What failed for good, one line each.
    """
    failures: dict[str, str] = {}
    left = list(actions)
    for attempt in range(recovery.retries + 1):
        if not left:
            break
        if attempt:
            clock.sleep(recovery.wait_s)
        again = []
        for name, action in left:
            try:
                call(name, action)
            except Exception as error:  # a dead device must not keep the others from being made safe
                failures[name] = _line(name, error)
                what = ""
                if getattr(error, "passing", True) and attempt < recovery.retries:
                    again.append((name, action))
                    what = f": trying again ({attempt + 1} of {recovery.retries})"
                log.warning("making the bench safe, %s%s", failures[name], what)
            else:
                failures.pop(name, None)
        left = again
    return list(failures.values())


def release(devices: Sequence[Action], call: Caller) -> None:
    """Close every device, whatever the others do."""
    for name, close in devices:
        try:
            call(name, close)
        except Exception as error:  # the others must be released all the same
            log.warning("closing %s", _line(name, error))


def _line(name: str, error: Exception) -> str:
    line = str(error)
    return line if line.startswith(f"{name}: ") else f"{name}: {line}"
