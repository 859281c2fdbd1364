"""Steps 2 and 6: centre the light on the SLM: the zero frequency by the SLM's mount, the beam's envelope by the beam.

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
from labctl.procedures.align.eye import Eye, Lost
from labctl.procedures.align.quadrants import Quarters, Stop, both_ways, one_way
from labctl.procedures.exposing import square
from labctl.procedures.messages import Axis, Steps

SQUARE_PX = 40
"""Side of the white square, panel px: its spectrum is a spot."""
LEAST_DOT_PX = 1
STOP = 0.6
"""Half a side of what is left out around the zero frequency in the light of a dot, of the square's spot: there is the
light of the rest of the panel, which is not quite black."""
TARGET_PX = 3.0
"""Zero frequency from the SLM's middle, SLM px."""
TARGET_BALANCE = 0.03
"""Difference of light between halves of the SLM, fraction."""
LEAST_PX = 0.3
"""What pointing jitter leaves of the zero frequency's place, SLM px."""
GONE = 0.15
"""With less than this part of the light that there was, the zero frequency is not on the SLM any more."""
LINEAR = 0.4
"""Shares within 0.5 +- this are of an edge that runs through the spot."""
UNEVEN = 0.5
"""Difference of light between halves of the SLM for a beam that is half the SLM off, until a turn has shown it."""
LEAST_BALANCE = 0.003
"""What flicker and photons leave of it."""


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
        if seen.rate < GONE * eye.most:
            raise Lost("the zero frequency has left the SLM: what is still there are its wings")
        eye.most = max(eye.most, seen.rate)
        shares = np.array([seen.light[:2].sum(), seen.light[::2].sum()])
        away = np.array([offset(share) * w for share, w in zip(shares, width, strict=True)])
        near = np.abs(shares - 0.5) < LINEAR
        if near.all() and (attempt > 0 or bool((np.abs(shares - 0.5) < 0.5 * LINEAR).all())):
            # an edge at e runs at e - 1/2 in pixel centres
            eye.zero = np.asarray(whole) - 0.5 + away
            return eye.zero, float(np.hypot(LEAST_PX, 2 * seen.error * max(width)))
        if near.all():
            edges = np.asarray(whole) + away
        else:
            edges = yield from _search(eye, shown, shape, width, whole, shares)
        edges = np.clip(edges, 1, np.asarray(shape) - 1)
    eye.zero = np.asarray(whole) - 0.5 + away
    return eye.zero, max(width) / 4


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
    light = np.sinc(t) ** 2
    before = np.concatenate([[0.0], np.cumsum(light[1:] + light[:-1])])
    before /= before[-1]
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
    seen = yield from pupil(eye, dark=True)
    halves = seen.light[:2].sum() - seen.light[2:].sum(), seen.light[::2].sum() - seen.light[1::2].sum()
    found = []
    for axis, name in ((0, "y"), (1, "x")):
        half_mm = facts.geometry.slm.extent[axis] / 2 * 1e3
        error = float(np.hypot(2 * seen.error, LEAST_BALANCE))
        by, sigma, target = (half_mm / UNEVEN * share for share in (float(halves[axis]), error, TARGET_BALANCE))
        title = f"beam off the SLM's middle, {name}"
        found.append(Merit(title, "beam", "y" if axis == 0 else "x", "mm", by, sigma, target))
    return found


def pupil(eye: Eye, *, dark: bool = False) -> Steps[Quarters]:
    """The quarters of the SLM in the light of a dot, which fills it; `dark` as in `both_ways`."""
    facts = eye.facts
    rows, columns = facts.geometry.slm.shape
    if eye.zero is None:
        yield from zero_frequency(eye)
    zero = np.asarray(facts.geometry.slm.centre) if eye.zero is None else eye.zero
    stop = Stop(zero, [STOP * w for w in spot_width(facts, SQUARE_PX)])
    shown = square(facts, dot_px(facts))
    seen: Quarters = yield from both_ways(eye, "pupil", shown, (rows // 2, columns // 2), stop, dark=dark)
    return seen


def dot_px(facts: BenchFacts) -> int:
    """Side of a dot whose spectrum fills the SLM and does not waste light beside it, panel px."""
    widest = min(w / n for w, n in zip(spot_width(facts, 1), facts.geometry.slm.shape, strict=True))
    return max(LEAST_DOT_PX, round(widest))
