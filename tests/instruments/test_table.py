"""What a bench file may say of an instrument's commands: strict, nothing evaluated, one line for what is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.devices.instruments.table import CommandTable, Setting
from labctl.errors import ConfigError

POWER = {"set": "SOUR:POW {value:.6f}", "get": "SOUR:POW?", "unit": "W"}


def read(**changes: Any) -> CommandTable:
    return CommandTable.read({"settings": {"power": POWER | changes}}, "laser")


@pytest.mark.parametrize(
    ("setting", "value", "command"),
    [
        ({"set": "SOUR:POW {value:.6f}"}, 0.0125, "SOUR:POW 0.012500"),
        ({"set": "SOUR:POW {value:.3e}"}, np.float32(0.5), "SOUR:POW 5.000e-01"),
        ({"set": "p={value}"}, 2, "p=2.0"),
        ({"set": "GAIN {value:03d}", "type": "int"}, 7.0, "GAIN 007"),
        ({"set": "OUTP {value}", "type": "bool"}, True, "OUTP 1"),
        ({"set": "{value}", "type": "bool", "true": "OPEN", "false": "CLOSE"}, False, "CLOSE"),
        ({"set": "MODE {value}", "type": "str", "choices": ["CW", "PULSED"]}, "CW", "MODE CW"),
        ({"set": "{{{value:d}}}", "type": "int"}, 3, "{3}"),
    ],
)
def test_a_value_becomes_a_command(setting: dict[str, Any], value: Any, command: str) -> None:
    assert Setting.model_validate(setting).command(value) == command


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ({}, math.nan, "must be a number"),
        ({}, math.inf, "must be a number"),
        ({}, True, "must be a number"),
        ({}, "1", "must be a number"),
        ({}, None, "must be a number"),
        ({"type": "int", "set": "G {value}"}, 1.5, "a whole number"),
        ({"type": "bool", "set": "G {value}"}, 1, "true or false"),
        ({"type": "str", "set": "G {value}"}, "a\nOUTP 1", "printable"),
        ({"type": "str", "set": "G {value}", "choices": ["A", "B"]}, "C", "A or B"),
        ({"set": None}, 1.0, "can only be read"),
    ],
)
def test_a_value_that_does_not_fit_is_never_sent(setting: dict[str, Any], value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Setting.model_validate(POWER | setting).command(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SOUR:POW", "must hold {value}"),
        ("P {value} {value}", "must hold {value}"),
        ("P {0}", "must hold {value}"),
        ("P {value.__class__}", "must hold {value}"),
        ("P {value[0]}", "must hold {value}"),
        ("P {value!r}", "must hold {value}"),
        ("P {value:{value}}", "does not suit a float"),
        ("P {value:999999999.3f}", "does not suit a float"),
        ("P {value:d}", "does not suit a float"),
        ("P {value:>30}", "does not suit a float"),
        ("P {value", "brace"),
        ("P {value}\nOUTP 1", "printable ASCII"),
    ],
)
def test_a_command_holds_one_value_and_nothing_clever(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(set=text)
    assert str(caught.value).startswith("instruments.laser.options")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": {"power": POWER | {"gett": "X?"}}}, "did you mean get"),
        ({"settings": {"power": {"unit": "W"}}}, "needs set, get, or both"),
        ({"settings": {}}, "settings"),
        ({"settings": {"power": POWER | {"answer": "(a)(b)"}}}, "one \\(group\\)"),
        ({"settings": {"power": POWER | {"reply": "("}}}, "not a regular expression"),
        ({"settings": {"power": POWER}, "safe": [["enabled", False]]}, "there is no setting enabled"),
        ({"settings": {"power": POWER}, "safe": [["power", "off"]]}, "must be a number"),
        ({"settings": {"power": POWER}, "identify": {"query": "A\r"}}, "printable"),
        ({"settings": {"power": POWER}, "retries": 1000}, "retries"),
    ],
)
def test_a_wrong_table_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        CommandTable.read(options, "laser")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "answer", "value"),
    [
        ({}, " 1.25E-2\r", 0.0125),
        ({}, "-.5", -0.5),
        ({"answer": r"POW=([0-9.]+) ?W"}, "POW=0.5 W", 0.5),
        ({"type": "int"}, "+12", 12),
        ({"type": "bool"}, "ON", True),
        ({"type": "bool"}, "0", False),
        ({"type": "bool", "true": "OPEN", "false": "CLOSE", "answer_true": "O", "answer_false": "C"}, "C", False),
        ({"type": "str"}, "CW", "CW"),
    ],
)
def test_an_answer_becomes_a_value(setting: dict[str, Any], answer: str, value: Any) -> None:
    found = Setting.model_validate({"get": "?"} | setting).value(answer)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("kind", ["float", "int", "bool"])
@given(text=st.text(max_size=12))
def test_no_answer_is_taken_for_a_number_that_is_none(kind: str, text: str) -> None:
    """Whatever comes in, it is a finite value or a `ValueError`."""
    try:
        value = Setting.model_validate({"get": "?", "type": kind}).value(text)
    except ValueError:
        return
    assert math.isfinite(value)
    assert all(char in "0123456789+-.eEONFF \t\r\n\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0" or char.isspace() for char in text)


@pytest.mark.parametrize("answer", ["nan", "inf", "1e999", "1_000", "0x10", "1,5", "1 2", "", "ERR"])
def test_python_s_own_spellings_are_not_answers(answer: str) -> None:
    with pytest.raises(ValueError, match="a number"):
        Setting.model_validate({"get": "?"}).value(answer)
