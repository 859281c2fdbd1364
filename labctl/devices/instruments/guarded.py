"""Limits and the safe state of the bench file, in front of any instrument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from labctl.devices.contract import Instrument
from labctl.errors import DeviceError


class GuardedInstrument:
    """An instrument that is sent nothing outside its limits.

    Parameters
    ----------
    label : str
        The instrument's name in the bench file.
    device : Instrument
    limits : mapping
        Setting -> (lowest, highest), in the setting's own unit.
    safe_state : mapping
        Setting -> value, set before the driver's own `make_safe`; not held to the limits.
    """

    def __init__(
        self,
        label: str,
        device: Instrument,
        *,
        limits: Mapping[str, tuple[float, float]] | None = None,
        safe_state: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = device.name
        self.device = device
        self._label = label
        self._limits, self._safe_state = dict(limits or {}), dict(safe_state or {})

    def set(self, setting: str, value: Any) -> None:
        """Change a setting.

        Raises
        ------
        DeviceError
            If the value lies outside the limits; nothing has been sent then.
        """
        if setting in self._limits:
            low, high = self._limits[setting]
            number = _number(value)
            if not low <= number <= high:
                raise DeviceError(
                    f"{self._label}: {setting} = {value!r} is outside {low:g} ... {high:g}, "
                    "the limits in the bench file: nothing was sent",
                    device=self._label,
                )
        self.device.set(setting, value)

    def read(self, setting: str) -> Any:
        """Read a setting or a measurement."""
        return self.device.read(setting)

    def make_safe(self) -> None:
        """The bench file's safe state, then the driver's own; all of it, also after a failure.

        Raises
        ------
        DeviceError
            If anything failed.
        """
        failures = []
        for setting, value in self._safe_state.items():
            try:
                self.device.set(setting, value)
            except Exception as error:  # the next setting may still be possible, and must be tried
                failures.append(str(error))
        try:
            self.device.make_safe()
        except Exception as error:  # reported with the others
            failures.append(str(error))
        if failures:
            raise DeviceError("; ".join(failures), device=self._label)

    def close(self) -> None:
        """Release the device."""
        self.device.close()


def _number(value: Any) -> float:
    """A value as a number; NaN, which lies within no limits, for what is none."""
    try:
        return math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError):
        return math.nan
