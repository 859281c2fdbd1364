"""What becomes of a run, for every fault at every call: tests hold labctl to it, and `table.py` prints it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from labctl.config.faults import AT_CLOSING, FAULTS_OF, OF_ANY_CALL, OF_WRITING, WRITES
from labctl.config.schema import RecoverySection

EVER = 2000
"""Calls that a lasting fault strikes: more than any run here makes."""
ONCE, SHORT, LONGER, LASTING = "once", "for a moment", "for a while", "for good"


class Becomes(Enum):
    """What becomes of the run."""

    GOES_ON = "goes on"
    RETRY = "tries again"
    REOPEN = "opens it again"
    ENDS = "ends"
    REPORTS = "reports it"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Column:
    """A kind of call.

    Attributes
    ----------
    kind : str
        Of device, as `FAULTS_OF` has it.
    devices : tuple of str
    call : str or None
        As a plan writes it; None for the call that a plan counts anyway.
    at : int
        Which of these calls is struck.
    manners : tuple of str
        Of the camera: "grab", or "overlap" for one that exposes while it reads out.
    before : tuple
        (fault, call, at) that has to strike first, or the call would not be made.
    tries : int
        How often it is tried in all before the run ends.
    while_s : float
        What is longer than two tries and shorter than three, s: with exposures the panels settle at each.
    """

    kind: str
    devices: tuple[str, ...]
    call: str | None
    at: int
    manners: tuple[str, ...] = ("grab", "overlap")
    before: tuple[str, str | None, int] | None = None
    tries: int = 4
    while_s: float = 0.5

    @property
    def recovery(self) -> RecoverySection:
        return RecoverySection(reopens=self.tries - 3)


COLUMNS = {
    "panel: show": Column("panel", ("slm", "input"), "show", 2),
    "panel: open again": Column("panel", ("slm", "input"), "open", 1, before=("stuck", None, 2), tries=5),
    "panel: blank": Column("panel", ("slm", "input"), "blank", 1),
    "panel: close": Column("panel", ("slm", "input"), None, 0),
    "camera: grab": Column("camera", ("camera",), "frame", 4, ("grab",), while_s=0.75),
    "camera: expose": Column("camera", ("camera",), "expose", 4, ("overlap",), while_s=0.75),
    "camera: read out": Column("camera", ("camera",), "frame", 4, ("overlap",), while_s=0.75),
    "camera: window": Column("camera", ("camera",), "window", 2),
    "camera: flush": Column("camera", ("camera",), "flush", 1, ("overlap",), before=("timeout", "frame", 4)),
    "camera: open again": Column("camera", ("camera",), "open", 1, before=("stuck", None, 4), tries=5),
    "camera: close": Column("camera", ("camera",), None, 0),
    "instrument: set": Column("instrument", ("laser",), "set", 3),
    "instrument: read": Column("instrument", ("laser",), "read", 2),
    "instrument: open again": Column("instrument", ("laser",), "open", 1, before=("stuck", None, 3), tries=5),
    "instrument: make safe": Column("instrument", ("laser",), "make-safe", 1),
    "instrument: close": Column("instrument", ("laser",), None, 0),
}
TIMEOUT, GONE = "TimeoutError: no answer within 2 s", "ConnectionError: the device is not connected"
STUCK = "OSError: the device is stuck until it is opened again"
AGAIN = "take the exposure again; if it stays so, restart the camera"
UNOPENED = "; opening it again failed: "
LOST = "gave a frame exposed from … to … s where one between … and … s was due: a frame was lost or given twice"
OLD = (
    "64 frames in a row started before the patterns had settled, or were old ones: check settle_ms and the trigger "
    "mode in the bench file"
)
Fate = tuple[Becomes, str]
GOES_ON, RETRY, REOPEN, REPORTS, UNSEEN = (
    (each, "") for each in (Becomes.GOES_ON, Becomes.RETRY, Becomes.REOPEN, Becomes.REPORTS, Becomes.UNSEEN)
)


def ends(message: str) -> Fate:
    return Becomes.ENDS, message


USUAL: dict[tuple[str, str], Fate] = {
    ("timeout", ONCE): RETRY,
    ("timeout", LASTING): ends(TIMEOUT),
    ("hang", ONCE): GOES_ON,
    ("hang", LASTING): GOES_ON,
    ("disconnect", SHORT): RETRY,
    ("disconnect", LONGER): REOPEN,
    ("disconnect", LASTING): ends(GONE),
    ("stuck", ONCE): REOPEN,
    ("stuck", LASTING): ends(STUCK),
}
"""At a call that a run may make again."""
AT_OPENING = USUAL | {
    ("timeout", ONCE): REOPEN,
    ("timeout", LASTING): ends(f"{STUCK}{UNOPENED}{TIMEOUT}"),
    ("hang", ONCE): REOPEN,
    ("hang", LASTING): REOPEN,
}
del AT_OPENING["disconnect", SHORT], AT_OPENING["disconnect", LONGER]
"""A device that is stuck has to be opened again, with two tries at that."""
AT_FLUSHING = USUAL | {
    ("timeout", LASTING): REOPEN,
    ("hang", ONCE): RETRY,
    ("hang", LASTING): RETRY,
    ("stuck", LASTING): REOPEN,
}
del AT_FLUSHING["disconnect", LONGER]
"""A frame was late, and what is in the camera has to go: once it has been opened again, nothing is left in it."""
AT_SAFE_STATE: dict[tuple[str, str], Fate] = {
    ("timeout", ONCE): RETRY,
    ("timeout", LASTING): REPORTS,
    ("hang", ONCE): GOES_ON,
    ("hang", LASTING): GOES_ON,
    ("disconnect", SHORT): RETRY,
    ("disconnect", LONGER): REPORTS,
    ("disconnect", LASTING): REPORTS,
    ("stuck", ONCE): REPORTS,
    ("stuck", LASTING): REPORTS,
    ("write-fails", ONCE): RETRY,
    ("write-fails", LASTING): REPORTS,
    ("write-ignored", ONCE): UNSEEN,
    ("write-ignored", LASTING): UNSEEN,
}
"""The run itself is over: its outcome stays what it was."""
AT_CLOSE: dict[tuple[str, str], Fate] = {("slow-close", ONCE): GOES_ON, ("failing-close", ONCE): REPORTS}
OF_FRAMES: dict[tuple[str, str], Fate] = {
    (fault, lasts): UNSEEN
    for fault in ("stale-restamped", "torn", "saturated", "dark")
    for lasts in (ONCE, LASTING)
} | {
    ("wrong-shape", ONCE): RETRY,
    ("wrong-shape", LASTING): ends(f"gave a frame of … (rows, columns) where … were due: {AGAIN}"),
    ("wrong-dtype", ONCE): RETRY,
    ("wrong-dtype", LASTING): ends(f"gave a frame of int32 where labctl reads unsigned integers: {AGAIN}"),
    ("nan", ONCE): RETRY,
    ("nan", LASTING): ends(f"gave a frame with … pixels that are not numbers (NaN): {AGAIN}"),
}  # fmt: skip
FATES: dict[str, dict[tuple[str, str], Fate]] = {
    "panel: show": USUAL | {
        ("write-fails", ONCE): RETRY,
        ("write-fails", LASTING): ends("OSError: the pattern could not be written"),
        ("write-ignored", ONCE): UNSEEN,
        ("write-ignored", LASTING): UNSEEN,
        ("late-swap", ONCE): UNSEEN,
        ("late-swap", LASTING): UNSEEN,
    },
    "panel: open again": AT_OPENING,
    "panel: blank": AT_SAFE_STATE,
    "panel: close": AT_CLOSE,
    "camera: grab": USUAL | OF_FRAMES | {
        ("stale", ONCE): GOES_ON,
        ("stale", LASTING): ends(OLD),
        ("duplicated", ONCE): GOES_ON,
        ("duplicated", LASTING): GOES_ON,
        ("dropped", ONCE): GOES_ON,
        ("dropped", LASTING): GOES_ON,
    },
    "camera: expose": USUAL,
    "camera: read out": USUAL | OF_FRAMES | {
        ("stale", ONCE): RETRY,
        ("stale", LASTING): ends(LOST),
        ("duplicated", ONCE): RETRY,
        ("duplicated", LASTING): RETRY,
        ("dropped", ONCE): RETRY,
        ("dropped", LASTING): ends("… no frame within 2 s"),
    },
    "camera: window": USUAL,
    "camera: flush": AT_FLUSHING,
    "camera: open again": AT_OPENING,
    "camera: close": AT_CLOSE,
    "instrument: set": USUAL | {
        ("write-fails", ONCE): RETRY,
        ("write-fails", LASTING): ends("OSError: 'power' could not be set"),
        ("write-ignored", ONCE): UNSEEN,
        ("write-ignored", LASTING): UNSEEN,
        ("dies", ONCE): UNSEEN,
        ("dies", LASTING): UNSEEN,
    },
    "instrument: read": USUAL | {
        ("garbage", ONCE): RETRY,
        ("garbage", LASTING): ends("'power' was answered with …: read it again, or check the connection"),
        ("dies", ONCE): UNSEEN,
        ("dies", LASTING): UNSEEN,
    },
    "instrument: open again": AT_OPENING,
    "instrument: make safe": AT_SAFE_STATE,
    "instrument: close": AT_CLOSE,
}  # fmt: skip
PROVABLE = {
    ("panel: show", "write-ignored"), ("panel: show", "late-swap"),
    *((column, fault) for column in ("camera: grab", "camera: read out")
      for fault in ("stale-restamped", "torn", "saturated", "dark")),
}  # fmt: skip
"""Unseen by times and shapes; a run with a proof of pairing sees it and exposes again."""


@dataclass(frozen=True)
class Case:
    """One fault at one call of one device."""

    column: str
    device: str
    manner: str
    fault: str
    lasts: str
    becomes: Becomes
    message: str

    def __str__(self) -> str:
        call = self.column.partition(": ")[2]
        return f"{self.device}-{call}-{self.manner}-{self.fault}-{self.lasts}".replace(" ", "-")

    @property
    def plan(self) -> list[dict[str, Any]]:
        """Entries of a bench file's ``[[faults.plan]]``."""
        column = COLUMNS[self.column]
        entries = []
        if column.before is not None:
            fault, call, at = column.before
            entries.append({"device": self.device, "fault": fault, "call": call, "at": [at]})
        if self.fault in AT_CLOSING:
            entry: dict[str, Any] = {"device": self.device, "fault": self.fault}
        else:
            calls = list(range(column.at, EVER)) if self.lasts == LASTING else [column.at]
            singles_out = self.fault in OF_ANY_CALL or (self.fault in WRITES and column.call in OF_WRITING)
            entry = {"device": self.device, "fault": self.fault, "at": calls}
            if singles_out:
                entry["call"] = column.call
            elif self.fault == "garbage":  # readings are counted together with settings
                entry["at"] = [6] if self.lasts == ONCE else list(range(6, EVER))
            elif self.fault == "dies":
                entry["at"] = [2] if column.call == "set" else [3]
        seconds = {SHORT: 0.3, LONGER: column.while_s}.get(self.lasts)
        if self.fault in ("hang", "slow-close"):
            seconds = 30.0
        if self.fault == "late-swap" or (self.fault == "dies" and self.lasts == ONCE):
            seconds = 0.5
        if seconds is not None:
            entry["for_s"] = seconds
        return [*entries, entry]

    def says(self, device: str, line: str) -> bool:
        """Whether a run that ended said why, in one line that names the device."""
        words, _, cause = (re.escape(part).replace("…", ".*") for part in self.message.partition(UNOPENED))
        rehearsed = r"( \(a rehearsed fault\))?"
        pattern = rf"{device}[: ]+{words}{rehearsed} \(tried {COLUMNS[self.column].tries} times\)"
        if cause:
            pattern += rf"{UNOPENED}{device}: {cause}{rehearsed}"
        return re.fullmatch(pattern, line) is not None


def cases() -> Iterator[Case]:
    """Every fault, at every call at which it can strike."""
    for name, column in COLUMNS.items():
        for (fault, lasts), (becomes, message) in FATES[name].items():
            if fault not in FAULTS_OF[column.kind]:
                raise ValueError(f"{fault} is no fault of a {column.kind}")
            for device in column.devices:
                for manner in column.manners:
                    yield Case(name, device, manner, fault, lasts, becomes, message)
