"""A plan of faults carried out on the devices of one bench."""

from __future__ import annotations

import logging
from typing import overload

import numpy as np

from labctl.clock import Clock
from labctl.config.faults import FaultsSection
from labctl.devices.contract import Instrument, Panel, Sensor
from labctl.devices.faults.trouble import Injected, Trouble
from labctl.devices.faults.wrappers import FaultyInstrument, FaultyPanel, FaultySensor
from labctl.errors import ConfigError

__all__ = ["Injected", "Rehearsal", "inject"]

log = logging.getLogger(__name__)


class Rehearsal:
    """The faults of one bench. Each device has dice of its own, so that what one is asked does not change another's.

    Parameters
    ----------
    plan : FaultPlan
    clock : Clock
        All waiting is done on it, and `after_s` counts on it from the moment that a device is wrapped.
    rng : numpy Generator, optional
        Default: from the plan's seed and the device's name.

    Attributes
    ----------
    injected : list of Injected
        What was done to all devices, in order.
    """

    def __init__(self, plan: FaultsSection, clock: Clock, rng: np.random.Generator | None = None) -> None:
        self.plan, self.clock, self._rng = plan, clock, rng
        self.injected: list[Injected] = []
        self._ticking: list[FaultyPanel | FaultyInstrument] = []

    @overload
    def inject(self, device: Panel, name: str) -> FaultyPanel: ...
    @overload
    def inject(self, device: Sensor, name: str) -> FaultySensor: ...
    @overload
    def inject(self, device: Instrument, name: str) -> FaultyInstrument: ...
    def inject(self, device: Panel | Sensor | Instrument, name: str) -> FaultyPanel | FaultySensor | FaultyInstrument:
        """Wrap a device. Also those without faults should be wrapped: their calls are when late things happen.

        Parameters
        ----------
        device : Panel, Sensor or Instrument
        name : str
            What the plan calls it.

        Raises
        ------
        ConfigError
            If the device follows no contract, or the plan has a fault for it that its kind cannot have.
        """
        faults = tuple(entry for entry in self.plan.plan if entry.device == name)
        rng = self._rng or np.random.default_rng([self.plan.seed, *name.encode()])
        trouble = Trouble(name, faults, self.clock, rng, self.injected, self._tick)
        wrapped: FaultyPanel | FaultySensor | FaultyInstrument
        if isinstance(device, Sensor):
            kind, wrapped = "camera", FaultySensor(device, trouble)
        elif isinstance(device, Panel):
            kind, wrapped = "panel", FaultyPanel(device, trouble)
        elif isinstance(device, Instrument):
            kind, wrapped = "instrument", FaultyInstrument(device, trouble)
        else:
            raise ConfigError(f"{name}: {type(device).__name__} follows none of labctl's device contracts")
        try:
            FaultsSection(plan=faults).check_devices({name: kind})
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if not isinstance(wrapped, FaultySensor):
            self._ticking.append(wrapped)
        return wrapped

    def announce(self, *, real: bool) -> None:
        """Warn that faults are armed, and louder where a real device is among those that they strike."""
        armed = "; ".join(str(entry) for entry in self.plan.plan)
        if not armed:
            return
        if real:
            log.warning(
                "FAULTS ARE ARMED ON A BENCH WITH REAL DEVICES: its frames are not to be trusted, and not every "
                "pattern will be shown; take [faults] out of the bench file to measure. Armed: %s",
                armed,
            )
        else:
            log.warning("faults armed: %s", armed)

    def _tick(self) -> None:
        for device in self._ticking:
            device.tick()


@overload
def inject(
    device: Panel, plan: FaultsSection, *, name: str, clock: Clock, rng: np.random.Generator | None = None
) -> FaultyPanel: ...
@overload
def inject(
    device: Sensor, plan: FaultsSection, *, name: str, clock: Clock, rng: np.random.Generator | None = None
) -> FaultySensor: ...
@overload
def inject(
    device: Instrument, plan: FaultsSection, *, name: str, clock: Clock, rng: np.random.Generator | None = None
) -> FaultyInstrument: ...
def inject(
    device: Panel | Sensor | Instrument,
    plan: FaultsSection,
    *,
    name: str,
    clock: Clock,
    rng: np.random.Generator | None = None,
) -> FaultyPanel | FaultySensor | FaultyInstrument:
    """Wrap one device, simulated or real, so that it fails as planned. For several of one bench, use one `Rehearsal`.

    Parameters
    ----------
    device : Panel, Sensor or Instrument
    plan : FaultPlan
    name : str
        What the plan calls the device.
    clock : Clock
    rng : numpy Generator, optional
        Default: from the plan's seed and the name.

    Raises
    ------
    ConfigError
        As `Rehearsal.inject`.
    """
    return Rehearsal(plan, clock, rng).inject(device, name)
