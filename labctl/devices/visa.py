"""The driver ``visa``: an instrument on any VISA resource, with its commands in the bench file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.devices.instruments.dialogue import TableInstrument, given_link, table_options
from labctl.devices.instruments.table import CommandTable
from labctl.devices.serial import check_line
from labctl.errors import DeviceError

DRAIN_MS = 20
"""How long a resource that cannot be cleared must be silent to count as drained."""
DRAINED_READS = 64


class VisaLink:
    """Lines over a VISA resource.

    Parameters
    ----------
    resource : str
        As VISA names it: ``USB0::0x1313::0x8072::P2001234::INSTR``, ``GPIB0::7::INSTR``, ``ASRL3::INSTR``.
    backend : str
        ``""`` for the installed VISA library or else pyvisa-py; ``@py``, ``bench.yaml@sim``, or a library's path.
    baud : int, optional
        For serial resources.
    read_termination, write_termination : str
    timeout_ms : float
    """

    def __init__(
        self,
        resource: str,
        *,
        backend: str,
        baud: int | None,
        read_termination: str,
        write_termination: str,
        timeout_ms: float,
    ) -> None:
        import pyvisa

        self.where = resource
        self._pyvisa = pyvisa
        self._timeout_ms = timeout_ms
        manager = pyvisa.ResourceManager(backend)
        more: dict[str, Any] = {} if baud is None else {"baud_rate": baud}
        self._resource: Any = manager.open_resource(
            resource,
            read_termination=read_termination,
            write_termination=write_termination,
            timeout=timeout_ms,
            **more,
        )
        self._end = read_termination.encode("ascii")
        self._serial = hasattr(self._resource, "bytes_in_buffer")

    def write(self, line: str) -> None:
        """Send a command."""
        with self._errors():
            self._resource.write(line)

    def read(self) -> str:
        """The next line. On USB, GPIB and LAN a message may end without the terminator; on a serial line it may not."""
        with self._errors():
            raw: bytes = self._resource.read_raw()
        if raw.endswith(self._end):
            return raw[: -len(self._end)].decode("ascii")
        if not raw or self._serial:
            raise TimeoutError(repr(raw) if raw else "")
        return raw.decode("ascii")

    def pending(self) -> bool:
        """Whether unread characters have come in; only serial resources can tell."""
        if not self._serial:
            return False
        try:
            return bool(self._resource.bytes_in_buffer)
        except (self._pyvisa.errors.VisaIOError, NotImplementedError, AttributeError):
            return False

    def flush(self) -> None:
        """Discard what has come in: clear the device, discard the buffer, or read until it is silent."""
        errors = (self._pyvisa.errors.VisaIOError, NotImplementedError, AttributeError)
        operation = self._pyvisa.constants.BufferOperation
        if self._serial:
            with contextlib.suppress(*errors):
                self._resource.flush(operation.discard_read_buffer)
                self._resource.flush(operation.discard_receive_buffer)
                return
        else:
            with contextlib.suppress(*errors):
                self._resource.clear()
                return
        self._resource.timeout = DRAIN_MS
        try:
            with contextlib.suppress(*errors):
                for _ in range(DRAINED_READS):
                    self._resource.read_raw()
        finally:
            self._resource.timeout = self._timeout_ms

    def close(self) -> None:
        """Release the resource."""
        self._resource.close()

    @contextlib.contextmanager
    def _errors(self) -> Any:
        """VISA's errors as `TimeoutError` and `OSError`."""
        try:
            yield
        except self._pyvisa.errors.VisaIOError as error:
            if error.error_code == self._pyvisa.constants.StatusCode.error_timeout:
                raise TimeoutError("") from error
            raise OSError(error.description) from error
        except self._pyvisa.errors.InvalidSession as error:
            raise OSError("it is closed") from error


class VisaInstrument(TableInstrument):
    """An instrument on a VISA resource, driven as the bench file describes.

    Parameters
    ----------
    resource : str
        As VISA names it; ``simulated:ROLE`` for simulated firmware on the simulated bench.
    settings : mapping
        Setting's name -> `labctl.devices.instruments.table.Setting`.
    safe : list of [setting, value]
    identify : mapping, optional
        ``query`` and ``expect``.
    retries : int
    backend : str
        ``""`` for the installed VISA library or else pyvisa-py; ``@py``; ``FILE.yaml@sim``.
    baud : int, optional
        For serial resources.
    read_termination, write_termination : str
    timeout_ms : float
    name : str
        The instrument's name in the bench file.

    Raises
    ------
    ConfigError, DeviceError
        If the table is wrong; if the resource cannot be opened or something else answers.
    """

    def __init__(
        self,
        *,
        resource: str,
        settings: Mapping[str, Any],
        safe: Sequence[Any] = (),
        identify: Mapping[str, Any] | None = None,
        retries: int = 2,
        backend: str = "",
        baud: int | None = None,
        read_termination: str = "\n",
        write_termination: str = "\n",
        timeout_ms: float = 1000,
        name: str = "instrument",
        link: Any = None,
    ) -> None:
        table = CommandTable.read(table_options(settings, safe, identify, retries), name)
        check_line(name, read_termination, write_termination, timeout_ms)

        def opened() -> VisaLink:
            try:
                return VisaLink(
                    resource, backend=backend, baud=baud, read_termination=read_termination,
                    write_termination=write_termination, timeout_ms=timeout_ms,
                )  # fmt: skip
            except Exception as error:  # VISA libraries raise whatever they like
                raise DeviceError(
                    f"{name}: VISA resource {resource} cannot be opened ({error}): "
                    "check that it is connected and not open in another program",
                    device=name,
                ) from error

        super().__init__(name, given_link(link, name, opened), table)
