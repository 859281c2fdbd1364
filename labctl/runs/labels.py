"""What people wrote on a run: tags and a note, in ``tags.json`` of its folder, which alone is the truth about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.errors import RunError
from labctl.runs.values import write_json

FILE = "tags.json"
FORMAT = "labctl tags 1"
TAG = re.compile(r"[^\s,\x00-\x1f]{1,80}")


@dataclass(frozen=True)
class Labels:
    """Tags, in the order given, each once; and a note."""

    tags: tuple[str, ...] = ()
    note: str = ""


def labels_of(folder: Path, intent: Mapping[str, Any]) -> Labels:
    """The labels of a run: those in its ``tags.json``, else those that it was started with.

    Parameters
    ----------
    intent : mapping
        Its ``run.json``; an experiment file starts its runs with tags.

    Raises
    ------
    RunError
        If ``tags.json`` is damaged.
    """
    path = folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Labels(tuple(map(str, document["tags"])), str(document.get("note", "")))
    except FileNotFoundError:
        return Labels(tuple(map(str, intent.get("provenance", {}).get("tags", ()))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}): delete it, and tag the run again") from error


def label(
    folder: Path,
    intent: Mapping[str, Any],
    *,
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
    note: str | None = None,
) -> Labels:
    """Change the labels of a run, whole or not at all.

    Parameters
    ----------
    add, remove : iterable of str
        Tags; one that is there already, or is not there, is left as it is.
    note : str, optional
        Replaces the note; "" takes it away.

    Raises
    ------
    RunError
        If a tag is no word, or the folder cannot be written.
    """
    now = labels_of(folder, intent)
    added, gone = tuple(add), set(remove)
    for tag in added:
        if not TAG.fullmatch(tag):
            raise RunError(f"'{tag[:80]}' is no tag: a tag is one word of up to 80 characters, without commas")
    tags = tuple(dict.fromkeys(tag for tag in (*now.tags, *added) if tag not in gone))
    changed = Labels(tags, now.note if note is None else note.strip())
    try:
        write_json(folder / FILE, {"format": FORMAT, "tags": list(changed.tags), "note": changed.note})
    except OSError as error:
        raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error
    return changed
