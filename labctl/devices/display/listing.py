"""The monitors of this computer, as a short process of its own sees them: no Qt in ours."""

from __future__ import annotations

import json
import subprocess

from labctl.devices.display.child import start, why
from labctl.devices.display.finding import MonitorInfo
from labctl.errors import DeviceError

LIST_LIMIT_S = 30.0


def monitors(*, timeout_s: float = LIST_LIMIT_S) -> list[MonitorInfo]:
    """Every monitor that the window system knows, the primary one first.

    Parameters
    ----------
    timeout_s : float
        How long the looking may take, s.

    Raises
    ------
    DeviceError
        If there is no window system to ask.
    """
    process = start(["--list"])
    try:
        answer, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise DeviceError(
            f"display: the window system did not list its monitors within {timeout_s:g} s", device="display"
        ) from None
    if process.returncode != 0:
        raise DeviceError(no_window_system(why(said.decode("utf-8", "replace").splitlines())), device="display")
    return [MonitorInfo.read(values) for values in json.loads(answer.splitlines()[-1])]


def no_window_system(reason: str) -> str:
    """One line for a computer without a desktop."""
    return f"display: no monitor can be reached ({reason}): run labctl in a desktop session, with DISPLAY set on Linux"
