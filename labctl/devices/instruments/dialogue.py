"""The conversation with an instrument that speaks lines: ask, check, ask again, and get back in step.

An answer that comes late must not be taken for the answer to the next question. After any failure the input is
discarded, and where the bench file says how the instrument identifies itself, it is asked that: whatever comes before
its identification was late.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from labctl.devices.instruments.table import CommandTable, Setting
from labctl.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed")
LATE_LINES = 16
"""Late lines that are read past on the way back into step."""


@runtime_checkable
class Link(Protocol):
    """A line to an instrument, one command or answer at a time. `OSError` where the line is dead."""

    where: str

    def write(self, line: str) -> None:
        """Send a command; the terminator is the link's business."""
        ...

    def read(self) -> str:
        """The next line, without its terminator.

        Raises
        ------
        TimeoutError
            If none came in time; the message shows what did come.
        UnicodeDecodeError
            If it is not ASCII.
        """
        ...

    def pending(self) -> bool:
        """Whether something unread has come in, as far as the link can tell."""
        ...

    def flush(self) -> None:
        """Discard what has come in."""
        ...

    def close(self) -> None:
        """Release the line."""
        ...


class TableInstrument:
    """An instrument behind a `Link`, with the commands of a bench file.

    Parameters
    ----------
    name : str
        Its name in the bench file, for messages.
    link : Link
        Closed if the instrument does not identify itself as expected.
    table : CommandTable

    Attributes
    ----------
    name : str
        What it answered when asked who it is, or else where it is connected.
    safe : list of (setting, value)

    Raises
    ------
    DeviceError
        If it is something else than the bench file expects, or does not answer.
    """

    def __init__(self, name: str, link: Link, table: CommandTable) -> None:
        self._label, self._link, self._table = name, link, table
        self._stale = False
        self.safe = list(table.safe)
        self.name = link.where
        try:
            if table.identify is not None:
                self.name = self._identify(table.identify.query, table.identify.expect)
        except BaseException:
            link.close()
            raise

    def set(self, setting: str, value: Any) -> None:
        """Change a setting.

        Raises
        ------
        DeviceError
            If there is no such setting, the value is not one of its, or the instrument does not acknowledge it.
        """
        spec = self._setting(setting)
        try:
            command = spec.command(value)
        except ValueError as error:
            raise DeviceError(f"{self._label}: {setting} {error}", device=self._label) from error
        if spec.reply is None:
            self._converse(command, None)
            return
        expected = spec.reply

        def acknowledged(answer: str) -> None:
            if not re.fullmatch(expected, answer.strip()):
                raise ValueError(f"{expected}")

        self._converse(command, acknowledged)

    def read(self, setting: str) -> Any:
        """Read a setting or a measurement, in the unit of the bench file.

        Raises
        ------
        DeviceError
            If there is no such setting, or no answer that means anything.
        """
        spec = self._setting(setting)
        if spec.get is None:
            raise DeviceError(f"{self._label}: {setting} can only be set, not read", device=self._label)
        return self._converse(spec.get, spec.value)

    def make_safe(self) -> None:
        """Send every safe setting, also those after one that failed.

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
        if failures:
            raise DeviceError("; ".join(failures), device=self._label)

    def close(self) -> None:
        """Release the line."""
        self._link.close()

    def _setting(self, setting: str) -> Setting:
        try:
            return self._table.settings[setting]
        except KeyError:
            there = ", ".join(self._table.settings)
            raise DeviceError(
                f"{self._label}: the bench file gives it no setting '{setting}': it has {there}", device=self._label
            ) from None

    def _identify(self, query: str, expect: str) -> str:
        def expected(answer: str) -> str:
            if not re.fullmatch(expect, answer.strip()):
                raise ValueError(f"{expect}")
            return answer.strip()

        return self._converse(query, expected)

    def _converse(self, command: str, understood: Callable[[str], Parsed] | None) -> Parsed:
        """Send a command and, where something is to be understood, its answer; again after a failure, in step."""
        problem = ""
        for attempt in range(self._table.retries + 1):
            answer: str | None = None
            try:
                if understood is None:  # nothing will be read, so being out of step must not delay it
                    self._link.write(command)
                    return None  # type: ignore[return-value]
                if attempt or self._stale or self._link.pending():
                    self._resynchronise()
                self._link.write(command)
                self._stale = True  # until the answer has been read and understood
                answer = self._link.read()
                result = understood(answer)
                if self._link.pending():  # so this was the answer to something earlier
                    problem = f"answered more than '{command}' asks for"
                    continue
                self._stale = False
                return result
            except TimeoutError as error:
                self._stale = True
                problem = f"did not answer '{command}' in time{_came(str(error))}"
            except UnicodeDecodeError as error:
                problem = f"answered {bytes(error.object)!r} to '{command}', which is not text"
            except ValueError as error:
                problem = f"answered {answer!r} to '{command}', where {error} was expected"
            except OSError as error:
                raise DeviceError(
                    f"{self._label}: the line to {self._link.where} is dead ({error}): check cable and power",
                    device=self._label,
                ) from error
            log.debug("%s %s (attempt %d)", self._label, problem, attempt + 1)
        tries = self._table.retries + 1
        raise DeviceError(
            f"{self._label} ({self._link.where}) {problem}"
            f"{f', {tries} times' if tries > 1 else ''}: check power, cable, baud rate and terminators",
            device=self._label,
        )

    def _resynchronise(self) -> None:
        """Discard what is late; where the instrument can identify itself, read up to its identification."""
        self._link.flush()
        identify = self._table.identify
        if identify is None or not self._stale:
            self._stale = False
            return
        self._link.write(identify.query)
        for _ in range(LATE_LINES):
            try:
                answer = self._link.read()
            except UnicodeDecodeError:
                continue
            except TimeoutError:
                return
            if re.fullmatch(identify.expect, answer.strip()):
                self._stale = False
                return


def _came(partial: str) -> str:
    return f" (only {partial})" if partial else ""


def given_link(link: Any, name: str, opened: Callable[[], Link]) -> Link:
    """The link that the opening of a bench hands in (a simulated one), or else `opened()`; a file can name none."""
    if link is None:
        return opened()
    if not isinstance(link, Link):
        raise ConfigError(f"instruments.{name}.options.link is not for bench files: name a port or resource")
    return link


def table_options(settings: Mapping[str, Any], safe: Any, identify: Any, retries: int) -> dict[str, Any]:
    """The options of a `CommandTable` that the constructors of ``visa`` and ``serial`` share."""
    return {
        "settings": settings,
        "safe": list(safe) if isinstance(safe, tuple) else safe,
        "identify": identify,
        "retries": retries,
    }
