"""Light from one point of the input panel: it fills the SLM, and what the SLM does with it falls on known places.

What the calibrations of SLM and wavefront share: a small lit square whose spectrum covers the SLM, where its light
falls on the camera for a given carrier, and an exposure that is right for these places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.errors import CalibrationError
from labctl.procedures.exposing import LONGEST_S, SHORTEST_S, dark_level, full_scale, signal, square
from labctl.procedures.messages import Exposure, Gray, Measure, Steps

Carrier = tuple[float, float]
EDGE = 0.5
"""Least amplitude of the pinhole's spectrum at the SLM's edge, relative to its middle."""


@dataclass(frozen=True, eq=False)
class Pinhole:
    """A small white square in the middle of the panel.

    Attributes
    ----------
    shown : gray pattern
    side : int
        Panel pixels.
    place : float array (row, column)
        Where it is seen through a flat SLM, camera pixels.
    steer : float array [2, 2]
        Camera pixels (row, column) per carrier (y, x; cycles per SLM pixel).
    """

    shown: Gray
    side: int
    place: NDArray[np.float64]
    steer: NDArray[np.float64]

    def spot(self, carrier: Carrier) -> NDArray[np.float64]:
        """Where a carrier sends its light (row, column), camera pixels."""
        return np.asarray(self.place + self.steer @ np.asarray(carrier, float))


def pinhole(facts: BenchFacts) -> Pinhole:
    """The largest white square whose spectrum still reaches the SLM's edges with half of its amplitude.

    Raises
    ------
    CalibrationError
        Without a registration.
    """
    registration = facts.calibration("registration")
    geometry = facts.geometry
    side = 1
    while side < 64 and np.min(source_edge(facts, side + 1)) >= EDGE:
        side += 1
    shown = square(facts, side)
    affine = registration["input_to_camera"]
    place = affine[:, :2] @ np.argwhere(shown).mean(0) + affine[:, 2]
    if not all(0 <= place[i] < geometry.camera.shape[i] for i in (0, 1)):
        raise CalibrationError("the middle of the input panel is outside the camera's frame: run `labctl align` first")
    return Pinhole(shown, side, place, np.asarray(registration["carrier_to_camera"], float))


def source_edge(facts: BenchFacts, side: int) -> NDArray[np.float64]:
    """Amplitude (y, x) of a lit square's spectrum at the SLM's edges, relative to its middle."""
    return np.array([profile[0] for profile in source_profiles(facts, side)])


def source_profiles(
    facts: BenchFacts, side: int, centre: tuple[float, float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Amplitude of a lit square's spectrum over the SLM's rows and over its columns, 1 in its middle.

    Parameters
    ----------
    side : int
        Panel pixels.
    centre : (row, column), SLM pixels
        Where the zero frequency falls; default the middle.
    """
    frequencies = facts.geometry.frequencies(centre)
    y, x = (np.sinc(nu * side * pitch) for nu, pitch in zip(frequencies, facts.geometry.input.pitch, strict=True))
    return y, x


def fourier_centre(facts: BenchFacts) -> tuple[float, float]:
    """Where the zero frequency falls on the SLM (row, column), SLM pixels: calibrated, or nominally the middle."""
    if "fourier-centre" in facts.calibrations:
        row, column = facts.calibrations["fourier-centre"]["centre"]
        return float(row), float(column)
    return facts.geometry.slm.centre


def window_over(facts: BenchFacts, places: Sequence[NDArray[np.float64]], reach: float) -> tuple[int, int, int, int]:
    """Camera window around places (row, column).

    Raises
    ------
    CalibrationError
        If it would leave the sensor.
    """
    rows, columns = facts.geometry.camera.shape
    low, high = np.floor(np.min(places, axis=0) - reach), np.ceil(np.max(places, axis=0) + reach) + 1
    if (low < 0).any() or high[0] > rows or high[1] > columns:
        raise CalibrationError(
            f"the light would fall on rows {low[0]:.0f} to {high[0]:.0f} and columns {low[1]:.0f} to {high[1]:.0f}, "
            f"and the camera has {rows} x {columns}: centre the camera on the zero order"
        )
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])


def box(frame: Frame, place: NDArray[np.float64], half: int) -> tuple[slice, slice]:
    """Rows and columns of a frame around a place (row, column) on the sensor."""
    r, c = (round(float(v)) for v in place - np.asarray(frame.origin))
    return slice(max(r - half, 0), r + half + 1), slice(max(c - half, 0), c + half + 1)


def expose_for(
    facts: BenchFacts,
    kind: str,
    slm: Gray,
    shown: Gray,
    level: Callable[[NDArray[np.float32], Frame], float],
    *,
    target: float = 0.6,
    start_s: float | None = None,
    tries: int = 7,
) -> Steps[float]:
    """Find the exposure time at which `level` of the picture reaches `target` of full scale.

    Parameters
    ----------
    kind : str
        Of the calibration, for messages.
    level : callable
        Counts above the dark level that matter, from a picture [row, column] and its frame.

    Returns
    -------
    float, s

    Raises
    ------
    CalibrationError
        If there is too little light at the longest exposure, or too much at the shortest.
    """
    exposure, top = start_s or facts.exposure_s, full_scale(facts)
    longest = min(LONGEST_S, facts.longest_exposure_s)
    for _ in range(tries):
        (frame,) = yield Measure([Exposure(slm, shown, exposure, {"for": f"{kind}, exposure"})], "exposure")
        dark = dark_level(facts, frame)
        if dark > 0.5 * top and exposure > SHORTEST_S:  # no dark pixel left
            exposure = max(0.1 * exposure, SHORTEST_S)
            continue
        found = max(level(signal(facts, frame), frame), 0.0)
        wanted = target * (top - dark)
        if 0.7 * wanted < found < 1.25 * wanted or (exposure >= longest and found > 0.25 * wanted):
            return exposure
        if found > 0.95 * (top - dark):
            change = 0.2
        else:
            change = min(30.0, wanted / max(found, 0.01 * wanted))
        if exposure >= longest and change > 1:
            raise CalibrationError(
                f"{kind}: too little light: at the longest exposure ({exposure:g} s) it reaches {found:.0f} counts of "
                f"{wanted:.0f}: check that the laser is on and the shutter open, or raise the power"
            )
        exposure = min(exposure * change, longest)
        if exposure < SHORTEST_S:
            raise CalibrationError(
                f"{kind}: too much light: the camera saturates at {SHORTEST_S * 1e6:.0f} us. Lower the power or add a "
                "filter"
            )
    raise CalibrationError(f"{kind}: no exposure time gives steady light: is the laser stable, and the only light?")


def brightest_of(places: Sequence[NDArray[np.float64]], half: int) -> Callable[[NDArray[np.float32], Frame], float]:
    """The highest count around any of these places, for `expose_for`."""

    def level(picture: NDArray[np.float32], frame: Frame) -> float:
        return max(float(picture[box(frame, place, half)].max()) for place in places)

    return level


def steered_away(facts: BenchFacts, pattern: Gray, half_px: float, carrier: Carrier = (0.47, 0.47)) -> Gray:
    """A pattern whose middle, around the Fourier centre, sends its light to a far corner.

    A panel's black is not quite dark: over all of the panel it makes a bright spot in the Fourier plane's middle, which
    a pinhole's light does not need.
    """
    from labctl.procedures.exposing import blaze, gray

    row, column = fourier_centre(facts)
    y, x = (np.arange(n) - c for n, c in zip(facts.geometry.slm.shape, (row, column), strict=True))
    middle = (np.abs(y)[:, None] <= half_px) & (np.abs(x)[None] <= half_px)
    return np.where(middle, gray(facts, blaze(facts, carrier)), pattern)


def notch_px(facts: BenchFacts) -> float:
    """Half the side of the Fourier plane's middle where the panel's black shines, SLM pixels.

    Three times the width of the spot that a quarter of the panel's smaller side makes.
    """
    geometry = facts.geometry
    width = min(n * p for n, p in zip(geometry.input.shape, geometry.input.pitch, strict=True)) / 4
    return float(3 * geometry.wavelength * geometry.f1 / width / min(geometry.slm.pitch))
