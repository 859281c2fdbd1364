"""Step 3: focus the camera on the input plane.

Light that comes through different quarters of the SLM meets in one place only in the image plane; in front of it and
behind it the quarters' images of a dot lie apart, this way or that. How far says how far to go, and which way says
which way, as soon as one turn has shown the sign of this SLM's phase. Only the part of the wavefront counts that
is the same along all axes: astigmatism and coma drop out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labctl.procedures.align.adjusting import Merit
from labctl.procedures.align.eye import NOISE_FLOOR_PX, Eye, Lost
from labctl.procedures.align.quadrants import QUARTERS, disk
from labctl.procedures.align.slm import dot_px, pupil
from labctl.procedures.messages import Steps

DEPTH = 0.4
"""Target, of the depth of focus that Rayleigh's quarter wave allows."""


def focus(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the camera should move along the axis, from the images through opposite quarters of the SLM.

    A defocus of dz bends the wavefront by r² dz / (2 f2²): the light through a point r of the SLM arrives r dz / f2
    off (Goodman, *Introduction to Fourier Optics*, 6.4).
    """
    geometry = eye.facts.geometry
    seen = yield from pupil(eye)
    reach = _arm(eye)
    arms = np.array([[reach[i] * (1 if quarter[i] else -1) for i in (0, 1)] for quarter in QUARTERS])
    expected = 2 * arms @ eye.sight.steer.T  # camera px for one cycle per SLM px of tilt at a distance of one SLM px
    known = np.isfinite(seen.apart).all(axis=1)
    if known.sum() < 3:
        raise Lost("the images through the quarters of the SLM are not all in the picture")
    weight = float((expected[known] ** 2).sum())
    bend = float((expected[known] * seen.apart[known]).sum()) / weight
    noise = NOISE_FLOOR_PX + 0.5 * seen.error
    scale = geometry.wavelength * geometry.f2**2 / (geometry.slm.pitch[0] * geometry.slm.pitch[1])
    aperture = min(geometry.slm.extent) / 2 / geometry.f2
    depth = geometry.wavelength / (2 * aperture**2)
    return [
        Merit(
            "camera from the image plane", "camera", "focus", "mm", 1e3 * scale * bend,
            1e3 * scale * noise / weight**0.5, 1e3 * DEPTH * depth,
        )
    ]  # fmt: skip


def _arm(eye: Eye) -> tuple[float, float]:
    """Mean distance (y, x) from the SLM's middle of a dot's light on a quarter of its disk, SLM px."""
    geometry = eye.facts.geometry
    away = [np.arange(n) - (n - 1) / 2 for n in geometry.slm.shape]
    nu = geometry.frequencies()
    side = [dot_px(eye.facts) * pitch for pitch in geometry.input.pitch]
    light = np.outer(np.sinc(nu[0] * side[0]) ** 2, np.sinc(nu[1] * side[1]) ** 2) * disk(eye.facts)
    y, x = np.abs(away[0])[:, None], np.abs(away[1])[None]
    return float((y * light).sum() / light.sum()), float((x * light).sum() / light.sum())
