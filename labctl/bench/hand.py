"""Who turns the screws where nobody stands at the table."""

from __future__ import annotations

from typing import Protocol


class Hand(Protocol):
    """Turns the screws of a bench. A simulated bench comes with one; on a real bench the person has two."""

    def turn(self, part: str, axis: str, by: float) -> bool:
        """Move a part by about `by` (mm, or degrees) along an axis; False at the end of the screw's travel.

        Parts and axes are those of `labctl.procedures.messages.Adjustment`.
        """
        ...
