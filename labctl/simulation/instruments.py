"""The instruments of a simulated bench: a laser, a shutter and a power meter that act on one `World`.

In three ways: as drivers themselves (``driver = "simulated"``), as firmware that speaks lines to the real drivers
(``port = "simulated:laser"``), and as the same firmware behind a pseudo-terminal (`labctl.simulation.terminal`).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any, Literal

from labctl.errors import DeviceError
from labctl.simulation.world import World

NOMINAL_MW = 10.0
"""Power of the simulated laser at its nominal setting."""
Misbehaviour = Literal["", "late", "garbled", "cut", "never"]


class SimulatedLaser:
    """The laser of a simulated bench.

    Settings: ``enabled`` (bool), ``power`` (fraction of nominal).
    """

    def __init__(self, world: World) -> None:
        self.name = "simulated laser"
        self._world = world

    def set(self, setting: str, value: Any) -> None:
        """Change ``enabled`` or ``power``."""
        if setting == "enabled":
            self._world.set_laser(on=bool(value))
        elif setting == "power":
            self._world.set_laser(power=_power(self.name, value))
        else:
            raise _unknown(self.name, setting, "enabled, power")

    def read(self, setting: str) -> Any:
        """Read ``enabled`` or ``power``."""
        on, power = self._world.laser
        if setting not in ("enabled", "power"):
            raise _unknown(self.name, setting, "enabled, power")
        return on if setting == "enabled" else power

    def make_safe(self) -> None:
        """Light off."""
        self._world.set_laser(on=False)

    def close(self) -> None:
        """Nothing to release."""


class SimulatedShutter:
    """The shutter of a simulated bench. Setting: ``open`` (bool)."""

    def __init__(self, world: World) -> None:
        self.name = "simulated shutter"
        self._world = world

    def set(self, setting: str, value: Any) -> None:
        """Change ``open``."""
        if setting != "open":
            raise _unknown(self.name, setting, "open")
        self._world.set_shutter(bool(value))

    def read(self, setting: str) -> Any:
        """Read ``open``."""
        if setting != "open":
            raise _unknown(self.name, setting, "open")
        return self._world.shutter

    def make_safe(self) -> None:
        """Shut."""
        self._world.set_shutter(False)

    def close(self) -> None:
        """Nothing to release."""


class SimulatedPowerMeter:
    """A power meter behind the shutter of a simulated bench. Reading: ``power`` (W).

    Parameters
    ----------
    world : World
    nominal_mw : float
        What it reads at the laser's nominal power.
    """

    def __init__(self, world: World, *, nominal_mw: float = NOMINAL_MW) -> None:
        self.name = "simulated power meter"
        self._world, self._nominal_w = world, nominal_mw * 1e-3

    def set(self, setting: str, value: Any) -> None:
        """Nothing can be set."""
        raise DeviceError(f"{self.name}: {setting} cannot be set: it only reads power", device=self.name)

    def read(self, setting: str) -> Any:
        """Read ``power``, W."""
        if setting != "power":
            raise _unknown(self.name, setting, "power")
        return self._world.measured_power() * self._nominal_w

    def make_safe(self) -> None:
        """It cannot harm."""

    def close(self) -> None:
        """Nothing to release."""


FRONTS: dict[str, type[Any]] = {
    "laser": SimulatedLaser,
    "shutter": SimulatedShutter,
    "power-meter": SimulatedPowerMeter,
}
"""Role -> simulated driver."""


class Firmware:
    """What runs inside a simulated instrument: lines in, lines out, light changed.

    ===========  ===========================================  ==================================
    role         commands                                     questions
    ===========  ===========================================  ==================================
    all                                                       ``*IDN?``
    laser        ``OUTP 0|1``, ``SOUR:POW WATTS``             ``OUTP?``, ``SOUR:POW?``
    shutter      ``SHUT 0|1`` (1 is open)                     ``SHUT?``
    power-meter                                               ``MEAS:POW?``
    ===========  ===========================================  ==================================

    Parameters
    ----------
    world : World
    role : "laser", "shutter" or "power-meter"
    acknowledge : bool
        Whether it answers ``OK`` or ``ERR`` to commands. A question that it does not know stays without an answer.
    nominal_mw : float
        Laser power at the world's nominal setting.
    """

    def __init__(self, world: World, role: str, *, acknowledge: bool = False, nominal_mw: float = NOMINAL_MW) -> None:
        self.role = role
        self._world, self._acknowledge, self._nominal_w = world, acknowledge, nominal_mw * 1e-3
        self._planned: deque[Misbehaviour] = deque()
        self._held: list[bytes] = []
        self._lock = threading.Lock()

    def misbehave(self, *answers: Misbehaviour) -> None:
        """Plan the next answers, one word each.

        ``late``: sent only when the next line comes in, before the answer to that; ``garbled``: bytes that are no text;
        ``cut``: without its end; ``never``; ``""``: as it should be.
        """
        with self._lock:
            self._planned.extend(answers)

    def lines(self, line: str) -> list[bytes]:
        """What it sends when a line comes in: complete with terminators, nothing or several where it misbehaves."""
        with self._lock:
            sent, self._held = self._held, []
            answer = self._answer(line.strip())
            if answer is None:
                return sent
            text = answer.encode("ascii") + b"\n"
            match self._planned.popleft() if self._planned else "":
                case "late":
                    self._held.append(text)
                case "garbled":
                    sent.append(bytes(byte | 0x80 for byte in text[:-1]) + b"\n")
                case "cut":
                    sent.append(text[: len(text) // 2])
                case "never":
                    pass
                case _:
                    sent.append(text)
            return sent

    def _answer(self, line: str) -> str | None:
        command, _, argument = line.partition(" ")
        if command == "*IDN?":
            return f"labctl,simulated {self.role},0,1"
        if command.endswith("?"):
            return self._question(command)
        try:
            self._command(command, argument)
        except ValueError:
            return "ERR" if self._acknowledge else None
        return "OK" if self._acknowledge else None

    def _question(self, command: str) -> str | None:
        on, power = self._world.laser
        match self.role, command:
            case "laser", "OUTP?":
                return str(int(on))
            case "laser", "SOUR:POW?":
                return f"{power * self._nominal_w:.6E}"
            case "shutter", "SHUT?":
                return str(int(self._world.shutter))
            case "power-meter", "MEAS:POW?":
                return f"{self._world.measured_power() * self._nominal_w:.6E}"
        return None

    def _command(self, command: str, argument: str) -> None:
        match self.role, command, argument:
            case "laser", "OUTP", "0" | "1":
                self._world.set_laser(on=argument == "1")
            case "laser", "SOUR:POW", _:
                watts = float(argument)
                if not 0 <= watts <= 10 * self._nominal_w:
                    raise ValueError(argument)
                self._world.set_laser(power=watts / self._nominal_w)
            case "shutter", "SHUT", "0" | "1":
                self._world.set_shutter(argument == "1")
            case _:
                raise ValueError(command)


class FirmwareLink:
    """A line straight into a `Firmware`, in this process: it takes no time, and what is not there times out at once.

    It has the methods of `labctl.devices.instruments.dialogue.Link`.
    """

    def __init__(self, firmware: Firmware) -> None:
        self.where = f"simulated:{firmware.role}"
        self._firmware = firmware
        self._in = b""
        self._open = True

    def write(self, line: str) -> None:
        """Send a command."""
        if not self._open:
            raise OSError("it is closed")
        self._in += b"".join(self._firmware.lines(line))

    def read(self) -> str:
        """The next line."""
        line, end, rest = self._in.partition(b"\n")
        if not end:
            self._in = b""
            raise TimeoutError(repr(line) if line else "")
        self._in = rest
        return line.decode("ascii")

    def pending(self) -> bool:
        """Whether unread characters have come in."""
        return bool(self._in)

    def flush(self) -> None:
        """Discard unread characters."""
        self._in = b""

    def close(self) -> None:
        """The instrument stays as it is."""
        self._open = False


def _power(name: str, value: Any) -> float:
    power = float(value)
    if not math.isfinite(power) or power < 0:
        raise DeviceError(f"{name}: power = {value!r} is no fraction of the nominal power", device=name)
    return power


def _unknown(name: str, setting: str, there: str) -> DeviceError:
    return DeviceError(f"{name} has no setting '{setting}': it has {there}", device=name)
