"""Which monitor is meant: by what it calls itself, never by a number that changes when a cable is pulled."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labctl.errors import ConfigError, DeviceError

DESKTOP_VARIABLE = "LABCTL_DESKTOP"
"""Environment variable that names the monitor with the desktop, where that is not the primary one."""


@dataclass(frozen=True)
class MonitorInfo:
    """A monitor as the window system reports it.

    Attributes
    ----------
    name : str
        Output or friendly name: ``HDMI-1``, ``\\\\.\\DISPLAY2``, ``PLUTO``.
    manufacturer, model, serial : str
        From the EDID; empty where the monitor or the system keeps silent.
    x, y : int
        Where its top left corner lies on the desktop, pixels.
    width, height : int
        Resolution now, pixels.
    refresh_hz : float
    depth : int
        Colour depth, bits.
    pixel_ratio : float
        1 where a window's pixel is the monitor's pixel.
    primary : bool
        Whether it carries the desktop's task bar.
    """

    name: str
    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0
    refresh_hz: float = 0.0
    depth: int = 24
    pixel_ratio: float = 1.0
    primary: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> MonitorInfo:
        """From the mapping that the window's process sends."""
        return cls(**values)

    @property
    def geometry(self) -> str:
        """``1920x1080+1280+0``: resolution and place."""
        return f"{self.width}x{self.height}+{self.x}+{self.y}"

    @property
    def identities(self) -> tuple[str, ...]:
        """Everything that ``monitor = "..."`` of a bench file may say for it, the most telling first."""
        both = f"{self.manufacturer} {self.model}".strip()
        return tuple(
            dict.fromkeys(
                text for text in (self.serial, both, self.model, self.name, self.geometry, f"{self.x},{self.y}") if text
            )
        )

    def is_called(self, wanted: str) -> bool:
        """Whether `wanted` is one of its identities, whatever the case."""
        return wanted.strip().casefold() in {text.casefold() for text in self.identities}

    def __str__(self) -> str:
        edid = " ".join(part for part in (self.manufacturer, self.model, self.serial) if part)
        return f"'{self.name}' ({f'{edid}, ' if edid else ''}{self.geometry}{', primary' if self.primary else ''})"


def listed(found: Sequence[MonitorInfo]) -> str:
    """The monitors that there are, in half a line."""
    return "; ".join(map(str, found)) if found else "none"


def is_desktop(monitor: MonitorInfo, desktop: str = "") -> bool:
    """Whether it is the monitor with the desktop: the one named by `desktop`, else the primary one."""
    return monitor.is_called(desktop) if desktop else monitor.primary


def choose(found: Sequence[MonitorInfo], wanted: str, *, allow_primary: bool = False, desktop: str = "") -> MonitorInfo:
    """The one monitor that `wanted` names.

    The desktop's monitor is no candidate unless `allow_primary`: of two equal monitors, the one without the desktop is
    meant.

    Parameters
    ----------
    found : sequence of MonitorInfo
    wanted : str
        One of a monitor's `MonitorInfo.identities`.
    allow_primary : bool
        Whether it may be the desktop's.
    desktop : str
        Identity of the desktop's monitor; empty for the primary one.

    Raises
    ------
    ConfigError
        If `wanted` fits several monitors, or `desktop` fits none.
    DeviceError
        If `wanted` fits none, or only the desktop's.
    """
    if desktop and not any(monitor.is_called(desktop) for monitor in found):
        raise ConfigError(
            f"display: {DESKTOP_VARIABLE} names '{desktop}', which is no monitor here: there are {listed(found)}"
        )
    fitting = [monitor for monitor in found if monitor.is_called(wanted)]
    if not fitting:
        near = difflib.get_close_matches(wanted, [text for monitor in found for text in monitor.identities], n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise DeviceError(
            f"display: no monitor is called '{wanted}': {hint}check its cable and power; there are {listed(found)}",
            device=wanted,
        )
    free = fitting if allow_primary else [monitor for monitor in fitting if not is_desktop(monitor, desktop)]
    if not free:
        raise DeviceError(
            f"display: monitor '{wanted}' is the one with the desktop: name another of {listed(found)}, "
            "or set allow_primary = true in the options",
            device=wanted,
        )
    if len(free) > 1:
        raise ConfigError(
            f"display: {len(free)} monitors are called '{wanted}': name one by its serial number or place "
            f'(monitor = "{free[-1].geometry}"); there are {listed(found)}'
        )
    return free[0]
