"""The SLM as a quadrant detector: each quarter of it steers its light to a place of its own on the camera.

Where the light is told by how much arrives at each of the four places; how a wavefront bends, by where exactly. Each
measurement is made twice, with opposite quarters' carriers swapped: what the carriers do to the light (efficiency, the
places themselves) drops out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.procedures.align.eye import Eye, Lost, Pair, Picture, spread, window_light
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


def pattern(facts: BenchFacts, carriers: NDArray[np.float64], edges: tuple[int, int]) -> Gray:
    """Gray pattern whose quarters have these carriers, in the order of `QUARTERS`; they meet at ``edges``."""
    row, column = edges
    phase = np.empty(facts.geometry.slm.shape, np.float32)
    for (lower, right), carrier in zip(QUARTERS, carriers, strict=True):
        part = np.s_[row:] if lower else np.s_[:row], np.s_[column:] if right else np.s_[:column]
        phase[part] = blaze(facts, (float(carrier[0]), float(carrier[1])))[part]
    return gray(facts, phase)


@dataclass(frozen=True, eq=False)
class Quarters:
    """What the quarters of the SLM sent to the camera.

    Attributes
    ----------
    light : float array [4]
        Of each quarter, in the order of `QUARTERS`; arbitrary unit, sums to 1.
    error : float
        One standard deviation of each, by the pictures' noise.
    apart : float array [4, 2]
        How far the image of each quarter is from that of the opposite one, camera px.
    """

    light: NDArray[np.float64]
    error: float
    apart: NDArray[np.float64]


def both_ways(eye: Eye, kind: str, shown: Gray, edges: tuple[int, int], half: int | None = None) -> Steps[Quarters]:
    """Measure the quarters, each through its own and through the opposite one's carrier.

    Raises
    ------
    Lost
        If the light is not where it is steered to.
    """
    plan = layout(eye)
    orders = (np.arange(4), np.arange(4)[::-1])
    patterns = [pattern(eye.facts, plan.carriers[order], edges) for order in orders]
    pictures: list[Picture] = yield from eye.look(kind, [(p, shown) for p in patterns])
    half = half or plan.half
    light, noise = np.empty((2, 4)), 0.0
    places = np.full((2, 4, 2), np.nan)
    for n, (order, picture) in enumerate(zip(orders, pictures, strict=True)):
        for quarter, carrier in enumerate(order):
            light[n, quarter] = window_light(picture, plan.places[carrier], half)
            places[n, quarter] = place_of(picture, plan.places[carrier], half)
        noise = max(noise, spread(picture) * (2 * half + 1))
    if light.min() < 3 * noise:
        raise Lost("the light is not where the SLM steers it to: it has left the SLM, or the camera's picture")
    # quarter n is opposite to 3 - n, and the two had each other's carriers
    apart = np.stack([(places[0, n] - places[1, 3 - n] + places[1, n] - places[0, 3 - n]) / 2 for n in range(4)])
    total = np.sqrt(light[0] * light[1])
    whole = max(float(total.sum()), 1e-9)
    return Quarters(total / whole, noise / whole, apart)


def one_way(eye: Eye, kind: str, shown: Gray, edges: tuple[int, int]) -> Steps[tuple[float, float]]:
    """Shares of the light before the row and before the column where the quarters meet: coarse, in one picture."""
    plan = layout(eye)
    (picture,) = yield from eye.look(kind, [(pattern(eye.facts, plan.carriers, edges), shown)])
    light = np.array([window_light(picture, place, plan.half) for place in plan.places])
    whole = float(light.sum())
    if whole < 8 * spread(picture) * (2 * plan.half + 1):
        raise Lost("the light is not where the SLM steers it to: it has left the SLM, or the camera's picture")
    return float(light[:2].sum()) / whole, float(light[::2].sum()) / whole


def place_of(picture: Picture, near: Pair, half: int) -> Pair:
    """Centre of the light near a place; nan where there is none."""
    r, c = (int(v) for v in np.rint(near))
    part = picture[max(r - half, 0) : r + half + 1, max(c - half, 0) : c + half + 1]
    if part.size == 0:
        return np.full(2, np.nan)
    y, x = np.unravel_index(int(part.argmax()), part.shape)
    start = float(max(r - half, 0) + y), float(max(c - half, 0) + x)
    radius = max(4, half // 2)
    found = centroid(picture, start, radius)
    return np.asarray(found if found is not None else (np.nan, np.nan), float)
