"""Where image sets lie on this computer."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def default_dir() -> Path:
    """Where a full set belongs when the user has no opinion: `LABCTL_DATA`, else the platform's user cache."""
    return collections(None)[0]


def collections(data_dir: Path | None) -> list[Path]:
    """Folders that hold sets, in search order. A folder asked for is the only one: no surprise sources."""
    if data_dir is not None:
        return [data_dir]
    asked = os.environ.get("LABCTL_DATA")
    caches = [Path(platformdirs.user_cache_dir("labctl", appauthor=False)) / "data", Path.home() / ".cache/labctl/data"]
    return list(dict.fromkeys([*([Path(asked)] if asked else []), *caches]))
