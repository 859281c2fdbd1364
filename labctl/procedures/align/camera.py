"""Step 5: square the camera: its rows along the SLM's axes, and the zero order in its middle.

Tiles are laid out along the SLM's axes around the zero order, so this is where a deployment needs the camera. Quarter
turns and mirrors are how a camera is mounted, not how it is aligned: they are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labctl.procedures.align import panel
from labctl.procedures.align.adjusting import Merit
from labctl.procedures.align.eye import NOISE_FLOOR_PX, Eye, Sight, turned
from labctl.procedures.align.light import carrier_of, steer_of, steering
from labctl.procedures.messages import Steps

TARGET_DEG = 0.1
TARGET_PX = 3.0
"""Zero order from the camera's middle, camera px: a deployment leaves a margin of 30."""


def rotation(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the camera should be turned for the SLM's axes to lie along its rows and columns."""
    yield from panel.look(eye)
    carrier = carrier_of(eye.facts)
    steered = yield from steering(eye, [(carrier, 0.0), (-carrier, 0.0), (0.0, carrier), (0.0, -carrier)])
    steer, _ = steer_of(eye.facts, eye.sight.middle, steered, carrier)
    eye.sight = Sight(eye.sight.middle, eye.sight.panel, steer)
    geometry = eye.facts.geometry
    angle, _ = turned(np.diag(geometry.camera.pitch) @ steer @ np.diag(geometry.slm.pitch))
    arm = 2 * carrier * float(np.linalg.norm(steer, axis=0).min())
    error = float(np.rad2deg(2 * NOISE_FLOOR_PX / arm))
    return [
        Merit(
            "camera's rows against the SLM's axes",
            "camera",
            "rotation",
            "deg",
            float(np.rad2deg(angle)),
            error,
            TARGET_DEG,
        )
    ]


def place(eye: Eye) -> Steps[Sequence[Merit]]:
    """How far the camera should move for the zero order to be in its middle."""
    sigma = yield from panel.look(eye)
    mm = np.asarray(eye.facts.geometry.camera.pitch) * 1e3
    away = eye.sight.middle - eye.middle
    return [
        Merit(
            f"zero order off the camera's middle, {name}", "camera", name, "mm",
            float(away[i] * mm[i]), float(sigma * mm[i]), float(TARGET_PX * mm[i]),
        )
        for i, name in panel.AXES
    ]  # fmt: skip
