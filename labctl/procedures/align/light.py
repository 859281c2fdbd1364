"""Step 1: find the light, and the zero order among what the camera sees.

A dot is shown on the input panel. With a flat SLM its image and the zero order fall together. A blazed grating steers
the image away, and what the SLM reflects without modulating it stays: the zero order is the spot that loses light to
the blaze and keeps a part of it. A spot that a blaze does nothing to is a reflection that never was on the SLM, one
that moves as a whole is an image or a ghost of one.
"""

from __future__ import annotations

import math

import numpy as np

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.procedures.align.adjusting import Row
from labctl.procedures.align.eye import Eye, Lost, Pair, Picture, Sight, Spot, spots, spread, window_light
from labctl.procedures.calibrations.common import black, flat
from labctl.procedures.exposing import blaze, gray, square
from labctl.procedures.messages import Gray, Log, Publish, Steps

DOT_PX = 4
REACH_PX = 28
"""How far from the panel's middle dots are shown, panel px: the panel has to be lit so far."""
CARRIER = 0.16
"""Of the gratings that show how the SLM steers, cycles per SLM px."""
BLUR_PX = 8
"""Radius of a spot with its blur, camera px."""
STAYS = 0.7
"""A spot that keeps so much of its light under a blaze is not of the SLM."""
WORLDS_APART = 0.5
"""A second spot is no rival of the first if it has less than this part of its light."""
STRAY_LIMIT_PX = 6.0


def carrier_of(facts: BenchFacts) -> float:
    """The carrier of the gratings: as `CARRIER`, or less where the camera is small."""
    nominal = np.diag(facts.geometry.nominal_carrier_to_camera())
    return float(min(CARRIER, *(0.3 * n / step for n, step in zip(facts.geometry.camera.shape, nominal, strict=True))))


def steering(eye: Eye, carriers: list[tuple[float, float]]) -> Steps[list[Picture]]:
    """Pictures of the middle dot, steered by these carriers (y, x)."""
    dot = square(eye.facts, DOT_PX)
    pictures: list[Picture] = yield from eye.look(
        "dots", [(gray(eye.facts, blaze(eye.facts, c)), dot) for c in carriers]
    )
    return pictures


def find_light(eye: Eye) -> Steps[tuple[Row, ...]]:
    """Find zero order, the panel's directions and the SLM's on the camera; sets ``eye.sight``.

    Returns
    -------
    tuple of Row
        One: how far the middle between opposite orders is from the zero order, camera px.

    Raises
    ------
    CalibrationError
        If there is no light, or it cannot be told which of it is the zero order.
    """
    eye.label, facts = "light", eye.facts
    still, dark = flat(facts), black(facts)
    reach = min(REACH_PX, min(facts.geometry.input.shape) // 2 - 2 * DOT_PX)
    shown: list[Gray] = [
        square(facts, DOT_PX, place) for place in ((0.0, 0.0), (float(reach), 0.0), (0.0, float(reach)))
    ]
    empty, *dots = yield from eye.look("dots", [(still, s) for s in (shown[0], dark, *shown[1:])])
    first, (dark_picture, *others) = empty, dots
    c = carrier_of(facts)
    carriers = [(c, 0.0), (-c, 0.0), (0.0, c), (0.0, -c)]
    steered = yield from steering(eye, carriers)
    steered = [picture - dark_picture for picture in steered]
    zero, rank, share = yield from zero_order(first - dark_picture, steered)
    ends = []
    for name, picture in zip(("down", "right"), others, strict=True):
        found = spots(picture - dark_picture, rank + 1, BLUR_PX)
        if len(found) <= rank:
            raise CalibrationError(
                f"align: the dot {reach} panel px {name} of the panel's middle is not seen: light more of the panel, "
                "or centre the camera on it"
            )
        ends.append(found[rank])
    panel = np.stack([(end.place - zero.place) / reach for end in ends], axis=1)
    if abs(np.linalg.det(panel)) < 0.05 * np.abs(panel).max() ** 2:
        raise CalibrationError(
            "align: three dots in different places of the panel are seen in one: is the input panel showing, and is "
            "the brightest light its image?"
        )
    steer, stray = steer_of(facts, zero.place, steered, c)
    eye.sight = Sight(zero.place, panel, steer)
    yield Publish("zero order, row (camera px)", float(zero.place[0]))
    yield Publish("zero order, column (camera px)", float(zero.place[1]))
    yield Log(f"the zero order is at {zero}: the image leaves it for a blaze, {100 * share:.1f} % of the light stays")
    row = Row(
        "light", "zero order off the middle between opposite orders", "camera px", math.nan, stray, 0.1, STRAY_LIMIT_PX,
        stray <= STRAY_LIMIT_PX, note="" if stray <= STRAY_LIMIT_PX else "the orders of a blaze are not opposite"
    )  # fmt: skip
    return (row,)


def zero_order(still: Picture, steered: list[Picture]) -> Steps[tuple[Spot, int, float]]:
    """Which spot is the zero order.

    Parameters
    ----------
    still : float32 array [row, column]
        A dot through a flat SLM, without what is there in the dark.
    steered : list of float32 arrays
        The same through several blazed gratings.

    Returns
    -------
    spot : Spot
    rank : int
        Its place among the spots of ``still`` by brightness.
    share : float
        Of its light, how much stays under a blaze.

    Raises
    ------
    CalibrationError
        If there is no spot, none that a blaze touches, or two alike.
    """
    seen = spots(still, 4, BLUR_PX)
    if not seen:
        raise CalibrationError(
            "align: no light: with a white dot in its middle the input panel is as dark as black. Check that laser and "
            "shutter let light out, that the beam is on the panel, and that it reaches SLM and camera"
        )
    stays = np.min(steered, axis=0)
    shares = [
        window_light(stays, spot.place, BLUR_PX) / max(window_light(still, spot.place, BLUR_PX), 1.0) for spot in seen
    ]
    of_slm = [n for n, share in enumerate(shares) if share < STAYS]
    if not of_slm:
        raise CalibrationError(
            f"align: the light at {seen[0]} does not move when the SLM steers: it misses the SLM, or the SLM does not "
            "show what it is sent"
        )
    best = of_slm[0]
    rivals = [
        n
        for n in of_slm[1:]
        if seen[n].light > WORLDS_APART * seen[best].light
        and np.linalg.norm(seen[n].place - seen[best].place) > 3 * BLUR_PX  # nearer it is of the same spot
    ]
    if rivals:
        noise = 5 * spread(stays) * (2 * BLUR_PX + 1) / max(seen[best].light, 1.0)
        kept = sorted([best, *rivals], key=lambda n: -shares[n])
        if shares[kept[0]] - shares[kept[1]] < noise + 0.003:
            raise CalibrationError(
                f"align: two spots could be the zero order, at {seen[kept[0]]} and at {seen[kept[1]]}: block the "
                "beam of one (a reflection from a lens or a beam splitter), and begin again"
            )
        best = kept[0]
        yield Log(
            f"of two spots alike, that at {seen[best]} keeps light under a blaze: it is the zero order", "warning"
        )
    for n in range(best):
        if n not in of_slm:
            yield Log(
                f"the brighter spot at {seen[n]} stays as it is when the SLM steers: a reflection not of the SLM",
                "warning",
            )
    return seen[best], best, max(shares[best], 0.0)


def steer_of(
    facts: BenchFacts, zero: Pair, steered: list[Picture], carrier: float
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], float]:
    """How the SLM steers, from pictures with carriers +y, -y, +x, -x.

    Returns
    -------
    steer : float array [2, 2]
        Camera px (row, column) per cycle per SLM px (y, x).
    stray : float
        How far the middle between opposite orders is from the zero order, camera px.

    Raises
    ------
    Lost
        If a steered dot is not in the picture.
    """
    length = float(np.abs(facts.geometry.nominal_carrier_to_camera()).max())
    keep = max(2 * BLUR_PX, int(0.25 * carrier * length))
    places = []
    for picture in steered:
        rest = picture.copy()
        r, c = (int(v) for v in np.rint(zero))
        rest[max(r - keep, 0) : r + keep + 1, max(c - keep, 0) : c + keep + 1] = 0  # there the zero order stays
        found = spots(rest, 1, BLUR_PX)
        if not found:
            raise Lost("align: a steered dot is not in the camera's picture: bring the zero order nearer to its middle")
        places.append(found[0].place)
    columns = [(places[0] - places[1]) / (2 * carrier), (places[2] - places[3]) / (2 * carrier)]
    middles = [(places[0] + places[1]) / 2 - zero, (places[2] + places[3]) / 2 - zero]
    return np.stack(columns, axis=1), float(max(np.linalg.norm(middle) for middle in middles))
