"""Centre of the Fourier plane: where the zero frequency falls on the SLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record, seen_square
from labctl.procedures.exposing import around, blaze, expose_well, gray, laser_on, signal, square
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps

SPOT_PX = 16
"""Half width of the square's spectrum, to its first zero, SLM pixels: about the step of the search."""


@dataclass(frozen=True)
class FourierCentre:
    """Where the zero spatial frequency falls on the SLM, by a balanced knife edge.

    A white square's spectrum is a narrow spot. The SLM steers what falls on one side of an edge to one place and the
    other side to another; where both places get equal light, the edge runs through the spot. The ratio does not care
    about the laser's power.

    Attributes
    ----------
    search_px : int
        Half the range searched, SLM pixels.
    side_px : int
        Largest side of the white square, panel pixels; a smaller one has a spectrum wide enough for the search.
    """

    search_px: int = 60
    side_px: int = 56
    points: int = 9

    needs: ClassVar[tuple[str, ...]] = ("registration",)
    uses: ClassVar[tuple[str, ...]] = ("dark",)
    max_age_h: ClassVar[float] = 72.0
    limits: ClassVar[Mapping[str, float]] = {"spread_px": 1.0}
    essential: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "fourier-centre"

    def exposures(self, facts: BenchFacts) -> int:
        return 4 * self.points + 2

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        registration = facts.calibration("registration")
        yield from laser_on(facts)
        carriers = ((0.2, -0.1), (0.2, 0.1))
        start = gray(facts, blaze(facts, carriers[0]))
        side = self._side(facts)
        shown = square(facts, side)
        middle, half = seen_square(facts, shown, side)
        steer = registration["carrier_to_camera"]
        spots = [middle + steer @ np.asarray(carrier) for carrier in carriers]
        yield Set("camera", "window", around(facts, spots, half))
        exposure = yield from expose_well(facts, start, [shown], target=0.6, quantile=0.9995)
        centre, spread = [], []
        for axis in (0, 1):
            size = facts.geometry.slm.shape[axis]
            edges = np.linspace(-self.search_px, self.search_px, self.points) + size / 2
            shares = yield from self._shares(facts, spots, half, carriers, axis, edges, exposure)
            if not (shares[0] < 0.35 and shares[-1] > 0.65):
                raise CalibrationError(
                    f"Fourier centre: the spectrum is not within {self.search_px} px of the SLM's middle along "
                    f"{'rows' if axis == 0 else 'columns'}: align the SLM, or raise search_px"
                )
            near = float(np.interp(0.5, np.maximum.accumulate(shares), edges))
            fine = near + np.linspace(-8, 8, self.points)
            shares = yield from self._shares(facts, spots, half, carriers, axis, fine, exposure)
            edges = np.rint(fine)
            slope, level = np.polyfit(edges - near, shares, 1)
            miss = float(np.std(shares - (slope * (edges - near) + level)))
            if slope <= 0 or miss > 0.1:
                raise CalibrationError("Fourier centre: light does not shift across the edge: is the SLM modulating?")
            # an edge e puts pixels below e on one side: it runs at e - 1/2 in pixel centres
            centre.append(near + (0.5 - level) / slope - 0.5)
            spread.append(miss / slope / np.sqrt(self.points))
        yield Set("camera", "window", None)
        yield Publish("Fourier centre, row (SLM px)", centre[0])
        yield Publish("Fourier centre, column (SLM px)", centre[1])
        return record(
            "fourier-centre",
            facts,
            {"centre": (np.asarray(centre), "SLM px (row, column)")},
            uncertainties={"centre": np.asarray(spread)},
            quality={"spread_px": float(np.max(spread))},
        )

    def _side(self, facts: BenchFacts) -> int:
        """Side of the white square, panel pixels: its spectrum is to be `SPOT_PX` wide, whatever the bench's optics."""
        geometry = facts.geometry
        widest = geometry.wavelength * geometry.f1 / (SPOT_PX * max(geometry.slm.pitch) * max(geometry.input.pitch))
        return max(4, min(self.side_px, round(widest)))

    def _shares(
        self,
        facts: BenchFacts,
        spots: list[NDArray[np.float64]],
        half: int,
        carriers: tuple[tuple[float, float], tuple[float, float]],
        axis: int,
        edges: NDArray[np.float64],
        exposure: float,
    ) -> Steps[NDArray[np.float64]]:
        """Share of the light that falls on the low side of each edge."""
        low, high = (gray(facts, blaze(facts, c)) for c in carriers)
        index = np.arange(facts.geometry.slm.shape[axis])
        index = index[:, None] if axis == 0 else index[None]
        shown = square(facts, self._side(facts))
        frames = yield Measure(
            [
                Exposure(np.where(index < round(float(edge)), low, high), shown, exposure, {"for": "fourier-centre"})
                for edge in edges
            ],
            "knife edge, " + ("rows" if axis == 0 else "columns"),
        )
        shares = []
        for frame in frames:
            picture = signal(facts, frame)
            light = []
            for spot in spots:
                r, c = (int(v) for v in np.rint(spot - np.asarray(frame.origin)))
                light.append(float(picture[max(r - half, 0) : r + half, max(c - half, 0) : c + half].sum()))
            shares.append(light[0] / max(sum(light), 1e-9))
        return np.asarray(shares)
