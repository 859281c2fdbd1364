"""Plain data out of a pickle, without running it.

A pickle is a program for a stack machine. Two of its instructions make it dangerous: one imports any name, one calls
what was imported. This reader is a machine of its own that has neither. It knows the instructions that build numbers,
strings, tuples, lists and dictionaries; an imported name is only ever a *pair of strings*, and a "call" is only ever
one of a few pairs, written out below, that stand for
a string of bytes or for numpy's description of an array of them. Everything else is refused, so
that no file can make it import, call or look up anything. Instructions are split off by the standard library's
`pickletools.genops`, which decodes arguments and runs nothing.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class NotPlain(ValueError):
    """The bytes are no whole pickle, or one that holds more than plain data."""


@dataclass(frozen=True)
class _Name:
    """A name that a pickle would import. It is compared, never imported."""

    module: str
    name: str


@dataclass
class _Array:
    """What a pickle says about a numpy array, until its state arrives."""

    value: np.ndarray[Any, np.dtype[np.uint8]] | None = None


@dataclass
class _Dtype:
    """What a pickle says about a numpy dtype."""

    code: str


_MARK = object()
_RECONSTRUCT = (
    _Name("numpy.core.multiarray", "_reconstruct"),
    _Name("numpy._core.multiarray", "_reconstruct"),
)
_DTYPE = _Name("numpy", "dtype")
_ENCODE = _Name("_codecs", "encode")
_EMPTY_BYTES = _Name("__builtin__", "bytes")
_VALUES = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
)
_PY2_STRINGS = frozenset(("BINSTRING", "SHORT_BINSTRING"))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_IGNORED = frozenset(("PROTO", "FRAME"))


def read_plain(content: bytes) -> Any:
    """The value that a pickle of plain data stands for.

    Parameters
    ----------
    content
        A whole pickle, protocol 1 to 4. Python 2's strings are given as bytes.

    Returns
    -------
    None, bool, int, str, bytes, tuple, list, dict, or numpy arrays of uint8, nested in each other.

    Raises
    ------
    NotPlain
        Truncated, damaged, or a pickle that would import or call anything but an array of uint8.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # of escapes in strings that are refused anyway
            warnings.simplefilter("ignore", DeprecationWarning)
            for operation, argument, _ in pickletools.genops(content):
                if operation.name == "STOP":
                    return machine.result()
                machine.run(operation.name, argument)
    except NotPlain:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        # a damaged file can be wrong in any of these ways: an opcode that is none, a stack that is empty, a bad key
        raise NotPlain(f"no whole pickle: {str(error)[:80] or type(error).__name__}") from error
    raise NotPlain("the pickle has no end")


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise NotPlain("the pickle does not end in one value")
        return _settled(self.stack[0])

    def run(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _PY2_STRINGS:
            # genops gives Python 2's strings as latin-1 text
            stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _PUTS:
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[int(argument)])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
        elif name == "GLOBAL":
            module, _, wanted = argument.partition(" ")
            stack.append(_Name(module, wanted))
        elif name == "STACK_GLOBAL":
            wanted, module = stack.pop(), stack.pop()
            stack.append(_Name(str(module), str(wanted)))
        elif name in _BUILDERS:
            _BUILDERS[name](self)
        elif name not in _IGNORED:
            raise NotPlain(f"it holds more than plain data ({name})")

    def since_mark(self) -> list[Any]:
        at = max(i for i, value in enumerate(self.stack) if value is _MARK)
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            values = self.since_mark()
        else:
            values = [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def list_of(self) -> None:
        values = self.since_mark()
        self.stack.append([])
        self.append(values)

    def dictionary(self) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.set_items(values)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise NotPlain("it appends to what is no list")
        target.extend(_settled(value) for value in values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise NotPlain("it sets items of what is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | bytes | int):
                raise NotPlain("a key is no string")
            target[key] = _settled(value)

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if called in _RECONSTRUCT and isinstance(arguments, tuple) and arguments[0] == _Name("numpy", "ndarray"):
            self.stack.append(_Array())
        elif called == _DTYPE and isinstance(arguments, tuple) and arguments[0] in ("u1", b"u1"):
            self.stack.append(_Dtype("u1"))
        elif called == _ENCODE and isinstance(arguments, tuple) and arguments[1:] == ("latin1",):
            # Python 3's way to say bytes in protocol 2
            self.stack.append(arguments[0].encode("latin-1"))
        elif called == _EMPTY_BYTES and arguments == ():
            self.stack.append(b"")
        else:
            raise NotPlain(f"it would call {_said(called)}, which is refused")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            return
        if not isinstance(target, _Array) or not isinstance(state, tuple) or len(state) != 5:
            raise NotPlain("it would set the state of an object, which is refused")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or fortran:
            raise NotPlain("it holds an array that is not of uint8 in C order")
        if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
            raise NotPlain("it holds an array of no shape")
        if math.prod(shape) != len(content):
            raise NotPlain(f"it holds an array of {list(shape)} in {len(content)} bytes")
        target.value = np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _settled(value: Any) -> Any:
    """An array in place of its description; NotPlain for what is only half described."""
    if isinstance(value, tuple):
        return tuple(_settled(part) for part in value)
    if isinstance(value, _Array):
        if value.value is None:
            raise NotPlain("it holds an array without content")
        return value.value
    if isinstance(value, _Name | _Dtype) or value is _MARK:
        raise NotPlain("it holds more than plain data")
    return value


def _said(called: object) -> str:
    return f"{called.module}.{called.name}" if isinstance(called, _Name) else "a value"


_BUILDERS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE": lambda machine: machine.tuple_of(None),
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "LIST": _Machine.list_of,
    "DICT": _Machine.dictionary,
    "APPEND": lambda machine: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine: machine.append(machine.since_mark()),
    "SETITEM": lambda machine: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine: machine.set_items(machine.since_mark()),
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
