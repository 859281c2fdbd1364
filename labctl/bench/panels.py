"""The SLM and the input panel of a bench: what each shows, since when, and when it will have settled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.calls import Calls
from labctl.bench.facts import BenchFacts
from labctl.clock import Clock
from labctl.devices.contract import Panel
from labctl.errors import DeviceError

Gray = NDArray[np.unsignedinteger[Any]]
UNKNOWN = "unknown"


def token(pattern: Gray | None) -> str:
    """A pattern's name: a hash of its gray levels; "" for no pattern."""
    if pattern is None:
        return ""
    return hashlib.blake2b(np.ascontiguousarray(pattern).tobytes(), digest_size=8).hexdigest()


class Panels:
    """Both panels.

    Attributes
    ----------
    slm, input : Panel
        The second may be None.
    shown : dict
        Token of what each shows, by "slm" and "input"; "" before anything has been shown, "unknown" after a failure.
    shown_at : dict
        When that was commanded, on the bench's clock, s.
    slm_before : str
        Token of the SLM pattern before.
    settled_at : float
        When both will have settled, on the bench's clock, s.
    """

    def __init__(self, slm: Panel, input: Panel | None, *, facts: BenchFacts, calls: Calls, clock: Clock) -> None:  # noqa: A002
        self.slm, self.input = slm, input
        self.shown = {"slm": "", "input": ""}
        self.shown_at = {"slm": math.nan, "input": math.nan}
        self.slm_before = ""
        self.settled_at = clock.now()
        self._bench, self._calls, self._clock = facts.name, calls, clock
        self._delivered = -math.inf
        self._settle_s = {"slm": facts.slm_settle_s, "input": facts.input_settle_s}

    def show(
        self, name: str, pattern: Gray | None, given: str, *, again: bool, changing: Callable[[float], None]
    ) -> None:
        """Send a pattern to the panel of that name, if it differs from what is shown.

        Parameters
        ----------
        given : str
            Its token, if known.
        again : bool
            Send it even if it is shown already.
        changing : callable
            Told the time on the bench's clock before it is sent.

        Raises
        ------
        DeviceError
            If it has the wrong shape, or the panel refuses it.
        """
        if pattern is None:
            return
        panel: Panel | None = getattr(self, name)
        if panel is None:
            raise DeviceError(
                f"bench '{self._bench}' has no input panel to show a pattern on", device=name, passing=False
            )
        if pattern.shape != panel.shape:
            raise DeviceError(
                f"{name}: a pattern of {pattern.shape} (rows, columns) does not fit {panel.shape}",
                device=name,
                passing=False,
            )
        pattern_token = given or token(pattern)
        if pattern_token == self.shown[name] and not again:
            return
        before, self.shown[name] = self.shown[name], UNKNOWN
        commanded = self._clock.now()
        changing(commanded)
        self._calls(name, partial(panel.show, pattern))
        self.shown[name], self.shown_at[name] = pattern_token, commanded
        if name == "slm" and before != pattern_token:
            self.slm_before = before
        delivered = max(self._clock.now(), getattr(panel, "shown_at", -math.inf))
        self._delivered = max(self._delivered, delivered)
        self.settled_at = max(self.settled_at, delivered + self._settle_s[name])

    def ready_at(self, settle_s: float | None) -> float:
        """When an exposure may begin (bench's clock, s): once both have settled, or so long after the last change."""
        return self.settled_at if settle_s is None else max(self._delivered, -1e9) + settle_s

    def would_change(self, slm: Gray | None, input: Gray | None) -> tuple[bool, bool]:  # noqa: A002
        """Whether showing these would change the SLM and the input panel."""
        return (
            slm is not None and token(slm) != self.shown["slm"],
            input is not None and token(input) != self.shown["input"],
        )

    def renew(self, name: str, panel: Panel) -> None:
        """A panel has been opened again: nobody knows what it shows."""
        setattr(self, name, panel)
        self.shown[name] = UNKNOWN

    def blanking(self) -> list[tuple[str, Callable[[], None]]]:
        """What blanks them, by name; they then count as showing nothing."""
        self.shown = {"slm": "", "input": ""}
        self.slm_before = ""
        panels = [("slm", self.slm), ("input", self.input)]
        return [(name, panel.blank) for name, panel in panels if panel is not None]
