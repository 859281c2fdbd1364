"""When the faults of one device strike, and those that any device can have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from labctl.clock import Clock
from labctl.config.faults import FaultEntry

TIMEOUT_S = 2.0
"""How long a call takes that times out, unless the plan says otherwise."""


@dataclass(frozen=True)
class Injected:
    """One fault that was done.

    Attributes
    ----------
    when : float
        On the bench's clock, s.
    device : str
    call : int
        Number of the device's call, from 1; 0 for what is no call's doing.
    fault : str
    """

    when: float
    device: str
    call: int
    fault: str


@dataclass
class Trouble:
    """The faults of one device: counts its calls, and fails those that the plan says.

    Parameters
    ----------
    device : str
    faults : tuple of FaultEntry
        Those of this device.
    clock : Clock
    rng : numpy Generator
    injected : list
        Where what was done is written down.
    between : callable
        Called before each call, for what the plan does to other devices meanwhile.
    """

    device: str
    faults: tuple[FaultEntry, ...]
    clock: Clock
    rng: np.random.Generator
    injected: list[Injected]
    between: Callable[[], None]
    calls: int = 0
    _by_kind: Counter[str] = field(default_factory=Counter)
    _number: int = 0
    _gone_until: float = -np.inf
    _stuck: bool = False
    _over: set[int] = field(default_factory=set)
    _opened: float = field(init=False)

    def __post_init__(self) -> None:
        self._opened = self.clock.now()

    def call(self, kind: str, *, counted: bool = True) -> dict[str, FaultEntry]:
        """Count a call. Waits, or fails, as the plan says; returns the other faults that strike it.

        Parameters
        ----------
        kind : str
            One of `labctl.config.faults.CALLS_OF`.
        counted : bool
            Whether it is one of those that an entry without `call` counts.

        Raises
        ------
        TimeoutError, ConnectionError, OSError
            As drivers do.
        """
        self.between()
        self.calls += counted
        self._by_kind[kind] += 1
        self._number = self.calls if counted else self._by_kind[kind]
        striking: dict[str, FaultEntry] = {
            entry.fault: entry
            for number, entry in enumerate(self.faults)
            if entry.call in ((kind, None) if counted else (kind,)) and self._strikes(number, entry)
        }
        self.check_connected()
        if entry := striking.pop("hang", None):
            self.note("hang")
            self.clock.sleep(entry.for_s or 0.0)
        if entry := striking.pop("disconnect", None):
            self.note("disconnect")
            self._gone_until = np.inf if entry.for_s is None else self.clock.now() + entry.for_s
            self.check_connected()
        if striking.pop("stuck", None):
            self.note("stuck")
            self._stuck = True
            self.check_connected()
        if entry := striking.pop("timeout", None):
            self.note("timeout")
            waited = entry.for_s or TIMEOUT_S
            self.clock.sleep(waited)
            raise TimeoutError(f"no answer within {waited:g} s (a rehearsed fault)")
        return striking

    def check_connected(self) -> None:
        """
        Raises
        ------
        ConnectionError
            While the device is disconnected.
        OSError
            While it is stuck.
        """
        if self.clock.now() < self._gone_until:
            raise ConnectionError("the device is not connected (a rehearsed fault)")
        if self._stuck:
            raise OSError("the device is stuck until it is opened again (a rehearsed fault)")

    def opened(self) -> None:
        """The device has been opened again: what was stuck is free, if opening succeeds.

        Raises
        ------
        TimeoutError, ConnectionError, OSError
            As the plan says of this call.
        """
        was_stuck, self._stuck = self._stuck, False
        try:
            self.call("open", counted=False)
        except OSError:
            self._stuck = was_stuck
            raise

    def due(self, fault: str) -> FaultEntry | None:
        """The entry of a fault whose time (`after_s`) has come, once."""
        for number, entry in enumerate(self.faults):
            if entry.fault == fault and entry.after_s is not None and self._strikes(number, entry):
                return entry
        return None

    def closing(self, close: Callable[[], None]) -> None:
        """Close a device as the plan says. The device itself is released in any case."""
        entries = {entry.fault: entry for entry in self.faults}
        if entry := entries.get("slow-close"):
            self.note("slow-close")
            self.clock.sleep(entry.for_s or 0.0)
        close()
        if not self._stuck:
            self.check_connected()
        if "failing-close" in entries:
            self.note("failing-close")
            raise OSError("the device cannot be released (a rehearsed fault)")

    def note(self, fault: str, *, call: int | None = None) -> None:
        """Write down that a fault was done."""
        self.injected.append(Injected(self.clock.now(), self.device, self._number if call is None else call, fault))

    def _strikes(self, number: int, entry: FaultEntry) -> bool:
        if entry.rate is not None:  # drawn at every call, so that one entry leaves the others' dice alone
            return bool(self.rng.random() < entry.rate)
        if entry.after_s is None:
            return (self.calls if entry.call is None else self._by_kind[entry.call]) in entry.at
        if number in self._over or self.clock.now() - self._opened < entry.after_s:
            return False
        self._over.add(number)
        return True
