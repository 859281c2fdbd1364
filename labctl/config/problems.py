"""What is wrong with a validated file, in the words of the person who wrote it."""

from __future__ import annotations

import difflib
import types
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

UNITS = {
    "length": {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0},
    "time": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0},
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong: the dotted key as a tuple, and a sentence that names it."""

    key: tuple[str, ...]
    text: str


def describe(error: ValidationError, model: type[BaseModel], what: str) -> list[Problem]:
    """Every problem, those first that explain others; never empty.

    Parameters
    ----------
    model : type
        The model that was validated: its fields are what keys are compared with.
    what : str
        The kind of file, as in "is not a key of *a bench file*".
    """
    problems: list[tuple[int, Problem]] = []
    explained: set[tuple[str, ...]] = set()
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    for detail in details:
        key = tuple(str(part) for part in detail["loc"])
        kind = detail["type"]
        if kind == "extra_forbidden":
            text, meant = _unknown(key, detail["input"], fields_at(model, key[:-1]), what)
            if meant:
                explained.add((*key[:-1], meant))
        elif kind == "missing":
            if key in explained:
                continue
            text = _missing(key, fields_at(model, key))
        else:
            text = _wrong(key, detail)
        problems.append((0 if kind == "extra_forbidden" else 1, Problem(key, text)))
    return [problem for _, problem in problems]


def fields_at(model: type[BaseModel], key: tuple[str, ...]) -> dict[str, Any]:
    """The fields that the table `key` of `model` may have; empty where anything goes or it is no table."""
    current: Any = model
    for part in key:
        fields = _fields(current)
        if part in fields:
            current = _table(fields[part].annotation)
        elif get_origin(current) is dict:
            current = _table(get_args(current)[1])
        elif get_origin(current) is tuple and part.isdigit():  # an array of tables
            current = _table(get_args(current)[0])
        else:
            return {}
    return _fields(current)


def one_line(text: str) -> str:
    """`text` without line breaks or other control characters, so that a message stays one line."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


def shown(value: Any) -> str:
    """A value as its author would recognise it, short."""
    try:
        text = repr(value) if not isinstance(value, bool) else str(value).lower()
    except ValueError:  # Python writes out no integer of more than 4300 digits
        text = "(a number of thousands of digits)"
    return text if len(text) <= 40 else f"{text[:37]}..."


def dotted(key: tuple[str, ...]) -> str:
    """``("slm", "settle_ms")`` -> ``slm.settle_ms``."""
    return ".".join(part if len(part) <= 60 else f"{part[:57]}..." for part in key) or "the file"


def _fields(annotation: Any) -> dict[str, Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return dict(annotation.model_fields)
    return {}


def _table(annotation: Any) -> Any:
    """The model or dict inside ``X | None``."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return next((part for part in get_args(annotation) if part is not type(None)), annotation)
    return annotation


def _unknown(key: tuple[str, ...], value: Any, fields: dict[str, Any], what: str) -> tuple[str, str]:
    """The sentence, and the key that was probably meant."""
    name = key[-1]
    start = f"{dotted(key)} is not a {'table' if isinstance(value, dict) and len(key) == 1 else 'key'} of {what}"
    stem, unit = _split(name)
    for candidate in fields:
        other_stem, other_unit = _split(candidate)
        if stem == other_stem and other_unit:
            return f"{start}: {_in_unit(candidate, unit, other_unit, value)}", candidate
    near = difflib.get_close_matches(name, list(fields), 1, 0.6)
    if near:
        return f"{start}: did you mean {near[0]}?", near[0]
    if fields:
        return f"{start}: {'it' if len(key) == 1 else dotted(key[:-1])} may have {', '.join(fields)}", ""
    return start, ""


def _split(name: str) -> tuple[str, str]:
    stem, _, unit = name.rpartition("_")
    known = any(unit in units for units in UNITS.values())
    return (stem, unit) if stem and known else (name, "")


def _in_unit(key: str, unit: str, wanted: str, value: Any) -> str:
    for units in UNITS.values():
        if unit in units and wanted in units and isinstance(value, int | float) and not isinstance(value, bool):
            return f"write {key} = {value * units[unit] / units[wanted]:.6g}"
    return f"write {key}, in {wanted}"


def _missing(key: tuple[str, ...], table: dict[str, Any]) -> str:
    if table:
        needed = [name for name, field in table.items() if field.is_required()]
        return f"the table [{dotted(key)}] is missing: add it, with {', '.join(needed)}"
    if key[-1].isdigit():
        return f"{dotted(key[:-1])}: must be two numbers, [lowest, highest]"
    _, unit = _split(key[-1])
    return f"{dotted(key)} is missing: add {key[-1]} = ...{f' ({unit})' if unit else ''} to [{dotted(key[:-1])}]"


def _wrong(key: tuple[str, ...], detail: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    start = dotted(key) if kind == "value_error" and isinstance(value, dict) else f"{dotted(key)} = {shown(value)}"
    if kind == "literal_error":
        allowed = str(context["expected"]).replace("'", '"')
        choices = [part.strip(' "') for part in allowed.replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(str(value), choices, 1)
        return f"{start}: must be {allowed}" + (f'; did you mean "{near[0]}"?' if near else "")
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        return f"{start}: must be a table: write [{dotted(key)}] and its keys below it"
    if kind == "tuple_type":
        return f"{start}: must be a list, [...]; of tables, each under [[{dotted(key)}]]"
    if kind == "string_pattern_mismatch":
        return f"{start}: {_PATTERNS.get(key[-1], 'has a form that is not allowed here')}"
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        _, unit = _split(key[-1])
        return f"{start}: {_decapitalised(detail['msg'])}{f' {unit}' if unit else ''}{_perhaps(key[-1], unit, value)}"
    if kind == "value_error":
        said = str(detail["msg"]).removeprefix("Value error, ")
        return f"{start}: {said}" if key else said
    return f"{start}: {_decapitalised(detail['msg'])}"


_PATTERNS = {
    "name": "a name starts with a letter or digit and has letters, digits, '-', '_' and '.' only",
    "driver": 'a driver is a name ("simulated") or a class ("package.module:Class")',
}


def _perhaps(key: str, unit: str, value: Any) -> str:
    if key == "wavelength_nm" and isinstance(value, int | float) and 0.2 < value < 20:
        return f"; {value:g} um would be {value * 1000:g}"
    return ""


def _decapitalised(message: str) -> str:
    message = message.removeprefix("Input ").removesuffix(".")
    return message.replace("should be", "must be", 1)
