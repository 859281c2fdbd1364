"""What the window remembers between days. A damaged file is set aside with a note, never in the way of the start."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@dataclass
class Settings:
    """Remembered choices; every field has a default that works on a fresh machine.

    Attributes
    ----------
    bench, model : str
        Last chosen bench file and model bundle.
    images : int
        Test images of a demo run.
    layout, geometry : str
        Qt's window state and geometry, base64; "" for the default layout.
    colormap : str
    log_scale, auto_levels, phase_colours : bool
    appearance : str
        "system", "light" or "dark".
    log_level : str
        Lowest level that the log panel shows.
    """

    bench: str = "sim-4f"
    model: str = ""
    images: int = 500
    layout: str = ""
    geometry: str = ""
    colormap: str = "viridis"
    log_scale: bool = False
    auto_levels: bool = True
    phase_colours: bool = True
    appearance: str = "system"
    log_level: str = "info"


def default_path() -> Path:
    """``gui.json`` in the platform's configuration folder of labctl."""
    import platformdirs

    return platformdirs.user_config_path("labctl", appauthor=False) / "gui.json"


def load(path: Path) -> tuple[Settings, list[str]]:
    """Read settings, field by field.

    Returns
    -------
    settings : Settings
        What could be read; defaults for the rest.
    notes : list of str
        One line for each thing that could not be read, for the log panel.
    """
    settings = Settings()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return settings, []
    except (OSError, UnicodeDecodeError) as error:
        return settings, [_set_aside(path, str(error))]
    try:
        values = json.loads(text)
    except ValueError as error:
        return settings, [_set_aside(path, str(error))]
    if not isinstance(values, dict):
        return settings, [_set_aside(path, "it does not hold a table of settings")]
    return settings, _take(settings, values)


def save(path: Path, settings: Settings) -> None:
    """Write settings whole or not at all.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def keep(path: Path, settings: Settings) -> None:
    """As `save`; a disk that refuses costs a line in the log, never the closing of the window."""
    try:
        save(path, settings)
    except OSError as error:
        log.warning("the window settings could not be saved: %s", error)


def _take(settings: Settings, values: dict[str, Any]) -> list[str]:
    notes = []
    for field in fields(Settings):
        if field.name not in values:
            continue
        value, default = values[field.name], getattr(settings, field.name)
        if type(value) is type(default):
            setattr(settings, field.name, value)
        else:
            notes.append(f"window settings: {field.name} = {value!r} is not {type(default).__name__}: default used")
    return notes


def _set_aside(path: Path, reason: str) -> str:
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        return f"the window settings {path} cannot be read ({reason}) nor moved away ({error}): defaults are used"
    return f"the window settings could not be read ({reason}): set aside as {aside}; defaults are used"
