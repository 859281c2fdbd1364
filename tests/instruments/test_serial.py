"""The driver `serial` against simulated firmware on a pseudo-terminal that answers late, garbled, cut, or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from labctl.devices.serial import SerialInstrument
from labctl.errors import ConfigError, DeviceError
from labctl.simulation.instruments import Firmware
from labctl.simulation.terminal import Terminal
from labctl.simulation.world import World

Laser = Callable[..., SerialInstrument]


def test_settings_reach_the_world_and_come_back(laser: Laser, world: World, terminal: Terminal) -> None:
    made = laser()
    assert made.name == "labctl,simulated laser,0,1"
    made.set("power", 0.005)
    made.set("enabled", False)
    assert made.read("power") == pytest.approx(0.005)
    assert made.read("enabled") is False
    assert world.laser == (False, pytest.approx(0.5))
    assert terminal.received == ["*IDN?", "SOUR:POW 0.005000", "OUTP 0", "SOUR:POW?", "OUTP?"]


@pytest.mark.parametrize("trouble", ["late", "garbled", "cut", "never"])
def test_one_bad_answer_is_asked_for_again(
    laser: Laser, firmware: Firmware, terminal: Terminal, world: World, trouble: Any
) -> None:
    """Every later answer is the one to its own question, even where the first one came late."""
    made = laser()
    world.set_laser(on=True, power=0.25)
    firmware.misbehave(trouble)
    assert made.read("power") == pytest.approx(0.0025)
    assert made.read("enabled") is True
    assert made.read("power") == pytest.approx(0.0025)
    assert terminal.received.count("SOUR:POW?") == 3


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("never", r"did not answer 'SOUR:POW\?' in time, 3 times"),
        ("cut", r"did not answer 'SOUR:POW\?' in time \(only b'1.0000"),
        ("garbled", r"answered b'\\xb1.* to 'SOUR:POW\?', which is not text"),
    ],
)
def test_an_instrument_that_stays_bad_is_one_line_and_works_again_after(
    laser: Laser, firmware: Firmware, trouble: Any, said: str
) -> None:
    made = laser()
    firmware.misbehave(*[word for _ in range(2) for word in (trouble, "")], trouble)  # each retry's *IDN? is answered
    with pytest.raises(DeviceError, match=said) as caught:
        made.read("power")
    assert str(caught.value).startswith("laser (/dev/")
    assert "\n" not in str(caught.value)
    assert caught.value.device == "laser"
    assert made.read("power") == pytest.approx(0.01)
    assert made.read("enabled") is True


def test_an_answer_of_the_wrong_kind_is_shown(laser: Laser, table: dict[str, Any]) -> None:
    settings = {"count": {"get": "OUTP?", "answer": "N=([0-9]+)"}}
    with pytest.raises(
        DeviceError, match=r"answered '1' to 'OUTP\?', where something like N=\(\[0-9\]\+\) was expected"
    ):
        laser(settings=settings, safe=[], retries=0).read("count")


def test_late_answers_are_read_past_even_when_they_pile_up(laser: Laser, firmware: Firmware, world: World) -> None:
    """The worst case: each late answer comes just before the answer to what is asked next."""
    made = laser(retries=4)
    firmware.misbehave("late", "late", "", "late")
    assert made.read("power") == pytest.approx(0.01)
    world.set_laser(power=0.3)
    assert made.read("power") == pytest.approx(0.003)


def test_without_a_way_to_identify_itself_a_silent_instrument_recovers_too(laser: Laser, firmware: Firmware) -> None:
    made = laser(identify=None)
    firmware.misbehave("never", "garbled")
    assert made.read("power") == pytest.approx(0.01)


def test_acknowledged_commands(terminal: Terminal, laser: Laser, firmware: Firmware, world: World) -> None:
    firmware._acknowledge = True
    made = laser(settings={"power": {"set": "SOUR:POW {value:.4f}", "reply": "OK"}}, safe=[["power", 0.0]])
    made.set("power", 0.002)
    assert world.laser[1] == pytest.approx(0.2)
    with pytest.raises(DeviceError, match=r"answered 'ERR' to 'SOUR:POW 99.0000', where OK was expected, 3 times"):
        made.set("power", 99)
    made.make_safe()
    assert world.laser[1] == 0


def test_making_safe_does_not_wait_for_an_instrument_that_is_out_of_step(
    laser: Laser, firmware: Firmware, world: World, terminal: Terminal
) -> None:
    made = laser(retries=0)
    firmware.misbehave("never")
    with pytest.raises(DeviceError, match=r"in time: check power"):
        made.read("power")
    before = len(terminal.received)
    made.make_safe()
    assert terminal.wait_for("OUTP 0", 10, after=before)
    assert terminal.received[before:] == ["OUTP 0"]
    assert world.laser[0] is False


def test_what_is_no_setting_or_value_is_never_sent(laser: Laser, terminal: Terminal) -> None:
    made = laser()
    for setting, value, said in [
        ("powr", 1.0, "no setting 'powr': it has enabled, power"),
        ("power", float("nan"), "power must be a number, not nan"),
        ("enabled", "1; OUTP 1", "enabled must be true or false"),
    ]:
        with pytest.raises(DeviceError, match=said):
            made.set(setting, value)
    assert terminal.received == ["*IDN?"]


def test_something_else_on_the_port_is_refused(laser: Laser) -> None:
    with pytest.raises(DeviceError, match=r"answered 'labctl,simulated laser,0,1' .*ACME.* was expected"):
        laser(identify={"query": "*IDN?", "expect": "ACME.*"}, retries=0)
    laser()  # and the port is free again


def test_a_port_has_one_owner(laser: Laser) -> None:
    laser()
    with pytest.raises(DeviceError, match=r"laser: serial port /dev/.* cannot be opened .*another program"):
        laser()


def test_a_cable_that_is_pulled_is_named(table: dict[str, Any], firmware: Firmware) -> None:
    with Terminal(firmware) as terminal:
        made = SerialInstrument(**table, port=terminal.port, name="laser")
    with pytest.raises(DeviceError, match=r"laser: the line to /dev/.* is dead"):
        made.read("power")
    made.close()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"parity": "odds"}, "parity must be one of"),
        ({"read_termination": ""}, "read_termination"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"link": "COM3"}, "link is not for bench files"),
    ],
)
def test_a_wrong_line_option_names_its_key(table: dict[str, Any], option: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SerialInstrument(**table, port="nowhere", name="laser", **option)
