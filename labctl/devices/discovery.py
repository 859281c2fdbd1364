"""What is connected: monitors, cameras and SLMs of the installed kits, VISA resources, serial ports.

Nothing is opened, and nothing is sent to an instrument. Each kit is asked in a process of its own with a time limit.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from labctl.devices.probing import KITS, MARK, UNASKED
from labctl.errors import DeviceError, LabctlError

LIMIT_S = 30.0
"""How long one kit may take, s: a cold start of slmsuite takes seconds on a slow disk."""
HINTS = {
    "pitch_um": "pixel pitch from the data sheet, in micrometres",
    "role": '"laser", "shutter", "power-meter", "stage" or "environment"',
    "settings": "what can be set and read, with the instrument's commands",
}


@dataclass(frozen=True)
class Found:
    """A device that is there.

    Attributes
    ----------
    section : "camera", "slm" or "instruments"
        Where it goes in a bench file; ``slm`` stands for ``input`` as well.
    name : str
        What it is known by: serial number, monitor's name, port.
    detail : str
    driver : str
    options : dict
    asks : tuple of str
        Keys that a bench file needs besides and that cannot be found out.
    """

    section: str
    name: str
    detail: str
    driver: str
    options: dict[str, Any] = field(default_factory=dict)
    asks: tuple[str, ...] = ()

    @property
    def snippet(self) -> str:
        """What to put in the bench file; valid TOML."""
        import tomlkit

        table = tomlkit.inline_table()
        table.update(self.options)
        header = "[instruments.NAME]" if self.section == "instruments" else f"[{self.section}]"
        lines = [header, f"driver = {tomlkit.item(self.driver).as_string()}", f"options = {table.as_string()}"]
        lines += [f"# add {key}: {HINTS[key]}" for key in self.asks if key in HINTS]
        return "\n".join(lines)


@dataclass(frozen=True)
class Finding:
    """What one source found.

    Attributes
    ----------
    source : str
        ``monitors``, a kit, ``visa`` or ``serial``.
    found : tuple of Found
    note : str
        Why nothing could be found, in one line; empty where looking worked.
    installed : bool
        Whether the kit is there at all.
    """

    source: str
    found: tuple[Found, ...] = ()
    note: str = ""
    installed: bool = True

    def as_json(self) -> dict[str, Any]:
        """For scripts, and for `read_findings`."""
        content = asdict(self)
        for entry, found in zip(content["found"], self.found, strict=True):
            entry["snippet"] = found.snippet
        return content


def sources() -> list[str]:
    """Everything that can be looked at, in the order of a bench file."""
    return ["monitors", *KITS, *UNASKED, "visa", "serial"]


def discover(only: Iterable[str] | None = None, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Look for devices.

    Parameters
    ----------
    only : iterable of str, optional
        Some of `sources`; default all.
    limit_s : float
        How long each may take, s.
    """
    wanted = list(sources() if only is None else only)
    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="discovery") as pool:
        return list(pool.map(lambda source: _look(source, limit_s), wanted))


def read_findings(text: str) -> list[Finding]:
    """Findings from what ``labctl devices --json`` wrote.

    Raises
    ------
    LabctlError
        If the text is something else.
    """
    try:
        return [
            Finding(
                str(entry["source"]),
                tuple(_found(each) for each in entry["found"]),
                str(entry["note"]),
                bool(entry["installed"]),
            )
            for entry in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise LabctlError(
            f"this is not what 'labctl devices --json' writes ({type(error).__name__}: {error})"
        ) from error


def probe_command(kit: str) -> list[str]:
    """The process that asks a kit."""
    return [sys.executable, "-m", "labctl.devices.probing", kit]


def _look(source: str, limit_s: float) -> Finding:
    if source == "monitors":
        return _monitors(limit_s)
    if source in UNASKED:
        return Finding(source, note=UNASKED[source], installed=sys.platform == "win32")
    kit = KITS.get(source)
    if kit is not None:
        if kit.windows and sys.platform != "win32":
            return Finding(source, note=f"{kit.what}: for Windows only", installed=False)
        if source == "aravis" and ctypes.util.find_library("aravis-0.8") is None:
            return Finding(source, note=f"{kit.what}: the library Aravis 0.8 is not installed", installed=False)
        if kit.packages and not any(_importable(package) for package in kit.packages):
            named = " or ".join(kit.packages)
            return Finding(source, note=f"{kit.what}: {named} is not installed: {kit.install}", installed=False)
    return _ask(source, limit_s)


def _ask(source: str, limit_s: float) -> Finding:
    try:
        done = subprocess.run(
            probe_command(source),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(source, note=f"no answer within {limit_s:g} s: its library hangs")
    except OSError as error:
        return Finding(source, note=f"cannot be asked: {error}")
    answer = next((line for line in reversed(done.stdout.splitlines()) if line.startswith(MARK)), None)
    if answer is not None:
        return Finding(source, tuple(_found(entry) for entry in json.loads(answer.removeprefix(MARK))))
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0 or not said:
        return Finding(source, note=f"its library crashed (code {done.returncode})")
    return Finding(source, note=f"its library failed: {said[-1][:200]}")


def _monitors(limit_s: float) -> Finding:
    try:
        from labctl.devices.display import monitors

        found = monitors(timeout_s=limit_s)
    except DeviceError as error:
        return Finding("monitors", note=str(error))
    devices = []
    for monitor in found:
        # The most telling of its names that no other monitor has.
        others = [other for other in found if other is not monitor]
        name = next(
            (text for text in monitor.identities if not any(other.is_called(text) for other in others)),
            monitor.geometry,
        )
        detail = " ".join(part for part in (monitor.manufacturer, monitor.model, monitor.geometry) if part)
        if monitor.primary:
            detail += ", carries the desktop"
        options = {"monitor": name, "resolution": [monitor.width, monitor.height]}
        devices.append(Found("slm", name, detail, "display", options, ("pitch_um",)))
    return Finding("monitors", tuple(devices))


def _found(entry: dict[str, Any]) -> Found:
    names = ("section", "name", "detail", "driver", "options", "asks")
    values = {name: entry[name] for name in names}
    return Found(**{**values, "asks": tuple(values["asks"])})


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a package that is there in part
        return False
