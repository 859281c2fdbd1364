"""A recorded run, read back from its folder. Whatever was saved is readable, however the run ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.runs import framefile
from labctl.runs.lock import is_held
from labctl.runs.values import from_json

Outcome = Literal["done", "aborted", "failed", "cut off", "running"]


@dataclass(frozen=True)
class RecordedRun:
    """A run folder. Made by `open_run`; holds no file open.

    Attributes
    ----------
    path : Path
    intent : dict
        ``run.json``.
    """

    path: Path
    intent: dict[str, Any]

    @property
    def id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @cached_property
    def conclusion(self) -> dict[str, Any]:
        """``result.json`` without the result itself; empty if the run was cut off."""
        return {key: value for key, value in self._document.items() if key != "result"}

    @property
    def outcome(self) -> Outcome:
        """How it ended; "running" while a living process writes it, "cut off" if that process is gone."""
        if self._document:
            outcome: Outcome = self._document["outcome"]
            return outcome
        return "running" if is_held(self.path) else "cut off"

    @property
    def result(self) -> Any:
        """What the procedure returned, dataclasses as dicts; None if it did not return.

        Raises
        ------
        RunError
            If the arrays beside ``result.json`` cannot be read.
        """
        tree = self._document.get("result")
        arrays = self.path / "result.h5"
        if not arrays.exists():
            return from_json(tree)
        try:
            with h5py.File(arrays, "r") as file:
                return from_json(tree, file)
        except (OSError, KeyError) as error:
            raise RunError(f"{arrays} cannot be read ({error}): the arrays of this run's result are lost") from error

    @property
    def events(self) -> list[dict[str, Any]]:
        """``events.jsonl``, line by line; a torn last line is left out."""
        events = []
        try:
            text = (self.path / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        for line in text.splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    @property
    def frame_count(self) -> int:
        """Frames saved."""
        if self._document:
            return int(self._document.get("frames", 0))
        return len(self.frame_table) if (self.path / "frames.h5").exists() else 0

    @property
    def frame_table(self) -> NDArray[Any]:
        """One row per frame (`labctl.runs.framefile.ROW`), in the order captured."""
        return framefile.read_table(self.path / "frames.h5")

    def frames(self, *, check: bool = False) -> Iterator[Frame]:
        """The frames one by one, in the order captured; `check` compares each with its checksum.

        Raises
        ------
        RunError
            If there are none, they are being written, or they are damaged.
        """
        return framefile.read_frames(self.path / "frames.h5", check=check)

    def pattern(self, panel: Literal["slm", "input"], token: str) -> NDArray[np.unsignedinteger[Any]]:
        """The gray pattern [row, column] with this token.

        Raises
        ------
        RunError
            If the run did not keep it.
        """
        with framefile.open_frames(self.path / "frames.h5") as file:
            try:
                pattern: NDArray[np.unsignedinteger[Any]] = file[f"patterns/{panel}/{token}"][()]
            except KeyError:
                raise RunError(f"run {self.id} did not keep the {panel} pattern {token}") from None
        return pattern

    def patterns(self, panel: Literal["slm", "input"] = "slm") -> list[str]:
        """Tokens of the patterns that were kept."""
        if not (self.path / "frames.h5").exists():
            return []
        with framefile.open_frames(self.path / "frames.h5") as file:
            return sorted(file.get(f"patterns/{panel}", {}))

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The last state that the procedure left to resume from.

        Raises
        ------
        RunError
            If it cannot be read.
        """
        path = self.path / "checkpoint.h5"
        if not path.exists():
            return None
        try:
            with h5py.File(path, "r") as file:
                state: dict[str, Any] = from_json(json.loads(file["json"].asstr()[()]), file)
        except (OSError, KeyError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}): the run cannot be resumed from it") from error
        return state

    @cached_property
    def _document(self) -> dict[str, Any]:
        return _read_json(self.path / "result.json")


def open_run(path: Path) -> RecordedRun:
    """Read a run folder.

    Raises
    ------
    RunError
        If it is not one.
    """
    intent = _read_json(Path(path) / "run.json")
    if not intent:
        raise RunError(f"{path} is not a run folder: it has no run.json")
    return RecordedRun(Path(path), intent)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): the run folder was damaged") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} does not hold what a run folder should: it was damaged")
    return document
