"""A laser of a simulated world, reached over a pseudo-terminal, and the table that describes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from labctl.clock import DrivenClock
from labctl.devices.serial import SerialInstrument
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import resolve
from labctl.simulation.instruments import Firmware
from labctl.simulation.terminal import Terminal
from labctl.simulation.world import World

SETTINGS: dict[str, Any] = {
    "enabled": {"set": "OUTP {value}", "get": "OUTP?", "type": "bool"},
    "power": {"set": "SOUR:POW {value:.6f}", "get": "SOUR:POW?", "unit": "W"},
}
IDENTIFY = {"query": "*IDN?", "expect": "labctl,simulated laser,.*"}
ANSWER_MS = 400
"""Long enough for an answer on a busy machine; a missing one costs this much."""


@pytest.fixture
def table() -> dict[str, Any]:
    """The options that describe the laser, without where it is."""
    return {"settings": SETTINGS, "identify": IDENTIFY, "safe": [["enabled", False]]}


@pytest.fixture
def world() -> World:
    plane = Plane((16, 16), (8e-6, 8e-6))
    geometry = Geometry(638e-9, 0.1, 0.1, plane, plane, plane)
    made = World(geometry, resolve("ideal", {}), seed=0, clock=DrivenClock())
    made.show_input(np.full((16, 16), 255, np.uint8))
    return made


@pytest.fixture
def firmware(world: World) -> Firmware:
    return Firmware(world, "laser")


@pytest.fixture
def terminal(firmware: Firmware) -> Iterator[Terminal]:
    if sys.platform == "win32":
        pytest.skip("pseudo-terminals are not for Windows")
    with Terminal(firmware) as made:
        yield made


@pytest.fixture
def laser(terminal: Terminal, table: dict[str, Any]) -> Iterator[Callable[..., SerialInstrument]]:
    """Opens the laser on its pseudo-terminal, with options changed; closed after the test."""
    opened: list[SerialInstrument] = []

    def make(**options: Any) -> SerialInstrument:
        given = table | {"port": terminal.port, "timeout_ms": ANSWER_MS, "name": "laser"} | options
        opened.append(SerialInstrument(**given))
        return opened[-1]

    yield make
    for instrument in opened:
        instrument.close()
