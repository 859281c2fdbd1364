"""Camera gain: how many photo-electrons make a count, how straight the counts are, and where they saturate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import flat, record, seen_square
from labctl.procedures.calibrations.linearity import linearity
from labctl.procedures.exposing import around, dark_level, expose_well, full_scale, laser_on, signal, square
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps

BOX = 7
"""Over so many pixels the second frame of a pair is scaled to the first: flicker, and a beam that wanders."""
OVER = (1.35, 1.8, 2.4)
"""Overexposed frames, in exposure times of the brightest that is well exposed."""


@dataclass(frozen=True)
class Gain:
    """Camera gain by photon transfer: variance against mean, from pairs of frames at several exposure times.

    Source: J. R. Janesick, *Photon Transfer* (SPIE, 2007), sections 4 and 5. The difference of two frames removes fixed
    pattern; the second is first scaled to the first's light around each pixel, which removes the laser's flicker and
    most of the beam's wander. The same frames and a few overexposed ones say how straight the counts are, and from
    where on they are not (see `linearity`).

    Attributes
    ----------
    levels : int
        Exposure times of the pairs.
    side_px : int
        Side of the white square, panel pixels.
    """

    levels: int = 8
    side_px: int = 56

    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ("dark", "registration")
    max_age_h: ClassVar[float] = 24 * 30.0
    limits: ClassVar[Mapping[str, float]] = {"relative_residual": 0.4, "nonlinearity": 0.05}
    sections: ClassVar[tuple[str, ...]] = ("camera",)

    @property
    def name(self) -> str:
        return "gain"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.levels + len(OVER) + 3

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        yield from laser_on(facts)
        slm, shown = flat(facts), square(facts, self.side_px)
        top = full_scale(facts)
        if "registration" in facts.calibrations:
            middle, half = seen_square(facts, shown, self.side_px)
            yield Set("camera", "window", around(facts, [middle], half))
        longest = yield from expose_well(facts, slm, [shown], target=0.85, quantile=0.9995)
        times = [longest * (n + 1) / self.levels for n in range(self.levels)]
        frames = yield Measure(
            [Exposure(slm, shown, t, {"for": "gain"}) for t in times for _ in range(2)], "photon transfer"
        )
        over = [t for t in (longest * k for k in OVER) if t <= facts.longest_exposure_s]
        more = yield Measure([Exposure(slm, shown, t, {"for": "gain"}) for t in over], "saturation")
        yield Set("camera", "window", None)
        means, variances = [], []
        for a, b in zip(frames[::2], frames[1::2], strict=True):
            first, second = signal(facts, a), signal(facts, b)
            ratio = uniform_filter(first, BOX) / np.maximum(uniform_filter(second, BOX), 1e-3)
            lit = (first + second > 0.05 * (first.max() + second.max())) & (a.data < 0.95 * top) & (b.data < 0.95 * top)
            if lit.sum() < 500:
                continue
            x, y = first[lit], second[lit]
            y = y * ratio[lit]
            # the local scale takes a little of the noise with it
            middle, half_square = (x + y) / 2, (x - y) ** 2 / 2 / (1 - BOX**-2)
            edges = np.quantile(middle, np.linspace(0, 1, 9))
            group = np.clip(np.searchsorted(edges, middle) - 1, 0, 7)
            for k in range(8):
                inside = group == k
                if inside.sum() > 50:
                    means.append(float(middle[inside].mean()))
                    variances.append(float(half_square[inside].mean()))
        if len(means) < 16:
            raise CalibrationError(
                "gain: too few lit pixels below saturation: is the input panel lit and in the field?"
            )
        m, v = np.asarray(means), np.asarray(variances)
        if v.max() < 1e-6:
            raise CalibrationError(
                "gain: two frames of the same light are equal to the count: there is no noise to measure by"
            )
        weight = 1 / np.maximum(v, v.max() / 100)
        (slope, floor), covariance = np.polyfit(m, v, 1, w=weight, cov=True)
        residual = float(np.sqrt(np.mean(((v - slope * m - floor) / np.maximum(slope * m, v.max() / 50)) ** 2)))
        if not np.isfinite(slope) or slope <= 0 or residual > 0.4:
            raise CalibrationError(
                f"gain: variance does not rise with the mean as photons' should (relative residual {residual:.2f}): "
                "check for saturation, automatic gain or compression in the camera"
            )
        gain = 1 / slope
        dark = dark_level(facts, frames[0])
        every = [*frames, *more]
        straight = linearity([signal(facts, f) for f in every], [f.exposure_s for f in every], top - dark)
        bent = 0.0 if straight is None else float(straight.nonlinearity)
        saturation = float(top) if straight is None else min(float(top), dark + straight.saturation)
        if bent > self.limits["nonlinearity"]:
            raise CalibrationError(
                f"gain: counts are not in proportion to light (by {100 * bent:.1f} %): switch off gamma, automatic "
                "gain and automatic exposure in the camera"
            )
        yield Publish("camera gain (e-/count)", gain)
        return record(
            "gain",
            facts,
            {
                "gain": (gain, "electrons/count"),
                "saturation": (saturation, "counts"),
                "nonlinearity": (bent, "1 (largest deviation from proportion, relative)"),
                "floor": (floor, "counts^2"),
                "variance": (np.column_stack([m, v]), "counts, counts^2"),
            },
            uncertainties={
                "gain": np.asarray(gain**2 * np.sqrt(covariance[0, 0])),
                "nonlinearity": np.asarray(0.0 if straight is None else straight.error),
            },
            quality={"relative_residual": residual, "points": float(len(m)), "nonlinearity": bent},
        )
