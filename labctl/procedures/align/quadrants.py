"""The SLM as a quadrant detector: each quarter of it steers its light to a place of its own on the camera.

Where the light is told by how much arrives at each of the four places; how a wavefront bends, by where exactly. Each
measurement is made twice, with opposite quarters' carriers swapped: what the carriers do to the light (efficiency, the
places themselves) drops out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.procedures.align.eye import Eye, Lost, Pair, Picture, spread, window_light
from labctl.procedures.calibrations.common import black
from labctl.procedures.exposing import blaze, centroid, gray
from labctl.procedures.messages import Gray, Steps

QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(rows, columns) of the quarters: 0 before the edge, 1 from it on."""
ROW = np.array([-0.15, -0.05, 0.05, 0.15])
HEIGHT = 0.2
"""Carriers stand in one row beside the zero order, cycles per SLM px: no order of one falls on another."""
LEAST_SCALE = 0.45


@dataclass(frozen=True, eq=False)
class Layout:
    """Four carriers, and where they steer the panel's middle.

    Attributes
    ----------
    carriers : float array [4, 2], cycles per SLM px (y, x)
    places : float array [4, 2], camera px (row, column)
    half : int
        Half a side of the window around each, camera px.
    """

    carriers: NDArray[np.float64]
    places: NDArray[np.float64]
    half: int


def layout(eye: Eye) -> Layout:
    """Carriers whose places are as far from the camera's edges as can be.

    Raises
    ------
    Lost
        If the picture is too far off the camera's middle for any.
    """
    shape = np.asarray(eye.facts.geometry.camera.shape)
    best: tuple[float, Layout] | None = None
    for scale in np.linspace(1.0, LEAST_SCALE, 6):
        for along, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
            carriers = np.empty((4, 2))
            carriers[:, along], carriers[:, 1 - along] = sign * HEIGHT * scale, ROW * scale
            places = eye.sight.middle + carriers @ eye.sight.steer.T
            half = int(0.45 * np.abs(places[1] - places[0]).max())
            room = float(min((places - half).min(), (shape - 1 - half - places).min()))
            if best is None or room > best[0]:
                best = room, Layout(carriers, places, half)
        if best is not None and best[0] > 0:
            return best[1]
    raise Lost(
        "align: the picture is too near the camera's edge for four steered images beside it: centre it first "
        "(labctl align --only camera)"
    )


@dataclass(frozen=True, eq=False)
class Stop:
    """What is left out of the SLM: light that falls there is scattered.

    A rectangle, and all that is outside the panel's inscribed disk: in the corners a wavefront is steepest, and no
    measure of the whole.

    Attributes
    ----------
    centre : float array [2]
        SLM px (row, column).
    half : sequence of float
        Half its height and width, SLM px, of the rectangle.
    """

    centre: Pair
    half: Sequence[float]


def pattern(
    facts: BenchFacts, plan: Layout, order: NDArray[np.intp], edges: tuple[int, int], stop: Stop | None
) -> Gray:
    """Gray pattern whose quarters, which meet at ``edges``, have the plan's carriers in this order."""
    row, column = edges
    carriers = plan.carriers[order]
    phase = np.empty(facts.geometry.slm.shape, np.float32)
    for (lower, right), carrier in zip(QUARTERS, carriers, strict=True):
        part = np.s_[row:] if lower else np.s_[:row], np.s_[column:] if right else np.s_[:column]
        phase[part] = blaze(facts, (float(carrier[0]), float(carrier[1])))[part]
    if stop is not None:
        y, x = np.indices(phase.shape)
        inside = (abs(y - stop.centre[0]) <= stop.half[0]) & (abs(x - stop.centre[1]) <= stop.half[1])
        out = inside | ~disk(facts)
        phase[out] = np.random.default_rng(0).uniform(0, 2 * np.pi, int(out.sum()))
    return gray(facts, phase)


def disk(facts: BenchFacts) -> NDArray[np.bool_]:
    """Which pixels of the SLM are within its inscribed disk [row, column]."""
    plane = facts.geometry.slm
    y, x = ((np.arange(n) - (n - 1) / 2) * pitch for n, pitch in zip(plane.shape, plane.pitch, strict=True))
    return np.asarray(np.hypot(y[:, None], x[None]) <= min(plane.extent) / 2, np.bool_)


@dataclass(frozen=True, eq=False)
class Quarters:
    """What the quarters of the SLM sent to the camera.

    Attributes
    ----------
    light : float array [4]
        Of each quarter, in the order of `QUARTERS`; arbitrary unit, sums to 1.
    rate : float
        All of it, counts per second.
    error : float
        One standard deviation of each, by the pictures' noise.
    apart : float array [4, 2]
        How far the image of each quarter is from that of the opposite one, camera px.
    """

    light: NDArray[np.float64]
    rate: float
    error: float
    apart: NDArray[np.float64]


def both_ways(
    eye: Eye, kind: str, shown: Gray, edges: tuple[int, int], stop: Stop | None = None, *, dark: bool = False
) -> Steps[Quarters]:
    """Measure the quarters, each through its own and through the opposite one's carrier.

    Parameters
    ----------
    eye : Eye
    kind : str
        As in `Eye.look`.
    shown : gray pattern
        For the input panel.
    edges : (row, column), SLM px
        Where the quarters meet: the first ones after them.
    stop : Stop, optional
        What is shown is then taken for a dot, and its image is looked for near each of the four places.
    dark : bool
        Take off what is seen with a black panel, so that the far wings of a dot's image count too.

    Raises
    ------
    Lost
        If the light is not where it is steered to.
    """
    plan = layout(eye)
    orders = (np.arange(4), np.arange(4)[::-1])
    patterns = [pattern(eye.facts, plan, order, edges, stop) for order in orders]
    panels = (shown, black(eye.facts)) if dark else (shown,)
    pictures: list[Picture] = yield from eye.look(kind, [(p, panel) for panel in panels for p in patterns])
    if dark:
        pictures = [picture - without for picture, without in zip(pictures[:2], pictures[2:], strict=True)]
    blur = plan.half if stop is None else _blur(eye.facts, plan.half)
    half = min(2 * blur, plan.half) if dark else blur
    light, noise = np.empty((2, 4)), 0.0
    places = np.empty((2, 4, 2))
    for n, (order, picture) in enumerate(zip(orders, pictures, strict=True)):
        for quarter, carrier in enumerate(order):
            near = plan.places[carrier]
            places[n, quarter] = near if stop is None else place_of(picture, near, plan.half, blur)
            light[n, quarter] = window_light(picture, places[n, quarter], half, rim=not dark)
        noise = max(noise, spread(picture) * (2 * half + 1))
    if not light.sum() > 12 * noise or (stop is not None and not light.min() > 3 * noise):
        raise Lost("the light is not where the SLM steers it to: it has left the SLM, or the camera's picture")
    # quarter n is opposite to 3 - n, and the two had each other's carriers
    apart = np.stack([(places[0, n] - places[1, 3 - n] + places[1, n] - places[0, 3 - n]) / 2 for n in range(4)])
    total = np.sqrt(light[0] * light[1])
    whole = max(float(total.sum()), 1e-9)
    return Quarters(total / whole, whole / eye.time(kind), noise / whole, apart)


def one_way(eye: Eye, kind: str, shown: Gray, edges: tuple[int, int]) -> Steps[tuple[float, float]]:
    """Shares of the light before the row and before the column where the quarters meet: coarse, in one picture."""
    plan = layout(eye)
    (picture,) = yield from eye.look(kind, [(pattern(eye.facts, plan, np.arange(4), edges, None), shown)])
    light = np.array([window_light(picture, place, plan.half) for place in plan.places])
    whole = float(light.sum())
    if whole < 8 * spread(picture) * (2 * plan.half + 1):
        raise Lost("the light is not where the SLM steers it to: it has left the SLM, or the camera's picture")
    return float(light[:2].sum()) / whole, float(light[::2].sum()) / whole


def _blur(facts: BenchFacts, most: int) -> int:
    """About how large the image of a dot through a quarter of the SLM is, camera px."""
    g = facts.geometry
    null = max(2 * g.wavelength * g.f2 / g.slm.extent[i] / g.camera.pitch[i] for i in (0, 1))
    return int(min(max(10, 2 * null), most))


def place_of(picture: Picture, near: Pair, reach: int, radius: int) -> Pair:
    """Centre of the brightest spot of a radius within reach of a place; nan where there is none."""
    r, c = (int(v) for v in np.rint(near))
    top, left = max(r - reach, 0), max(c - reach, 0)
    part = uniform_filter(picture[top : r + reach + 1, left : c + reach + 1], max(radius // 2, 3))
    if part.size == 0:
        return np.full(2, np.nan)
    y, x = np.unravel_index(int(part.argmax()), part.shape)
    found = centroid(picture, (float(top + y), float(left + x)), radius)
    return np.asarray(found if found is not None else (np.nan, np.nan), float)
