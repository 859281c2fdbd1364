"""Crosstalk: over what width neighbouring SLM pixels share their phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import least_squares

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.gratings import Gratings
from labctl.procedures.calibrations.pinhole import box, brightest_of, expose_for, pinhole, window_over
from labctl.procedures.calibrations.slm_response import WIDTHS, Group
from labctl.procedures.exposing import full_scale, laser_on
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps

PERIODS = (3.3, 4.2, 5.4)
"""Of the gratings, SLM px: short enough that their bars are rounded, long enough that there are bars."""


@dataclass(frozen=True)
class Crosstalk:
    """Width of the phase's spread between pixels, by diffraction of fine binary gratings.

    A grating's first order rises and falls with the phase between its bars. Rounded bars shift and fill its zeros, the
    more so the finer the grating. With the response known, one width explains the gratings of several periods in
    several regions. It is the full width at half maximum of a Gaussian sampled at the pixels.

    Attributes
    ----------
    levels : int
        Pairs of gray levels shown.
    """

    levels: int = 10

    needs: ClassVar[tuple[str, ...]] = ("registration", "slm-response")
    uses: ClassVar[tuple[str, ...]] = ("dark",)
    max_age_h: ClassVar[float] = 24 * 365.0
    limits: ClassVar[Mapping[str, float]] = {"residual": 0.04, "uncertainty_px": 0.2}

    @property
    def name(self) -> str:
        return "crosstalk"

    def exposures(self, facts: BenchFacts) -> int:
        return self.levels + 4

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        response = facts.calibration("slm-response")
        source = pinhole(facts)
        yield from laser_on(facts)
        side = 3 if min(facts.geometry.slm.shape) >= 640 else 2
        gratings = Gratings.regular(facts, side, PERIODS)
        spots = gratings.spots(source)
        every = [at for pair in spots for at in pair]
        yield Set("camera", "window", window_over(facts, every, gratings.half_px + 2))
        top = facts.slm_levels - 1
        exposure = yield from expose_for(
            facts, self.name, gratings.pattern(top, top // 2), source.shown, brightest_of(every, gratings.half_px)
        )
        lows = np.rint(np.linspace(0, 0.8 * top, self.levels)).astype(int)
        frames = yield Measure(
            [
                Exposure(gratings.pattern(int(low), top), source.shown, exposure, {"for": self.name, "level": int(low)})
                for low in lows
            ],
            "fine gratings",
        )
        yield Set("camera", "window", None)
        hottest = max(int(f.data[box(f, at, gratings.half_px)].max(initial=0)) for f in frames for at in every)
        if hottest >= 0.98 * full_scale(facts):
            raise CalibrationError(f"{self.name}: the orders saturate the camera: has the laser's power risen?")
        light = np.array([gratings.light(frame, spots) for frame in frames])
        group = Group.of(gratings, np.stack([lows, np.full_like(lows, top)], 1), light)
        stroke = _stroke_of(response, gratings)
        starts = (0.3, 0.9, 1.6)
        tries = [
            least_squares(
                lambda p: group.misses(response["phase"], stroke, float(p[0])), [width], bounds=([0.0], [WIDTHS[-1]])
            )
            for width in starts
        ]
        best = min(tries, key=lambda tried: float(tried.cost))
        misses = best.fun
        residual = float(np.sqrt(np.mean(misses**2)))
        # light changes with the square of a small width: the slope is taken over a step
        other = min(float(best.x[0]) + 0.6, float(WIDTHS[-1]))
        apart = (group.misses(response["phase"], stroke, other) - misses) / max(other - float(best.x[0]), 0.05)
        slope = float((apart**2).sum())
        uncertainty = float(residual * np.sqrt(misses.size / max(misses.size - 2 * light.shape[1] - 1, 1)))
        uncertainty /= max(slope, 1e-12) ** 0.5
        if not np.isfinite(residual) or residual > self.limits["residual"]:
            raise CalibrationError(
                f"{self.name}: no width explains the gratings' light (residual {residual:.3f}, limit "
                f"{self.limits['residual']}): measure slm-response again"
            )
        width = float(best.x[0])
        if width >= WIDTHS[-1] - 0.01:
            raise CalibrationError(
                f"{self.name}: wider than {WIDTHS[-1]:.1f} SLM px: is the panel scaling the pattern it is sent?"
            )
        yield Publish("SLM crosstalk (px)", width)
        return record(
            self.name,
            facts,
            {"fwhm": (width, "SLM px"), "light": (group.light, "1 [level, region]"), "levels": (lows, "gray level")},
            uncertainties={"fwhm": np.asarray(uncertainty)},
            quality={"residual": residual, "uncertainty_px": min(uncertainty, 9.0)},
        )

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """Light in the orders, of its brightest [region, gray level shown]."""
        return np.asarray(record["light"].T, np.float32)


def _stroke_of(response: CalibrationRecord, gratings: Gratings) -> NDArray[np.float64]:
    """The stroke in the middle of each region."""
    look_up = RegularGridInterpolator((response["y"], response["x"]), response["stroke"].astype(float))
    rows, columns = ((edge[:-1] + edge[1:] - 1) / 2 for edge in gratings.edges)
    return np.asarray(look_up(np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)))
