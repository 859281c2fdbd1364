"""What the session tells the window beside the engine's own events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from labctl.bench.facts import BenchFacts


class Phase(Enum):
    """What the hardware thread is at. The value is the word that the status bar shows."""

    CLOSED = "closed"
    OPENING = "opening"
    IDLE = "ready"
    LIVE = "live"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RECOVERING = "recovering"
    STOPPING = "stopping"
    ABORTING = "aborting"

    @property
    def open(self) -> bool:
        """Whether a bench is open."""
        return self not in (Phase.CLOSED, Phase.OPENING)

    @property
    def running(self) -> bool:
        """Whether a procedure has the bench."""
        return self.can_abort or self is Phase.ABORTING

    @property
    def can_stop(self) -> bool:
        """Whether a run goes on that nobody has ended yet."""
        return self in (Phase.RUNNING, Phase.PAUSING, Phase.PAUSED, Phase.RECOVERING)

    @property
    def can_abort(self) -> bool:
        """Whether a run can be ended faster than it ends now."""
        return self.can_stop or self is Phase.STOPPING


@dataclass(frozen=True)
class Status:
    """The session's phase, and the bench it is about.

    Attributes
    ----------
    phase : Phase
    bench : str
        Name of the bench file; "" before the first.
    facts : BenchFacts or None
        None while no bench is open.
    message : str
        Why the bench is not open, when it should be; while a job runs, what it is at outside the engine.
    """

    phase: Phase = Phase.CLOSED
    bench: str = ""
    facts: BenchFacts | None = None
    message: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a job ended: "done", "aborted" or "failed", and what it left.

    Attributes
    ----------
    title : str
    outcome : str
    message : str
        Why it did not finish.
    table : sequence of rows
        The result, one mapping a row.
    folder, report : Path or None
        The run folder and its HTML report.
    """

    title: str
    outcome: str
    message: str = ""
    table: Sequence[Mapping[str, Any]] = ()
    folder: Path | None = None
    report: Path | None = None


@dataclass(frozen=True)
class Line:
    """A line of the log panel: text, level name in lower case, logger, seconds since the epoch."""

    text: str
    level: str = "info"
    source: str = ""
    time: float = field(default_factory=time.time)
