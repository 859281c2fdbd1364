"""What the makers of the foreign bench know of it, in the terms of calibration records."""

from __future__ import annotations

from typing import Any

import numpy as np
from scoring_truth import Known, defocus_of, untilted


def known_of(bench: Any) -> Known:
    """Of an open foreign bench."""
    light, geometry = bench.device("slm").driver.light, bench.facts.geometry
    back = np.linalg.inv(light.camera_to_plane[:, :2])
    here = -light.f2 / light.f1 * light.panel_to_plane
    here[:, 2] -= light.camera_to_plane[:, 2]
    one_order = light.wavelength * light.f2 / light.slm_pitch
    waves, tilt = untilted(light.waves_on_slm)
    here_on_camera = back @ here
    here_on_camera[:, 2] += back @ tilt * one_order
    beside, here_left = light.reach, 1 - 2 * light.reach
    phase = light.phase_of_gray
    return Known(
        geometry=geometry,
        input_to_camera=here_on_camera,
        carrier_to_camera=back * one_order,
        centre=(np.asarray(light.slm) - 1) / 2 + light.spectrum_shift,
        scale=light.f1 / geometry.f1,
        rotation=light.panel_angle,
        defocus=defocus_of(waves),
        phase=phase - phase[-1],
        stroke=light.stroke,
        wavefront=2 * np.pi * waves,
        pupil=light.beam,
        zero_order=complex(light.unmodulated * np.exp(-1j * phase[-1])),
        crosstalk=float(2.3548 * np.sqrt(0.5 / np.log(here_left / beside))),
        rise=float(np.log(9) * light.up_s),
        rise_slowest=float(np.log(9) * light.down_s),
        settle=float(np.log(100) * light.down_s),
        input_settle=light.panel_delay_s,
        input_amplitude=light.amplitude_of_gray,
        illumination=light.illumination,
        contrast=1 / light.black,
        gamma=float("nan"),
        gain=light.well / (2**light.bits - 1 - light.offset),
        offset=light.offset,
        read_noise=light.read_noise * (2**light.bits - 1 - light.offset) / light.well,
        flicker=light.flicker,
        response=light.pixels,
    )
