"""A frame, and all that is known of how it came to be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera exposure, paired with the patterns that made it.

    Attributes
    ----------
    data : unsigned integer array [row, column], counts
        Just what the camera gave.
    number : int
        Counts captures of this bench since it was opened, from 0.
    started, ended : float
        Start and end of the exposure on the bench's clock, s.
    exposure_s : float
        Exposure time, s.
    slm, input : str
        Tokens (content hashes) of the gray patterns delivered during the exposure; "" when nothing was shown yet.
    origin : (row, column), camera pixels
        Where the frame's corner lies on the sensor.
    tag : dict
        What the procedure called the exposure, e.g. ``{"image": 17}``.
    shown_slm, shown_input : float
        When the SLM pattern, and the input pattern, was commanded, on the bench's clock, s; nan if unknown.
    slm_before : str
        Token of the SLM pattern before this one: what a late swap would have left in the light; "" for none.
    repeats : int
        How often the exposure had to be taken again before this frame was believed.
    proof : int
        Code number of the proof of pairing that was read back from this frame; -1 if the run has no proof.
    moved : (row, column), camera pixels
        How far the picture has moved on the sensor since the bench was calibrated, as a watch over a long run found.
    light : float
        The light's strength relative to then, likewise.
    """

    data: NDArray[np.unsignedinteger[Any]]
    number: int
    started: float
    ended: float
    exposure_s: float
    slm: str
    input: str
    origin: tuple[int, int] = (0, 0)
    tag: dict[str, Any] = field(default_factory=dict)
    shown_slm: float = math.nan
    shown_input: float = math.nan
    slm_before: str = ""
    repeats: int = 0
    proof: int = -1
    moved: tuple[float, float] = (0.0, 0.0)
    light: float = 1.0


@dataclass(eq=False)
class Taking:
    """An exposure that has been made, or may be made now, and whose frame is still to be read out.

    Attributes
    ----------
    number : int
        Of the frame it will give.
    exposure_s : float, s
    tag : dict
    slm, input : str
        Tokens of the patterns shown.
    shown_slm, shown_input : float
        When these were commanded, on the bench's clock, s.
    slm_before : str
        Token of the SLM pattern before.
    settled_at, until : float
        Between these times on the bench's clock, s, the patterns stood still: the frame must have been exposed then.
    exposed_at : float
        When the camera was done with exposing, on the bench's clock, s; not known of one that does not overlap.
    """

    number: int
    exposure_s: float
    tag: dict[str, Any]
    slm: str
    input: str
    shown_slm: float
    shown_input: float
    slm_before: str
    settled_at: float
    until: float = math.inf
    exposed_at: float = math.inf
