"""The twin's parameters: what there is, in which unit, and how finely maps and curves are described."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fineness:
    """How finely curves and maps are described.

    Attributes
    ----------
    response_knots : int
        Of the input panel's amplitude over gray, denser where it is dark.
    lut_knots : int
        Of the SLM's phase over gray.
    uniformity, stroke, camera : int
        Highest degree (sum over both axes) of Legendre polynomials over panel, SLM and camera.
    pupil : int
        Nodes per axis of the amplitude over the SLM.
    rough : int
        Nodes per axis of the free-form part over the SLM.
    ghosts : int
        Second images.
    """

    response_knots: int = 9
    lut_knots: int = 9
    uniformity: int = 4
    stroke: int = 3
    camera: int = 3
    pupil: int = 7
    rough: int = 40
    ghosts: int = 1


UNITS: dict[str, str] = {
    "input_place": "camera px (row, column) where the middle of the input panel is seen",
    "input_linear": "camera px per input px",
    "carrier_to_camera": "camera px per (cycle per SLM px)",
    "centre": "SLM px (row, column)",
    "input_curvature": "rad at half the panel's shorter side",
    "input_response": "amplitude above the linear response, at the knots below white",
    "uniformity": "log amplitude per Legendre polynomial",
    "lut": "rad above the linear response, at the knots below the top gray level",
    "stroke": "1 per Legendre polynomial",
    "crosstalk": "SLM px, full width at half maximum",
    "zero_order": "amplitude relative to a flat SLM's (re, im)",
    "pupil": "amplitude, largest 1",
    "zernikes": "waves rms, Noll j = 1 to 36 over the SLM's inscribed disk",
    "rough": "rad and log amplitude (free-form part)",
    "ghosts": "amplitude of each second image (re, im), of the first",
    "ghost_paths": "rad at the edge of the SLM's inscribed disk: tilt (y, x) and defocus of each second image",
    "pixel": "side of the camera pixel's light-sensitive square, of its pitch",
    "fill": "side of the SLM pixel, of its pitch",
    "camera": "log intensity per Legendre polynomial",
    "log_gain": "log(counts per s at unit intensity)",
}
"""The twin's parameters and their units."""

MAPS: dict[str, str] = {
    "lit": "1, of the input panel: where it sends light",
    "flat": "1, of the camera: response of each pixel",
    "rough_gain": "1: 0 switches the free-form part off",
}
"""What the twin holds besides: measured maps, which the joint fit does not move."""


def low_degrees(order: int) -> NDArray[np.bool_]:
    """Which products of Legendre polynomials [degree of y, degree of x] have a degree up to `order`, not constant."""
    total = np.arange(order + 1)[:, None] + np.arange(order + 1)[None]
    return np.asarray((total <= order) & (total > 0))
