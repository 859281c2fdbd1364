"""``manifest.json``: sizes and hashes of a run's small files, written after all of them.

Frames, their table and their patterns carry hashes of their own in ``frames.h5``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash

from labctl.runs.values import write_json

NAME = "manifest.json"
FORMAT = "labctl manifest 1"
FILES = ("run.json", "events.jsonl", "curves.csv", "calibrations.h5", "checkpoint.h5", "result.json", "result.h5")


def write(folder: Path) -> None:
    """Write the manifest of a run folder.

    Raises
    ------
    OSError
        If a file cannot be read, or the disk is full.
    """
    files = {name: digest(folder / name) for name in FILES if (folder / name).exists()}
    write_json(folder / NAME, {"format": FORMAT, "files": files, "seal": _seal(files)})


def differences(folder: Path) -> list[str] | None:
    """What is not as the manifest says, one line for each file; None if there is no manifest.

    A file that is not in the manifest, and one that cannot be read, count as different.
    """
    try:
        document = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files: dict[str, Any] = document["files"]
        whole = document["seal"] == _seal(files) and document["format"] == FORMAT
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        return [f"{NAME}: cannot be read ({error})"]
    if not whole:
        return [f"{NAME}: is not as it was written"]
    found = []
    for name in FILES:
        try:
            now = digest(folder / name) if (folder / name).exists() else None
        except OSError as error:
            found.append(f"{name}: cannot be read ({error})")
            continue
        if now is None and name in files:
            found.append(f"{name}: is missing")
        elif now is not None and name not in files:
            found.append(f"{name}: was added after the run")
        elif now != files.get(name):
            found.append(f"{name}: is not as it was when the run ended")
    return found


def digest(path: Path) -> dict[str, Any]:
    """Size and hash (XXH3, 64 bits) of a file."""
    hasher = xxhash.xxh3_64()
    size = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            hasher.update(block)
            size += len(block)
    return {"bytes": size, "xxh3": hasher.hexdigest()}


def _seal(files: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(files, sort_keys=True).encode())
