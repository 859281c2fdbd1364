"""The first calibrations: dark frame, camera gain, registration, centre of the Fourier plane.

Each is a procedure that returns a `CalibrationRecord` and refuses a poor result with the reason. They know what they
showed and what the camera saw, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord, now_iso
from labctl.errors import CalibrationError
from labctl.procedures.exposing import (
    around,
    blaze,
    brightest,
    centroid,
    expose_well,
    full_scale,
    gray,
    has,
    laser_on,
    signal,
    square,
)  # fmt: skip
from labctl.procedures.messages import Exposure, Gray, Log, Measure, Prompt, Publish, Set, Steps


def _record(kind: str, facts: BenchFacts, values: dict[str, tuple[object, str]], **more: object) -> CalibrationRecord:
    return CalibrationRecord(
        kind=kind,
        bench=facts.name,
        values={name: np.asarray(value) for name, (value, _) in values.items()},
        units={name: unit for name, (_, unit) in values.items()},
        taken=now_iso(),
        bench_digest=facts.digest,
        **more,  # type: ignore[arg-type]
    )


def _seen(facts: BenchFacts, shown: Gray, side_px: int) -> tuple[NDArray[np.float64], int]:
    """Where a square of the panel is seen through a flat SLM (camera px), and half the room it takes with its blur."""
    affine = facts.calibration("registration")["input_to_camera"]
    middle = affine[:, :2] @ np.argwhere(shown).mean(0) + affine[:, 2]
    return middle, int(0.75 * side_px * np.abs(affine[:, :2]).max())


def _flat(facts: BenchFacts) -> Gray:
    return gray(facts, np.zeros(facts.geometry.slm.shape, np.float32))


def _black(facts: BenchFacts) -> Gray:
    return square(facts, 0)


@dataclass(frozen=True)
class Dark:
    """Dark frames at two exposure times: offset, dark current and hot pixels of each pixel, and the read noise.

    Attributes
    ----------
    frames : int
        Frames at each exposure time.
    ratio : float
        Longer over shorter exposure time.
    """

    frames: int = 6
    ratio: float = 20.0

    @property
    def name(self) -> str:
        return "dark"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.frames

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        if has(facts, "laser"):
            yield Set("laser", "enabled", False)
        else:
            answer = yield Prompt("Block the beam or cover the camera, then continue.")
            if answer == "abort":
                raise CalibrationError("dark frame: not taken, because the light was not blocked")
        short, long = facts.exposure_s, facts.exposure_s * self.ratio
        shots = [Exposure(None, None, t, {"for": "dark"}) for t in (short, long) for _ in range(self.frames)]
        taken = yield Measure(shots, "dark frames")
        yield from laser_on(facts)
        stack = np.stack([frame.data for frame in taken]).astype(np.float32)
        dim, bright = stack[: self.frames], stack[self.frames :]
        rate = (bright.mean(0) - dim.mean(0)) / np.float32(long - short)
        offset = dim.mean(0) - rate * np.float32(short)
        read_noise = float(np.sqrt(np.median(dim.var(0, ddof=1))))
        spread = max(1.4826 * float(np.median(np.abs(rate - np.median(rate)))), 1e-6)
        hot = np.abs(rate - np.median(rate)) > 12 * spread
        rate = np.where(hot, rate, np.float32(np.median(rate)))  # the noise of one pixel's slope is no current
        level = float(np.median(dim))
        if level > 0.5 * full_scale(facts):
            raise CalibrationError(
                f"dark frame: the camera reads {level:.0f} counts with the light off: block stray light"
            )
        if hot.mean() > 0.02:
            raise CalibrationError(f"dark frame: {100 * hot.mean():.1f} % of the pixels look hot: is light getting in?")
        yield Publish("dark level (counts)", level)
        return _record(
            "dark",
            facts,
            {
                "offset": (offset.astype(np.float32), "counts"),
                "rate": (rate.astype(np.float32), "counts/s"),
                "hot": (hot, "1"),
                "read_noise": (read_noise, "counts"),
            },
            uncertainties={"read_noise": np.asarray(read_noise / np.sqrt(2 * (self.frames - 1) * dim[0].size))},
            quality={"hot_fraction": float(hot.mean()), "median_offset_counts": level},
        )


@dataclass(frozen=True)
class Gain:
    """Camera gain by photon transfer: variance against mean, from pairs of frames at several exposure times.

    Source: J. R. Janesick, *Photon Transfer* (SPIE, 2007), sections 4 and 5. The difference of two frames removes fixed
    pattern; the second is first scaled to the first's light, which removes the laser's flicker.
    """

    levels: int = 8
    side_px: int = 56

    @property
    def name(self) -> str:
        return "gain"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.levels + 3

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        yield from laser_on(facts)
        slm, shown = _flat(facts), square(facts, self.side_px)
        top = full_scale(facts)
        if "registration" in facts.calibrations:
            middle, half = _seen(facts, shown, self.side_px)
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
        return _record(
            "gain",
            facts,
            {"gain": (gain, "electrons/count"), "saturation": (float(top), "counts"), "floor": (floor, "counts^2")},
            uncertainties={"gain": np.asarray(gain**2 * np.sqrt(covariance[0, 0]))},
            quality={"relative_residual": residual, "points": float(len(m))},
        )


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
        flat, black = _flat(facts), _black(facts)
        reach = self.span_px / 2 - self.dot_px
        middle = np.asarray(facts.geometry.input.centre)
        markers = [(0.0, 0.0), (reach, 0.0), (0.0, reach)]
        bright = square(facts, self.dot_px)
        exposure = yield from expose_well(facts, flat, [bright], target=0.7, quantile=0.99999)
        shown = [black, *(square(facts, self.dot_px, marker) for marker in markers)]
        frames = yield Measure(
            [Exposure(flat, s, exposure, {"for": "registration"}) for s in shown], "finding the panel"
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
        affine, residual, error, _ = yield from self._grid(facts, flat, empty, exposure, coarse, origin)
        carriers, carrier_residual = yield from self._carrier_map(facts, black, exposure, affine, middle)
        yield Publish("registration residual (px)", residual)
        return _record(
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
        flat: Gray,
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
        (frame,) = yield Measure([Exposure(flat, grid, exposure, {"for": "registration"})], "grid of dots")
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
        black: Gray,
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
        Side of the white square, panel pixels.
    """

    search_px: int = 60
    side_px: int = 56
    points: int = 9

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
        shown = square(facts, self.side_px)
        middle, half = _seen(facts, shown, self.side_px)
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
        return _record(
            "fourier-centre",
            facts,
            {"centre": (np.asarray(centre), "SLM px (row, column)")},
            uncertainties={"centre": np.asarray(spread)},
            quality={"spread_px": float(np.max(spread))},
        )

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
        shown = square(facts, self.side_px)
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


@dataclass(frozen=True)
class Calibration:
    """Records of one pass through all calibrations, for the bench's calibration folder."""

    records: tuple[CalibrationRecord, ...]


@dataclass(frozen=True)
class Calibrate:
    """All calibrations that exist, in the order in which they need each other."""

    @property
    def name(self) -> str:
        return "calibrate"

    def exposures(self, facts: BenchFacts) -> int:
        return sum(step.exposures(facts) for step in ORDER)

    def steps(self, facts: BenchFacts) -> Steps[Calibration]:
        known: dict[str, CalibrationRecord] = {}
        for step in ORDER:
            try:
                record = yield from step.steps(replace(facts, calibrations={**facts.calibrations, **known}))
            except CalibrationError as error:
                if step.name != "gain":
                    raise
                yield Log(f"{error}; going on without it, because nothing depends on it", "warning")
                continue
            known[record.kind] = record
            quality = ", ".join(f"{name} {figure:.3g}" for name, figure in record.quality.items())
            yield Log(f"{record.kind}: {quality}")
        return Calibration(tuple(known.values()))


ORDER: tuple[Dark | Registration | Gain | FourierCentre, ...] = (Dark(), Registration(), Gain(), FourierCentre())
