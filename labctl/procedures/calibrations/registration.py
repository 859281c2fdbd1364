"""Registration: input panel to camera, and carriers to camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import black, flat, record
from labctl.procedures.exposing import blaze, brightest, centroid, expose_well, gray, laser_on, signal, square
from labctl.procedures.messages import Exposure, Gray, Measure, Publish, Set, Steps


@dataclass(frozen=True)
class Registration:
    """Where each input pixel falls on the camera, and how far a carrier on the SLM moves it.

    Three single dots settle orientation (any flip or rotation), a grid of dots the affine map; blazed gratings the
    carriers. The SLM is flat meanwhile, so the camera sees the input panel itself.

    Attributes
    ----------
    span_px : int
        Side of the square of panel pixels that is used; it must be lit.
    dots : int
        Dots per side of the grid.
    carrier : float
        Largest carrier shown, cycles per SLM pixel.
    limit_px : float
        Largest residual accepted, camera pixels rms.
    """

    span_px: int = 80
    dots: int = 5
    dot_px: int = 3
    carrier: float = 0.16
    limit_px: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ("dark",)
    max_age_h: ClassVar[float] = 72.0
    limits: ClassVar[Mapping[str, float]] = {"residual_px": 1.0, "carrier_residual_px": 2.0}
    essential: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "registration"

    def exposures(self, facts: BenchFacts) -> int:
        return 3 + 4 + 1 + len(self._carriers()) + 3

    def _carriers(self) -> list[tuple[float, float]]:
        c = self.carrier
        return [(c, 0.0), (0.0, c), (-c, 0.0), (0.0, -c), (c, c), (-c, c), (c, -c), (-c, -c)]

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        yield from laser_on(facts)
        yield Set("camera", "window", None)  # an aborted run may have left a narrow one
        still, dark = flat(facts), black(facts)
        panel = min(facts.geometry.input.shape)
        if panel < self.span_px:
            raise CalibrationError(
                f"registration: the dots span {self.span_px} input pixels, and the panel has {panel}: lower span_px"
            )
        reach = self.span_px / 2 - self.dot_px
        middle = np.asarray(facts.geometry.input.centre)
        markers = [(0.0, 0.0), (reach, 0.0), (0.0, reach)]
        bright = square(facts, self.dot_px)
        exposure = yield from expose_well(facts, still, [bright], target=0.7, quantile=0.99999)
        shown = [dark, *(square(facts, self.dot_px, marker) for marker in markers)]
        frames = yield Measure(
            [Exposure(still, s, exposure, {"for": "registration"}) for s in shown], "finding the panel"
        )
        empty = signal(facts, frames[0])
        seen = []
        for frame in frames[1:]:
            picture = signal(facts, frame) - empty
            found = centroid(picture, brightest(picture, 5), 8)
            if found is None:
                raise CalibrationError(
                    "registration: a dot falls outside the camera's frame: centre the camera on the panel"
                )
            seen.append(found)
        origin = np.asarray(seen[0])
        coarse = np.stack([(np.asarray(s) - origin) / reach for s in seen[1:]], axis=1)
        if abs(np.linalg.det(coarse)) < 0.05:
            raise CalibrationError(
                "registration: three dots in different places look to be in one: "
                "is the input panel showing, and is the zero order the brightest light?"
            )
        affine, residual, error, _ = yield from self._grid(facts, still, empty, exposure, coarse, origin)
        carriers, carrier_residual = yield from self._carrier_map(facts, exposure, affine, middle)
        yield Publish("registration residual (px)", residual)
        return record(
            "registration",
            facts,
            {
                "input_to_camera": (affine, "camera px per input px, camera px"),
                "carrier_to_camera": (carriers, "camera px per (cycle per SLM px)"),
            },
            uncertainties={"input_to_camera": np.full((2, 3), error)},
            quality={"residual_px": residual, "carrier_residual_px": carrier_residual},
        )

    def _grid(
        self,
        facts: BenchFacts,
        still: Gray,
        empty: NDArray[np.float32],
        exposure: float,
        coarse: NDArray[np.float64],
        origin: NDArray[np.float64],
    ) -> Steps[tuple[NDArray[np.float64], float, float, int]]:
        reach = self.span_px / 2 - self.dot_px
        places = np.linspace(-reach, reach, self.dots)
        grid = square(facts, 0)
        spots = []
        for y in places:
            for x in places:
                dot = square(facts, self.dot_px, (float(y), float(x)))
                grid = np.maximum(grid, dot)
                spots.append(np.argwhere(dot).mean(0))
        (frame,) = yield Measure([Exposure(still, grid, exposure, {"for": "registration"})], "grid of dots")
        picture = signal(facts, frame) - empty
        middle = np.asarray(facts.geometry.input.centre)
        gap = float(np.abs(coarse).max() * (places[1] - places[0]))
        inputs, outputs = [], []
        for spot in spots:
            near = coarse @ (spot - middle) + origin
            found = centroid(picture, (float(near[0]), float(near[1])), max(3, int(0.4 * gap)))
            if found is not None:
                inputs.append(spot)
                outputs.append(found)
        if len(inputs) < 8:
            raise CalibrationError(f"registration: only {len(inputs)} of {len(spots)} dots are in the camera's frame")
        x = np.column_stack([np.asarray(inputs), np.ones(len(inputs))])
        fit, *_ = np.linalg.lstsq(x, np.asarray(outputs), rcond=None)
        away = np.asarray(outputs) - x @ fit
        residual = float(np.sqrt((away**2).sum(1).mean()))
        if not np.isfinite(residual) or residual > self.limit_px:
            raise CalibrationError(
                f"registration: the dots miss an affine map by {residual:.2f} px rms (limit {self.limit_px}): "
                "focus the camera on the input panel, or widen limit_px for a distorting lens"
            )
        return fit.T, residual, residual / np.sqrt(len(inputs)), len(inputs)

    def _carrier_map(
        self,
        facts: BenchFacts,
        exposure: float,
        affine: NDArray[np.float64],
        middle: NDArray[np.float64],
    ) -> Steps[tuple[NDArray[np.float64], float]]:
        dot = square(facts, self.dot_px)
        spot = np.argwhere(dot).mean(0)
        start = affine[:, :2] @ spot + affine[:, 2]
        nominal = facts.geometry.nominal_carrier_to_camera()
        length = float(np.abs(nominal).max())
        frames = yield Measure(
            [
                Exposure(gray(facts, blaze(facts, c)), dot, exposure, {"for": "registration", "carrier": list(c)})
                for c in self._carriers()
            ],
            "carriers",
        )
        shown, moved = [], []
        for carrier, frame in zip(self._carriers(), frames, strict=True):
            picture = signal(facts, frame)
            r, c = (int(v) for v in np.rint(start))
            keep = max(6, int(0.25 * self.carrier * length))
            picture[max(r - keep, 0) : r + keep, max(c - keep, 0) : c + keep] = 0  # the zero order stays where it was
            found = centroid(picture, brightest(picture, 5), 8)
            if found is not None:
                shown.append(carrier)
                moved.append(np.asarray(found) - start)
        if len(shown) < 4:
            raise CalibrationError("registration: too few steered spots are in the camera's frame: lower `carrier`")
        fit, *_ = np.linalg.lstsq(np.asarray(shown), np.asarray(moved), rcond=None)
        residual = float(np.sqrt(((np.asarray(moved) - np.asarray(shown) @ fit) ** 2).sum(1).mean()))
        if residual > 4 * self.limit_px:
            raise CalibrationError(
                f"registration: steered spots miss a linear map by {residual:.1f} px rms: "
                "does the SLM show what it is sent, at the right wavelength?"
            )
        return fit.T, residual
