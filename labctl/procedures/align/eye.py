"""What the steps of an alignment share: looking through the camera, well exposed, and finding spots in what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import black, flat
from labctl.procedures.exposing import LONGEST_S, SHORTEST_S, centroid, expose_well, full_scale, signal
from labctl.procedures.messages import Exposure, Gray, Measure, Steps

Picture = NDArray[np.float32]
Pair = NDArray[np.float64]
"""Two numbers: (row, column) or (y, x)."""
TRIES = 5
DIM, BRIGHT, WELL = 0.12, 0.95, 0.6
"""Brightest spot, of full scale: exposed again below and above; what is aimed at."""
NOISE_FLOOR_PX = 0.05
"""What pointing jitter and the like leave of a spot's place, whatever the photons say, camera pixels."""


class Lost(CalibrationError):
    """The light that was there is not there any more, or not where it can be."""


@dataclass(frozen=True, eq=False)
class Sight:
    """How the camera sees the bench.

    Attributes
    ----------
    middle : float array [2]
        Where the input panel's middle is seen through a flat SLM, and so the zero order, camera px (row, column).
    panel : float array [2, 2]
        Camera px (row, column) per panel px (row, column).
    steer : float array [2, 2]
        Camera px (row, column) per cycle per SLM px (y, x).
    """

    middle: Pair
    panel: NDArray[np.float64]
    steer: NDArray[np.float64]


@dataclass
class Eye:
    """Looks through the camera for one alignment: remembers how long to expose, and which pixels are hot.

    Attributes
    ----------
    facts : BenchFacts
    label : str
        What is being done, for the bar and the log.
    sight : Sight
        As it was seen last.
    zero : float array [2] or None
        Where the zero frequency was on the SLM last, px (row, column).
    most : float
        The most light that was seen of the zero frequency, counts per second.
    frames, turns : int
        Taken and asked for so far.
    """

    facts: BenchFacts
    label: str = ""
    sight: Sight = field(default_factory=lambda: Sight(np.zeros(2), np.eye(2), np.eye(2)))
    zero: Pair | None = None
    most: float = 0.0
    frames: int = 0
    turns: int = 0
    _times: dict[str, float] = field(default_factory=dict)
    _hot: dict[str, NDArray[np.intp]] = field(default_factory=dict)

    @property
    def middle(self) -> Pair:
        """The camera's middle, px (row, column)."""
        return np.asarray(self.facts.geometry.camera.centre)

    def time(self, kind: str) -> float:
        """How long pictures of a kind were exposed last, s."""
        return self._times[kind]

    def look(self, kind: str, shown: Sequence[tuple[Gray, Gray]]) -> Steps[list[Picture]]:
        """One picture for each pair of patterns (SLM, input), all exposed alike and so that none saturates.

        Parameters
        ----------
        kind : str
            Pictures of one kind are about equally bright: what was found for one is where the next begins.

        Raises
        ------
        CalibrationError
            If there is too little light or too much.
        """
        if kind not in self._times:
            slm, panel = shown[0]
            self._times[kind] = yield from expose_well(self.facts, slm, [panel], target=WELL, quantile=1 - 1e-5)
            yield from self._find_hot(kind)
        for _ in range(TRIES):
            frames = yield from self._take(kind, shown)
            pictures = [self._clean(kind, frame) for frame in frames]
            peak = max(float(uniform_filter(picture, 3).max()) for picture in pictures) / full_scale(self.facts)
            saturated = max(self._saturated(kind, frame) for frame in frames)
            time = self._times[kind]
            longest = min(LONGEST_S, self.facts.longest_exposure_s)
            if saturated or peak > BRIGHT:
                if time <= SHORTEST_S:
                    raise CalibrationError(
                        f"too much light: the camera saturates at {SHORTEST_S * 1e6:.0f} us. Lower the power or add a "
                        "filter"
                    )
                self._times[kind] = max(time / 4, SHORTEST_S)
            elif peak < DIM and time < longest:
                self._times[kind] = min(time * min(WELL / max(peak, 0.02), 8.0), longest)
            else:
                return pictures
        return pictures

    def _take(self, kind: str, shown: Sequence[tuple[Gray, Gray]]) -> Steps[Sequence[Frame]]:
        time = self._times[kind]
        label = f"{self.label}, turn {self.turns}" if self.turns else self.label
        self.frames += len(shown)
        frames: Sequence[Frame] = yield Measure(
            [Exposure(slm, panel, time, {"for": "align", "step": self.label}) for slm, panel in shown], label
        )
        return frames

    def _find_hot(self, kind: str) -> Steps[None]:
        """Pixels that are bright without light on the panel, and alone."""
        self._hot[kind] = np.zeros((0, 2), np.intp)
        (frame,) = yield from self._take(kind, [(flat(self.facts), black(self.facts))])
        data = frame.data.astype(np.float32)
        alone = data - median_filter(data, 3)
        limit = max(12 * spread(alone), 0.01 * full_scale(self.facts))
        self._hot[kind] = np.argwhere(alone > limit)

    def _clean(self, kind: str, frame: Frame) -> Picture:
        picture = signal(self.facts, frame)
        hot = self._hot[kind]
        if len(hot):
            beside = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
            y, x = np.moveaxis(np.clip(hot[:, None] + beside, 0, np.asarray(picture.shape) - 1), -1, 0)
            picture[hot[:, 0], hot[:, 1]] = np.median(picture[y, x], axis=1)
        return picture

    def _saturated(self, kind: str, frame: Frame) -> bool:
        full = frame.data >= 0.98 * full_scale(self.facts)
        hot = self._hot[kind]
        full[hot[:, 0], hot[:, 1]] = False
        return int(full.sum()) > 1


@dataclass(frozen=True)
class Spot:
    """A spot of light: where it is (camera px), and how much it is (counts)."""

    place: Pair
    light: float

    def __str__(self) -> str:
        return f"row {self.place[0]:.0f}, column {self.place[1]:.0f}"


def spread(picture: Picture) -> float:
    """Noise of a picture most of which is dark: standard deviation by the median of the deviations."""
    part = picture[::3, ::3]
    return max(1.4826 * float(np.median(np.abs(part - np.median(part)))), 0.3)


def spots(picture: Picture, count: int, radius: int, *, least: float = 8.0) -> list[Spot]:
    """The brightest spots, brightest first, no two closer than `radius`.

    Parameters
    ----------
    picture : float32 array [row, column]
    count : int
        No more than so many.
    radius : int
        Of a spot with its blur, camera px.
    least : float
        How far a spot stands out: times the noise of its mean over 3 x 3 pixels.
    """
    smooth = uniform_filter(picture, 3, mode="constant")
    limit = least * spread(smooth)
    found: list[Spot] = []
    while len(found) < count:
        r, c = (int(v) for v in np.unravel_index(int(smooth.argmax()), smooth.shape))
        if smooth[r, c] < limit:
            break
        part = np.s_[max(r - radius, 0) : r + radius + 1, max(c - radius, 0) : c + radius + 1]
        smooth[part] = -np.inf
        near = centroid(picture, (float(r), float(c)), radius)
        place = np.asarray(near if near is not None else (r, c), float)
        if all(np.linalg.norm(place - spot.place) > radius for spot in found):  # else it is the shoulder of one
            found.append(Spot(place, float(picture[part].sum())))
    return found


def window_light(picture: Picture, place: Pair, half: int, *, rim: bool = True) -> float:
    """Light within `half` px of a place, counts, above what is seen around that window unless not `rim`.

    nan for a place that is nan.
    """
    if not np.isfinite(place).all():
        return float("nan")
    r, c = (int(v) for v in np.rint(place))
    inner = picture[max(r - half, 0) : r + half + 1, max(c - half, 0) : c + half + 1]
    wide = half + max(half // 3, 3)
    if not rim:
        return max(float(inner.sum()), 0.0)
    outer = picture[max(r - wide, 0) : r + wide + 1, max(c - wide, 0) : c + wide + 1]
    around = outer.size - inner.size
    if inner.size == 0 or around <= 0:
        return 0.0
    level = (float(outer.sum()) - float(inner.sum())) / around
    return max(float(inner.sum()) - level * inner.size, 0.0)


def turned(matrix: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """How a map is turned against the nearest one that only flips axes and turns by quarters.

    Parameters
    ----------
    matrix : float array [2, 2]
        In physical units, so that it is a similarity but for flips.

    Returns
    -------
    angle : float, rad
        Clockwise, with rows counted down and columns to the right.
    nearest : float array [2, 2]
        ``matrix`` is about a scale times ``rotation(angle) @ nearest``.
    """
    upright = abs(matrix[0, 0]) + abs(matrix[1, 1]) >= abs(matrix[0, 1]) + abs(matrix[1, 0])
    nearest = np.sign(matrix) * (np.eye(2) if upright else np.eye(2)[::-1])
    rest = matrix @ nearest.T
    return float(np.arctan2(rest[0, 1] - rest[1, 0], rest[0, 0] + rest[1, 1])), nearest
