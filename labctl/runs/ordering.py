"""In which order to take a batch of exposures, so that the slow SLM changes least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.bench import token
from labctl.procedures.messages import Exposure

Gray = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Shown:
    """What the panels show, as far as the engine knows: pattern and token; None and "" if it has shown nothing yet."""

    slm: Gray | None = None
    input: Gray | None = None
    slm_token: str = ""
    input_token: str = ""


@dataclass(frozen=True, eq=False)
class Planned:
    """One exposure in its place: `position` is where its frame belongs in the answer."""

    position: int
    exposure: Exposure
    shown: Shown


def plan(exposures: Sequence[Exposure], shown: Shown) -> list[Planned]:
    """Order a batch: by SLM pattern, then by input pattern, otherwise as asked; what is shown already comes first.

    "Leave it as it is" (None) means what the exposure before it, in the order asked, had shown, so such exposures are
    given that pattern. Where nobody knows what is shown, the order asked is kept.

    Parameters
    ----------
    exposures : sequence of Exposure
        In the order asked.
    shown : Shown
        Before the batch.
    """
    names: dict[int, str] = {}

    def name_of(pattern: Gray) -> str:  # one object is often shown a thousand times: hash it once
        if id(pattern) not in names:
            names[id(pattern)] = token(pattern)
        return names[id(pattern)]

    planned = []
    now = shown
    for position, exposure in enumerate(exposures):
        if exposure.slm is not None:
            now = replace(now, slm=exposure.slm, slm_token=name_of(exposure.slm))
        if exposure.input is not None:
            now = replace(now, input=exposure.input, input_token=name_of(exposure.input))
        planned.append(Planned(position, replace(exposure, slm=now.slm, input=now.input), now))
    for kind in ("slm_token", "input_token"):
        known = {getattr(item.shown, kind) for item in planned}
        if "" in known and len(known) > 1:
            return planned
    slm_rank = _ranks([shown.slm_token] + [item.shown.slm_token for item in planned])
    pair_rank = _ranks(
        [(shown.slm_token, shown.input_token)] + [(item.shown.slm_token, item.shown.input_token) for item in planned]
    )
    return sorted(
        planned,
        key=lambda item: (
            slm_rank[item.shown.slm_token],
            pair_rank[item.shown.slm_token, item.shown.input_token],
            item.position,
        ),
    )


def _ranks(keys: Sequence[Any]) -> dict[Any, int]:
    """The order in which keys first appear."""
    return {key: rank for rank, key in enumerate(dict.fromkeys(keys))}
