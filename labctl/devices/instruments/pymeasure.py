"""The driver ``pymeasure:MODULE.CLASS``: any instrument that pymeasure knows; its properties become settings."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from labctl.errors import ConfigError, DeviceError

Result = TypeVar("Result")


class PymeasureInstrument:
    """A pymeasure instrument behind labctl's instrument contract.

    A setting is a property of the class; ``channel.property`` reaches into its channels.

    Parameters
    ----------
    cls : type
        A pymeasure ``Instrument``, constructed as ``cls(**options)``; `adapter` there is the VISA resource.
    options : mapping
    name : str
        The instrument's name in the bench file.
    safe : list of [setting, value]
        Set by `make_safe`, before the class's own ``shutdown`` if it has one.
    retries : int
        How often a reading or setting is tried again.

    Raises
    ------
    ConfigError
        If a safe setting or an option is not one of the class's.
    DeviceError
        If the instrument cannot be opened.
    """

    def __init__(
        self, cls: type[Any], options: Mapping[str, Any], *, name: str, safe: Sequence[Any] = (), retries: int = 2
    ) -> None:
        self._cls, self._label, self._retries = cls, name, retries
        self.safe = [_pair(entry, name) for entry in safe]
        for setting, _ in self.safe:
            first = setting.partition(".")[0]
            if first == setting and not isinstance(inspect.getattr_static(cls, first, None), property):
                raise ConfigError(f"instruments.{name}.options.safe: {cls.__name__} has no property '{setting}'")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # pymeasure's own, on what its base classes will become
            self._device = _opened(cls, options, name)
        self.name = f"{self._device.name} ({options.get('adapter', '?')})"

    def set(self, setting: str, value: Any) -> None:
        """Set a property.

        Raises
        ------
        DeviceError
            If there is no such property, pymeasure refuses the value, or the instrument fails.
        """
        target, attribute, kind = self._property(setting)
        if kind.fset is None:
            raise DeviceError(f"{self._label}: {setting} can only be read", device=self._label)
        self._tried(f"setting {setting} to {value!r}", lambda: setattr(target, attribute, value))

    def read(self, setting: str) -> Any:
        """Read a property.

        Raises
        ------
        DeviceError
            If there is no such property, or the instrument fails.
        """
        target, attribute, kind = self._property(setting)
        if kind.fget is None:
            raise DeviceError(f"{self._label}: {setting} can only be set", device=self._label)
        value = self._tried(f"reading {setting}", lambda: getattr(target, attribute))
        return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value

    def make_safe(self) -> None:
        """Set every safe setting, then the class's own ``shutdown``, also after one that failed.

        Raises
        ------
        DeviceError
            If any failed.
        """
        failures = []
        for setting, value in self.safe:
            try:
                self.set(setting, value)
            except DeviceError as error:
                failures.append(str(error))
        if _has_shutdown(self._cls):
            try:
                self._tried("shutting down", self._device.shutdown)
            except DeviceError as error:
                failures.append(str(error))
        if failures:
            raise DeviceError("; ".join(failures), device=self._label)

    @property
    def knows_safe(self) -> bool:
        """Whether `make_safe` does anything."""
        return bool(self.safe) or _has_shutdown(self._cls)

    def close(self) -> None:
        """Release the instrument's connection."""
        if getattr(self._device, "adapter", None) is not None:
            self._device.adapter.close()

    def _property(self, setting: str) -> tuple[Any, str, property]:
        """The object that holds a setting, the attribute there, and its property. No private names, no methods."""
        target: Any = self._device
        *path, attribute = setting.split(".")
        for part in path:
            found = None if part.startswith("_") else getattr(target, part, None)
            if not hasattr(found, "parent"):  # what a pymeasure channel has
                raise DeviceError(f"{self._label}: {self._cls.__name__} has no channel '{part}'", device=self._label)
            target = found
        kind = None if attribute.startswith("_") else inspect.getattr_static(type(target), attribute, None)
        if not isinstance(kind, property):
            there = sorted(name for name, what in inspect.getmembers_static(type(target)) if isinstance(what, property))
            raise DeviceError(
                f"{self._label}: {type(target).__name__} has no property '{attribute}': it has "
                f"{', '.join(name for name in there if not name.startswith('_'))}",
                device=self._label,
            )
        return target, attribute, kind

    def _tried(self, doing: str, call: Callable[[], Result]) -> Result:
        problem: Exception | None = None
        for attempt in range(self._retries + 1):
            try:
                if attempt:
                    with contextlib.suppress(Exception):  # not every adapter can; the retry will tell
                        self._device.adapter.flush_read_buffer()
                return call()
            except Exception as error:  # pymeasure drivers raise whatever they like
                problem = error
        tries = f", {self._retries + 1} times" if self._retries else ""
        raise DeviceError(
            f"{self._label}: {doing} failed ({type(problem).__name__}: {problem}){tries}: check value, power and cable",
            device=self._label,
        ) from problem


def _opened(cls: type[Any], options: Mapping[str, Any], name: str) -> Any:
    """``cls(**options)``; what pymeasure does not know goes on to pyvisa, so only the call tells what is no option."""
    try:
        inspect.signature(cls).bind(**options)
    except TypeError as error:
        raise ConfigError(f"instruments.{name}.options: {cls.__name__}: {error}") from error
    try:
        return cls(**options)
    except Exception as error:  # pymeasure drivers raise whatever they like
        said = " ".join(str(error).split())
        raise DeviceError(
            f"{name}: {cls.__name__} could not be opened ({type(error).__name__}: {said}): "
            "check adapter and options, that it is powered, and not open in another program",
            device=name,
        ) from error


def _has_shutdown(cls: type[Any]) -> bool:
    """Whether a class brings a ``shutdown`` of its own, beyond pymeasure's, which does nothing."""
    from pymeasure.instruments import Instrument

    return getattr(cls, "shutdown", Instrument.shutdown) is not Instrument.shutdown


def _pair(entry: Any, name: str) -> tuple[str, Any]:
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ConfigError(f"instruments.{name}.options.safe must be a list of [setting, value], not {entry!r}")
    return entry[0], entry[1]
