"""The guardian: a small process that makes laser and shutter safe when labctl is killed.

It hears of labctl's end because a pipe ends, on every system, whatever ended it; only then does it open the
instruments. On a clean close it is told to stand down.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labctl.config.schema import BenchConfig
from labctl.devices.instruments.guard_process import READY, STAND_DOWN
from labctl.devices.instruments.opening import HARMFUL
from labctl.errors import DeviceError

log = logging.getLogger(__name__)
READY_S, END_S = 30.0, 5.0


def wards_of(config: BenchConfig) -> list[dict[str, Any]]:
    """What the guardian of a bench has to know: its real lasers and shutters, and what else has a safe state.

    Returns
    -------
    list of mapping
        Empty if no guardian is needed or wanted.
    """
    if not config.safety.guardian or not config.safety.laser_off_on_close:
        return []
    return [
        {
            "name": name,
            "driver": section.driver,
            "options": section.options,
            "role": section.role,
            "safe_state": config.safety.safe_state.get(name, {}),
        }
        for name, section in config.instruments.items()
        if not section.simulated and (section.role in HARMFUL or name in config.safety.safe_state)
    ]


class Guardian:
    """A running guardian process.

    Parameters
    ----------
    wards : sequence of mapping
        As `wards_of` gives.
    """

    def __init__(self, wards: Sequence[Mapping[str, Any]]) -> None:
        self._said_dead = False
        more: dict[str, Any] = {"start_new_session": True}  # Ctrl-C at the terminal is not for it
        if sys.platform == "win32":
            more = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "labctl.devices.instruments.guard_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=_stderr(),
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)},
            **more,
        )
        self._close_in_forks()
        self._answers: list[bytes] = []
        self._reader = threading.Thread(target=self._listen, name="guardian", daemon=True)
        self._reader.start()
        self._say(json.dumps(list(wards), default=str).encode("ascii") + b"\n")

    def wait_ready(self) -> None:
        """Return when it guards.

        Raises
        ------
        DeviceError
            If it does not start; it is ended then.
        """
        self._reader.join(READY_S)
        if self._answers != [READY]:
            self._process.kill()
            self._end()
            why = self._answers[0].decode("ascii", "replace").strip() if self._answers else ""
            raise DeviceError(
                f"safety: the guardian process did not start{f' ({why})' if why else ''}: "
                "correct that, or set guardian = false in [safety] to work without one"
            )

    def check(self) -> None:
        """Say once in the log if it has ended by itself."""
        if not self._said_dead and self._process.poll() is not None:
            self._said_dead = True
            log.error("the guardian process has ended: if labctl is killed now, nobody switches the laser off")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stand_down(self) -> None:
        """Everything is safe: end it."""
        self._say(STAND_DOWN)
        self._end()

    def take_over(self) -> None:
        """Something could not be made safe and has been closed: let it try, as if labctl were dead."""
        self._end()

    def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            log.warning("the guardian is still trying to make the instruments safe")
            return
        self._reader.join(END_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _say(self, line: bytes) -> None:
        view = memoryview(line)
        try:
            while view and self._process.stdin is not None:
                view = view[self._process.stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:  # it has ended, or was ended; `wait_ready` or `check` says so
            log.debug("the guardian's pipe is closed: %s", error)

    def _listen(self) -> None:
        if self._process.stdout is not None:
            self._answers.append(self._process.stdout.readline())

    def _close_in_forks(self) -> None:
        """A forked child must not hold the pipe open after labctl's death. (Spawned ones never do.)"""
        if not hasattr(os, "register_at_fork"):
            return
        pipe = weakref.ref(self._process.stdin)

        def close() -> None:
            held = pipe()
            if held is not None:
                held.close()

        os.register_at_fork(after_in_child=close)


def _stderr() -> int | None:
    """Where the guardian reports: labctl's own, or nowhere in a windowed program that has none."""
    try:
        return None if sys.__stderr__ is not None and sys.__stderr__.fileno() >= 0 else subprocess.DEVNULL
    except (OSError, ValueError):
        return subprocess.DEVNULL
