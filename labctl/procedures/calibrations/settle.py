"""Settle times: how long after a change of pattern the light stands still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import black, flat, record
from labctl.procedures.calibrations.pinhole import box, brightest_of, expose_for, window_over
from labctl.procedures.exposing import full_scale, laser_on, signal, square
from labctl.procedures.messages import Exposure, Gray, Measure, Publish, Set, Steps

PERIOD = 16
"""Of the grating whose order is watched, SLM px."""
WITHIN = 0.01
"""What counts as settled: this fraction of the change is left."""
LONGEST_EXPOSURE = 0.2
"""Of the shortest time constant that can be told, in it."""


@dataclass(frozen=True)
class Settle:
    """Rise and settle time of the SLM and of the input panel, from exposures at known times after a change.

    A grating of two gray levels is written over a flat pattern, for a step of about half a turn of phase and for the
    largest that the panel has, and the light in its first order is watched: ``sin^2`` of half the phase between its
    bars, which approaches its end as an exponential after a latency; then the step back, which may be slower. A burst
    of exposures follows each change; a frame says itself how long after the change it was taken, so a slow camera only
    gives fewer points to each burst. The input panel goes from black to white.

    Why not slmsuite's ``settle_calibrate``: it takes the light of a blaze for an exponential, which it is not, and its
    result leaves 5 % of the phase (docs/how-to/slmsuite-calibrations.md).

    Attributes
    ----------
    bursts : int
        For each step, each way.
    points : int
        Exposures in each burst.
    side_px : int
        Largest side of the white square on the panel, panel pixels.
    """

    bursts: int = 1
    points: int = 16
    side_px: int = 56

    needs: ClassVar[tuple[str, ...]] = ("registration",)
    uses: ClassVar[tuple[str, ...]] = ("dark", "slm-response")
    max_age_h: ClassVar[float] = 24 * 90.0
    limits: ClassVar[Mapping[str, float]] = {"residual": 0.05, "uncertainty": 0.1}

    @property
    def name(self) -> str:
        return "settle"

    def exposures(self, facts: BenchFacts) -> int:
        return (4 * self.bursts + 1) * (self.points + 1) + 6

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        registration = facts.calibration("registration")
        yield from laser_on(facts)
        affine, steer = registration["input_to_camera"], np.asarray(registration["carrier_to_camera"])
        seen = float(np.abs(np.linalg.det(affine[:, :2]))) ** 0.5  # camera px per panel px
        shift = steer @ np.array([0.0, 1 / PERIOD])
        # so small that the order lies beside the square's own light
        side = min(self.side_px, int(np.hypot(*shift) / (0.75 * seen)))
        half = max(2, round(0.2 * side * seen))
        if side < 4 or np.hypot(*shift) < 1.5 * half:
            raise CalibrationError("settle: the grating's order lies in the square's own light: use a smaller side_px")
        shown = square(facts, side)
        middle = affine[:, :2] @ np.argwhere(shown).mean(0) + affine[:, 2]
        reach = 4 * half  # dark around the square's light tells the camera's own level
        places = [middle + shift, middle - shift]
        yield Set("camera", "window", window_over(facts, places, reach))
        plain, small, large = flat(facts), self._grating(facts, 0.25), self._grating(facts, 1.0)
        exposure = yield from expose_for(
            facts, self.name, self._grating(facts, 0.5), shown, brightest_of(places, half), start_s=facts.exposure_s
        )
        claimed = max(facts.slm_settle_s, 0.01)
        runs, rests = [], []
        for pattern in (small, large):  # a crystal often relaxes more slowly than it rises: both ways
            for before, after in ((plain, pattern), (pattern, plain)):
                times, light, rest = yield from self._bursts(
                    facts, before, after, shown, exposure, places, half, claimed
                )
                runs.append((times, light))
                rests.append(rest)
        if np.ptp(runs[0][1]) < 0.05 * runs[0][1].max() and runs[0][1].max() > 5 * max(rests[0], 0.0):
            # there already in the first frame: faster than the camera can tell
            first = float(runs[0][0].min())
            rise = fall = (0.0, 0.0, first, 0.0)
            slow = (0.0, first, first, 0.0)
        else:
            rise, fall = (self._fitted(facts, runs[n], 0.25, exposure, up=n == 0) for n in (0, 1))
            ways = [self._fitted(facts, runs[n], 1.0, exposure, up=n == 2) for n in (2, 3)]
            slow = max(ways, key=lambda way: way[1] + way[0] * np.log(1 / WITHIN))
        yield Set("camera", "window", window_over(facts, [middle], reach))
        input_exposure = yield from expose_for(facts, self.name, plain, shown, brightest_of([middle], half))
        settled, spread_input = yield from self._input(facts, plain, shown, input_exposure, middle, half)
        yield Set("camera", "window", None)
        settle_s = slow[1] + slow[0] * np.log(1 / WITHIN)
        residual = max(rise[3], fall[3], slow[3])
        uncertainty = slow[2] / slow[0] if slow[0] > 0 else 0.0
        if residual > self.limits["residual"] or not np.isfinite(residual):
            raise CalibrationError(
                f"settle: the light does not approach its end as an exponential does (residual {residual:.3f} of the "
                f"change, limit {self.limits['residual']}): does the SLM flicker, or jump?"
            )
        yield Publish("SLM settle time (ms)", 1e3 * float(settle_s))
        longer = settle_s > facts.slm_settle_s
        if longer:
            yield Publish("SLM settle time over the bench file's (ms)", 1e3 * float(settle_s - facts.slm_settle_s))
        return record(
            self.name,
            facts,
            {
                "slm_rise": (rise[0] * np.log(9.0), "s (10-90 %, step of half a turn)"),
                "slm_fall": (fall[0] * np.log(9.0), "s (10-90 %, the same step back)"),
                "slm_settle": (settle_s, "s (largest step, the slower way, to 1 %)"),
                "slm_latency": (slow[1], "s"),
                "input_settle": (settled, "s (black to white, to 1 %)"),
                "delays": (runs[2][0], "s"),
                "light": (runs[2][1], "counts (largest step)"),
            },
            uncertainties={
                "slm_rise": np.asarray(rise[2] * np.log(9.0)),
                "slm_settle": np.asarray(slow[2] * np.log(1 / WITHIN)),
                "input_settle": np.asarray(spread_input),
            },
            quality={"residual": residual, "uncertainty": float(uncertainty)},
        )

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """Light of the order against time after the largest step [light, time], drawn."""
        times, light = record["delays"], record["light"]
        drawn = np.zeros((64, 256), np.float32)
        x = np.clip(times / max(float(times.max()), 1e-9) * 255, 0, 255).astype(int)
        y = 63 - np.clip(light / max(float(light.max()), 1e-9) * 63, 0, 63).astype(int)
        drawn[y, x] = 1.0
        return drawn

    def _grating(self, facts: BenchFacts, part: float) -> Gray:
        """A grating between the top level and the one that is this part of the levels below it."""
        top = facts.slm_levels - 1
        rows, columns = facts.geometry.slm.shape
        bars = np.where((np.arange(columns) // (PERIOD // 2)) % 2 == 0, top - round(part * top), top)
        return np.tile(bars.astype(np.uint8 if top < 256 else np.uint16), (rows, 1))

    def _bursts(
        self,
        facts: BenchFacts,
        before: Gray,
        after: Gray,
        shown: Gray,
        exposure: float,
        places: list[NDArray[np.float64]],
        half: int,
        claimed: float,
    ) -> Steps[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
        """Times after the change (s, to the middle of the exposure), the light then (counts), and that before it."""
        times, light, rest = [], [], []
        for burst in range(self.bursts):
            # dense at first, and beyond what the file says in the end; the bursts interleave
            steps = (np.arange(self.points) + burst / self.bursts) / (self.points - 1)
            delays = 2.0 * claimed * steps**1.7
            (still,) = yield Measure([Exposure(before, shown, exposure, {"for": self.name})], "before the change")
            rest.append(sum(float(signal(facts, still)[box(still, at, half)].sum()) for at in places))
            frames = yield Measure(
                [Exposure(after, shown, exposure, {"for": self.name}, settle_s=float(d)) for d in delays],
                "after the change",
            )
            for frame in frames:
                picture = signal(facts, frame)
                if max(int(frame.data[box(frame, at, half)].max()) for at in places) >= 0.98 * full_scale(facts):
                    raise CalibrationError(
                        f"{self.name}: the order saturates the camera: has the "
                        "laser's power risen, or is the SLM slower than its settle_ms?"
                    )
                light.append(sum(float(picture[box(frame, at, half)].sum()) for at in places))
                times.append((frame.started + frame.ended) / 2 - frame.shown_slm)
        return np.asarray(times), np.asarray(light), float(np.mean(rest))

    def _fitted(
        self,
        facts: BenchFacts,
        run: tuple[NDArray[np.float64], NDArray[np.float64]],
        part: float,
        exposure: float,
        *,
        up: bool,
    ) -> tuple[float, float, float, float]:
        """Time constant, latency, uncertainty of the first (s), and residual over the largest light."""
        times, light = run
        top = facts.slm_levels - 1
        nominal = 2 * np.pi * part
        if "slm-response" in facts.calibrations:
            nominal = float(facts.calibrations["slm-response"]["phase"][top - round(part * top)])
        scale = float(light.max())
        order = np.argsort(times)

        def expected(p: NDArray[np.float64]) -> NDArray[np.float64]:
            since = np.clip(times - p[1], 0, None)
            left = np.exp(-since / np.exp(p[0]))
            phase = p[2] * (1 - left if up else left)
            return np.asarray(np.sin(phase / 2) ** 2)

        def misses(p: NDArray[np.float64]) -> NDArray[np.float64]:
            model = np.stack([expected(p), np.ones_like(times)], 1)
            return np.asarray(light / scale - model @ np.linalg.lstsq(model, light / scale, rcond=None)[0])

        best = None
        end = float(times.max())
        for tau in np.geomspace(end / 200, end / 3, 8):
            tried = least_squares(
                misses, [np.log(tau), 0.0, nominal], loss="soft_l1", f_scale=0.02,
                bounds=([np.log(end) - 9, 0.0, 0.8 * nominal], [np.log(end), end, 1.2 * nominal]),
            )  # fmt: skip
            if best is None or tried.cost < best.cost:
                best = tried
        if best is None or np.ptp(light[order]) < 0.1 * scale:
            raise CalibrationError(f"{self.name}: the light does not change with the grating: is the SLM modulating?")
        tau = float(np.exp(best.x[0]))
        miss = misses(best.x)
        covariance = np.linalg.pinv(best.jac.T @ best.jac) * float((miss**2).sum()) / max(len(miss) - 5, 1)
        resolved = max(exposure * LONGEST_EXPOSURE, facts.readout_s * LONGEST_EXPOSURE)
        if tau > end / 4:
            raise CalibrationError(
                f"{self.name}: the SLM has not settled after {1e3 * end:.0f} ms: raise settle_ms in the bench file"
            )
        spread = max(float(np.sqrt(covariance[0, 0])) * tau, resolved / 10)
        return tau, float(best.x[1]), spread, float(np.sqrt(np.mean(miss**2)))

    def _input(
        self, facts: BenchFacts, plain: Gray, shown: Gray, exposure: float, middle: NDArray[np.float64], half: int
    ) -> Steps[tuple[float, float]]:
        """When the panel's light is within 1 % of its end for good, s, and how finely that is known."""
        claimed = max(facts.input_settle_s, 0.005)
        delays = 4.0 * claimed * np.linspace(0, 1, self.points) ** 1.7
        yield Measure([Exposure(plain, black(facts), exposure, {"for": self.name})], "before the change")
        frames = yield Measure(
            [Exposure(plain, shown, exposure, {"for": self.name}, settle_s=float(d)) for d in delays],
            "after the change of the input",
        )
        light, times = [], []
        for frame in frames:
            light.append(float(signal(facts, frame)[box(frame, middle, half)].sum()))
            times.append(frame.started - frame.shown_input)
        found, at = np.asarray(light), np.asarray(times)
        end = float(np.median(found[-max(4, len(found) // 2) :]))
        late = found[-max(4, len(found) // 2) :]  # a laser's flicker is no settling
        noise = max(WITHIN, 4 * float(np.std(late, ddof=1)) / max(end, 1e-9))
        off = np.abs(found / end - 1) > noise
        if off[-4:].any() or end <= 0:
            raise CalibrationError(f"{self.name}: the input panel's light does not come to rest: raise its settle_ms")
        if not off.any():
            return 0.0, float(at[0])
        last = int(np.flatnonzero(off).max())
        return float(at[last + 1]), float(at[last + 1] - at[last])
