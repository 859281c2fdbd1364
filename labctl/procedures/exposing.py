"""Steps that several procedures share: exposing well, averaging, removing the dark level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.errors import CalibrationError
from labctl.procedures.messages import Exposure, Gray, Measure, Set, Steps

LONGEST_S = 1.0
SHORTEST_S = 20e-6


def has(facts: BenchFacts, role: str) -> bool:
    """Whether the bench has an instrument of this role."""
    return role in facts.instruments.values()


def laser_on(facts: BenchFacts) -> Steps[None]:
    """Switch the laser on and open the shutter, where there are any."""
    if has(facts, "laser"):
        yield Set("laser", "enabled", True)
    if has(facts, "shutter"):
        yield Set("shutter", "open", True)


def laser_off(facts: BenchFacts) -> Steps[bool]:
    """Keep the light from the camera: shut the shutter, or else switch the laser off. Whether there was either."""
    if has(facts, "shutter"):  # a laser that stays on stays warm
        yield Set("shutter", "open", False)
    elif has(facts, "laser"):
        yield Set("laser", "enabled", False)
    else:
        return False
    return True


def full_scale(facts: BenchFacts) -> int:
    """Largest count of the camera."""
    return int(2**facts.camera_bitdepth - 1)


def expose_well(
    facts: BenchFacts,
    slm: Gray,
    inputs: list[Gray],
    *,
    target: float = 0.7,
    quantile: float = 1.0,
    start_s: float | None = None,
    tries: int = 8,
) -> Steps[float]:
    """Find the exposure time at which the brightest pixels reach `target` of full scale.

    Parameters
    ----------
    slm : gray pattern
    inputs : list of gray patterns
        The brightest over all of them counts.
    quantile : float
        Which pixel counts as brightest; 1 is the maximum (hot pixels included).

    Returns
    -------
    float, s

    Raises
    ------
    CalibrationError
        If there is too little light at the longest exposure or too much at the shortest.
    """
    exposure = start_s or facts.exposure_s
    top = full_scale(facts)
    for _ in range(tries):
        frames = yield Measure([Exposure(slm, shown, exposure, {"for": "exposure"}) for shown in inputs], "exposure")
        dark = max(dark_level(facts, frames[0]), 0.0)
        level = dark + max(float(np.quantile(signal(facts, frame), quantile)) for frame in frames)
        if level >= 0.98 * top:
            exposure /= 4
        elif 0.75 * target * top < level <= 1.2 * target * top:
            return exposure
        else:
            exposure *= min(16.0, (target * top - dark) / max(level - dark, 0.02 * top))
        longest = min(LONGEST_S, facts.longest_exposure_s)
        if exposure > longest:
            raise CalibrationError(
                f"too little light: full scale would need an exposure over {longest:g} s. "
                "Check that the laser is on, the shutter open, and the beam reaches the camera"
            )
        if exposure < SHORTEST_S:
            raise CalibrationError(
                f"too much light: the camera saturates at {SHORTEST_S * 1e6:.0f} us. Lower the power or add a filter"
            )
    return exposure


def hdr(
    facts: BenchFacts,
    slm: Gray | None,
    shown: Gray | None,
    times: Sequence[float],
    *,
    purpose: str = "hdr",
) -> Steps[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """One picture of a wide range of light, from frames at several exposure times.

    Each frame counts by its noise: photons and read noise, by the calibrations of gain and dark frame where there are
    any, else by guesses (one photo-electron per count, one count of read noise). Saturated pixels do not count. A
    frame's light is first matched to the others' where both are well exposed, which takes out the laser's flicker.

    Parameters
    ----------
    slm, shown : gray pattern or None
        What SLM and input panel show; None leaves them as they are.
    times : sequence of float, s
        Exposure times.
    purpose : str
        What the frames are for; it is recorded with them.

    Returns
    -------
    rate : float32 array [row, column], counts/s
        Not a number where every frame saturates.
    error : float32 array [row, column], counts/s
        One standard deviation of the noise.

    Raises
    ------
    CalibrationError
        If all frames saturate over more than a tenth of the picture.
    """
    frames = yield Measure([Exposure(slm, shown, t, {"for": purpose}) for t in sorted(times)], "exposure series")
    gain, read = 1.0, 1.0
    top = 0.97 * full_scale(facts)
    if "gain" in facts.calibrations:
        gain = float(facts.calibrations["gain"]["gain"])
        top = min(top, 0.97 * float(facts.calibrations["gain"]["saturation"]))
    if "dark" in facts.calibrations:
        read = float(facts.calibrations["dark"]["read_noise"])
    weight = np.zeros(frames[0].data.shape)
    light = np.zeros(frames[0].data.shape)
    for frame in frames:
        seconds = frame.exposure_s
        counts, good = signal(facts, frame).astype(np.float64), frame.data < top
        known = np.divide(light, weight, out=np.zeros_like(light), where=weight > 0)
        both = good & (weight > 0) & (known * seconds > 0.1 * top)
        if both.sum() >= 100:  # the same light twice: by how much did the laser change?
            counts *= float((known[both] * seconds).sum() / counts[both].sum())
        # photons by what is known of the pixel, not by this frame's own count: that would favour low ones
        expected = np.maximum(np.where(weight > 0, known * seconds, uniform_filter(counts, 3)), 0)
        variance = (expected / gain + read**2) / seconds**2
        light += np.where(good, counts / seconds / variance, 0)
        weight += np.where(good, 1 / variance, 0)
    if float((weight == 0).mean()) > 0.1:
        raise CalibrationError(
            f"exposure series: {100 * float((weight == 0).mean()):.0f} % of the picture saturates at the shortest "
            f"exposure, {min(times):g} s: add a shorter one"
        )
    seen = weight > 0
    rate = np.where(seen, light / np.where(seen, weight, 1), np.nan)
    error = np.where(seen, 1 / np.sqrt(np.where(seen, weight, 1)), np.nan)
    return rate.astype(np.float32), error.astype(np.float32)


def dark_level(facts: BenchFacts, frame: Frame) -> float:
    """Typical count without light: from the dark calibration, else the frame's own lower quantile."""
    if "dark" in facts.calibrations:
        return float(np.median(facts.calibrations["dark"]["offset"]))
    return float(np.quantile(frame.data[::4, ::4], 0.2))


def signal(facts: BenchFacts, frame: Frame) -> NDArray[np.float32]:
    """Counts above the dark level [row, column]; hot pixels take the median of their neighbours.

    Without a dark calibration the frame's own lower quantile is subtracted.
    """
    data = frame.data.astype(np.float32)
    if "dark" not in facts.calibrations:
        return data - np.float32(dark_level(facts, frame))
    record = facts.calibrations["dark"]
    r, c = frame.origin
    part = np.s_[r : r + data.shape[0], c : c + data.shape[1]]
    data -= record["offset"][part] + record["rate"][part] * np.float32(frame.exposure_s)
    hot = np.argwhere(record["hot"][part])
    if len(hot):
        beside = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
        y, x = np.moveaxis(np.clip(hot[:, None] + beside, 0, np.asarray(data.shape) - 1), -1, 0)
        data[hot[:, 0], hot[:, 1]] = np.median(data[y, x], axis=1)
    return data


def centroid(picture: NDArray[np.float32], near: tuple[float, float], radius: int) -> tuple[float, float] | None:
    """Centre of light (row, column) within `radius` pixels of `near`, iterated once; None outside the frame."""
    row, column = near
    for _ in range(3):
        r, c = round(row), round(column)
        if not (radius <= r < picture.shape[0] - radius and radius <= c < picture.shape[1] - radius):
            return None
        patch = picture[r - radius : r + radius + 1, c - radius : c + radius + 1]
        weight = np.clip(patch - 0.2 * patch.max(), 0, None)
        total = float(weight.sum())
        if total <= 0:
            return None
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        row, column = r + float((weight * y).sum()) / total, c + float((weight * x).sum()) / total
    return row, column


def brightest(picture: NDArray[np.float32], width: int) -> tuple[float, float]:
    """Where the light, averaged over `width` x `width` pixels, is strongest (row, column)."""
    smooth = uniform_filter(picture, width, mode="constant")
    row, column = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return float(row), float(column)


def around(facts: BenchFacts, points: Sequence[NDArray[np.float64]], reach: float) -> tuple[int, int, int, int]:
    """Camera window (first row, end row, first column, end column) that holds `reach` pixels around points."""
    shape = facts.geometry.camera.shape
    low = np.clip(np.floor(np.min(points, axis=0) - reach), 0, None).astype(int)
    high = np.clip(np.ceil(np.max(points, axis=0) + reach) + 1, None, shape).astype(int)
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])


def blaze(facts: BenchFacts, carrier: tuple[float, float]) -> NDArray[np.float32]:
    """Phase (rad) of a blazed grating with this carrier (y, x) in cycles per SLM pixel."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in facts.geometry.slm.shape)
    return ((carrier[0] * y[:, None] + carrier[1] * x[None]) % 1.0 * 2 * np.pi).astype(np.float32)


def gray(facts: BenchFacts, phase: NDArray[np.float32]) -> Gray:
    """Gray pattern of a phase pattern (rad), by the SLM's nominal linear response."""
    levels = facts.slm_levels
    steps = np.rint(phase * (levels / (2 * np.pi))).astype(np.int64)
    return ((levels - 1 - steps) % levels).astype(np.uint8 if levels <= 256 else np.uint16)


def square(facts: BenchFacts, side: int, centre: tuple[float, float] = (0.0, 0.0)) -> Gray:
    """A white square of `side` panel pixels on black, `centre` (y, x) panel pixels off the middle."""
    shape = facts.geometry.input.shape
    picture = np.zeros(shape, np.uint8 if facts.input_levels <= 256 else np.uint16)
    top, left = (round((shape[i] - side) / 2 + centre[i]) for i in (0, 1))
    picture[max(top, 0) : top + side, max(left, 0) : left + side] = facts.input_levels - 1
    return picture
