"""Wavefront: the aberration that the optics add over the SLM, and the light's amplitude there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.optics.zernike import zernike
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.pinhole import (
    Carrier,
    Pinhole,
    expose_for,
    notch_px,
    pinhole,
    steered_away,
    window_over,
)
from labctl.procedures.calibrations.slmsuite_wavefront import frames_wanted, wavefront_by_slmsuite
from labctl.procedures.calibrations.speckle import LAST, REACH, Blocks, Solved, Speckle, random_phase, solve
from labctl.procedures.exposing import blaze, full_scale, gray, laser_on
from labctl.procedures.messages import Exposure, Measure, Publish, Set, Steps

METHODS = ("speckle", "superpixel", "zernike")
HELD_BACK = 2
"""Masks that are not fitted, and that the fit is judged by."""


@dataclass(frozen=True)
class Masks:
    """Random masks and how they are shown: what `Wavefront` and `Pupil` have in common.

    Attributes
    ----------
    masks : int
        Random masks that are fitted; two more judge the fit.
    carrier : (y, x), cycles per SLM pixel
        Of all masks: their light must fall on the camera, and beside the zero order.
    blocks : int
        Samples of the pupil along the SLM's shorter side.
    seed : int
        Of the masks.
    """

    masks: int
    carrier: Carrier
    blocks: int
    seed: int

    def exposures(self) -> int:
        """Frames, with those that find the exposure."""
        return self.masks + HELD_BACK + 4

    def solved(
        self, facts: BenchFacts, kind: str, known: NDArray[np.float64] | None = None
    ) -> Steps[tuple[Blocks, Solved, float]]:
        """Show the masks and fit the pupil.

        Returns
        -------
        blocks : Blocks
        solved : Solved
        residual : float
            rms miss of the masks held back, over the rms of their counts.

        Raises
        ------
        CalibrationError
            In too little or too much light, or if the light would miss the camera.
        """
        source = pinhole(facts)
        yield from laser_on(facts)
        blocks = Blocks.of(facts, self.blocks)
        dice = np.random.default_rng(self.seed)
        phases = [random_phase(facts, blocks, dice) for _ in range(self.masks + HELD_BACK)]
        # the SLM's own response takes light from a carrier's first order, and leaves its phase as it is
        ramp = blaze(facts, self.carrier)
        shown = [steered_away(facts, gray(facts, ramp + phase), notch_px(facts)) for phase in phases]
        reach = REACH / blocks.side * float(np.abs(source.steer).sum(1).max())
        yield Set("camera", "window", window_over(facts, [source.spot(self.carrier)], reach + 1))

        def bright(picture: NDArray[np.float32], _: Frame) -> float:
            return float(np.quantile(picture, 0.999))

        exposure = yield from expose_for(facts, kind, shown[0], source.shown, bright, target=0.3)
        frames = yield Measure(
            [
                Exposure(pattern, source.shown, exposure, {"for": kind, "mask": n, "seed": self.seed})
                for n, pattern in enumerate(shown)
            ],
            "random masks",
        )
        yield Set("camera", "window", None)
        full = max(float(np.mean(frame.data >= 0.98 * full_scale(facts))) for frame in frames)
        if full > 5e-3:
            raise CalibrationError(f"{kind}: {100 * full:.1f} % of the pixels are saturated: is the laser steady?")
        fitted = self._model(facts, source, blocks, phases[:-HELD_BACK], frames[:-HELD_BACK])
        solved = solve(facts, blocks, fitted, known=known)
        judge = self._model(facts, source, blocks, phases[-HELD_BACK:], frames[-HELD_BACK:])
        residual = judge.evaluate(solved.amplitude * np.exp(1j * solved.phase))[2]
        if not (np.isfinite(residual) and np.isfinite(solved.phase).all()):
            raise CalibrationError(f"{kind}: the fit is not finite: is there light in the frames?")
        return blocks, solved, residual

    def _model(
        self,
        facts: BenchFacts,
        source: Pinhole,
        blocks: Blocks,
        phases: list[NDArray[np.float32]],
        frames: list[Frame],
    ) -> Speckle:
        gain = float(facts.calibrations["gain"]["gain"]) if "gain" in facts.calibrations else 1.0
        return Speckle.of(facts, source, blocks, self.carrier, phases, frames, 1 / gain)


@dataclass(frozen=True)
class Wavefront:
    """Wavefront over the SLM, by a fit to the speckle of random masks on a pinhole's light, or by slmsuite's methods.

    Zernike polynomials to Noll's 36 and a smooth free form of phase, and a smooth amplitude, that explain the frames of
    some known random masks; masks that were not fitted judge it. Tilt is kept: it is how far the light's place is from
    where the registration puts it. Source: arXiv 2408.07672.

    Attributes
    ----------
    method : "speckle", "superpixel" or "zernike"
        The second and third are slmsuite's ``wavefront_calibrate_superpixel`` and ``wavefront_calibrate_zernike``, in
        their own exposures; they take ten times as many, and a real pinhole on the input plane.
    masks, carrier, blocks, seed
        As `Masks`.
    """

    method: str = "speckle"
    masks: int = 12
    carrier: Carrier = (0.2, -0.13)
    blocks: int = 64
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("registration",)
    uses: ClassVar[tuple[str, ...]] = ("dark", "gain", "fourier-centre")
    max_age_h: ClassVar[float] = 24 * 7.0
    limits: ClassVar[Mapping[str, float]] = {"residual": 0.3, "poor_fringes": 0.25, "spots": 1.0}

    @property
    def name(self) -> str:
        return "wavefront"

    @property
    def _masks(self) -> Masks:
        return Masks(self.masks, self.carrier, self.blocks, self.seed)

    def exposures(self, facts: BenchFacts) -> int:
        return self._masks.exposures() if self.method == "speckle" else frames_wanted(facts, self.method)

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        if self.method not in METHODS:
            raise CalibrationError(f"{self.name}: no method '{self.method}': choose from {', '.join(METHODS)}")
        if self.method != "speckle":
            yield from laser_on(facts)
            blocks = Blocks.of(facts, self.blocks)
            phase, quality = yield from wavefront_by_slmsuite(facts, self.name, self.method, blocks)
            return wavefront_record(facts, blocks, phase, self.method, quality)
        blocks, solved, residual = yield from self._masks.solved(facts, self.name)
        if residual > self.limits["residual"]:
            raise CalibrationError(
                f"{self.name}: masks that were not fitted miss by {residual:.2f} of their light (limit "
                f"{self.limits['residual']}): calibrate registration and Fourier centre again, and look for stray light"
            )
        waves = zernikes_of(facts, blocks, solved.phase)
        yield Publish("wavefront (waves rms)", float(np.sqrt((waves[3:] ** 2).sum())))
        return wavefront_record(facts, blocks, solved.phase, "speckle", {"residual": residual}, solved.amplitude)

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """The wavefront over the SLM [row, column], rad."""
        return np.asarray(record["phase"], np.float32)


def zernikes_of(facts: BenchFacts, blocks: Blocks, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zernike coefficients (waves rms; Noll 1 to 36, the first is 0) of a phase on blocks, over the inscribed disk."""
    y, x = blocks.unit(facts)
    disk = y**2 + x**2 <= 1
    modes = np.stack([zernike(j, y, x)[disk] for j in range(1, LAST + 1)], 1)
    found, *_ = np.linalg.lstsq(modes, phase[disk] / (2 * np.pi), rcond=None)
    found[0] = 0.0
    return np.asarray(found)


def wavefront_record(
    facts: BenchFacts,
    blocks: Blocks,
    phase: NDArray[np.float64],
    method: str,
    quality: Mapping[str, float],
    amplitude: NDArray[np.float64] | None = None,
) -> CalibrationRecord:
    """The record of a wavefront on blocks, by whatever method."""
    middle = facts.geometry.slm.centre
    values: dict[str, tuple[object, str]] = {
        "zernikes": (zernikes_of(facts, blocks, phase), "waves rms (Noll 1 to 36, over the SLM's inscribed disk)"),
        "phase": ((phase - phase.mean()).astype(np.float32), "rad"),
        "y": (blocks.y + middle[0], "SLM px"),
        "x": (blocks.x + middle[1], "SLM px"),
        "method": (method.encode(), "name"),
    }
    if amplitude is not None:
        values["amplitude"] = (amplitude.astype(np.float32), "1 (without the source's spectrum)")
    return record("wavefront", facts, values, quality=dict(quality))
