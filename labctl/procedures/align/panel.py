"""Step 4: bring the input panel on axis: its rotation against the SLM's axes, and its place.

A ring of dots shows where the panel's middle is seen and how it is turned. Which way the SLM's axes run on the
camera is known from steering: the panel has to be turned to those, whatever way the camera is mounted.

Panel and camera both shift the picture, and the picture cannot tell which of the two is off. By convention the panel
is brought near, and the camera, which can be set more finely, does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labctl.procedures.align.adjusting import Merit
from labctl.procedures.align.eye import NOISE_FLOOR_PX, Eye, Lost, Sight, Spot, spots, turned
from labctl.procedures.align.light import BLUR_PX, DOT_PX
from labctl.procedures.calibrations.common import flat
from labctl.procedures.exposing import square
from labctl.procedures.messages import Axis, Steps

DOTS = 8
RADII_PX = (36, 24)
"""A ring of dots about the panel's middle: how many, and its radius, panel px."""
TARGET_DEG = 0.2
TARGET_MM = 0.08
"""Of the panel's middle from the camera's, on the panel."""
AXES: tuple[tuple[int, Axis], ...] = ((0, "y"), (1, "x"))
LOOSE = 0.35
"""How far from where it should be a dot is still taken for it, of the distance between dots."""


def ring(eye: Eye, radius: float) -> NDArray[np.float64]:
    """Where the dots are shown, panel px (y, x) from its middle, whole numbers; the middle first."""
    radius = min(radius, min(eye.facts.geometry.input.shape) / 2 - 2 * DOT_PX)
    angles = (np.arange(DOTS) + 0.5) * 2 * np.pi / DOTS  # off the axes, along which a dot's side lobes lie
    return np.rint(radius * np.vstack([[0, 0], np.column_stack([np.sin(angles), np.cos(angles)])]))


def look(eye: Eye, *, fine: bool = False) -> Steps[float]:
    """Look at the ring of dots and take its place and directions into ``eye.sight``.

    With `fine`, a picture for each two opposite dots, so that in coherent light none lies in the wings of another;
    otherwise one picture of all.

    Returns
    -------
    float
        One standard deviation of a dot's place, camera px.

    Raises
    ------
    Lost
        If too few of the dots are seen.
    """
    for radius in RADII_PX:  # the smaller one where the panel is not lit so far out
        dots = ring(eye, radius)
        half = DOTS // 2
        groups = [[0], *([1 + n, 1 + n + half] for n in range(half))] if fine else [[*range(len(dots))]]
        squares = [square(eye.facts, DOT_PX, (float(y), float(x))) for y, x in dots]
        shown = [np.max([squares[n] for n in group], axis=0) for group in groups]
        pictures = yield from eye.look("dots", [(flat(eye.facts), panel) for panel in shown])
        blur = max(3, min(BLUR_PX, int(0.4 * gap_of(dots, eye.sight.panel))))
        more = 0 if fine else 4
        found = [
            spot
            for picture, group in zip(pictures, groups, strict=True)
            for spot in spots(picture, len(group) + more, blur)
        ]
        fit = recognise([spot.place for spot in found], dots, eye.sight.panel)
        if fit is not None:
            middle, panel, residual = fit
            eye.sight = Sight(middle, panel, eye.sight.steer)
            return float(np.hypot(NOISE_FLOOR_PX, residual / np.sqrt(len(dots))))
    raise Lost(_too_little(found, len(dots)))


def gap_of(dots: NDArray[np.float64], panel: NDArray[np.float64]) -> float:
    """The smallest distance between dots, camera px."""
    apart = np.linalg.norm((dots[:, None] - dots[None]) @ panel.T, axis=-1)
    return float(apart[apart > 0].min())


def recognise(
    places: Sequence[NDArray[np.float64]], dots: NDArray[np.float64], panel: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
    """Find dots among spots.

    Parameters
    ----------
    places : sequence of (row, column)
        Spots, camera px.
    dots : float array [n, 2]
        Where dots are shown, panel px, the middle first.
    panel : float array [2, 2]
        About what a panel px is on the camera.

    Returns
    -------
    middle, panel, residual : the middle's place, the map from panel to camera px, and the dots' rms distance from it
        None if too few dots are seen: no more than half, or fewer than four.
    """
    least = max(4, len(dots) // 2 + 1)
    if len(places) < least:
        return None
    seen = np.asarray(places)
    gap = gap_of(dots, panel)
    best: tuple[int, float, NDArray[np.intp], NDArray[np.intp]] | None = None
    for middle in seen:
        for dot in dots:  # the spot may be any of the dots
            expected = middle + (dots - dot) @ panel.T
            apart = np.linalg.norm(expected[:, None] - seen[None], axis=-1)
            nearest = apart.argmin(axis=1)
            matched = np.flatnonzero(apart.min(axis=1) < LOOSE * gap)
            if len(set(nearest[matched])) < len(matched):
                continue
            miss = float(apart.min(axis=1)[matched].mean()) if len(matched) else np.inf
            if best is None or (len(matched), -miss) > (best[0], -best[1]):
                best = len(matched), miss, matched, nearest
    if best is None or best[0] < least:
        return None
    _, _, matched, nearest = best
    known = np.column_stack([dots[matched], np.ones(len(matched))])
    fit = np.asarray(np.linalg.lstsq(known, seen[nearest[matched]], rcond=None)[0], np.float64)
    away = seen[nearest[matched]] - known @ fit
    return fit[2], fit[:2].T, float(np.sqrt((away**2).sum(1).mean()))


def rotation(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the panel should be turned for its axes to lie along the SLM's."""
    sigma = yield from look(eye, fine=True)
    geometry, sight = eye.facts.geometry, eye.sight
    steer = sight.steer @ np.diag(geometry.slm.pitch)  # camera px per unit of angle
    panel = sight.panel @ np.diag(1 / np.asarray(geometry.input.pitch))
    angle, nearest = turned(np.asarray(np.linalg.solve(steer, panel), np.float64))
    by = -float(np.rad2deg(angle)) * float(np.sign(np.linalg.det(nearest)))
    length = float(np.linalg.norm(sight.panel @ ring(eye, RADII_PX[0])[1]))
    error = float(np.rad2deg(sigma / length))
    return [Merit("panel's axes against the SLM's", "input", "rotation", "deg", by, error, TARGET_DEG)]


def place(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the panel should move for its middle to be seen in the camera's."""
    sigma = yield from look(eye)
    pitch = np.asarray(eye.facts.geometry.input.pitch) * 1e3
    px = np.linalg.solve(eye.sight.panel, eye.middle - eye.sight.middle)
    error = sigma / np.sqrt(abs(np.linalg.det(eye.sight.panel)))
    return [
        Merit(
            f"panel's middle off the camera's, along the panel's {name}", "input", name, "mm",
            float(px[i] * pitch[i]), float(error * pitch[i]), TARGET_MM,
        )
        for i, name in AXES
    ]  # fmt: skip


def _too_little(found: Sequence[Spot], shown: int) -> str:
    seen = f"{len(found)} spots are" if len(found) != 1 else "one spot is"
    return (
        f"{seen} seen, which cannot be told to be {shown} dots on the panel: it has left the picture, is not lit, or "
        "is far out of focus"
    )
