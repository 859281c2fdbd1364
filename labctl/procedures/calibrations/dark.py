"""Dark frame: what the camera reads without light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.exposing import full_scale, laser_off, laser_on
from labctl.procedures.messages import Exposure, Measure, Prompt, Publish, Set, Steps


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

    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    max_age_h: ClassVar[float] = 72.0
    limits: ClassVar[Mapping[str, float]] = {"hot_fraction": 0.02}
    essential: ClassVar[bool] = True
    sections: ClassVar[tuple[str, ...]] = ("camera",)

    @property
    def name(self) -> str:
        return "dark"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.frames

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        if not (yield from laser_off(facts)):
            answer = yield Prompt("Block the beam or cover the camera, then continue.")
            if answer == "abort":
                raise CalibrationError("dark frame: not taken, because the light was not blocked")
        yield Set("camera", "window", None)  # an aborted run may have left a narrow one
        long = min(facts.exposure_s * self.ratio, facts.longest_exposure_s)
        short = long / self.ratio
        shots = [Exposure(None, None, t, {"for": "dark"}) for t in (short, long) for _ in range(self.frames)]
        taken = yield Measure(shots, "dark frames")
        yield from laser_on(facts)
        stack = np.stack([frame.data for frame in taken]).astype(np.float32)
        dim, bright = stack[: self.frames], stack[self.frames :]
        rate = (bright.mean(0) - dim.mean(0)) / np.float32(long - short)
        offset = dim.mean(0) - rate * np.float32(short)
        # where read noise is below a count most pixels give the same mean, and rounding alone spreads it
        rounding = float(np.sqrt(1 / 12 * 2 / self.frames)) / (long - short)
        spread = max(1.4826 * float(np.median(np.abs(rate - np.median(rate)))), rounding)
        hot = np.abs(rate - np.median(rate)) > 12 * spread
        # the mean, not the median: of few frames, or of noise below a count, the median variance is too small
        read_noise = float(np.sqrt(dim.var(0, ddof=1)[~hot].mean()))
        rate = np.where(hot, rate, np.float32(np.median(rate)))  # the noise of one pixel's slope is no current
        level = float(np.median(dim))
        if level > 0.5 * full_scale(facts):
            raise CalibrationError(
                f"dark frame: the camera reads {level:.0f} counts with the light off: block stray light"
            )
        if hot.mean() > 0.02:
            raise CalibrationError(f"dark frame: {100 * hot.mean():.1f} % of the pixels look hot: is light getting in?")
        yield Publish("dark level (counts)", level)
        return record(
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
