"""pymeasure's drivers as instruments of a bench: properties are settings, whatever they raise is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.devices.contract import Instrument
from labctl.devices.instruments.guarded import GuardedInstrument
from labctl.devices.instruments.opening import open_instrument
from labctl.errors import ConfigError, DeviceError

SIM = f"{Path(__file__).with_name('bench.yaml')}@sim"
PM100 = "pymeasure:thorlabs.ThorlabsPM100USB"
OPTIONS = {"adapter": "USB0::0x1313::0x8072::P2001234::INSTR", "visa_library": SIM,
           "read_termination": "\n", "write_termination": "\n", "timeout": 400}  # fmt: skip
Open = Callable[..., GuardedInstrument]


@pytest.fixture
def meter() -> Iterator[Open]:
    """Opens pymeasure's PM100USB on pyvisa-sim; closed after the test."""
    opened: list[GuardedInstrument] = []

    def make(driver: str = PM100, role: str = "power-meter", limits: Any = None, **options: Any) -> GuardedInstrument:
        opened.append(
            open_instrument("meter", driver=driver, options=OPTIONS | options, role=role, limits=limits or {})
        )
        return opened[-1]

    yield make
    for instrument in opened:
        instrument.close()


def test_properties_are_settings(meter: Open) -> None:
    made = meter()
    assert isinstance(made, Instrument)
    assert "PM100USB" in made.name
    assert made.read("power") == pytest.approx(2.5e-3)
    made.set("wavelength", 638.0)
    assert made.read("wavelength") == pytest.approx(638.0)
    made.make_safe()


def test_limits_hold_for_them_too(meter: Open) -> None:
    made = meter(limits={"wavelength": (600.0, 650.0)})
    with pytest.raises(DeviceError, match=r"meter: wavelength = 700.0 is outside 600 ... 650.*nothing was sent"):
        made.set("wavelength", 700.0)
    made.set("wavelength", 640.0)
    assert made.read("wavelength") == pytest.approx(640.0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("powr", "has no property 'powr': it has .*power"),
        ("__class__", "has no property '__class__'"),
        ("_device.adapter", "has no channel '_device'"),
        ("adapter.connection", "has no channel 'adapter'"),
        ("shutdown", "has no property 'shutdown'"),
        ("energy", r"meter: reading energy failed \(AttributeError.*not an energy sensor"),
    ],
)
def test_what_is_no_property_is_refused(meter: Open, setting: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        meter().read(setting)


def test_a_measurement_cannot_be_set(meter: Open) -> None:
    with pytest.raises(DeviceError, match="meter: power can only be read"):
        meter().set("power", 1.0)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"driver": "pymeasure:thorlabs.ThorlabsPM100US"}, ConfigError, "did you mean ThorlabsPM100USB"),
        ({"driver": "pymeasure:nosuch.Thing"}, ConfigError, "cannot be imported"),
        ({"safe": [["enabled", False]]}, ConfigError, "has no property 'enabled'"),
        ({"safe": ["enabled"]}, ConfigError, r"list of \[setting, value\]"),
        ({"retries": -1}, ConfigError, "retries"),
        ({"role": "laser"}, ConfigError, "nothing says how to make this laser safe"),
        ({"adapter": "USB0::1::2::3::INSTR"}, DeviceError, "meter: ThorlabsPM100USB could not be opened"),
    ],
)
def test_a_wrong_section_is_one_line(meter: Open, changes: dict[str, Any], kind: Any, said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        meter(**changes)
    assert "\n" not in str(caught.value)
