"""The driver ``serial``: an instrument on a serial port, with its commands in the bench file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.devices.instruments.dialogue import TableInstrument, given_link, table_options
from labctl.devices.instruments.table import CommandTable
from labctl.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)
LONGEST_LINE = 4096
PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}


class SerialLink:
    """Lines over a serial port.

    Parameters
    ----------
    port : str
        ``COM3``, ``/dev/ttyUSB0``, or a pyserial URL.
    baud : int
    read_termination, write_termination : str
    timeout_ms : float
        For one answer, and for one command to leave.
    exclusive : bool
        Whether to lock the port, where the system does not do so by itself.
    """

    def __init__(
        self,
        port: str,
        *,
        baud: int,
        read_termination: str,
        write_termination: str,
        timeout_ms: float,
        bytesize: int,
        parity: str,
        stopbits: float,
        exclusive: bool,
    ) -> None:
        import serial

        self.where = port
        self._end, self._write_end = read_termination.encode("ascii"), write_termination.encode("ascii")
        self._port: Any = serial.serial_for_url(
            port,
            baudrate=baud,
            bytesize=bytesize,
            parity=PARITIES[parity],
            stopbits=stopbits,
            timeout=timeout_ms / 1e3,
            write_timeout=timeout_ms / 1e3,
            exclusive=True if exclusive else None,
        )
        self._write_timed_out: type[Exception] = serial.SerialTimeoutException

    def write(self, line: str) -> None:
        """Send a command and its terminator."""
        try:
            self._port.write(line.encode("ascii") + self._write_end)
        except self._write_timed_out as error:
            raise TimeoutError("nothing: it does not take commands") from error

    def read(self) -> str:
        """The next line."""
        raw: bytes = self._port.read_until(self._end, LONGEST_LINE)
        if not raw.endswith(self._end):
            if len(raw) >= LONGEST_LINE:
                raise TimeoutError(f"{LONGEST_LINE} characters without an end")
            raise TimeoutError(repr(raw) if raw else "")
        return raw[: -len(self._end)].decode("ascii")

    def pending(self) -> bool:
        """Whether unread characters have come in."""
        return bool(self._port.in_waiting)

    def flush(self) -> None:
        """Discard unread characters."""
        try:
            self._port.reset_input_buffer()
        except OSError:
            raise
        except Exception as error:  # termios.error, which POSIX alone has, is none
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Release the port, once the last command has left."""
        try:
            self._port.flush()
        except Exception as error:  # a cable that was pulled (a termios.error on POSIX) must not keep the port
            log.debug("%s: %s", self.where, error)
        self._port.close()


class SerialInstrument(TableInstrument):
    """An instrument on a serial port, driven as the bench file describes.

    Parameters
    ----------
    port : str
        ``COM3``, ``/dev/ttyUSB0``; ``simulated:ROLE`` for simulated firmware on the simulated bench.
    settings : mapping
        Setting's name -> `labctl.devices.instruments.table.Setting`.
    safe : list of [setting, value]
    identify : mapping, optional
        ``query`` and ``expect``.
    retries : int
    baud, bytesize, parity, stopbits
        Of the line; parity is none, even, odd, mark or space.
    read_termination, write_termination : str
    timeout_ms : float
    exclusive : bool
        Whether to lock the port, so that no other program opens it.
    name : str
        The instrument's name in the bench file.

    Raises
    ------
    ConfigError, DeviceError
        If the table is wrong; if the port cannot be opened or something else answers.
    """

    def __init__(
        self,
        *,
        port: str,
        settings: Mapping[str, Any],
        safe: Sequence[Any] = (),
        identify: Mapping[str, Any] | None = None,
        retries: int = 2,
        baud: int = 9600,
        bytesize: int = 8,
        parity: str = "none",
        stopbits: float = 1,
        read_termination: str = "\n",
        write_termination: str = "\n",
        timeout_ms: float = 1000,
        exclusive: bool = True,
        name: str = "instrument",
        link: Any = None,
    ) -> None:
        table = CommandTable.read(table_options(settings, safe, identify, retries), name)
        if parity not in PARITIES:
            raise ConfigError(f"instruments.{name}.options.parity must be one of {', '.join(PARITIES)}")
        check_line(name, read_termination, write_termination, timeout_ms)

        def opened() -> SerialLink:
            try:
                return SerialLink(
                    port, baud=baud, read_termination=read_termination, write_termination=write_termination,
                    timeout_ms=timeout_ms, bytesize=bytesize, parity=parity, stopbits=stopbits, exclusive=exclusive,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                raise DeviceError(
                    f"{name}: serial port {port} cannot be opened ({error}): "
                    "check that it is connected and not open in another program",
                    device=name,
                ) from error

        super().__init__(name, given_link(link, name, opened), table)


def check_line(name: str, read_termination: str, write_termination: str, timeout_ms: float) -> None:
    """Refuse terminators and time-outs that no line can have.

    Raises
    ------
    ConfigError
    """
    for key, text in (("read_termination", read_termination), ("write_termination", write_termination)):
        if not isinstance(text, str) or not text or not text.isascii():
            raise ConfigError(f'instruments.{name}.options.{key} must be ASCII text such as "\\r\\n"')
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int | float) or not 1 <= timeout_ms <= 600_000:
        raise ConfigError(f"instruments.{name}.options.timeout_ms must lie between 1 and 600000")
