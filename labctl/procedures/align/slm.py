"""Step 2: centre the light on the SLM: the zero frequency by the SLM's mount, then the beam's envelope by the beam.

A white square's spectrum is a narrow spot, and a dot's fills the SLM. The SLM itself is the detector: see
`labctl.procedures.align.quadrants`. The zero frequency is searched over the whole panel by halving it, then measured
where its light is shared evenly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.procedures.align.adjusting import Merit
from labctl.procedures.align.eye import Eye
from labctl.procedures.align.quadrants import Quarters, both_ways, one_way
from labctl.procedures.exposing import square
from labctl.procedures.messages import Axis, Steps

SQUARE_PX = 40
"""Side of the white square, panel px: its spectrum is a spot."""
PUPIL_DOT_PX = 2
"""Side of the dot whose spectrum fills the SLM, panel px."""
TARGET_PX = 3.0
"""Zero frequency from the SLM's middle, SLM px."""
TARGET_BALANCE = 0.015
"""Difference of light between halves of the SLM, fraction."""
LEAST_PX = 0.3
"""What pointing jitter leaves of the zero frequency's place, SLM px."""
LINEAR = 0.4
"""Shares within 0.5 +- this are of an edge that runs through the spot."""
FALL = 0.35
"""How fast a beam's envelope is thought to fall from the SLM's middle to its edge, until a screw has been turned."""


def spot_width(facts: BenchFacts, side_px: int) -> Sequence[float]:
    """From the middle of a square's spectrum to its first zero, SLM px (y, x)."""
    g = facts.geometry
    return [g.wavelength * g.f1 / (side_px * g.input.pitch[i]) / g.slm.pitch[i] for i in (0, 1)]


def zero_frequency(eye: Eye) -> Steps[tuple[NDArray[np.float64], float]]:
    """Where the zero frequency is on the SLM (row, column; SLM px), and one standard deviation of it.

    Raises
    ------
    Lost
        If the light is not on the SLM.
    """
    facts = eye.facts
    shape, shown = facts.geometry.slm.shape, square(facts, SQUARE_PX)
    width = spot_width(facts, SQUARE_PX)
    edges = np.array([n / 2 for n in shape])
    for attempt in range(4):
        whole = int(np.rint(edges[0])), int(np.rint(edges[1]))
        seen = yield from both_ways(eye, "spectrum", shown, whole)
        shares = np.array([seen.light[:2].sum(), seen.light[::2].sum()])
        away = np.array([offset(share) * w for share, w in zip(shares, width, strict=True)])
        near = np.abs(shares - 0.5) < LINEAR
        if near.all() and (attempt > 0 or bool((np.abs(shares - 0.5) < 0.5 * LINEAR).all())):
            # an edge at e runs at e - 1/2 in pixel centres
            sigma = float(np.hypot(LEAST_PX, 2 * seen.error * max(width)))
            return np.asarray(whole) - 0.5 + away, sigma
        if near.all():
            edges = np.asarray(whole) + away
        else:
            edges = yield from _search(eye, shown, shape, width, whole, shares)
        edges = np.clip(edges, 1, np.asarray(shape) - 1)
    return np.asarray(whole) - 0.5 + away, max(width) / 4


def _search(
    eye: Eye,
    shown: NDArray[np.unsignedinteger],
    shape: tuple[int, int],
    width: Sequence[float],
    first: tuple[int, int],
    shares: NDArray[np.float64],
) -> Steps[NDArray[np.float64]]:
    """Halve the panel until what is left is as narrow as the spot."""
    low, high = np.zeros(2), np.asarray(shape, float)
    edges, share = np.asarray(first, float), shares
    while True:
        for axis in (0, 1):
            if abs(share[axis] - 0.5) < 0.15:  # the edge runs through the spot
                low[axis], high[axis] = edges[axis] - width[axis] / 4, edges[axis] + width[axis] / 4
            elif share[axis] > 0.5:
                high[axis] = min(high[axis], edges[axis])
            else:
                low[axis] = max(low[axis], edges[axis])
        edges = (low + high) / 2
        if (high - low <= np.asarray(width)).all():
            return edges
        share = np.asarray((yield from one_way(eye, "spectrum", shown, (round(edges[0]), round(edges[1])))))


def offset(share: float) -> float:
    """How far beyond an edge the middle of a spot is that has so much of its light before the edge.

    Parameters
    ----------
    share : float
        From 0 to 1.

    Returns
    -------
    float
        In units of the distance from the spot's middle to its first zero; the spot is a square's, sinc².
    """
    t = np.linspace(-1, 1, 401)
    before = np.cumsum(np.sinc(t) ** 2)
    before = (before - before[0]) / (before[-1] - before[0])
    return -float(np.interp(np.clip(share, 0, 1), before, t))


def centre(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the SLM should move for the zero frequency to be in its middle."""
    facts = eye.facts
    place, sigma = yield from zero_frequency(eye)
    away = place - np.asarray(facts.geometry.slm.centre)
    found = []
    for axis, name in ((0, "y"), (1, "x")):
        mm = facts.geometry.slm.pitch[axis] * 1e3
        title = f"zero frequency off the SLM's middle, {name}"
        along: Axis = "y" if axis == 0 else "x"
        found.append(Merit(title, "slm", along, "mm", float(away[axis]) * mm, sigma * mm, TARGET_PX * mm))
    return found


def balance(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the beam should move for the halves of the SLM to get equal light."""
    facts = eye.facts
    seen = yield from pupil(eye)
    halves = seen.light[:2].sum() - seen.light[2:].sum(), seen.light[::2].sum() - seen.light[1::2].sum()
    found = []
    for axis, name in ((0, "y"), (1, "x")):
        half_mm = facts.geometry.slm.extent[axis] / 2 * 1e3
        by, sigma, target = (half_mm / (2 * FALL) * share for share in (halves[axis], seen.error, TARGET_BALANCE))
        title = f"beam off the SLM's middle, {name}"
        found.append(Merit(title, "beam", "y" if axis == 0 else "x", "mm", by, sigma, target))
    return found


def pupil(eye: Eye) -> Steps[Quarters]:
    """The quarters of the SLM in the light of a dot, which fills it."""
    rows, columns = eye.facts.geometry.slm.shape
    seen: Quarters = yield from both_ways(eye, "pupil", square(eye.facts, PUPIL_DOT_PX), (rows // 2, columns // 2))
    return seen
