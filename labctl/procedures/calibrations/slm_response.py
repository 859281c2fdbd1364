"""SLM response: the phase of each gray level, and how its stroke varies over the panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.gratings import Gratings, Share
from labctl.procedures.calibrations.pinhole import (
    Pinhole,
    box,
    brightest_of,
    expose_for,
    fourier_centre,
    pinhole,
    source_profiles,
    window_over,
)
from labctl.procedures.exposing import full_scale, laser_on
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps

COARSE = 9
"""Points per side of the grid on which the stroke is kept."""
LONG, SHORT = (9.7, 7.9), (5.3, 4.4)
"""Periods of the gratings, SLM px. Longer ones would put their orders into what a panel's black leaves around the zero
order; crosstalk between pixels shows in the short ones."""
WIDTHS = np.linspace(0.0, 2.4, 9)
"""Crosstalk (full width at half maximum, SLM px) for which the gratings' orders are tabled."""


@dataclass(frozen=True)
class SlmResponse:
    """Phase of each gray level, by binary gratings between many pairs of levels in regions of the panel at once.

    A pinhole on the input lights the whole SLM. Each region has a grating of its own direction, so that one frame gives
    the light in the first orders of all of them; the phase between the levels follows from how that light rises and
    falls over three series of levels, each against another level. One curve over the gray levels (a cubic spline), its
    stroke's variation over the panel (of second order), the width over which neighbouring pixels share their phase, and
    each region's light are fitted together. Phase is counted as slmsuite does: 0 at the top level, more phase for less
    gray; light alone cannot tell it from its negative.

    Why not slmsuite's ``pixel_calibrate``: it shows all pairs of levels (256 frames for 16 levels), and knows of no
    variation over the panel.

    Attributes
    ----------
    levels : int
        Gray levels shown in each series.
    knots : int
        Of the spline over the gray levels.
    regions : int
        Regions per side; 0 takes 3, or 2 on a panel of less than 640 pixels.
    """

    levels: int = 19
    knots: int = 11
    regions: int = 0

    needs: ClassVar[tuple[str, ...]] = ("registration",)
    uses: ClassVar[tuple[str, ...]] = ("dark", "fourier-centre")
    max_age_h: ClassVar[float] = 24 * 30.0
    limits: ClassVar[Mapping[str, float]] = {"residual": 0.03, "uncertainty_rad": 0.1}

    @property
    def name(self) -> str:
        return "slm-response"

    def exposures(self, facts: BenchFacts) -> int:
        return sum(len(pairs) for _, pairs in self._series(facts)) + 6

    def _series(self, facts: BenchFacts) -> list[tuple[tuple[float, float], list[tuple[int, int]]]]:
        """Periods of the gratings (SLM px), and the pairs of levels shown with them."""
        top = facts.slm_levels - 1
        step = top / (self.levels - 1)
        series = []
        for n, (part, periods) in enumerate(((1.0, LONG), (0.655, LONG), (0.31, SHORT))):
            reference = round(part * top)
            levels = np.clip(np.rint(np.arange(self.levels) * step + (n - 1) * step / 3), 0, top).astype(int)
            series.append((periods, [(int(v), reference) for v in levels if abs(int(v) - reference) > top / 40]))
        (_, first), (_, second), third = series
        return [(LONG, first + second), third]

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        source = pinhole(facts)
        yield from laser_on(facts)
        side = self.regions or (3 if min(facts.geometry.slm.shape) >= 640 else 2)
        groups = []
        for periods, pairs in self._series(facts):
            gratings = Gratings.regular(facts, side, periods)
            light = yield from self._light(facts, source, gratings, pairs)
            groups.append(Group.of(gratings, np.array(pairs), light))
        found = _Fit.of(facts, gratings, source.side, groups, self.knots).solve()
        if not np.isfinite(found.residual) or found.residual > self.limits["residual"]:
            raise CalibrationError(
                f"{self.name}: light in the orders does not follow any smooth response (residual {found.residual:.3f} "
                f"of the brightest, limit {self.limits['residual']}): is the SLM flickering, or other light coming in?"
            )
        if found.uncertainty > self.limits["uncertainty_rad"]:
            raise CalibrationError(
                f"{self.name}: phases are uncertain by {found.uncertainty:.2f} rad (limit "
                f"{self.limits['uncertainty_rad']}): more light, or more levels"
            )
        yield Publish("SLM stroke (rad)", float(found.phase[0]))
        y, x = (np.linspace(0, n - 1, COARSE) for n in facts.geometry.slm.shape)
        return record(
            self.name,
            facts,
            {
                "phase": (found.phase, "rad"),
                "stroke": (found.stroke.astype(np.float32), "1"),
                "y": (y, "SLM px"),
                "x": (x, "SLM px"),
                "crosstalk": (found.fwhm, "SLM px (full width at half maximum)"),
            },
            uncertainties={"phase": found.spread},
            quality={"residual": found.residual, "uncertainty_rad": found.uncertainty},
        )

    def _light(
        self, facts: BenchFacts, source: Pinhole, gratings: Gratings, pairs: list[tuple[int, int]]
    ) -> Steps[NDArray[np.float64]]:
        """Light in the orders of each region [frame, region], for these pairs of levels."""
        spots = gratings.spots(source)
        every = [at for pair in spots for at in pair]
        yield Set("camera", "window", window_over(facts, every, gratings.half_px + 2))
        top = facts.slm_levels - 1
        exposure = yield from expose_for(
            facts, self.name, gratings.pattern(top, top // 2), source.shown, brightest_of(every, gratings.half_px)
        )
        for _ in range(3):
            frames = yield Measure(
                [
                    Exposure(gratings.pattern(*pair), source.shown, exposure, {"for": self.name, "levels": list(pair)})
                    for pair in pairs
                ],
                "gratings of two gray levels",
            )
            hottest = max(int(f.data[box(f, at, gratings.half_px)].max(initial=0)) for f in frames for at in every)
            if hottest < 0.98 * full_scale(facts):
                break
            exposure /= 3  # a stroke far from one turn: other pairs than the one exposed for are brighter
        else:
            raise CalibrationError(f"{self.name}: the orders saturate the camera: has the laser's power risen?")
        yield Set("camera", "window", None)
        return np.array([gratings.light(frame, spots) for frame in frames])

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """The phase of each gray level at each row of the panel's middle column [row, level], rad."""
        middle = record["stroke"][:, COARSE // 2]
        return np.asarray(middle[:, None] * record["phase"][None], np.float32)


@dataclass(frozen=True, eq=False)
class _Found:
    phase: NDArray[np.float64]
    spread: NDArray[np.float64]
    stroke: NDArray[np.float64]
    fwhm: float
    residual: float
    uncertainty: float


@dataclass(frozen=True, eq=False)
class Group:
    """What was seen with one set of gratings."""

    pairs: NDArray[np.int_]
    light: NDArray[np.float64]
    """[frame, region], in units of each region's brightest."""
    shares: list[list[Share]]
    """Of each region, for each of `WIDTHS`."""

    @staticmethod
    def of(gratings: Gratings, pairs: NDArray[np.int_], light: NDArray[np.float64]) -> Group:
        count = len(gratings.carriers)
        shares = [[Share.of(gratings, n, float(width)) for width in WIDTHS] for n in range(count)]
        return Group(pairs, light / light.max(0), shares)

    def misses(self, phase: NDArray[np.float64], stroke: NDArray[np.float64], width: float) -> NDArray[np.float64]:
        """Light less what is expected with the best gain and floor of each region."""
        step = phase[self.pairs[:, 0]] - phase[self.pairs[:, 1]]
        place = float(np.clip(width / (WIDTHS[1] - WIDTHS[0]), 0, len(WIDTHS) - 1 - 1e-9))
        low = int(place)
        columns = []
        for table, size in zip(self.shares, stroke, strict=True):
            below, above = table[low](step * size), table[low + 1](step * size)
            columns.append(below + (place - low) * (above - below))
        away = np.stack(columns, 1)
        away -= away.mean(0)
        light = self.light - self.light.mean(0)
        gain = (away * light).sum(0) / np.maximum((away**2).sum(0), 1e-12)
        return np.asarray((light - gain * away).ravel())


@dataclass(frozen=True, eq=False)
class _Fit:
    """Least squares over ``light[frame, region] = gain[region] |c1(stroke[region] (phi[a] - phi[b]))|^2 + floor``."""

    groups: list[Group]
    at: NDArray[np.float64]
    levels: int
    basis: NDArray[np.float64]
    """Mean of the stroke's polynomials over each region, less their mean over the panel [region, term]."""
    maps: NDArray[np.float64]
    """The same polynomials on the coarse grid [y, x, term]."""

    @staticmethod
    def of(facts: BenchFacts, gratings: Gratings, side: int, groups: list[Group], knots: int) -> _Fit:
        count = len(gratings.carriers)
        weight = source_profiles(facts, side, fourier_centre(facts))
        means = np.array([gratings.mean_over(n, (weight[0] ** 2, weight[1] ** 2)) for n in range(count)])[:, 1:]
        y, x = np.meshgrid(np.linspace(-1, 1, COARSE), np.linspace(-1, 1, COARSE), indexing="ij")
        maps = np.stack([y, x, y * x, y**2, x**2], -1)
        if count < 6:
            means, maps = means[:, :3], maps[..., :3]
        middle = maps.mean((0, 1))
        return _Fit(
            groups, np.linspace(0, facts.slm_levels - 1, knots), facts.slm_levels, means - middle, maps - middle
        )

    def curve(self, inner: NDArray[np.float64]) -> NDArray[np.float64]:
        """Phase of every gray level from the phase at the spline's knots but the last, which is 0."""
        return np.asarray(CubicSpline(self.at, np.append(inner, 0.0))(np.arange(self.levels)))

    def misses(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Light less what is expected, in units of each region's brightest."""
        phase, stroke = self.curve(p[: len(self.at) - 1]), 1 + self.basis @ p[len(self.at) - 1 : -1]
        return np.concatenate([group.misses(phase, stroke, float(p[-1])) for group in self.groups])

    def solve(self) -> _Found:
        terms = self.basis.shape[1]
        line = 1 - self.at[:-1] / self.at[-1]

        def start(total: float) -> NDArray[np.float64]:
            return np.concatenate([total * line, np.zeros(terms), [0.5]])

        # which of its folds a response is on, a straight line already tells
        totals = 2 * np.pi * np.geomspace(0.4, 2.5, 40)
        order = sorted(totals, key=lambda total: float((self.misses(start(total)) ** 2).sum()))
        low = np.concatenate([np.full(len(line), -np.inf), np.full(terms, -0.5), [0.0]])
        high = np.concatenate([np.full(len(line), np.inf), np.full(terms, 0.5), [WIDTHS[-1]]])
        tries = [
            least_squares(
                self.misses, start(float(total)), bounds=(low, high), loss="soft_l1", f_scale=0.02, max_nfev=40
            )
            for total in (order[0], 2 * np.pi)
        ]
        best = min(tries, key=lambda tried: float(tried.cost))
        p, jacobian = best.x, best.jac
        misses = self.misses(p)
        freedom = max(misses.size - p.size - 2 * sum(group.light.shape[1] for group in self.groups), 1)
        covariance = np.linalg.pinv(jacobian.T @ jacobian) * float((misses**2).sum()) / freedom
        unit = np.stack([self.curve(one) for one in np.eye(len(line))], 1)
        spread = np.sqrt(np.einsum("gi,ij,gj->g", unit, covariance[: len(line), : len(line)], unit))
        stroke = 1 + self.maps @ p[len(line) : -1]
        mean = float(stroke.mean())
        phase = self.curve(p[: len(line)]) * mean
        phase[-1] = 0.0
        residual = float(np.sqrt(np.mean(misses**2)))
        return _Found(phase, spread, stroke / mean, float(p[-1]), residual, float(np.sqrt(np.mean(spread**2))))
