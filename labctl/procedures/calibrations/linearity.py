"""Whether the camera counts in proportion to light, and up to where: from frames at many exposure times."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GROUPS = 12
"""Groups of pixels of like brightness that are averaged."""
STRAIGHT = 0.03
"""How far counts may fall short of proportion before they count as saturated."""


@dataclass(frozen=True)
class Linearity:
    """How a camera's counts follow light.

    Attributes
    ----------
    nonlinearity : float
        Largest deviation of the counts from proportion below saturation, relative.
    error : float
        Its standard error: the laser's flicker looks alike.
    saturation : float
        Counts above the dark level from which on proportion is lost; infinite if it was not reached.
    """

    nonlinearity: float
    error: float
    saturation: float


def linearity(frames: list[NDArray[np.float32]], times: list[float], full: float) -> Linearity | None:
    """Compare frames of one scene at several exposure times.

    The scene has bright and dim parts. Between two frames the laser's flicker and an inexact shutter scale all parts
    alike, and a bent response does not: the counts of all groups of pixels at all times are fitted by brightness times
    light of the frame. A response that is a power of light would fit too; it shows as an exponent of light against
    time.

    Parameters
    ----------
    frames : list of float arrays [row, column]
        Counts above the dark level.
    times : list of float, s
    full : float
        Largest count above the dark level that the converter gives.

    Returns
    -------
    Linearity or None
        None with too little light to say.
    """
    order = np.argsort(times)
    stack, when = [frames[n] for n in order], np.asarray(times, float)[order]
    peaks = [float(np.quantile(frame, 0.9995)) for frame in stack]
    below = [n for n, peak in enumerate(peaks) if peak < 0.9 * full]
    if len(below) < 4:
        return None
    master = np.mean([stack[n] / when[n] for n in below], axis=0)
    edges = np.geomspace(0.15, 1.0, GROUPS + 1) * float(np.quantile(master, 0.9995))
    groups = [mask for a, b in pairwise(edges) if (mask := (master >= a) & (master < b)).sum() >= 30]
    if len(groups) < 4:
        return None
    counts = np.array([[float(frame[mask].mean()) for frame in stack] for mask in groups])  # [group, frame]
    sure = (counts > 0.08 * full) & (counts < 0.5 * full)  # whatever happens at the top
    brightness = np.array([float(master[mask].mean()) for mask in groups])
    light = when.copy()
    for _ in range(50):  # alternating least squares; of logarithms it would weigh the dim ones too much
        light = np.where(
            sure.any(0),
            (counts * brightness[:, None] * sure).sum(0) / np.maximum((brightness[:, None] ** 2 * sure).sum(0), 1e-12),
            light,
        )
        told = sure.any(1)
        brightness = np.where(
            told, (counts * light * sure).sum(1) / np.maximum((light**2 * sure).sum(1), 1e-12), brightness
        )
    used = sure.sum(0) >= 2
    if used.sum() < 4:
        return None
    x, y = np.log(when[used]), np.log(light[used])
    (slope, level), covariance = np.polyfit(x, y, 1, cov="unscaled")
    scatter = float(np.std(y - slope * x - level) * np.sqrt(len(x) / max(1, len(x) - 2)))
    exponent_error = scatter * float(np.sqrt(covariance[0, 0]))
    # where few groups say how bright a frame was, its exposure time does
    believed = np.where(used, light, np.exp(slope * np.log(when) + level))
    promised = brightness[:, None] * believed
    short = (counts < (1 - STRAIGHT) * promised) & (promised > 0.3 * full)
    saturation = float(counts[short].min()) if short.any() else float("inf")
    straight = (counts > 0.08 * full) & (counts < 0.95 * min(saturation, full))
    bent = np.where(straight, counts / np.maximum(promised, 1e-9) - 1, 0.0)
    worst, error = 0.0, 0.0
    place = counts / full
    for a, b in pairwise(np.linspace(0.08, 0.9, 7)):  # one group in one frame also shows what moved in the scene
        inside = straight & (place >= a) & (place < b)
        if inside.sum() >= 3:
            mean = float(np.abs(bent[inside].mean()))
            if mean > worst:
                worst, error = mean, float(bent[inside].std() / np.sqrt(inside.sum() / 3))
    span = float(np.ptp(x))
    power = max(0.0, abs(slope - 1) - exponent_error) * span / 2
    return Linearity(worst + power, float(np.hypot(error, exponent_error * span / 2)), saturation)
