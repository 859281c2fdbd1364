"""Calls to devices: each failure is one line that names the device, and a call that never ends can be given up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from labctl.bench.hardware import Abandoned
from labctl.errors import DeviceError, LabctlError

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Calls:
    """Makes the calls of one bench. `overdue` and `give_up` may be called from other threads than the call's.

    Parameters
    ----------
    came_back : callable
        Told a device whose call has ended after it was given up, on that call's thread; only then is it called again.
    """

    def __init__(self, came_back: Callable[[str], None] = lambda _: None) -> None:
        self._came_back = came_back
        # device, thread, since when, how long it may take, and how much longer unless there is a hurry
        self._busy: tuple[str, int, float, float, float] | None = None
        self._lost: dict[str, int] = {}

    def __call__(
        self, device: str, call: Callable[[], Answer], *, may_take_s: float = 0.0, patient_s: float = 0.0
    ) -> Answer:
        """Make one call.

        Parameters
        ----------
        device : str
            Name in the bench file.
        call : callable
        may_take_s : float
            How long it takes if all is well, real seconds.
        patient_s : float
            How much longer it is waited for where nobody is in a hurry, real seconds.

        Raises
        ------
        LabctlError
            As the call raises it.
        DeviceError
            For whatever else it raises; or if the device still hangs in an earlier call.
        Abandoned
            If it came back after it had been given up.
        """
        if device in self._lost:
            raise DeviceError(
                f"{device}: still hangs in an earlier call: check its cable and power, then open the bench again",
                device=device,
                passing=False,
            )
        me = threading.get_ident()
        self._busy = (device, me, time.monotonic(), may_take_s, patient_s)
        try:
            return call()
        except LabctlError:
            raise
        except Exception as error:
            raise DeviceError(f"{device}: {type(error).__name__}: {error}", device=device) from error
        finally:
            if self._lost.get(device) == me:
                try:
                    self._came_back(device)
                except Exception as error:  # it has failed before: that is why it was given up
                    log.warning("%s: came back, but could not be made safe: %s", device, error)
                finally:
                    del self._lost[device]
                raise Abandoned
            self._busy = None

    @property
    def lost(self) -> frozenset[str]:
        """Devices that hang in a call which was given up."""
        return frozenset(self._lost)

    def overdue(self, grace_s: float, *, hurry: bool = False) -> str:
        """The device whose call takes `grace_s` longer than it may; "" if none does."""
        busy = self._busy
        if busy is None or time.monotonic() - busy[2] <= busy[3] + grace_s + (0.0 if hurry else busy[4]):
            return ""
        return busy[0]

    def give_up(self) -> str:
        """Wait no more for the call under way: its device is lost until the call comes back; "" if there is none."""
        busy = self._busy
        if busy is None:
            return ""
        self._lost[busy[0]] = busy[1]
        if self._busy is not busy:  # it came back in this moment
            self._lost.pop(busy[0], None)
            return ""
        self._busy = None
        return busy[0]
