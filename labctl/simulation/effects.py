"""Every imperfection of the simulated bench: its size, by preset, and the truth drawn from one seed.

Sizes are in plausible lab units (see docs on the simulated world). A preset only sets sizes; `[simulation] effects`
in a bench file overrides single ones, zero switches an effect off. `Truth` is what the dice gave: nothing but scoring
may look at it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.errors import ConfigError


@dataclass(frozen=True)
class Effects:
    """Sizes of the effects; the defaults are an ideal bench.

    Positions and angles are drawn uniformly within +- the size, smooth shapes with the size as rms.
    """

    # laser
    laser_drift: float = 0.0
    """Slow walk of the power, fraction per hour (rms rate)."""
    laser_flicker: float = 0.0
    """Power noise from exposure to exposure, rms fraction."""
    pointing_jitter_px: float = 0.0
    """Wander of the beam's direction from exposure to exposure: it moves the spectrum, rms SLM pixels."""
    # input panel
    input_shift_px: float = 0.0
    input_rotation_deg: float = 0.0
    input_scale: float = 0.0
    input_contrast: float = np.inf
    """Intensity ratio of white to black."""
    input_gamma: float = 0.0
    """Deviation of the amplitude response's exponent from 1."""
    input_vignetting: float = 0.0
    """Loss of amplitude at the field stop's corner, fraction."""
    input_stop_px: float = np.inf
    """Side of the square field stop, panel pixels."""
    # SLM
    slm_lut: float = 0.0
    """Largest deviation of the global gray-to-phase curve, rad."""
    slm_lut_spread: float = 0.0
    """Variation of the phase stroke over the panel, rms fraction."""
    slm_crosstalk_px: float = 0.0
    """Full width at half maximum of the phase's spread between pixels, px."""
    slm_zero_order: float = 0.0
    """Fraction of the light that the panel reflects unmodulated."""
    slm_rise_s: float = 0.0
    """10-90 % time of the liquid crystal for a small step, s."""
    slm_rise_slowing: float = 0.0
    """How much longer a step of 2 pi takes, fraction."""
    slm_flicker: float = 0.0
    """Ripple of the phase with the drive signal, rms fraction of the phase."""
    slm_fill: bool = False
    """Whether pixels are squares (sinc envelope over the camera plane) or points."""
    # Fourier plane
    fourier_shift_px: float = 0.0
    fourier_rotation_deg: float = 0.0
    fourier_scale: float = 0.0
    defocus_waves: float = 0.0
    aberration_waves: float = 0.0
    """Zernike j = 5 to 28, rms over the SLM's inscribed disk, waves."""
    roughness_waves: float = 0.0
    """Irregular part of the wavefront, correlated over a twentieth of the panel, rms waves."""
    pupil_apodisation: float = 0.0
    """Loss of amplitude at the SLM's edge, fraction."""
    beam_offset_px: float = 0.0
    """How far from the SLM's middle the beam that `pupil_apodisation` describes has its own, SLM pixels."""
    ghost: float = 0.0
    """Light in a second, displaced and defocused image from a reflection, fraction."""
    fringes: float = 0.0
    """Contrast of static parasitic fringes."""
    # mechanics
    creep_px_per_h: float = 0.0
    """How fast the camera (camera pixels) and the Fourier plane (SLM pixels) wander off, steadily, each its own way."""
    # camera
    camera_shift_px: float = 0.0
    camera_rotation_deg: float = 0.0
    camera_turn_deg: float = 0.0
    """How the camera is mounted: 0, 90, 180 or 270."""
    camera_mirror: bool = False
    camera_flips: bool = False
    """Whether the dice choose turn and mirror instead."""
    camera_focus_mm: float = 0.0
    """How far the camera is from the image plane; beside `defocus_waves`, which is of the optics."""
    read_noise_e: float = 0.0
    dark_current_e_per_s: float = 0.0
    shot_noise: bool = False
    prnu: float = 0.0
    hot_pixels: float = 0.0
    """Fraction of pixels that are hot."""
    offset_counts: float = 0.0
    offset_drift_counts: float = 0.0
    """Slow roll of the offset over the rows, rms counts."""
    full_well_e: float = 10_000.0
    flux_e_per_s: float = 1.6e7
    """Photo-electrons per camera pixel and second at unit intensity (white input, mirror on the SLM)."""


TYPICAL = Effects(
    laser_drift=0.02, laser_flicker=0.003, pointing_jitter_px=0.1,
    input_shift_px=10, input_rotation_deg=0.8, input_scale=0.005, input_contrast=300, input_gamma=0.06,
    input_vignetting=0.06, input_stop_px=96,
    slm_lut=0.2, slm_lut_spread=0.02, slm_crosstalk_px=0.9, slm_zero_order=0.04, slm_rise_s=0.04, slm_rise_slowing=0.5,
    slm_flicker=0.005, slm_fill=True,
    fourier_shift_px=14, fourier_rotation_deg=0.4, fourier_scale=0.004, defocus_waves=0.08, aberration_waves=0.06,
    roughness_waves=0.015, pupil_apodisation=0.15, beam_offset_px=8, ghost=0.003, fringes=0.02,
    creep_px_per_h=0.1, camera_shift_px=12, camera_rotation_deg=0.7,
    read_noise_e=2.5, dark_current_e_per_s=5, shot_noise=True, prnu=0.01, hot_pixels=1e-4, offset_counts=64,
    offset_drift_counts=0.3,
)  # fmt: skip
MILD = replace(
    TYPICAL,
    laser_drift=0.01, input_shift_px=4, input_rotation_deg=0.3, input_contrast=1000, input_gamma=0.02, slm_lut=0.08,
    slm_zero_order=0.02, fourier_shift_px=5, fourier_rotation_deg=0.1, defocus_waves=0.03, aberration_waves=0.025,
    camera_shift_px=5, camera_rotation_deg=0.2, fringes=0.01, ghost=0.001, roughness_waves=0.007, slm_flicker=0.002,
    pointing_jitter_px=0.05, beam_offset_px=3, creep_px_per_h=0.05,
)  # fmt: skip
NASTY = replace(
    TYPICAL,
    laser_drift=0.03, laser_flicker=0.006, input_shift_px=20, input_rotation_deg=2, input_scale=0.01,
    input_contrast=100, slm_lut=0.3, slm_lut_spread=0.04, slm_zero_order=0.08, slm_rise_s=0.09, fourier_shift_px=30,
    fourier_rotation_deg=1, defocus_waves=0.2, aberration_waves=0.2, camera_shift_px=25, camera_rotation_deg=2,
    camera_flips=True, fringes=0.05, read_noise_e=3, prnu=0.015, ghost=0.01, roughness_waves=0.04, slm_flicker=0.01,
    pointing_jitter_px=0.3, offset_drift_counts=1.0, beam_offset_px=25,
    creep_px_per_h=0.3,
)  # fmt: skip
PRESETS = {"ideal": Effects(), "mild": MILD, "typical": TYPICAL, "nasty": NASTY}


def resolve(preset: str, overrides: Mapping[str, Any]) -> Effects:
    """The effects of a preset with single sizes replaced.

    Raises
    ------
    ConfigError
        For an unknown effect or a value of the wrong type.
    """
    known = {field.name: type(getattr(TYPICAL, field.name)) for field in fields(Effects)}
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"simulation.effects.{name} is not an effect" + (f": did you mean {near[0]}?" if near else "")
            )
        if known[name] is bool:
            if not isinstance(value, bool):
                raise ConfigError(f"simulation.effects.{name} must be true or false")
            values[name] = value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = float(value)
        else:
            raise ConfigError(f"simulation.effects.{name} must be a number")
    return replace(PRESETS[preset], **values)


@dataclass(frozen=True, eq=False)
class Truth:
    """What the dice gave. Lengths in panel, SLM or camera pixels as named; angles in rad.

    `lut_bend` holds the amplitudes (rad) of three half-sines over the gray range, `stroke` four smooth coefficients of
    the panel's variation, `zernikes` waves by Noll index, `ghost` its carrier (y, x; cycles per SLM pixel), defocus
    (rad at the panel's edge) and phase, `fringe` period (camera pixels), angle and phase; `camera_focus` is in m, from
    the image plane away from the lens; `creep` is in pixels per hour: camera (row, column), Fourier plane (y, x).
    """

    input_shift: tuple[float, float]
    input_rotation: float
    input_scale: float
    input_gamma: float
    fourier_shift: tuple[float, float]
    fourier_rotation: float
    fourier_scale: float
    lut_bend: NDArray[np.float64]
    stroke: NDArray[np.float64]
    zernikes: NDArray[np.float64]
    camera_shift: tuple[float, float]
    camera_rotation: float
    camera_turns: int
    camera_mirror: bool
    ghost: tuple[float, float, float, float]
    fringe: tuple[float, float, float]
    drift_phases: NDArray[np.float64]
    creep: tuple[float, float, float, float]
    beam_offset: tuple[float, float]
    camera_focus: float

    @staticmethod
    def draw(effects: Effects, seed: int) -> Truth:
        """Draw everything from one seed; each effect has its own stream, so that switching one leaves the others."""

        def stream(name: str) -> np.random.Generator:
            return np.random.default_rng([seed, *name.encode()])

        def pair(name: str, size: float) -> tuple[float, float]:
            y, x = stream(name).uniform(-size, size, 2) if size else (0.0, 0.0)
            return float(y), float(x)

        def one(name: str, size: float) -> float:
            return float(stream(name).uniform(-size, size)) if size else 0.0

        zernikes = stream("aberration").standard_normal(29)
        zernikes[:5] = 0
        zernikes[5:] /= np.arange(5, 29)  # low orders dominate, as in polished glass
        zernikes *= effects.aberration_waves / np.sqrt((zernikes**2).sum())
        zernikes[4] = one("defocus", effects.defocus_waves)
        turned = stream("flips")
        return Truth(
            input_shift=pair("input shift", effects.input_shift_px),
            input_rotation=np.deg2rad(one("input rotation", effects.input_rotation_deg)),
            input_scale=1 + one("input scale", effects.input_scale),
            input_gamma=1 + one("input gamma", effects.input_gamma),
            fourier_shift=pair("fourier shift", effects.fourier_shift_px),
            fourier_rotation=np.deg2rad(one("fourier rotation", effects.fourier_rotation_deg)),
            fourier_scale=1 + one("fourier scale", effects.fourier_scale),
            lut_bend=stream("lut").uniform(-1, 1, 3) * effects.slm_lut * np.array([0.6, 0.3, 0.1]),
            stroke=stream("stroke").standard_normal(4) * effects.slm_lut_spread / 2,
            zernikes=zernikes,
            camera_shift=pair("camera shift", effects.camera_shift_px),
            camera_rotation=np.deg2rad(one("camera rotation", effects.camera_rotation_deg)),
            camera_turns=int(turned.integers(4)) if effects.camera_flips else round(effects.camera_turn_deg / 90) % 4,
            camera_mirror=bool(turned.integers(2)) if effects.camera_flips else effects.camera_mirror,
            ghost=tuple(stream("ghost").uniform([-0.06, -0.06, 2, 0], [0.06, 0.06, 5, 2 * np.pi])),
            fringe=tuple(stream("fringe").uniform([20, 0, 0], [60, np.pi, 2 * np.pi])),
            drift_phases=stream("drift").uniform(0, 2 * np.pi, 6),
            creep=(*pair("camera creep", effects.creep_px_per_h), *pair("fourier creep", effects.creep_px_per_h)),
            beam_offset=pair("beam offset", effects.beam_offset_px),
            camera_focus=one("camera focus", effects.camera_focus_mm) * 1e-3,
        )
