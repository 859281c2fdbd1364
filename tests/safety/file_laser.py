"""A third-party laser whose beam is a file: it says "on" or "off", on any system."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class FileLaser:
    def __init__(self, path: str) -> None:
        self.name = "file laser"
        self._path = Path(path)

    def set(self, setting: str, value: Any) -> None:
        self._path.write_text("on" if value else "off", encoding="utf-8")

    def read(self, setting: str) -> Any:
        return self._path.read_text(encoding="utf-8") == "on"

    def make_safe(self) -> None:
        self.set("enabled", False)

    def close(self) -> None:
        """Nothing to release."""
