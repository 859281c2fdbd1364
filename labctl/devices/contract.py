"""What the bench asks of a device: three small protocols, and the frame as a camera gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RawFrame:
    """A camera's frame.

    Attributes
    ----------
    data : unsigned integer array [row, column], counts
    started, ended : float
        Start and end of the exposure on the bench's clock, s.
    origin : (row, column), camera pixels
        Where the frame's corner lies on the sensor.
    """

    data: NDArray[np.unsignedinteger[Any]]
    started: float
    ended: float
    origin: tuple[int, int] = (0, 0)


@runtime_checkable
class Panel(Protocol):
    """An SLM or input panel."""

    name: str
    shape: tuple[int, int]
    pitch: tuple[float, float]
    levels: int

    def show(self, gray: NDArray[np.unsignedinteger[Any]]) -> None:
        """Send a gray pattern [row, column]; returns when the device has taken it."""
        ...

    def blank(self) -> None:
        """Show the safe pattern."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


@runtime_checkable
class Sensor(Protocol):
    """A camera."""

    name: str
    shape: tuple[int, int]
    pitch: tuple[float, float]
    bitdepth: int
    readout_s: float

    def set_window(self, window: tuple[int, int, int, int] | None) -> tuple[int, int, int, int]:
        """Read only ``(first row, end row, first column, end column)``, None for all; returns what is read now."""
        ...

    def grab(self, exposure_s: float) -> RawFrame:
        """Expose one frame and return it."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


@runtime_checkable
class Instrument(Protocol):
    """A laser, shutter, power meter, stage or environment sensor."""

    name: str

    def set(self, setting: str, value: Any) -> None:
        """Change a setting."""
        ...

    def read(self, setting: str) -> Any:
        """Read a setting or a measurement."""
        ...

    def make_safe(self) -> None:
        """Laser off, shutter closed; nothing for what cannot harm."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...
