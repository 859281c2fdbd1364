"""Fourier plane: scale and rotation of the input's spectrum on the SLM, its centre once more, and defocus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.hartmann import lattices
from labctl.procedures.exposing import around, expose_well, gray, laser_on, signal
from labctl.procedures.messages import Exposure, Gray, Log, Measure, Publish, Set, Steps

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FourierPlane:
    """Where the spectrum's frequencies fall on the SLM, by knife edges through the orders of a chessboard.

    The input panel shows a chessboard, whose spectrum has four strong, narrow orders on the diagonals besides the one
    in the middle. A zone of the SLM around each order sends what falls on one side of an edge to one place of the
    camera, and the other side to another; five edges in turn, for rows and for columns, say where the light of each
    order is halved. Where the commanded chessboard's own spectrum would be halved is computed, so that the envelope of
    its squares shifts nothing.

    A panel frequency nu (row, column; cycles per panel pixel) falls at ``centre + matrix @ nu`` on the SLM. Against
    nominal, ``matrix = scale * turn(rotation) @ nominal`` (and a mirror, where ``mirrored`` says so), with
    ``turn(a) = [[cos a, sin a], [-sin a, cos a]]`` on (row, column).

    A chessboard looks the same after a quarter turn: which order is which comes from the registration, whose linear
    parts say the same as `matrix` by another way. The record has the mean of both, each weighted by its error; how far
    they disagree is a quality figure. Defocus is what the registration's Hartmann test found.

    Attributes
    ----------
    side_px : int
        Largest side of the chessboard, panel pixels.
    edges : int
        Edges through each order, for rows and for columns.
    """

    side_px: int = 56
    edges: int = 5

    needs: ClassVar[tuple[str, ...]] = ("dark", "registration", "fourier-centre")
    uses: ClassVar[tuple[str, ...]] = ("input-response",)
    max_age_h: ClassVar[float] = 72.0
    limits: ClassVar[Mapping[str, float]] = {"residual_px": 1.0, "disagreement_px": 3.0}

    @property
    def name(self) -> str:
        return "fourier-plane"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.edges + 3

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        registration = facts.calibration("registration")
        centre = np.asarray(facts.calibration("fourier-centre")["centre"], float)
        guess = spectrum_by_registration(registration)
        yield from laser_on(facts)
        yield Set("camera", "window", None)
        square_px = self._square(facts, guess)
        nu = 0.5 / square_px
        orders = np.array([(0.0, 0.0), (nu, nu), (nu, -nu), (-nu, nu), (-nu, -nu)])
        expected = centre + orders @ guess.T
        affine, steer = registration["input_to_camera"], registration["carrier_to_camera"]
        for part in (1.0, 0.75, 0.5):  # the largest chessboard of whose pictures the camera holds enough
            shown = chessboard(facts, square_px, int(part * self.side_px))
            side = int(np.ptp(np.argwhere(shown)[:, 0])) + 1
            width = float(np.sqrt(abs(np.linalg.det(guess)))) / side  # to the first zero beside an order
            zone = int(min(0.4 * np.abs(guess @ np.array([nu, nu])).min() * 2, 4 * width))
            start = affine[:, :2] @ np.argwhere(shown).mean(0) + affine[:, 2]
            # half a picture of the chessboard, and what the zone's edge blurs
            half = 0.55 * side * float(np.abs(affine[:, :2]).sum(1).max()) + float(np.abs(steer).max()) / zone
            try:
                (carriers,) = lattices(facts, steer, start, 2 * len(orders), half / 1.25, sets=1)
                break
            except CalibrationError as small:
                reason = f"Fourier plane: {small}"
        else:
            raise CalibrationError(reason)
        places = carriers @ steer.T + start
        yield Set("camera", "window", around(facts, list(places), half))
        knife = _Knife(facts, np.rint(expected), zone, carriers)
        exposure = yield from expose_well(facts, knife.pattern(0, 0.0), [shown], target=0.6, quantile=0.9995)
        offsets = np.unique(np.rint(np.linspace(-0.4, 0.4, self.edges) * max(width, 5.0)))
        halved, error = np.empty((len(orders), 2)), np.empty((len(orders), 2))
        light = np.empty((2, len(offsets), len(orders), 2))
        for axis in (0, 1):
            shots = [
                Exposure(knife.pattern(axis, float(d)), shown, exposure, {"for": "fourier-plane"}) for d in offsets
            ]
            frames = yield Measure(shots, "knife edges, " + ("rows" if axis == 0 else "columns"))
            for k, f in enumerate(frames):
                light[axis, k] = _light(signal(facts, f), places - np.asarray(f.origin), half)
        shares = _shares(light)
        for axis in (0, 1):
            for n in range(len(orders)):
                halved[n, axis], error[n, axis] = _halving(offsets, shares[axis, :, n])
                halved[n, axis] += np.rint(expected)[n, axis] - 0.5
        yield Set("camera", "window", None)
        lit = _amplitude(facts, shown)
        bias = np.array([_model_halving(lit, guess, order, zone) for order in orders])
        return (yield from self._fit(facts, registration, centre, guess, orders, halved - bias, error))

    def picture(self, made: CalibrationRecord) -> NDArray[np.float32]:
        """How far each order misses the fit [order, (row, column)], SLM px."""
        return np.asarray(made["misses"], np.float32)

    def _square(self, facts: BenchFacts, guess: Array) -> int:
        """Squares so fine that the orders are far out, and yet on the SLM."""
        room = 0.3 * min(facts.geometry.slm.shape)
        reach = float(np.abs(guess).sum(1).max())
        return max(1, int(np.ceil(0.5 * reach / room)))

    def _fit(
        self,
        facts: BenchFacts,
        registration: CalibrationRecord,
        centre: Array,
        guess: Array,
        orders: Array,
        places: Array,
        error: Array,
    ) -> Steps[CalibrationRecord]:
        if not np.isfinite(places).all():
            raise CalibrationError(
                "Fourier plane: light does not shift across the edges: is the SLM modulating, and does the spectrum "
                "fall on it? Align the SLM, and calibrate fourier-centre again"
            )
        design = np.column_stack([orders, np.ones(len(orders))])
        solved, *_ = np.linalg.lstsq(design, places, rcond=None)
        away = places - design @ solved
        residual = float(np.sqrt((away**2).sum(1).mean()))
        matrix, middle = np.asarray(solved[:2].T, np.float64), np.asarray(solved[2], np.float64)
        disagreement = float(np.hypot(*((matrix - guess) @ orders[1:].T)).max())
        if residual > self.limits["residual_px"] or disagreement > self.limits["disagreement_px"]:
            raise CalibrationError(
                f"Fourier plane: the orders of a chessboard miss a linear map by {residual:.2f} SLM px rms, and the "
                f"registration's by {disagreement:.2f}: check f1_mm and the pitches, and calibrate registration again"
            )
        spread = float(np.sqrt(max((away**2).sum() / 4, (error**2).mean())))
        size = float(np.hypot(*orders[1])) * 2
        each = spread / size  # of a matrix element: four orders around the middle
        # two ways to one matrix: each counts by its error
        told = (
            registration.uncertainties["input_to_camera"][:, :2] / np.abs(registration["input_to_camera"][:, :2]).max()
        )
        other = 2.0 * float(told.max()) * float(np.abs(guess).max())
        matrix = (matrix / each**2 + guess / other**2) / (each**-2 + other**-2)
        each = float((each**-2 + other**-2) ** -0.5)
        nominal = nominal_spectrum(facts)
        relative = matrix @ np.linalg.inv(nominal)
        mirrored = bool(np.linalg.det(relative) < 0)
        if mirrored:
            relative = relative @ np.diag([1.0, -1.0])
            yield Log("Fourier plane: the panel is mirrored against the SLM: masks must be mirrored too", "warning")
        scale = float(np.sqrt(np.linalg.det(relative)))
        rotation = float(np.arctan2(relative[0, 1] - relative[1, 0], relative[0, 0] + relative[1, 1]))
        relative_error = float(each / np.sqrt(abs(np.linalg.det(nominal))) / np.sqrt(2))
        zernikes = registration.values.get("zernikes")
        values: dict[str, tuple[object, str]] = {
            "scale": (scale, "1 (relative to nominal)"),
            "rotation": (rotation, "rad"),
            "mirrored": (mirrored, "1"),
            "matrix": (matrix, "SLM px per (cycle per input px)"),
            "centre": (middle, "SLM px (row, column)"),
            "misses": (away, "SLM px"),
        }
        uncertainties = {
            "scale": np.asarray(relative_error),
            "rotation": np.asarray(relative_error),
            "matrix": np.full((2, 2), each),
            "centre": np.full(2, spread / np.sqrt(len(orders))),
        }
        if zernikes is not None:
            values["defocus"] = (float(np.asarray(zernikes)[0]), "waves rms")
            uncertainties["defocus"] = np.asarray(registration.uncertainties["zernikes"])[0]
        yield Publish("scale of the spectrum", scale)
        yield Publish("rotation of the spectrum (mrad)", 1e3 * rotation)
        return record(
            "fourier-plane",
            facts,
            values,
            uncertainties=uncertainties,
            quality={
                "residual_px": residual,
                "disagreement_px": disagreement,
                "centre_shift_px": float(np.hypot(*(middle - centre))),
            },
        )


def nominal_spectrum(facts: BenchFacts) -> Array:
    """Where panel frequencies fall on the SLM on an ideal bench: SLM px per (cycle per panel px) [2, 2]."""
    g = facts.geometry
    return np.diag([g.wavelength * g.f1 / (g.input.pitch[i] * g.slm.pitch[i]) for i in (0, 1)])


def spectrum_by_registration(registration: CalibrationRecord) -> Array:
    """The same as the registration has it [2, 2].

    A panel pixel is seen where a carrier would move the middle's picture: that carrier is the slope of its light's
    phase over the SLM.
    """
    slope = np.linalg.inv(registration["carrier_to_camera"]) @ registration["input_to_camera"][:, :2]
    return np.asarray(-np.linalg.inv(slope).T)


def chessboard(facts: BenchFacts, square_px: int, side_px: int) -> Gray:
    """A chessboard of an even number of squares in the middle of the panel, on black."""
    count = max(2, side_px // (2 * square_px) * 2)
    side = count * square_px
    shape = facts.geometry.input.shape
    shown = np.zeros(shape, np.uint8 if facts.input_levels <= 256 else np.uint16)
    if side > min(shape):
        raise CalibrationError(f"Fourier plane: the panel has no room for a chessboard of {side} pixels: lower side_px")
    n = np.arange(side) // square_px
    r, c = ((length - side) // 2 for length in shape)
    shown[r : r + side, c : c + side] = ((n[:, None] + n[None]) % 2) * (facts.input_levels - 1)
    return shown


class _Knife:
    """SLM patterns with an edge through the zone of every order."""

    def __init__(self, facts: BenchFacts, centres: Array, zone: int, carriers: Array) -> None:
        self._facts, self._centres, self._zone, self._carriers = facts, centres, zone, carriers

    def pattern(self, axis: int, offset: float) -> Gray:
        """The edge lies `offset` SLM px from each zone's middle; the rest of the SLM is flat."""
        shape = self._facts.geometry.slm.shape
        rows, columns = (np.arange(n) for n in shape)
        phase = np.zeros(shape, np.float32)
        for n, (row, column) in enumerate(self._centres):
            box = [
                slice(max(0, int(middle) - self._zone), min(length, int(middle) + self._zone + 1))
                for middle, length in zip((row, column), shape, strict=True)
            ]
            part = box[0], box[1]
            y, x = rows[part[0]][:, None], columns[part[1]][None]
            low = (y if axis == 0 else x) < (row, column)[axis] + offset
            turns = [c[0] * (y - (shape[0] - 1) / 2) + c[1] * (x - (shape[1] - 1) / 2)
                     for c in self._carriers[2 * n : 2 * n + 2]]  # fmt: skip
            phase[part] = np.where(low, *turns) % 1.0 * 2 * np.pi
        return gray(self._facts, phase)


def _light(picture: NDArray[np.float32], places: Array, half: float) -> Array:
    """Light at each order's two places [order, (low side, high side)], counts."""
    reach, light = int(half), []
    for place in places:
        r, c = (int(v) for v in np.rint(place))
        light.append(float(picture[max(r - reach, 0) : r + reach, max(c - reach, 0) : c + reach].sum()))
    return np.asarray(light).reshape(-1, 2)


def _shares(light: Array) -> Array:
    """Share of each order's light that is on the low side of its edge [axis, edge, order].

    Carriers differ in efficiency. What one side loses the other gains while an edge moves, so that the two together say
    how much more efficient one is.

    Parameters
    ----------
    light : float array [axis, edge, order, (low side, high side)], counts
    """
    low, high = light[..., 0], light[..., 1]
    shares = np.empty(low.shape)
    for n in range(low.shape[2]):
        a, b = low[..., n].ravel(), high[..., n].ravel()
        spread = np.cov(a, b)
        # the line of least squares with errors on both (Deming): the slope's sign is known
        slope = np.sqrt(max(spread[0, 0], 1e-12) / max(spread[1, 1], 1e-12)) if spread[0, 1] < 0 else 1.0
        shares[..., n] = low[..., n] / np.maximum(low[..., n] + slope * high[..., n], 1e-9)
    return shares


def _halving(offsets: Array, shares: Array) -> tuple[float, float]:
    """Where a share of light crosses one half, and its error; not finite if it does not rise across the edges."""
    (slope, level), covariance = np.polyfit(offsets, shares, 1, cov="unscaled")
    away = shares - (slope * offsets + level)
    if slope * float(np.ptp(offsets)) < 0.15 or float(np.abs(away).max()) > 0.15:
        return float("nan"), float("inf")
    scatter = float((away**2).sum()) / max(1, len(offsets) - 2)
    return float((0.5 - level) / slope), float(np.sqrt(scatter * covariance[1, 1]) / slope)


def _amplitude(facts: BenchFacts, shown: Gray) -> Array:
    """Amplitude that the panel is believed to give of a gray pattern."""
    if "input-response" in facts.calibrations:
        return np.asarray(facts.calibrations["input-response"]["amplitude"], float)[shown]
    return shown / float(facts.input_levels - 1)


def _model_halving(lit: Array, matrix: Array, order: Array, zone: int) -> Array:
    """How far from an order's place (row, column) the computed light in its zone is halved, SLM px."""
    place = matrix @ order
    inverse = np.linalg.inv(matrix)
    found = np.empty(2)
    rows, columns = (np.flatnonzero((lit > 0.2).any(1 - i)) for i in (0, 1))
    part = lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # a turn of a few degrees moves an order's halves by nothing to speak of: frequencies along the panel's own axes
    step = np.arange(-zone, zone + 1)
    spectra = []
    for axis in (0, 1):
        direction = np.eye(2)[axis]
        frequency = order[axis] + (inverse @ direction)[axis] * step
        index = np.arange(part.shape[axis]) - (part.shape[axis] - 1) / 2
        spectra.append(np.exp(-2j * np.pi * frequency[:, None] * index[None]) * np.sinc(frequency)[:, None])
    power = np.abs(spectra[0] @ part @ spectra[1].T) ** 2
    for axis in (0, 1):
        total = np.cumsum(power.sum(1 - axis))
        # light summed up to and including pixel k lies below k + 1/2
        found[axis] = float(np.interp(0.5 * total[-1], total, step + 0.5))
    if not np.isfinite(place).all():
        return np.full(2, np.nan)
    return found
