"""The commands of an instrument as a bench file describes them: what is sent for a setting, what an answer means.

Nothing here is evaluated: a command is text with one ``{value}`` or ``{value:.6f}`` in it, an answer is matched whole.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from labctl.config.problems import describe
from labctl.config.schema import Section
from labctl.errors import ConfigError

FORMAT = re.compile(r"[+\- ]?#?0?[0-9]{0,2}(\.[0-9]{1,2})?[dxXeEfFgGs]?")
FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
INT = re.compile(r"[+-]?[0-9]{1,18}")
SAMPLES: dict[str, Any] = {"float": 1.0, "int": 1, "bool": "1", "str": "a"}
Value = bool | int | float | str
Plain = Annotated[str, Field(min_length=1, max_length=200)]


def plain(text: str) -> bool:
    """Whether text is printable ASCII: no line break can smuggle in a second command."""
    return text.isascii() and text.isprintable()


class Setting(Section):
    """One setting or measurement of an instrument.

    Attributes
    ----------
    set, get : str, optional
        What is sent to change and to read it; at least one. `set` holds ``{value}`` or ``{value:SPEC}`` once.
    type : "float", "int", "bool" or "str"
    unit : str
        For people; values are not converted.
    reply : regular expression, optional
        What the instrument answers to `set`; without it, nothing is waited for.
    answer : regular expression with one group, optional
        Where the value stands in the answer to `get`; without it, the answer is the value.
    true, false : str
        What is sent for a bool.
    answer_true, answer_false : str, optional
        What is answered for a bool, if not the same.
    choices : list of str
        What a str may be; any printable text where none are named.
    """

    set: Plain | None = None
    get: Plain | None = None
    type: Literal["float", "int", "bool", "str"] = "float"
    unit: str = ""
    reply: Plain | None = None
    answer: Plain | None = None
    true: Plain = "1"
    false: Plain = "0"
    answer_true: Plain | None = None
    answer_false: Plain | None = None
    choices: list[str] = []

    @field_validator("set", "get", "true", "false")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        if text is not None and not plain(text):
            raise ValueError("must be printable ASCII, without line breaks: the terminator is added")
        return text

    @field_validator("reply", "answer")
    @classmethod
    def _expression(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from error
        return text

    @model_validator(mode="after")
    def _coherent(self) -> Setting:
        if self.set is None and self.get is None:
            raise ValueError("needs set, get, or both")
        if self.answer is not None and re.compile(self.answer).groups != 1:
            raise ValueError("answer must have one (group), around the value")
        if self.set is not None:
            self._check_format(self.set)
        return self

    def _check_format(self, text: str) -> None:
        try:
            fields = [part for part in string.Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"set: {error}: a brace in the command itself is written twice") from error
        if len(fields) != 1 or fields[0][1] != "value" or fields[0][3] is not None:
            raise ValueError("set must hold {value} or {value:.6f}, once, and no other {}")
        spec = fields[0][2] or ""
        try:
            if not FORMAT.fullmatch(spec):
                raise ValueError("no such format")
            text.format(value=SAMPLES[self.type])
        except ValueError as error:
            raise ValueError(
                f"set: {{value:{spec}}} does not suit a {self.type}: write {{value}} or {{value:.6f}}"
            ) from error

    def command(self, value: Any) -> str:
        """What is sent to set `value`.

        Raises
        ------
        ValueError
            If the value is not one of this setting's; the message reads on from "power ".
        """
        if self.set is None:
            raise ValueError("can only be read")
        return self.set.format(value=self._checked(value))

    def _checked(self, value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value  # a numpy scalar
        if self.type == "bool":
            if not isinstance(value, bool):
                raise ValueError(f"must be true or false, not {value!r}")
            return self.true if value else self.false
        if self.type == "str":
            if not isinstance(value, str) or not plain(value) or (self.choices and value not in self.choices):
                raise ValueError(f"must be {' or '.join(self.choices) or 'printable ASCII text'}, not {value!r}")
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"must be a number, not {value!r}")
        if self.type == "int":
            if value != int(value):
                raise ValueError(f"must be a whole number, not {value!r}")
            return int(value)
        return float(value)

    def value(self, answer: str) -> Value:
        """What an answer means.

        Raises
        ------
        ValueError
            If it is not an answer to `get`.
        """
        text = answer.strip()
        if self.answer is not None:
            found = re.fullmatch(self.answer, text)
            if found is None:
                raise ValueError(f"something like {self.answer}")
            text = found[1] or ""
        if self.type == "bool":
            yes, no = self.answer_true or self.true, self.answer_false or self.false
            words = {"ON": True, "OFF": False} if (yes, no) == ("1", "0") else {}
            words |= {yes: True, no: False}
            if text not in words:
                raise ValueError(f"{yes} or {no}")
            return words[text]
        if self.type == "str":
            if not plain(text) or (self.choices and text not in self.choices):
                raise ValueError(" or ".join(self.choices) or "printable text")
            return text
        if self.type == "int":
            if not INT.fullmatch(text):
                raise ValueError("a whole number")
            return int(text)
        if not FLOAT.fullmatch(text) or not math.isfinite(float(text)):
            raise ValueError("a number")
        return float(text)


class Identification(Section):
    """How an instrument is asked who it is, and a regular expression that its answer must match."""

    query: Plain = "*IDN?"
    expect: Plain = ".+"

    @field_validator("query")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if not plain(text):
            raise ValueError("must be printable ASCII, without line breaks")
        return text

    @field_validator("expect")
    @classmethod
    def _expression(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return text


class CommandTable(Section):
    """What the drivers ``visa`` and ``serial`` are told of an instrument.

    Attributes
    ----------
    settings : setting's name -> Setting
    safe : list of (setting, value)
        What makes it safe, in this order.
    identify : Identification, optional
    retries : int
        How often a question is asked again after a late, garbled or missing answer.
    """

    settings: Annotated[dict[str, Setting], Field(min_length=1)]
    safe: list[Annotated[tuple[str, Value], Field(strict=False)]] = []
    identify: Identification | None = None
    retries: Annotated[int, Field(ge=0, le=10)] = 2

    @model_validator(mode="after")
    def _safe_can_be_sent(self) -> CommandTable:
        for name, value in self.safe:
            if name not in self.settings:
                raise ValueError(f"safe: there is no setting {name}: there are {', '.join(self.settings)}")
            try:
                self.settings[name].command(value)
            except ValueError as error:
                raise ValueError(f"safe: {name} {error}") from error
        return self

    @classmethod
    def read(cls, options: Mapping[str, Any], name: str) -> CommandTable:
        """Check a table from a bench file.

        Raises
        ------
        ConfigError
            One line that names the instrument and the key.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            raise ConfigError(f"instruments.{name}.options: {describe(error, cls, 'an instrument')[0].text}") from error
