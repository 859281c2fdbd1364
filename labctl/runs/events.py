"""What the engine tells whoever watches. Observers get these on the engine's thread and must return at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from labctl.bench.frames import Frame
from labctl.procedures.messages import Exposure, Prompt


class State(Enum):
    """State of the engine; `labctl.runs.control.Control` draws how one leads to another."""

    IDLE = "idle"
    OPENING = "opening"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RECOVERING = "recovering"
    STOPPING = "stopping"
    ABORTING = "aborting"
    CLOSED = "closed"


@dataclass(frozen=True)
class StateChanged:
    state: State


@dataclass(frozen=True)
class RunStarted:
    run_id: str
    procedure: str
    folder: Path | None
    exposures: int


@dataclass(frozen=True, eq=False)
class Captured:
    """A frame that is already on disk, with the exposure that asked for it."""

    frame: Frame
    exposure: Exposure


@dataclass(frozen=True)
class Progressed:
    """Frames done of the number meant; `eta_s` is None until a rate is known."""

    done: int
    total: int
    label: str
    eta_s: float | None
    saved: int


@dataclass(frozen=True, eq=False)
class Published:
    name: str
    value: Any


@dataclass(frozen=True)
class Logged:
    text: str
    level: str


@dataclass(frozen=True)
class Prompted:
    prompt: Prompt


@dataclass(frozen=True)
class RunFinished:
    """`outcome` is "done", "aborted" or "failed"; `message` says why it did not finish."""

    run_id: str
    outcome: str
    message: str = ""


Event = StateChanged | RunStarted | Captured | Progressed | Published | Logged | Prompted | RunFinished
