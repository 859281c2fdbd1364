"""A Hartmann test with the SLM: each patch of it sends one dot of the input panel to a place of its own on the camera.

Where a patch's spot falls says how the wavefront is tilted there (R. V. Shack and B. C. Platt, J. Opt. Soc. Am. 61,
656 (1971)); all patches together say where the dot is without aberrations, and how far the camera
is out of focus. The middle of a picture's dot says none of these alone: coma moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.optics.zernike import zernike
from labctl.procedures.exposing import LONGEST_S, SHORTEST_S, full_scale, gray, signal
from labctl.procedures.messages import Exposure, Gray, Measure, Steps

Array = NDArray[np.float64]
REACH = 0.44
"""Largest carrier used, cycles per SLM pixel."""
START_S = 0.05
"""Exposure time that is tried first, s."""
FIRST, LAST = 4, 28
"""Noll indices of the first and the last polynomial fitted: piston and tilt are what the rest is relative to."""


@dataclass(frozen=True)
class Patches:
    """Rectangles that tile the SLM.

    Attributes
    ----------
    edges : pair of int arrays
        Where the rows and the columns of patches begin and end, SLM pixels.
    """

    edges: tuple[NDArray[np.intp], NDArray[np.intp]]

    @staticmethod
    def tiling(shape: tuple[int, int], across: int) -> Patches:
        """About `across` patches along the shorter side, as square as they come."""
        size = min(shape) / across
        rows, columns = (np.rint(np.linspace(0, n, max(1, round(n / size)) + 1)).astype(int) for n in shape)
        return Patches((rows, columns))

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """First row, end row, first column, end column of each."""
        (r, c) = self.edges
        return [
            (int(r[i]), int(r[i + 1]), int(c[k]), int(c[k + 1])) for i in range(len(r) - 1) for k in range(len(c) - 1)
        ]

    @property
    def side(self) -> float:
        """Shortest side, SLM pixels."""
        return float(min(np.diff(edge).min() for edge in self.edges))

    def steering(self, carriers: Array) -> NDArray[np.float32]:
        """Phase (rad) [row, column] of a blazed grating in each patch; `carriers` [patch, (y, x)]."""
        shape = int(self.edges[0][-1]), int(self.edges[1][-1])
        phase = np.zeros(shape, np.float32)
        for (r0, r1, c0, c1), (cy, cx) in zip(self.boxes, carriers, strict=True):
            y = np.arange(r0, r1) - (shape[0] - 1) / 2
            x = np.arange(c0, c1) - (shape[1] - 1) / 2
            phase[r0:r1, c0:c1] = (cy * y[:, None] + cx * x[None]) % 1.0 * 2 * np.pi
        return phase

    def slopes(self, orders: Sequence[int], shape: tuple[int, int]) -> Array:
        """Mean slope over each patch of polynomials of one wave rms [patch, (y, x), polynomial], cycles per SLM pixel.

        The mean over a patch is the difference between the means along opposite edges, over its side.
        """
        radius = min(shape) / 2
        found = np.empty((len(self.boxes), 2, len(orders)))
        for n, (r0, r1, c0, c1) in enumerate(self.boxes):
            rows, columns = np.linspace(r0, r1, 17), np.linspace(c0, c1, 17)
            y, x = (rows - shape[0] / 2) / radius, (columns - shape[1] / 2) / radius
            for k, j in enumerate(orders):
                low, high = (zernike(j, np.full_like(x, y[i]), x).mean() for i in (0, -1))
                left, right = (zernike(j, y, np.full_like(y, x[i])).mean() for i in (0, -1))
                found[n, :, k] = (high - low) / (r1 - r0), (right - left) / (c1 - c0)
        return found


@dataclass(frozen=True)
class Spots:
    """Spots that were found: which patch sent them with which carrier, and where they fell.

    Attributes
    ----------
    patch : int array [spot]
    carrier : float array [spot, (y, x)], cycles per SLM pixel
    seen : float array [spot, (row, column)], camera px
    error : float array [spot]
        Estimated error of `seen`, camera px.
    """

    patch: NDArray[np.intp]
    carrier: Array
    seen: Array
    error: Array


@dataclass(frozen=True)
class Wavefront:
    """What a fit to spots says.

    Attributes
    ----------
    origin : float array [2]
        Where the dot is seen through a mirror-flat SLM without aberrations, camera px: with the wavefront's tilt
        (Noll 2 and 3) over the SLM's inscribed disk taken out.
    zernikes : float array
        Waves rms, from Noll index `FIRST`.
    covariance : float array
        Of origin (2) and zernikes, in this order.
    residual : float
        Rms distance of the spots from the fit, camera px.
    spots : int
    """

    origin: Array
    zernikes: Array
    covariance: Array
    residual: float
    spots: int


def lattices(facts: BenchFacts, steer: Array, origin: Array, count: int, room: float, sets: int = 2) -> list[Array]:
    """Carriers for `count` spots that fall on the camera apart from each other and from other diffraction orders.

    A lattice shifted by a quarter of its step keeps them apart: orders 0, -1 and 2 fall on points shifted by 0, -1/4
    and 1/2.

    Parameters
    ----------
    facts : BenchFacts
    steer : float array [2, 2]
        Camera px per (cycle per SLM px), roughly.
    origin : float array [2]
        Where the unsteered dot is, camera px.
    room : float
        Room for a spot on each side, camera px.
    sets : int
        Different assignments of the same carriers.

    Returns
    -------
    list of float arrays [spot, (y, x)], cycles per SLM px

    Raises
    ------
    CalibrationError
        If the camera is too small for them.
    """
    shape = np.asarray(facts.geometry.camera.shape)
    scale = float(np.sqrt(abs(np.linalg.det(steer))))
    step = 2 * REACH / np.sqrt(count)
    while step * scale > 2.5 * room:
        n = int(REACH / step) + 2
        axis = (np.arange(-n, n + 1) + 0.25) * step
        points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        seen = points @ steer.T + origin
        inside = ((seen > room) & (seen < shape - 1 - room)).all(1) & (np.abs(points) <= REACH).all(1)
        points = points[inside & (np.hypot(*(points * scale).T) > 3 * room)]
        if len(points) >= count:
            dice = np.random.default_rng(1)  # a fixed order that is no order
            nearest = points[np.argsort(np.abs(points).max(1), kind="stable")[:count]]
            return [nearest[dice.permutation(count)] for _ in range(sets)]
        step *= 0.93
    raise CalibrationError(
        "the camera is too small for the spots of a Hartmann test: centre it on the panel's image, or use fewer patches"
    )


def measure_spots(
    facts: BenchFacts, patches: Patches, sets: Sequence[Array], dot: Gray, dark: Gray, origin: Array, steer: Array,
    *, purpose: str,
) -> Steps[Spots]:  # fmt: skip
    """Show the dot and the bare panel through every set of carriers, and find the spots.

    Parameters
    ----------
    dot, dark : gray pattern
        A dot, and the panel without it.
    origin, steer : float arrays [2], [2, 2]
        Where the unsteered dot is, and how carriers move it, roughly (camera px).
    purpose : str
        What the frames are for; it is recorded with them.
    """
    radius = spot_radius(facts, patches, steer)
    shown = [gray(facts, patches.steering(carriers)) for carriers in sets]
    places = [carriers @ steer.T + origin for carriers in sets]
    exposure = yield from _expose(facts, shown[0], dot, dark, places[0], radius)
    frames = yield Measure(
        [Exposure(s, panel, exposure, {"for": purpose}) for s in shown for panel in (dot, dark)], "Hartmann spots"
    )
    found: list[tuple[int, Array, Array, float]] = []
    for n, carriers in enumerate(sets):
        lit, bare = (signal(facts, frame) for frame in frames[2 * n : 2 * n + 2])
        picture = lit - bare
        noise = 1.4826 * float(np.median(np.abs(picture - np.median(picture)))) + 1e-6
        for k, place in enumerate(places[n]):
            one = spot_at(picture, bare, place, radius, noise)
            if one is not None:
                found.append((k, carriers[k], one[0], one[1]))
    if len(found) < 12:
        raise CalibrationError(
            f"only {len(found)} of {sum(map(len, sets))} spots of a Hartmann test are seen: is the SLM modulating, "
            "and does the light of a dot reach all of it?"
        )
    patch, carrier, seen, error = zip(*found, strict=True)
    return Spots(np.asarray(patch), np.asarray(carrier), np.asarray(seen), np.asarray(error))


def spot_radius(facts: BenchFacts, patches: Patches, steer: Array) -> int:
    """Radius around a spot that holds its middle: as far as its first dark ring, camera px."""
    return max(3, int(np.ceil(1.0 * float(np.abs(steer).max()) / patches.side)) + 1)


def _expose(facts: BenchFacts, slm: Gray, dot: Gray, dark: Gray, places: Array, radius: int) -> Steps[float]:
    """Exposure time at which the typical spot is well exposed; brighter ones and light beside the dot do not count."""
    full = full_scale(facts)
    longest = min(LONGEST_S, facts.longest_exposure_s)
    exposure = start = min(START_S, longest)
    (bare,) = yield Measure([Exposure(slm, dark, start, {"for": "exposure"})], "exposure")
    beside = signal(facts, bare)
    for _ in range(5):
        (frame,) = yield Measure([Exposure(slm, dot, exposure, {"for": "exposure"})], "exposure")
        picture = signal(facts, frame) - beside * np.float32(exposure / start)
        level = max(float(np.quantile([_peak(picture, place, radius) for place in places], 0.9)), 1.0)
        if 0.3 * full < level < 0.8 * full:
            break
        step = float(np.clip(0.55 * full / level, 0.05, 50.0))
        if exposure >= longest and step > 1:
            break
        exposure = float(np.clip(exposure * step, SHORTEST_S, longest))
    return exposure


def _peak(picture: NDArray[np.float32], place: Array, radius: int) -> float:
    r, c = (int(v) for v in np.rint(place))
    patch = picture[max(r - radius, 0) : r + radius + 1, max(c - radius, 0) : c + radius + 1]
    return float(patch.max()) if patch.size else 0.0


def spot_at(
    picture: NDArray[np.float32], bare: NDArray[np.float32], place: Array, radius: int, noise: float
) -> tuple[Array, float] | None:
    """Middle of the spot near a place, camera px, and its error; None if it is faint, drowned or at the edge."""
    row, column = float(place[0]), float(place[1])
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    wide = 2 * radius
    for turn in range(6):
        r, c = round(row), round(column)
        reach = wide if turn == 0 else radius
        if not (reach <= r < picture.shape[0] - reach and reach <= c < picture.shape[1] - reach):
            return None
        patch = picture[r - reach : r + reach + 1, c - reach : c + reach + 1]
        if turn == 0:  # coarsely first: aberrations move spots
            k, m = np.unravel_index(int(patch.argmax()), patch.shape)
            row, column = r - reach + float(k), c - reach + float(m)
            continue
        # a soft edge that moves with the spot: no pixel jumps in or out
        away = np.hypot(y + r - row, x + c - column)
        weight = np.clip(patch, 0, None) * np.cos(np.clip(away / (radius + 0.5), 0, 1) * np.pi / 2) ** 2
        total = float(weight.sum())
        if total <= 0:
            return None
        row, column = r + float((weight * y).sum()) / total, c + float((weight * x).sum()) / total
    peak = float(patch.max())
    behind = float(bare[r - radius : r + radius + 1, c - radius : c + radius + 1].max())
    if peak < 10 * noise or behind > peak:
        return None
    width = float(np.sqrt((weight * away**2).sum() / total / 2))
    error = float(np.hypot(0.02, noise * width * np.sqrt(weight.size) / total))
    return np.array([row, column]), error


def fit_wavefront(
    spots: Spots, patches: Patches, shape: tuple[int, int], steer: Array, *, last: int = LAST
) -> Wavefront:
    """Least squares for where the dot is and for the wavefront, from all spots.

    Polynomials are held near zero by what optics is like: two waves over the index.

    Parameters
    ----------
    spots : Spots
    patches : Patches
    shape : (rows, columns) of the SLM
    steer : float array [2, 2]
        How carriers move a spot, as the whole SLM's steering said: patches know it less well.
    last : int
        Noll index of the last polynomial.
    """
    orders = list(range(FIRST, last + 1))
    slopes = patches.slopes(orders, shape)
    prior = 2 / np.asarray(orders, float)
    keep = np.ones(len(spots.patch), bool)
    design = np.zeros((len(spots.patch), 2, 2 + len(orders)))
    design[:, 0, 0] = design[:, 1, 1] = 1
    design[:, :, 2:] = np.einsum("ab,nbj->naj", steer, slopes[spots.patch])
    wanted = spots.seen - spots.carrier @ steer.T
    held = np.concatenate([np.zeros(2), prior**-2])
    error = np.maximum(spots.error, 1e-3)
    scale = 1.0
    for _ in range(5):
        a = (design / error[:, None, None])[keep].reshape(-1, design.shape[2]) / scale
        b = (wanted / error[:, None])[keep].reshape(-1) / scale
        inverse = np.linalg.inv(a.T @ a + np.diag(held))
        solved = inverse @ (a.T @ b)
        away = wanted - design @ solved
        miss = np.hypot(*away.T) / error
        typical = max(float(np.median(miss[keep])), 1e-9)
        keep = miss < 5 * typical  # not the spots that are hit by stray light or another order
        freedom = 2 * int(keep.sum()) - 2 - float(np.trace(a @ inverse @ a.T) - 2)
        scale = float(np.sqrt((miss[keep] ** 2).sum() / max(freedom, 1.0)))
    residual = float(np.sqrt((away[keep] ** 2).sum(1).mean()))
    return Wavefront(solved[:2], solved[2:], np.asarray(inverse, np.float64), residual, int(keep.sum()))


__all__ = [
    "Patches", "Spots", "Wavefront", "fit_wavefront", "lattices", "measure_spots", "spot_at", "spot_radius",
]  # fmt: skip
