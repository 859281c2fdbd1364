"""The procedure contract: a generator yields these requests and receives the answers.

A procedure knows nothing of devices, Qt or files. Requests are plain values, so that the same procedure can be run,
dry-run, replayed from a recording, and asserted on message by message in a test.

=============  ==========================================================  =======================
request        meaning                                                     the generator receives
=============  ==========================================================  =======================
`Measure`      a batch of exposures                                        ``Sequence[Frame]``, in the order asked
`Set`          a setting of an instrument                                  ``None``
`Read`         a reading of an instrument                                  the value
`Checkpoint`   state to resume from                                        ``None``
`Publish`      a value or a picture to watch                               ``None``
`Prompt`       ask the person at the table                                 the chosen option
`Log`          a line for the log                                          ``None``
=============  ==========================================================  =======================
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts

Gray = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Exposure:
    """Show these gray patterns, let them settle, take one frame.

    Attributes
    ----------
    slm, input : unsigned integer array [row, column], or None
        Gray patterns; None leaves the device as it is.
    exposure_s : float or None
        Exposure time, s; None takes the bench file's.
    tag : mapping
        What the frame is for; it is recorded with the frame. JSON values only.
    settle_s : float or None
        How long after the last change of a pattern the exposure may begin, s; None waits until both panels have
        settled, as the bench file says. A frame's ``started - shown_slm`` is how long it really was.
    """

    slm: Gray | None = None
    input: Gray | None = None
    exposure_s: float | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)
    settle_s: float | None = None


@dataclass(frozen=True, eq=False)
class Measure:
    """A batch of exposures. The engine may reorder them; the frames come back in this order.

    Attributes
    ----------
    exposures : sequence of Exposure
    label : str
        What the bar and the log call them.
    ahead : bool
        Answer at once with a sequence whose frames are waited for when they are looked at, so that the procedure
        computes while the next exposures are made. What fails meanwhile is raised where a frame is looked at, or at the
        next request.
    """

    exposures: Sequence[Exposure]
    label: str = ""
    ahead: bool = False


@dataclass(frozen=True)
class Set:
    """Set `setting` of the instrument named (or having the role) `instrument`."""

    instrument: str
    setting: str
    value: Any


@dataclass(frozen=True)
class Read:
    """Read `setting` of the instrument named (or having the role) `instrument`."""

    instrument: str
    setting: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State from which the procedure can resume. JSON values and numpy arrays only."""

    state: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Publish:
    """A value to watch: a number (with its unit in the name), a picture [row, column], or a table (list of dicts)."""

    name: str
    value: Any


Part = Literal["input", "slm", "beam", "camera"]
Axis = Literal["x", "y", "rotation", "focus"]


@dataclass(frozen=True)
class Adjustment:
    """How a screw should be turned, for whoever turns it.

    Directions are those of the part's own pixels (of the SLM's for the beam): +y towards the last row, +x towards the
    last column, rotation clockwise when row 0 is up and column 0 on the left. Focus is positive away from the lens.

    Attributes
    ----------
    part, axis : str
    by : float
        How far the part should move.
    unit : "mm" or "deg"
    """

    part: Part
    axis: Axis
    by: float
    unit: Literal["mm", "deg"]


MEANWHILE = "measure"
"""The answer to a prompt with `wait_s` when that time is over: nothing was chosen yet."""
AT_ITS_END = "end of travel"
"""The answer to a prompt with `adjust` where the screw goes no further; such a prompt has it among its options."""


@dataclass(frozen=True)
class Prompt:
    """Ask the person at the table.

    Attributes
    ----------
    text : str
    options : tuple of str
        The first one is the default, and what is chosen where nobody can be asked.
    merit : str
        The published figure to watch meanwhile; smaller is better.
    target : float or None
        What the figure should come down to.
    adjust : Adjustment or None
        What to turn, for a hand that does not read. A simulated bench brings one, which then answers.
    wait_s : float or None
        Wait no longer than this for an answer, and give `MEANWHILE`: so the procedure goes on measuring, and asks the
        same again, while a person turns a screw. Who cannot wait for so long only may wait until there is an answer.
    """

    text: str
    options: tuple[str, ...] = ("continue", "abort")
    merit: str = ""
    target: float | None = None
    adjust: Adjustment | None = None
    wait_s: float | None = None


@dataclass(frozen=True)
class Log:
    """A line for the log."""

    text: str
    level: Literal["debug", "info", "warning", "error"] = "info"


Message = Measure | Set | Read | Checkpoint | Publish | Prompt | Log
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Steps = Generator[Message, Any, Result]


@runtime_checkable
class Procedure(Protocol[Result_co]):
    """What the engine can run. Implementations are frozen dataclasses whose fields are the parameters."""

    @property
    def name(self) -> str:
        """Short name for run folders and lists, e.g. ``registration``."""
        ...

    def exposures(self, facts: BenchFacts) -> int:
        """How many frames it means to take: for progress, ETA and disk space."""
        ...

    def steps(self, facts: BenchFacts) -> Steps[Result_co]:
        """The generator itself."""
        ...
