"""Image sets that users have added: a folder each, with the images in one file and what is known of them in another."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labctl.errors import DataError
from labctl.learning.sets.known import ADDED_FILE, KNOWN, VOID, KnownSet, Task
from labctl.learning.sets.places import collections

RECORD_FILE = "set.json"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(ge=0)]
Length = Annotated[int, Field(ge=1, le=1 << 16)]
SplitName = Literal["train", "validation", "test"]
#: Names that Windows keeps for devices.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


class SetSummary(BaseModel):
    """What a network must know of an image set: enough to build it where the images themselves are not.

    Attributes
    ----------
    shape
        (channels, y, x).
    counts
        Images of each split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    task: Task
    shape: tuple[Length, Length, Length]
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]
    counts: dict[SplitName, Count]

    def known(self) -> KnownSet:
        """The set that this describes."""
        return KnownSet(
            self.name,
            "npz",
            self.shape,
            self.classes,
            (self.counts.get("train", 0), self.counts.get("test", 0)),
            "its owner's",
            f"add it with `labctl data add {self.name} PATH`",
            task=self.task,
            validation=self.counts.get("validation", 0),
            void=VOID if self.task == "segmentation" else None,
            added=True,
        )


class SetRecord(SetSummary):
    """`set.json` of an added set.

    Attributes
    ----------
    form
        Version of this file's format.
    per_class
        Images, or for segmentation pixels, of each class in each split.
    sha256
        Of the decoded pixels and labels of each split, see `labctl.learning.sets.npz.digest_of`.
    size
        Bytes of the file of images.
    source, kind, options
        What was added, what it was taken for, and how it was converted.
    notes
        What the user should know of it.
    made
        When it was added, ISO 8601, UTC.
    """

    form: Literal[1] = 1
    per_class: dict[SplitName, tuple[Count, ...]]
    sha256: dict[SplitName, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    size: Count
    source: str
    kind: str
    options: dict[str, str | int | float | bool | None]
    notes: tuple[str, ...] = ()
    made: str

    @model_validator(mode="after")
    def _whole(self) -> SetRecord:
        splits = set(self.counts)
        if not {"train", "test"} <= splits or splits != set(self.sha256) or splits != set(self.per_class):
            raise ValueError("counts, per_class and sha256 do not name the same splits")
        return self

    def known(self) -> KnownSet:
        return replace(super().known(), digests={split: self.sha256[split] for split in self.sha256})


def summary_of(known: KnownSet) -> dict[str, Any]:
    """What a network must know of a set, as plain values for TOML or JSON; `known_from` is its inverse."""
    return {
        "name": known.name,
        "task": known.task,
        "shape": list(known.shape),
        "classes": list(known.classes),
        "counts": dict(known.counts),
    }


def known_from(values: dict[str, Any], *, origin: str) -> KnownSet:
    """The set that `summary_of` described; `origin` names the file in the DataError that a bad description raises."""
    try:
        return SetSummary.model_validate(values).known()
    except ValidationError as error:
        raise DataError(f"{origin}: describes no image set ({_first(error)})") from error


def check_name(name: str) -> None:
    """DataError unless `name` can be that of an added set: short, fit for a folder everywhere, not a known set's."""
    if name in KNOWN:
        raise DataError(f"{name!r} is the name of a known set; choose another")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) or name.endswith(".") or name.split(".")[0] in _DEVICES:
        raise DataError(
            f"{name!r} cannot be the name of a set: use lower-case letters, digits, '-', '_' and '.', starting with a "
            "letter or digit"
        )


def read_record(folder: Path) -> SetRecord:
    """`set.json` of the added set in `folder`; DataError when it is missing or damaged, or its images are."""
    path = folder / RECORD_FILE
    try:
        record = SetRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(f"{path}: is damaged ({_first(error)}); {_again(folder)}") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_again(folder)}") from error
    if record.name != folder.name:
        raise DataError(f"{path}: describes {record.name}; call the folder so, or remove it")
    images = folder / ADDED_FILE
    size = images.stat().st_size if images.is_file() else None
    if size is None:
        raise DataError(f"{images}: is missing; {_again(folder)}")
    if size != record.size:
        raise DataError(f"{images}: has {size} bytes, {record.size} were written; {_again(folder)}")
    return record


def _again(folder: Path) -> str:
    return f"remove {folder.name} and add it again"


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    return f"{key}: {problem['msg']}" if key else str(problem["msg"])


def added_folders(data_dir: Path | None) -> Iterator[Path]:
    """Folders of added sets, in search order and then by name; a name found before is passed over."""
    seen: set[str] = set()
    for base in collections(data_dir):
        if not base.is_dir():
            continue
        inside = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
        # a folder asked for may be the collection or the set itself
        for folder in ([base.resolve()] if data_dir is not None else []) + inside:
            if (folder / RECORD_FILE).is_file() and folder.name not in seen:
                seen.add(folder.name)
                yield folder


def find_added(name: str, data_dir: Path | None) -> Path | None:
    """The folder of the added set called `name`, or None."""
    return next((folder for folder in added_folders(data_dir) if folder.name == name), None)


def remove_set(name: str, *, data_dir: Path | None = None) -> Path:
    """Delete an added set; gives the folder that it was in.

    Raises
    ------
    DataError
        There is no added set of that name (a known set is never removed), or a file is in use.
    """
    if name in KNOWN:
        raise DataError(f"{name} is a known set, which labctl did not make; delete its folder yourself")
    folder = find_added(name, data_dir)
    if folder is None:
        have = ", ".join(path.name for path in added_folders(data_dir)) or "none"
        raise DataError(f"no added set is called {name!r} (added: {have})")
    try:
        # the record goes first: what is left of a removal that fails is no set
        (folder / RECORD_FILE).unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be removed ({error.strerror or error}); is it in use?") from error
    return folder
