"""Proof of pairing: a code in an unused part of the field says which patterns a frame was really exposed with.

Pairing by time trusts what devices say about time. A panel that swaps late, or silently ignores a write, says nothing;
a proof sees it in the light. Each exposure is given a number, `Proof.stamp` draws it into the patterns as a few dots,
and `Proof.agrees` reads it back from the frame.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labctl.bench.frames import Frame

Gray = NDArray[np.unsignedinteger[Any]]


@runtime_checkable
class Proof(Protocol):
    """What the engine asks of a proof of pairing."""

    @property
    def size(self) -> int:
        """How many codes there are: exposure n carries code ``n % size``, so that neighbours always differ."""
        ...

    def stamp(
        self, slm: Gray | None, input: Gray | None, code: int  # noqa: A002 - the bench file's word
    ) -> tuple[Gray | None, Gray | None]:  # fmt: skip
        """The same patterns with the code in them. New arrays: those given are never written to.

        The input carries `code`. The SLM's own mark does not follow `code`, or a slow SLM would have to change at every
        exposure: it depends on the pattern alone, and differs from that of the pattern stamped before it.

        Parameters
        ----------
        slm, input : gray patterns [row, column], or None
            None, for "leave it as it is", stays None.
        code : int
            From 0 to ``size - 1``.
        """
        ...

    def agrees(self, frame: Frame, code: int) -> bool:
        """Whether the frame shows this code in the input, and the mark of the SLM pattern that it is paired with.

        Raises
        ------
        CalibrationError
            If the frame cannot show it: its window leaves the dots out, or the exposure is too short for them.
        """
        ...
