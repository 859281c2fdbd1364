"""The driver `visa` against pyvisa-sim, and through pyvisa-py against simulated firmware on a pseudo-terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.devices.visa import VisaInstrument
from labctl.errors import DeviceError
from labctl.simulation.instruments import Firmware
from labctl.simulation.terminal import Terminal
from labctl.simulation.world import World

SIM = f"{Path(__file__).with_name('bench.yaml')}@sim"
USB, ASRL = "USB0::0x1AB1::0x0001::SN7::INSTR", "ASRL3::INSTR"
ACME = {"query": "*IDN?", "expect": "ACME,.*"}
Open = Callable[..., VisaInstrument]


@pytest.fixture
def visa(table: dict[str, Any]) -> Iterator[Open]:
    """Opens the table's laser as a VISA resource; closed after the test."""
    opened: list[VisaInstrument] = []

    def make(resource: str, **options: Any) -> VisaInstrument:
        given = table | {"name": "laser", "timeout_ms": 400} | options
        opened.append(VisaInstrument(resource=resource, **given))
        return opened[-1]

    yield make
    for instrument in opened:
        instrument.close()


@pytest.mark.parametrize(("resource", "end"), [(USB, "\n"), (ASRL, "\r\n")])
def test_settings_over_usb_and_serial(visa: Open, resource: str, end: str) -> None:
    made = visa(resource, backend=SIM, identify=ACME, write_termination=end)
    assert made.name == "ACME,Bright 9,SN7,1.0"
    made.set("power", 0.0125)
    made.set("enabled", True)
    assert made.read("power") == pytest.approx(0.0125)
    assert made.read("enabled") is True
    made.make_safe()
    assert made.read("enabled") is False


def test_an_answer_that_is_none_is_one_line_and_the_next_call_works(visa: Open, table: dict[str, Any]) -> None:
    settings = table["settings"] | {
        "fault": {"get": "HELP?"}, "silent": {"get": "NO:SUCH?", "type": "float"}
    }  # fmt: skip
    made = visa(USB, backend=SIM, identify=ACME, settings=settings, retries=1, timeout_ms=100)
    with pytest.raises(DeviceError, match=r"laser \(USB0.*\) answered 'see the manual' to 'HELP\?', where a number"):
        made.read("fault")
    with pytest.raises(DeviceError, match=r"laser .* answered 'ERROR' to 'NO:SUCH\?', where a number .*, 2 times"):
        made.read("silent")
    made.set("power", 0.05)
    assert made.read("power") == pytest.approx(0.05)


def test_a_resource_that_is_not_there(visa: Open) -> None:
    with pytest.raises(DeviceError, match=r"laser \(USB0::9.*\) did not answer '\*IDN\?' in time"):
        visa("USB0::9::9::9::INSTR", backend=SIM, timeout_ms=50, retries=0)  # pyvisa-sim opens anything
    with pytest.raises(DeviceError, match=rf"laser: VISA resource {USB} cannot be opened .*check that"):
        visa(USB, backend="nowhere.yaml@nosuch")


@pytest.mark.parametrize("trouble", ["late", "garbled", "cut", "never"])
def test_one_bad_answer_through_pyvisa_py(
    visa: Open, terminal: Terminal, firmware: Firmware, world: World, trouble: Any
) -> None:
    made = visa(f"ASRL{terminal.port}::INSTR", backend="@py")
    world.set_laser(on=True, power=0.25)
    firmware.misbehave(trouble)
    assert made.read("power") == pytest.approx(0.0025)
    assert made.read("enabled") is True
    made.make_safe()
    assert terminal.wait_for("OUTP 0", 10)
    assert world.laser[0] is False


def test_silence_through_pyvisa_py_is_one_line(visa: Open, terminal: Terminal, firmware: Firmware) -> None:
    made = visa(f"ASRL{terminal.port}::INSTR", backend="@py", retries=0)
    firmware.misbehave("never")
    with pytest.raises(
        DeviceError, match=r"laser \(ASRL.*\) did not answer 'SOUR:POW\?' in time: check power"
    ) as caught:
        made.read("power")
    assert "\n" not in str(caught.value)
    assert made.read("power") == pytest.approx(0.01)
