"""Zero order: the light that the SLM leaves as it is, and how far it can be extinguished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.pinhole import Carrier, box, brightest_of, expose_for, fourier_centre, window_over
from labctl.procedures.exposing import blaze, full_scale, laser_on, signal, square
from labctl.procedures.messages import Exposure, Gray, Measure, Publish, Set, Steps


@dataclass(frozen=True)
class ZeroOrder:
    """Unmodulated amplitude, by its interference with the modulated light, and its suppression.

    A flat SLM sends modulated and unmodulated light to one place: ``|exp(i phi(g)) + z|^2``, a fringe over the gray
    levels whose contrast and phase are those of z. Then the modulated light is steered away, all but a weak beam to the
    zero order's place whose phase is stepped; where it cancels best it is shown, and what is left is compared with the
    zero order as it was.

    Attributes
    ----------
    levels : int
        Gray levels of the flat SLM.
    steps_of_phase : int
        Of the weak beam.
    side_px : int
        Of the white square on the panel.
    carrier : (y, x), cycles per SLM pixel
        Where the modulated light is steered.
    """

    levels: int = 16
    steps_of_phase: int = 6
    side_px: int = 40
    carrier: Carrier = (0.2, -0.13)

    needs: ClassVar[tuple[str, ...]] = ("registration", "slm-response")
    uses: ClassVar[tuple[str, ...]] = ("dark", "fourier-centre")
    max_age_h: ClassVar[float] = 24 * 30.0
    limits: ClassVar[Mapping[str, float]] = {"residual": 0.05, "uncertainty": 0.05}

    @property
    def name(self) -> str:
        return "zero-order"

    def exposures(self, facts: BenchFacts) -> int:
        return self.levels + self.steps_of_phase + 2 + 8

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        registration, response = facts.calibration("registration"), facts.calibration("slm-response")
        yield from laser_on(facts)
        shown = square(facts, self.side_px)
        affine = registration["input_to_camera"]
        middle = affine[:, :2] @ np.argwhere(shown).mean(0) + affine[:, 2]
        half = max(2, round(0.3 * self.side_px * float(np.abs(np.linalg.det(affine[:, :2]))) ** 0.5))
        yield Set("camera", "window", window_over(facts, [middle], 4 * half))
        local = RegularGridInterpolator(
            (response["y"], response["x"]), response["stroke"].astype(float), bounds_error=False, fill_value=None
        )(fourier_centre(facts))
        phase = response["phase"] * float(np.ravel(local)[0])

        # the fringe over the gray levels
        top = facts.slm_levels - 1
        levels = np.rint(np.linspace(0, top, self.levels)).astype(int)
        kind = np.uint8 if top < 256 else np.uint16
        flats = [np.full(facts.geometry.slm.shape, level, kind) for level in levels]
        exposure = yield from expose_for(facts, self.name, flats[-1], shown, brightest_of([middle], half), target=0.35)
        frames = yield Measure([Exposure(p, shown, exposure, {"for": self.name}) for p in flats], "flat SLM")
        light = np.array([self._light(facts, frame, middle, half) for frame in frames])
        (mean, cosine, sine), residual = _fringe(phase[levels], light)
        contrast = float(np.hypot(cosine, sine) / mean)
        if not np.isfinite(contrast) or residual > self.limits["residual"]:
            raise CalibrationError(
                f"{self.name}: light of a flat SLM does not follow its phase (residual {residual:.3f} of the mean, "
                f"limit {self.limits['residual']}): measure slm-response again, and see that the laser is steady"
            )
        if contrast >= 0.98:
            raise CalibrationError(f"{self.name}: half of the light or more is unmodulated: is the polarisation right?")
        ratio = contrast / (1 + np.sqrt(1 - contrast**2))
        turn = float(np.arctan2(sine, cosine))
        amplitude = ratio * np.exp(1j * turn)
        uncertainty = float(residual * np.sqrt(2 / self.levels) / 2)

        # its suppression
        steered = self._pattern(facts, phase, 0.0, 0.0)
        weak = max(ratio, 0.02)
        turns = 2 * np.pi * np.arange(self.steps_of_phase) / self.steps_of_phase
        dim = yield from expose_for(
            facts, self.name, self._pattern(facts, phase, weak, turn), shown, brightest_of([middle], half), target=0.35,
            start_s=exposure * 4,
        )  # fmt: skip
        patterns = [steered, *(self._pattern(facts, phase, weak, float(t)) for t in turns)]
        frames = yield Measure([Exposure(p, shown, dim, {"for": self.name}) for p in patterns], "steered away")
        alone, *stepped = (self._light(facts, frame, middle, half) for frame in frames)
        (mean, cosine, sine), _ = _fringe(turns, np.array(stepped))
        size = weak * np.sqrt(max(alone, 0.0) / max(mean - alone, 1e-9))  # of what is to be cancelled
        best = float(np.arctan2(sine, cosine)) + np.pi
        size = float(np.clip(size, 0.0, 3 * weak))
        (frame,) = yield Measure(
            [Exposure(self._pattern(facts, phase, size, best), shown, dim, {"for": self.name})], "suppressed"
        )
        left = max(self._light(facts, frame, middle, half), 0.0)
        yield Set("camera", "window", None)
        suppression = float(left / max(alone, 1e-9))
        yield Publish("zero order (amplitude)", float(ratio))
        yield Publish("zero order left when suppressed (fraction)", suppression)
        correction = size * np.exp(1j * best)
        return record(
            self.name,
            facts,
            {
                "amplitude": ([amplitude.real, amplitude.imag], "1 (re, im; of the modulated amplitude)"),
                "correction": ([correction.real, correction.imag], "1 (re, im; amplitude that cancels it)"),
                "suppression": (suppression, "1 (light left)"),
                "levels": (levels, "gray level"),
                "light": (light / mean_of(light), "1 (of the mean)"),
            },
            uncertainties={"amplitude": np.full(2, uncertainty)},
            quality={"residual": residual, "uncertainty": uncertainty},
        )

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """Light of the flat SLM over the gray levels [light, level], drawn."""
        light = record["light"]
        drawn = np.zeros((64, 256), np.float32)
        x = np.rint(np.linspace(0, 255, len(light))).astype(int)
        drawn[63 - np.clip(light / max(float(light.max()), 1e-9) * 63, 0, 63).astype(int), x] = 1.0
        return drawn

    def _light(self, facts: BenchFacts, frame: Frame, middle: NDArray[np.float64], half: int) -> float:
        part = box(frame, middle, half)
        if int(frame.data[part].max(initial=0)) >= 0.98 * full_scale(facts):
            raise CalibrationError(f"{self.name}: the zero order saturates the camera: has the laser's power risen?")
        return float(signal(facts, frame)[part].mean())

    def _pattern(self, facts: BenchFacts, phase: NDArray[np.float64], size: float, turn: float) -> Gray:
        """All light on the carrier but a beam of this amplitude and phase (rad) to the zero order's place.

        The phase of ``exp(i ramp) + 2 t exp(i turn)`` has t exp(i turn) in its zero order, to first order in t.
        """
        ramp = blaze(facts, self.carrier).astype(float)
        wanted = np.angle(np.exp(1j * ramp) + 2 * size * np.exp(1j * turn)) % (2 * np.pi)
        order = np.argsort(phase)
        levels = np.arange(facts.slm_levels)[order]
        at = np.searchsorted(phase[order], wanted).clip(1, len(levels) - 1)
        nearer = wanted - phase[order][at - 1] < phase[order][at] - wanted
        found = levels[np.where(nearer, at - 1, at)]
        return np.asarray(found, np.uint8 if facts.slm_levels <= 256 else np.uint16)


def mean_of(light: NDArray[np.float64]) -> float:
    """Mean, never quite zero."""
    return max(float(light.mean()), 1e-9)


def _fringe(phase: NDArray[np.float64], light: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Mean, cosine and sine part of light over a phase, and the rms miss relative to the mean."""
    model = np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase)], 1)
    found, *_ = np.linalg.lstsq(model, light, rcond=None)
    return found, float(np.sqrt(np.mean((model @ found - light) ** 2)) / max(float(found[0]), 1e-9))
