"""Flat field: static fringes in front of the camera, and what else of its response is patterned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.fourier_plane import spectrum_by_registration
from labctl.procedures.calibrations.mapping import to_camera
from labctl.procedures.exposing import blaze, expose_well, full_scale, gray, laser_on, signal
from labctl.procedures.messages import Exposure, Gray, Measure, Publish, Set, Steps

Array = NDArray[np.float64]
SMOOTH = 0.05
"""Structure wider than this part of the sensor's shorter side counts as illumination (Gaussian's width)."""
ARM = 0.02
"""Half width of the SLM's cross for the panel's mean, cycles per panel pixel: enough for a lit field of 50 pixels."""
SURE = 9.0
"""A fringe is believed from so many standard errors of its amplitude on."""
MOST = 4
"""Fringes looked for."""


@dataclass(frozen=True)
class FlatField:
    """Static fringes over the sensor: a sum of plane waves in the camera's response.

    Without taking the camera out there is no uniform light on a 4f bench. There is light that is uniform on average:
    random pixels on the panel, seen through random phases on the SLM, fill the sensor with speckle whose grain is about
    a pixel, and other patterns give other speckle. What the mean of several frames has in common over thousands of
    grains stays with the sensor.

    So this is what the record can say, and what it cannot. Fringes are waves that extend over the sensor; their
    amplitudes are found to a few parts in ten thousand. A single pixel's own response (PRNU) is hidden by speckle, for
    which the record gives the bound that was reached, and is not in it. What is wider than `SMOOTH` of the sensor
    (vignetting, the SLM's pixel envelope) cannot be told from illumination and is not in it either. Dust is not looked
    for.

    Attributes
    ----------
    frames : int
        Frames, each of other random patterns.
    """

    frames: int = 10

    needs: ClassVar[tuple[str, ...]] = ("dark", "registration", "fourier-centre")
    uses: ClassVar[tuple[str, ...]] = ()
    max_age_h: ClassVar[float] = 24 * 7.0
    limits: ClassVar[Mapping[str, float]] = {"amplitude_error": 0.004}

    @property
    def name(self) -> str:
        return "flat-field"

    def exposures(self, facts: BenchFacts) -> int:
        return self.frames + 3

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        registration = facts.calibration("registration")
        yield from laser_on(facts)
        yield Set("camera", "window", None)
        arm = ARM * float(np.abs(spectrum_by_registration(registration)).max())
        patterns = [self._patterns(facts, n, arm) for n in range(self.frames)]
        exposure = yield from expose_well(facts, patterns[0][0], [patterns[0][1]], target=0.15, quantile=0.7)
        frames = yield Measure(
            [Exposure(slm, shown, exposure, {"for": "flat-field"}) for slm, shown in patterns], "speckle"
        )
        clear = self._clear(facts, registration)
        stack = np.stack([signal(facts, f) for f in frames])
        light = stack.mean(0).astype(float)
        if float(np.median(light[clear])) < 0.01 * full_scale(facts):
            raise CalibrationError("flat field: too little light spread over the sensor: raise the laser's power")
        masks = [_even(one.astype(float), clear) for one in stack]
        each = [_flatten(one.astype(float), mask) for one, mask in zip(stack, masks, strict=True)]
        waves, error = _lasting(_waves(np.mean(each, axis=0), clear), each, masks)
        if error > self.limits["amplitude_error"]:
            raise CalibrationError(
                f"flat field: fringes are known no better than to {100 * error:.1f} %: raise `frames`, or the laser's "
                "power"
            )
        response = 1 + _field(light.shape, waves)
        speckle = float(np.std(np.mean(each, axis=0)[clear]))
        yield Publish("fringes (% rms)", 100 * float(response.std()))
        return record(
            "flat-field",
            facts,
            {
                "response": (response.astype(np.float32), "1"),
                "waves": (waves, "1/camera px (row), 1/camera px (column), cosine amplitude, sine amplitude"),
                "pixel_bound": (speckle, "1 (rms: single pixels differ by no more than this)"),
            },
            uncertainties={
                "response": np.asarray(error * np.sqrt(max(len(waves), 1))),
                "waves": np.broadcast_to(np.array([0.0, 0.0, error, error]), waves.shape).copy(),
            },
            quality={"amplitude_error": error},
        )

    def picture(self, made: CalibrationRecord) -> NDArray[np.float32]:
        """The response [row, column]."""
        return np.asarray(made["response"], np.float32)

    def _patterns(self, facts: BenchFacts, number: int, arm: float) -> tuple[Gray, Gray]:
        """Random phases, and random pixels of the panel."""
        dice = np.random.default_rng([7, number])
        slm = dice.integers(0, facts.slm_levels, facts.geometry.slm.shape)
        # light is never negative: half of it is in the panel's mean, whose narrow spectrum would make coarse grain.
        # A grating on a cross sends it together to one place, another one in each frame
        centre = facts.calibration("fourier-centre")["centre"]
        aside = gray(facts, blaze(facts, tuple(dice.uniform(-0.4, 0.4, 2))))
        for axis in (0, 1):
            near = np.abs(np.arange(slm.shape[axis]) - centre[axis]) < arm
            part = near if axis == 0 else np.s_[:, near]
            slm[part] = aside[part]
        shown = (facts.input_levels - 1) * dice.integers(0, 2, facts.geometry.input.shape)
        kinds = [np.uint8 if n <= 256 else np.uint16 for n in (facts.slm_levels, facts.input_levels)]
        return slm.astype(kinds[0]), shown.astype(kinds[1])

    def _clear(self, facts: BenchFacts, registration: CalibrationRecord) -> NDArray[np.bool_]:
        """Where no picture of the panel is seen in unmodulated light, and where carriers reach."""
        shape = facts.geometry.camera.shape
        rows, columns = facts.geometry.input.shape
        corners = to_camera(registration, np.array([(r, c) for r in (0, rows - 1) for c in (0, columns - 1)], float))
        middle = corners.mean(0)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) - middle
        carrier = np.abs(grid @ np.linalg.inv(registration["carrier_to_camera"]).T)
        panel = np.abs(grid @ np.linalg.inv(registration["input_to_camera"][:, :2]).T)
        # most of a panel is often dark behind a stop; its middle half is where light is
        return np.asarray((carrier < 0.48).all(-1) & ((panel[..., 0] > rows / 4) | (panel[..., 1] > columns / 4)))


def _flatten(light: Array, clear: NDArray[np.bool_]) -> Array:
    """Relative deviation from what is smooth [row, column]; 0 where it is not clear."""
    width = SMOOTH * min(light.shape)
    known = gaussian_filter(clear.astype(float), width)
    smooth = gaussian_filter(np.where(clear, light, 0.0), width) / np.maximum(known, 1e-6)
    return np.where(clear, light / np.maximum(smooth, 1e-9) - 1, 0.0)


def _even(light: Array, clear: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of what is clear that is not beside the place where the panel's mean went."""
    smooth = gaussian_filter(np.where(clear, light, 0.0), SMOOTH * min(light.shape))
    return np.asarray(clear & (smooth < 1.6 * float(np.median(smooth[clear]))))


def _waves(flat: Array, clear: NDArray[np.bool_]) -> Array:
    """Frequencies of the strongest plane waves [wave, (row, column)], cycles per pixel, the strongest first.

    The strongest peak of the spectrum is refined, all waves so far are fitted together and taken out, and so on.
    """
    found = np.zeros((0, 4))
    shape = [2 * n for n in flat.shape]
    # slow structure was taken out: nothing is looked for there
    slow = 1 / (2.5 * SMOOTH * min(flat.shape))
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    allowed = (np.hypot(rows, columns) > slow) & (np.hypot(rows, columns) < 0.45)
    for _ in range(MOST):
        left = np.where(clear, flat - _field(flat.shape, found), 0.0)
        power = np.abs(np.fft.rfft2(left, shape)) ** 2 * allowed
        k, m = np.unravel_index(int(power.argmax()), power.shape)
        start = np.array([rows[k, 0], columns[0, m]])
        place = minimize(
            lambda nu, left=left: -_strength(left, nu), start, method="Nelder-Mead",
            options={"initial_simplex": start + np.array([(0, 0), (0.3, 0), (0, 0.3)]) / np.array(shape),
                     "xatol": 1e-6, "maxiter": 60},
        ).x  # fmt: skip
        if not slow < np.hypot(*place) < 0.45:
            break
        places = np.vstack([found[:, :2], place])
        found = np.column_stack([places, _amplitudes(flat, clear, places)])
    return found[:, :2]


def _lasting(places: Array, each: list[Array], masks: list[NDArray[np.bool_]]) -> tuple[Array, float]:
    """Waves that every frame has alike [wave, (row, column, cosine, sine)], and the error of their amplitudes.

    Speckle has waves too, of another amplitude and phase in each frame: their scatter is the measure.
    """
    seen = np.stack([_amplitudes(one, mask, places) for one, mask in zip(each, masks, strict=True)])  # [frame, wave, 2]
    error = seen.std(0, ddof=1) / np.sqrt(len(each))
    sure = np.hypot(*seen.mean(0).T) > SURE * np.sqrt((error**2).mean(1))
    typical = float(np.sqrt((error**2).mean()))
    kept = places[sure]
    if not len(kept):
        return np.zeros((0, 4)), typical
    again = np.mean([_amplitudes(one, mask, kept) for one, mask in zip(each, masks, strict=True)], axis=0)
    return np.column_stack([kept, again]), float(np.sqrt((error[sure] ** 2).mean()))


def _strength(left: Array, nu: Array) -> float:
    """Magnitude of one frequency (row, column), cycles per pixel."""
    y, x = (np.exp(-2j * np.pi * nu[i] * np.arange(left.shape[i])) for i in (0, 1))
    return float(np.abs(y @ left @ x))


def _amplitudes(flat: Array, clear: NDArray[np.bool_], places: Array) -> Array:
    """Cosine and sine amplitudes of waves of known frequencies, by least squares over what is clear [wave, 2]."""
    if not len(places):
        return np.zeros((0, 2))
    r, c = np.nonzero(clear)
    turns = 2 * np.pi * (r[:, None] * places[:, 0] + c[:, None] * places[:, 1])
    design = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
    solved = np.linalg.solve(design.T @ design, design.T @ flat[r, c])
    return np.asarray(solved.reshape(2, -1).T, np.float64)


def _field(shape: tuple[int, ...], waves: Array) -> Array:
    """Sum of waves over the sensor [row, column]."""
    total = np.zeros(shape)
    for row, column, cosine, sine in waves:
        y, x = (np.exp(2j * np.pi * nu * np.arange(n)) for nu, n in ((row, shape[0]), (column, shape[1])))
        total += ((cosine - 1j * sine) * y[:, None] * x[None]).real
    return total
