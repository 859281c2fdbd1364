"""Camera gain: how many photo-electrons make a count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import flat, record, seen_square
from labctl.procedures.exposing import around, expose_well, full_scale, laser_on, signal, square
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps


@dataclass(frozen=True)
class Gain:
    """Camera gain by photon transfer: variance against mean, from pairs of frames at several exposure times.

    Source: J. R. Janesick, *Photon Transfer* (SPIE, 2007), sections 4 and 5. The difference of two frames removes fixed
    pattern; the second is first scaled to the first's light, which removes the laser's flicker.
    """

    levels: int = 8
    side_px: int = 56

    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ("dark", "registration")
    max_age_h: ClassVar[float] = 24 * 30.0
    limits: ClassVar[Mapping[str, float]] = {"relative_residual": 0.4}
    sections: ClassVar[tuple[str, ...]] = ("camera",)

    @property
    def name(self) -> str:
        return "gain"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.levels + 3

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
        yield Set("camera", "window", None)
        means, variances = [], []
        for a, b in zip(frames[::2], frames[1::2], strict=True):
            first, second = signal(facts, a), signal(facts, b)
            lit = (first + second > 0.05 * (first.max() + second.max())) & (a.data < 0.95 * top) & (b.data < 0.95 * top)
            if lit.sum() < 500:
                continue
            x, y = first[lit], second[lit]
            y = y * (x.mean() / y.mean())
            middle, half_square = (x + y) / 2, (x - y) ** 2 / 2
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
        yield Publish("camera gain (e-/count)", gain)
        return record(
            "gain",
            facts,
            {"gain": (gain, "electrons/count"), "saturation": (float(top), "counts"), "floor": (floor, "counts^2")},
            uncertainties={"gain": np.asarray(gain**2 * np.sqrt(covariance[0, 0]))},
            quality={"relative_residual": residual, "points": float(len(m))},
        )
