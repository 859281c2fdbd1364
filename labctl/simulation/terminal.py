"""Simulated firmware behind a pseudo-terminal, for drivers that open a serial port. POSIX only.

On Windows, ``port = "simulated:laser"`` reaches the same firmware without a port.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from types import TracebackType

from labctl.errors import DeviceError
from labctl.simulation.instruments import Firmware


class Terminal:
    """Serves a `Firmware` on a pseudo-terminal while the ``with`` block lasts.

    Attributes
    ----------
    port : str
        What to open, as a serial port.

    Raises
    ------
    DeviceError
        On Windows, which has no pseudo-terminals.
    """

    def __init__(self, firmware: Firmware) -> None:
        if sys.platform == "win32":
            raise DeviceError(f'pseudo-terminals are not for Windows: use port = "simulated:{firmware.role}"')
        import pty
        import tty

        self._firmware = firmware
        self._ours, self._theirs = pty.openpty()  # theirs stays open, so that a client may come and go
        tty.setraw(self._theirs)
        self.port = os.ttyname(self._theirs)
        self._stop_read, self._stop_write = os.pipe()
        self._lines: list[str] = []
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name=f"firmware on {self.port}", daemon=True)

    def __enter__(self) -> Terminal:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        for descriptor in (self._ours, self._theirs, self._stop_read, self._stop_write):
            os.close(descriptor)

    @property
    def received(self) -> list[str]:
        """Every line that came in."""
        with self._came:
            return list(self._lines)

    def wait_for(self, line: str, timeout_s: float, *, after: int = 0) -> bool:
        """Whether `line` comes in within `timeout_s` (s), not counting the first `after` lines."""
        with self._came:
            return self._came.wait_for(lambda: line in self._lines[after:], timeout_s)

    def _serve(self) -> None:
        buffer = b""
        while True:
            ready, _, _ = select.select([self._ours, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            buffer += os.read(self._ours, 4096)
            *lines, buffer = buffer.split(b"\n")
            for raw in lines:
                line = raw.decode("ascii", errors="replace").strip()
                answers = self._firmware.lines(line)
                # noted before it is answered: whoever has the answer finds the question in `received`
                with self._came:
                    self._lines.append(line)
                    self._came.notify_all()
                for answer in answers:
                    os.write(self._ours, answer)
