"""Registration: input panel to camera, and carriers to camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations import charuco
from labctl.procedures.calibrations.common import black, flat, record
from labctl.procedures.calibrations.hartmann import (
    FIRST,
    Patches,
    Wavefront,
    fit_wavefront,
    lattices,
    measure_spots,
    spot_radius,
)
from labctl.procedures.calibrations.mapping import Mapped, fit_mapping, orientation
from labctl.procedures.exposing import blaze, brightest, centroid, expose_well, gray, laser_on, signal, square
from labctl.procedures.messages import Exposure, Gray, Log, Measure, Publish, Set, Steps

Array = NDArray[np.float64]
ALIKE = 0.15
"""Part of the spots' residual that does not average away, because neighbouring patches err alike."""


@dataclass(frozen=True)
class Registration:
    """Where each input pixel falls on the camera, and how far a carrier on the SLM moves it.

    1. A ChArUco board, where `span_px` has room for one, or three single dots settle orientation: any flip or rotation.
    2. A grid of dots gives the linear part, and distortion where there is any.
    3. A dot steered by gratings over the whole SLM gives the carriers.
    4. The same dot through patches of the SLM (see `hartmann`) gives its place without aberrations. The middle of the
       dots' own picture is moved by coma; the record says where light goes whose wavefront has no tilt over the SLM's
       inscribed disk (Noll's Zernike polynomials 2 and 3), which is what a corrected wavefront has.

    Attributes
    ----------
    span_px : int
        Side of the square of panel pixels that is used; it must be lit.
    dots : int
        Dots per side of the grid.
    dot_px : int
        Side of a dot, panel pixels; 0 takes the size of 3 to 5 whose light is least cut off at the SLM's edge, so that
        dots have the faintest side lobes: those disturb their neighbours.
    carrier : float
        Largest carrier shown over the whole SLM, cycles per SLM pixel.
    limit_px : float
        Largest residual accepted, camera pixels rms.
    target : "auto", "dots" or "charuco"
        What settles orientation.
    """

    span_px: int = 80
    dots: int = 7
    dot_px: int = 0
    carrier: float = 0.16
    limit_px: float = 0.5
    target: Literal["auto", "dots", "charuco"] = "auto"

    needs: ClassVar[tuple[str, ...]] = ("dark",)
    uses: ClassVar[tuple[str, ...]] = ()
    max_age_h: ClassVar[float] = 24.0
    limits: ClassVar[Mapping[str, float]] = {"residual_px": 0.5, "carrier_residual_px": 2.0, "origin_error_px": 1.0}
    essential: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "registration"

    def exposures(self, facts: BenchFacts) -> int:
        return 3 + (2 if self._charuco() else 4) + 1 + len(self._carriers()) + 3 + 4

    def _charuco(self) -> bool:
        return self.target == "charuco" or (self.target == "auto" and self.span_px >= charuco.LEAST_PX)

    def _carriers(self) -> list[tuple[float, float]]:
        c = self.carrier
        return [(c, 0.0), (0.0, c), (-c, 0.0), (0.0, -c), (c, c), (-c, c), (c, -c), (-c, -c)]

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        if self.dot_px == 0:
            return (yield from replace(self, dot_px=_quietest_dot(facts)).steps(facts))
        yield from laser_on(facts)
        yield Set("camera", "window", None)  # an aborted run may have left a narrow one
        panel = min(facts.geometry.input.shape)
        if panel < self.span_px:
            raise CalibrationError(
                f"registration: the dots span {self.span_px} input pixels, and the panel has {panel}: lower span_px"
            )
        if self._charuco() and self.span_px < charuco.LEAST_PX:
            raise CalibrationError(
                f"registration: a ChArUco board needs {charuco.LEAST_PX} lit panel pixels, and span_px is "
                f"{self.span_px}: use target 'dots'"
            )
        still = flat(facts)
        bright = square(facts, self.dot_px)
        exposure = yield from expose_well(facts, still, [bright], target=0.7, quantile=0.99999)
        if self._charuco():
            empty, coarse, origin = yield from self._by_board(facts, still, exposure)
        else:
            empty, coarse, origin = yield from self._by_dots(facts, still, exposure)
        turned = orientation(coarse, facts.geometry)
        grid = yield from self._grid(facts, still, empty, exposure, coarse, origin)
        steer, steer_error, carrier_residual = yield from self._carrier_map(facts, exposure, grid.affine)
        where, seen, front = yield from self._without_aberrations(facts, grid.affine, steer)
        affine = grid.affine.copy()
        affine[:, 2] = front.origin - affine[:, :2] @ where
        pulled = front.origin - seen
        error = grid.errors.copy()
        spot = np.hypot(np.sqrt(np.diag(front.covariance)[:2]), ALIKE * front.residual)
        error[:, 2] = np.sqrt(spot**2 + ((error[:, :2] * where) ** 2).sum(1))
        yield Log(
            f"registration: the camera is turned by {np.rad2deg(turned.angle):.1f} degrees"
            f"{' and mirrored' if turned.mirrored else ''} against the panel; aberrations move a dot by "
            f"{np.hypot(*pulled):.2f} px"
        )
        yield Publish("registration residual (px)", grid.residual)
        values: dict[str, tuple[object, str]] = {
            "input_to_camera": (affine, "camera px per input px, camera px"),
            "carrier_to_camera": (steer, "camera px per (cycle per SLM px)"),
            "pulled": (pulled, "camera px (what was added to where dots are seen)"),
            "zernikes": (front.zernikes, f"waves rms, from Noll index {FIRST}"),
            "dots": (grid.points, "input px (row, column), camera px (row, column)"),
            "misses": (grid.misses, "camera px"),
        }
        if grid.distortion is not None:
            values["distortion"] = (grid.distortion, "1 (tilt row, tilt column, radial)")
            values["distortion_span"] = (grid.span, "input px")
            values["distortion_centre"] = (grid.centre, "input px (row, column)")
        return record(
            "registration",
            facts,
            values,
            uncertainties={
                "input_to_camera": error,
                "carrier_to_camera": np.full((2, 2), steer_error),
                "zernikes": self._front_errors(facts, steer, front),
            },
            quality={
                "residual_px": grid.residual,
                "carrier_residual_px": carrier_residual,
                "origin_error_px": float(np.hypot(*spot)),
                "spots_residual_px": front.residual,
            },
        )

    def _front_errors(self, facts: BenchFacts, steer: Array, front: Wavefront) -> Array:
        """Errors of the polynomials, waves rms; the part that does not average away as a slope over the SLM."""
        slope = ALIKE * front.residual / float(np.sqrt(abs(np.linalg.det(steer))))
        common = slope * min(facts.geometry.slm.shape) / 2 / np.sqrt(12)
        return np.asarray(np.hypot(np.sqrt(np.diag(front.covariance)[2:]), common))

    def picture(self, made: CalibrationRecord) -> NDArray[np.float32]:
        """Where the dots of the grid miss the fit: rows of a map of the panel, distance in camera px."""
        misses = np.hypot(*np.asarray(made["misses"]).T)
        side = int(np.ceil(np.sqrt(len(misses))))
        shown = np.zeros(side * side, np.float32)
        shown[: len(misses)] = misses
        return shown.reshape(side, side)

    # finding the panel

    def _by_dots(
        self, facts: BenchFacts, still: Gray, exposure: float
    ) -> Steps[tuple[NDArray[np.float32], Array, Array]]:
        reach = self.span_px / 2 - self.dot_px
        markers = [(0.0, 0.0), (reach, 0.0), (0.0, reach)]
        shown = [black(facts), *(square(facts, self.dot_px, marker) for marker in markers)]
        frames = yield Measure(
            [Exposure(still, s, exposure, {"for": "registration"}) for s in shown], "finding the panel"
        )
        empty = signal(facts, frames[0])
        seen = []
        for frame in frames[1:]:
            picture = signal(facts, frame) - empty
            place = brightest(picture, 5)
            found = centroid(picture, place, 8)
            if found is None:
                raise CalibrationError(
                    "registration: a dot falls outside the camera's frame: centre the camera on the panel"
                )
            self._alone(picture, place)
            seen.append(found)
        origin = np.asarray(seen[0])
        coarse = np.stack([(np.asarray(s) - origin) / reach for s in seen[1:]], axis=1)
        if abs(np.linalg.det(coarse)) < 0.05 * abs(np.linalg.det(facts.geometry.nominal_input_to_camera()[:, :2])):
            raise CalibrationError(
                "registration: three dots in different places look to be in one: "
                "is the input panel showing, and is the zero order the brightest light?"
            )
        spot = np.argwhere(shown[1]).mean(0)
        return empty, coarse, origin - coarse @ (spot - np.asarray(facts.geometry.input.centre))

    def _alone(self, picture: NDArray[np.float32], place: tuple[float, float]) -> None:
        """Whether a dot is plainly the brightest thing that came with it."""
        r, c = (round(v) for v in place)
        best = float(picture[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3].mean())
        rest = picture.copy()
        rest[max(r - 25, 0) : r + 26, max(c - 25, 0) : c + 26] = 0
        k, m = (round(v) for v in brightest(rest, 5))
        second = float(rest[max(k - 2, 0) : k + 3, max(m - 2, 0) : m + 3].mean())
        if best < 2.0 or second > 0.6 * best:
            raise CalibrationError(
                f"registration: a dot of the panel is not plainly seen ({best:.1f} counts, {second:.1f} elsewhere), "
                "so which way the camera is turned would be a guess: keep stray light away, or raise the contrast"
            )

    def _by_board(
        self, facts: BenchFacts, still: Gray, exposure: float
    ) -> Steps[tuple[NDArray[np.float32], Array, Array]]:
        shown, corners = charuco.board(facts, self.span_px)
        # a large white field is brighter than a dot, which the lens blurs
        frames = yield Measure(
            [Exposure(still, s, exposure, {"for": "registration"}) for s in (black(facts), shown)], "ChArUco board"
        )
        empty = signal(facts, frames[0])
        numbers, seen = charuco.find(signal(facts, frames[1]) - empty, self.span_px)
        if len(numbers) < 6:
            raise CalibrationError(
                f"registration: only {len(numbers)} of {len(corners)} corners of the ChArUco board are read: "
                "focus the camera on the panel, or use target 'dots'"
            )
        middle = np.asarray(facts.geometry.input.centre)
        design = np.column_stack([corners[numbers] - middle, np.ones(len(numbers))])
        fit, *_ = np.linalg.lstsq(design, seen, rcond=None)
        return empty, fit[:2].T, fit[2]

    # measuring

    def _grid(
        self,
        facts: BenchFacts,
        still: Gray,
        empty: NDArray[np.float32],
        exposure: float,
        coarse: Array,
        origin: Array,
    ) -> Steps[Mapped]:
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
        gap = float(np.sqrt(abs(np.linalg.det(coarse))) * (places[1] - places[0]))
        floor = 0.1 * float(np.quantile(picture, 1 - 4 * len(spots) / picture.size))
        inputs, outputs = [], []
        for spot in spots:
            near = coarse @ (spot - middle) + origin
            found = centroid(picture, (float(near[0]), float(near[1])), max(3, int(0.4 * gap)))
            if found is None or picture[round(found[0]), round(found[1])] < floor:
                continue
            inputs.append(spot)
            outputs.append(found)
        if len(inputs) < max(8, len(spots) // 3):
            raise CalibrationError(f"registration: only {len(inputs)} of {len(spots)} dots are in the camera's frame")
        mapped = fit_mapping(np.asarray(inputs), np.asarray(outputs), middle, reach)
        if not np.isfinite(mapped.residual) or mapped.residual > self.limit_px:
            raise CalibrationError(
                f"registration: the dots miss an affine map by {mapped.residual:.2f} px rms (limit {self.limit_px}): "
                "focus the camera on the input panel, or widen limit_px for a distorting lens"
            )
        return mapped

    def _carrier_map(self, facts: BenchFacts, exposure: float, affine: Array) -> Steps[tuple[Array, float, float]]:
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
        # the unsteered dot is seen with other light beside it: its place is fitted too
        design = np.column_stack([np.asarray(shown), np.ones(len(shown))])
        fit, *_ = np.linalg.lstsq(design, np.asarray(moved), rcond=None)
        away = np.asarray(moved) - design @ fit
        residual = float(np.sqrt((away**2).sum(1).mean()))
        if residual > 4 * self.limit_px:
            raise CalibrationError(
                f"registration: steered spots miss a linear map by {residual:.1f} px rms: "
                "does the SLM show what it is sent, at the right wavelength?"
            )
        spread = np.sqrt((away**2).sum() / max(1, away.size - 6) * np.linalg.inv(design.T @ design)[0, 0])
        return fit[:2].T, float(max(spread, 1e-3)), residual

    def _without_aberrations(
        self, facts: BenchFacts, affine: Array, steer: Array
    ) -> Steps[tuple[Array, Array, Wavefront]]:
        """The dot's place on the panel, where it is seen, and what the patches say."""
        geometry = facts.geometry
        # a dot so small that its light reaches the SLM's edge
        finest = min(
            geometry.wavelength * geometry.f1 / (geometry.input.pitch[i] * geometry.slm.extent[i] / 2) for i in (0, 1)
        )
        dot = square(facts, int(np.clip(0.55 * finest, 1, self.dot_px)))
        where = np.argwhere(dot).mean(0)
        seen = affine[:, :2] @ where + affine[:, 2]
        for across in (8, 7, 6, 5, 4):
            patches = Patches.tiling(geometry.slm.shape, across)
            try:
                sets = lattices(facts, steer, seen, len(patches.boxes), 1.5 * spot_radius(facts, patches, steer))
                break
            except CalibrationError:
                if across == 4:
                    raise
        spots = yield from measure_spots(facts, patches, sets, dot, black(facts), seen, steer, purpose="registration")
        last = 28 if across >= 6 else 15
        return where, seen, fit_wavefront(spots, patches, geometry.slm.shape, steer, last=last)


def _quietest_dot(facts: BenchFacts) -> int:
    """Side of the dot, panel pixels, whose spectrum is faintest at the SLM's edge."""
    geometry = facts.geometry
    at_edge = [
        geometry.input.pitch[i] * geometry.slm.extent[i] / 2 / (geometry.wavelength * geometry.f1) for i in (0, 1)
    ]
    return min((3, 4, 5), key=lambda px: sum(abs(float(np.sinc(px * frequency))) for frequency in at_edge))
