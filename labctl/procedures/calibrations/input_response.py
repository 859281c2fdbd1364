"""Input response: what amplitude each gray level of the input panel gives, and how evenly it is lit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import flat, record
from labctl.procedures.calibrations.mapping import to_camera
from labctl.procedures.exposing import LONGEST_S, around, blaze, expose_well, full_scale, gray, laser_on, signal
from labctl.procedures.messages import Exposure, Gray, Measure, Publish, Set, Steps

Array = NDArray[np.float64]
CHUNK = 5
"""Levels between two looks at white, by which the laser's drift is taken out."""


@dataclass(frozen=True)
class InputResponse:
    """Amplitude of the input panel at each gray level, and over the panel.

    The whole panel shows one level. Light is linear in amplitude whatever the optics do, so that the picture of a level
    is the picture of white times the square of the level's relative amplitude: aberrations, vignetting, zero order and
    ghosts cancel. Levels that are dim are looked at again with a longer exposure. The curve between the levels measured
    is a monotone cubic (F. N. Fritsch and R. E. Carlson, SIAM J. Numer. Anal. 17, 238 (1980)).

    How evenly the panel is lit is the square root of white's picture, brought back to the panel by the registration. It
    is also looked at through pairs of opposite carriers: what stays with the panel is illumination, what stays with the
    camera (fringes) averages away, and so does the slope of the SLM's pixel envelope.

    Attributes
    ----------
    levels : int
        Gray levels measured.
    cells : int
        Cells of the panel's grid along its shorter side.
    """

    levels: int = 13
    cells: int = 32

    needs: ClassVar[tuple[str, ...]] = ("dark", "registration")
    uses: ClassVar[tuple[str, ...]] = ("gain",)
    max_age_h: ClassVar[float] = 168.0
    limits: ClassVar[Mapping[str, float]] = {"white_scatter": 0.05, "fall": 0.02, "darkest": 0.5}

    @property
    def name(self) -> str:
        return "input-response"

    def exposures(self, facts: BenchFacts) -> int:
        return 3 + self.levels + -(-self.levels // CHUNK) + 1 + 8 + 4

    def chosen(self, facts: BenchFacts) -> NDArray[np.intp]:
        """The levels that are measured: denser towards black, where the contrast bends the curve."""
        top = facts.input_levels - 1
        return np.unique(np.rint(top * np.linspace(0, 1, self.levels) ** 1.5).astype(int))

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        registration = facts.calibration("registration")
        yield from laser_on(facts)
        yield Set("camera", "window", None)
        still, white = flat(facts), _uniform(facts, facts.input_levels - 1)
        exposure = yield from expose_well(facts, still, [white], target=0.7, quantile=0.9995)
        levels = self.chosen(facts)
        (frame,) = yield Measure([Exposure(still, white, exposure, {"for": "input-response"})], "white")
        lit = _lit(signal(facts, frame))
        if lit.mean() < 1e-3:
            raise CalibrationError("input response: no lit area is seen with the panel white: is it in the field?")
        yield Set("camera", "window", around(facts, [np.argwhere(lit).min(0), np.argwhere(lit).max(0)], 4))
        first, scatter = yield from self._ratios(facts, still, white, levels, np.full(len(levels), exposure), exposure)
        longest = min(LONGEST_S, facts.longest_exposure_s)
        again = np.flatnonzero(first < 0.2)
        ratio, error = first.copy(), np.hypot(scatter * first, 0.5 / (0.7 * full_scale(facts)))
        if len(again):
            times = np.minimum(exposure * np.clip(0.7 / np.maximum(first[again], 2e-3), 1, 100), longest)
            ratio[again], dim = yield from self._ratios(facts, still, white, levels[again], times, exposure)
            scatter = max(scatter, dim)
            error[again] = np.hypot(scatter * ratio[again], error[again] * exposure / times)
        yield Set("camera", "window", None)
        amplitude = np.sqrt(np.clip(ratio, 0, None))
        spread = error / (2 * np.maximum(amplitude, np.sqrt(error)))
        rising = _isotonic(amplitude)
        fall = float(np.abs(rising - amplitude).max())
        darkest = float(rising[0])
        self._refuse(levels, amplitude, fall, darkest, scatter)
        rising = rising / rising[-1]
        every = np.arange(facts.input_levels)
        curve = PchipInterpolator(levels, rising)(every)
        gamma, gamma_error = _exponent(levels / levels[-1], rising, spread, scatter)
        even, axes = yield from self._uniformity(facts, registration, still, white, exposure)
        contrast = 1 / max(darkest**2, 1e-9)
        yield Publish("contrast of the input panel", contrast)
        return record(
            "input-response",
            facts,
            {
                "amplitude": (curve, "1 (white = 1)"),
                "measured": (np.column_stack([levels, rising]), "gray level, 1"),
                "contrast": (contrast, "1 (intensity)"),
                "gamma": (gamma, "1 (exponent of the amplitude)"),
                "uniformity": (even, "1 (amplitude, brightest = 1)"),
                "y": (axes[0], "input px"),
                "x": (axes[1], "input px"),
            },
            uncertainties={
                "amplitude": np.interp(every, levels, spread),
                "gamma": np.asarray(gamma_error),
                "contrast": np.asarray(2 * contrast * spread[0] / max(darkest, 1e-6)),
            },
            quality={"white_scatter": scatter, "fall": fall, "darkest": darkest},
        )

    def picture(self, made: CalibrationRecord) -> NDArray[np.float32]:
        """How evenly the panel is lit [row, column]."""
        return np.asarray(made["uniformity"], np.float32)

    def _refuse(self, levels: NDArray[np.intp], amplitude: Array, fall: float, darkest: float, scatter: float) -> None:
        if not np.isfinite(amplitude).all():
            raise CalibrationError("input response: not finite: too little light in the frames of white")
        if darkest > self.limits["darkest"]:
            raise CalibrationError(
                f"input response: black is {100 * darkest:.0f} % of white's amplitude: is the panel showing what it is "
                "sent, and are its polarisers set for amplitude?"
            )
        if fall > self.limits["fall"]:
            worst = int(levels[np.abs(_isotonic(amplitude) - amplitude).argmax()])
            raise CalibrationError(
                f"input response: amplitude falls where gray rises (by {fall:.3f} of white near level {worst}): turn "
                "the panel's polariser, or use a panel or table whose response is monotone"
            )
        if scatter > self.limits["white_scatter"]:
            raise CalibrationError(
                f"input response: white is not the same from time to time ({100 * scatter:.1f} % rms): wait for the "
                "laser to settle"
            )

    def _ratios(
        self, facts: BenchFacts, still: Gray, white: Gray, levels: NDArray[np.intp], times: Array, exposure: float
    ) -> Steps[tuple[Array, float]]:
        """Light at each level relative to white's, per time; and the scatter of white, relative."""
        chunks = [np.arange(len(levels))[n : n + CHUNK] for n in range(0, len(levels), CHUNK)]
        whites: list[tuple[float, float, NDArray[np.float32]]] = []
        found: list[tuple[int, float, float]] = []
        mask = None
        for chunk in [*chunks, np.arange(0)]:  # batch by batch: within one the engine may reorder
            shots = [Exposure(still, white, exposure, {"for": "input-response", "level": facts.input_levels - 1})]
            shots += [
                Exposure(still, _uniform(facts, int(levels[n])), float(times[n]),
                         {"for": "input-response", "level": int(levels[n])})
                for n in chunk
            ]  # fmt: skip
            frames = yield Measure(shots, "gray levels")
            bright = signal(facts, frames[0])
            mask = _lit(bright) if mask is None else mask
            whites.append((frames[0].started, float(bright[mask].mean()) / frames[0].exposure_s, bright))
            for n, frame in zip(chunk, frames[1:], strict=True):
                _unsaturated(facts, frame, mask)
                found.append((int(n), frame.started, float(signal(facts, frame)[mask].mean()) / frame.exposure_s))
        when, light = np.array([w[0] for w in whites]), np.array([w[1] for w in whites])
        # a straight line through white: what is left beside it is flicker
        since = (when - when[0]) / max(float(np.ptp(when)), 1e-9)
        line = np.polyfit(since, light, 1)
        left = light - np.polyval(line, since)
        scatter = float(np.sqrt((left**2).sum() / max(1, len(light) - 2)) / light.mean())
        ratio = np.empty(len(levels))
        for n, start, power in found:
            ratio[n] = power / float(np.polyval(line, (start - when[0]) / max(float(np.ptp(when)), 1e-9)))
        return ratio, max(scatter, 1e-4)

    def _uniformity(
        self, facts: BenchFacts, registration: CalibrationRecord, still: Gray, white: Gray, exposure: float
    ) -> Steps[tuple[Array, tuple[Array, Array]]]:
        shape = facts.geometry.input.shape
        size = min(shape) / self.cells
        edges = [np.linspace(0, n, max(1, round(n / size)) + 1) - 0.5 for n in shape]
        axes = tuple((e[:-1] + e[1:]) / 2 for e in edges)
        steer = registration["carrier_to_camera"]
        around_white = [(0.0, 0.0), *((s * a, s * b) for a, b in ((0.22, 0.0), (0.0, 0.22)) for s in (1, -1))]
        patterns = [still, *(gray(facts, blaze(facts, c)) for c in around_white[1:])]
        frames = yield Measure(
            [Exposure(s, white, exposure, {"for": "input-response"}) for s in patterns], "evenness of the panel"
        )
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        seen = to_camera(registration, grid)
        width = max(1, round(size * float(np.sqrt(abs(np.linalg.det(registration["input_to_camera"][:, :2]))))))
        logs = []
        for carrier, frame in zip(around_white, frames, strict=True):
            place = seen + steer @ np.asarray(carrier)
            smooth = uniform_filter(signal(facts, frame), width, mode="constant")
            r, c = (np.clip(np.rint(place[..., i]).astype(int), 0, smooth.shape[i] - 1) for i in (0, 1))
            inside = np.ones(grid.shape[:2], bool)
            for i in (0, 1):
                inside &= (place[..., i] > 0) & (place[..., i] < smooth.shape[i] - 1)
            logs.append(np.where(inside, smooth[r, c], np.nan))
        plain = np.nan_to_num(logs[0])
        lit = plain > 0.05 * plain.max()
        total, count = np.zeros(plain.shape), 0
        for one in ([logs[0]], logs[1:3], logs[3:5]):  # a pair's geometric mean has no slope of the envelope
            pair = np.stack(one)
            if np.isfinite(pair[:, lit]).all() and (pair[:, lit] > 0).all():
                mean = np.exp(np.log(np.where(lit, pair, 1.0)).mean(0))
                total += mean / mean[lit].mean() * len(one)
                count += len(one)
        even = np.sqrt(np.where(lit, total / max(count, 1), 0.0))
        return even / even.max(), (np.asarray(axes[0]), np.asarray(axes[1]))


def _uniform(facts: BenchFacts, level: int) -> Gray:
    return np.full(facts.geometry.input.shape, level, np.uint8 if facts.input_levels <= 256 else np.uint16)


def _lit(picture: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the panel is seen."""
    smooth = uniform_filter(picture, 5)
    return np.asarray(smooth > 0.3 * float(np.quantile(smooth, 0.999)))


def _unsaturated(facts: BenchFacts, frame: Frame, mask: NDArray[np.bool_]) -> None:
    if float((frame.data[mask] >= 0.99 * full_scale(facts)).mean()) > 0.01:
        raise CalibrationError(
            "input response: the camera saturates at a level that should be dimmer: is the panel's response monotone?"
        )


def _isotonic(values: Array) -> Array:
    """The non-decreasing sequence nearest to `values` (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(n), v) for v, n in blocks])


def _exponent(level: Array, amplitude: Array, spread: Array, scatter: float) -> tuple[float, float]:
    """Exponent of the amplitude above black over the upper range, and its error."""
    light = (amplitude**2 - amplitude[0] ** 2) / (1 - amplitude[0] ** 2)
    use = (level > 0.15) & (level < 1) & (light > 0)
    if use.sum() < 3:
        return float("nan"), float("inf")
    x, y = np.log(level[use]), np.log(light[use]) / 2
    gamma = float((x * y).sum() / (x**2).sum())
    noise = float(np.hypot(np.std(y - gamma * x), np.median(spread[use])))
    common = scatter / 2 * abs(float(x.sum()))  # white is in all of them
    return gamma, float(np.hypot(noise * np.sqrt((x**2).sum()), common)) / float((x**2).sum())
