"""What the makers of the foreign bench know of it, in the terms of calibration records."""

from __future__ import annotations

from typing import Any

import numpy as np
from scoring_truth import Known


def known_of(bench: Any) -> Known:
    """Of an open foreign bench."""
    light, geometry = bench.device("slm").driver.light, bench.facts.geometry
    back = np.linalg.inv(light.camera_to_plane[:, :2])
    here = -light.f2 / light.f1 * light.panel_to_plane
    here[:, 2] -= light.camera_to_plane[:, 2]
    one_order = light.wavelength * light.f2 / light.slm_pitch
    radius = (min(light.slm) - 1) / 2
    y, x = ((np.arange(n) - (n - 1) / 2) / radius for n in light.slm)
    disk = (y[:, None] ** 2 + x[None] ** 2) <= 1
    focus = np.sqrt(3) * (2 * (y[:, None] ** 2 + x[None] ** 2) - 1)
    rms = [light.reach, 1 - 2 * light.reach]
    phase = light.phase_of_gray
    return Known(
        geometry=geometry,
        input_to_camera=back @ here,
        carrier_to_camera=back * one_order,
        centre=(np.asarray(light.slm) - 1) / 2 + light.spectrum_shift,
        scale=light.f1 / geometry.f1,
        rotation=light.panel_angle,
        defocus=float((light.waves_on_slm * focus)[disk].mean()),
        phase=phase - phase[-1],
        stroke=light.stroke,
        wavefront=2 * np.pi * light.waves_on_slm,
        pupil=light.beam,
        zero_order=complex(light.unmodulated * np.exp(-1j * phase[-1])),
        crosstalk=float(2.3548 * np.sqrt(0.5 / np.log(rms[1] / rms[0]))),
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
