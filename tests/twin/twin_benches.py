"""A small bench for the twin's tests, none of whose effects is off."""

from __future__ import annotations

from typing import Any

import numpy as np

from labctl.optics.geometry import Geometry, Plane
from labctl.twin.model import Twin
from labctl.twin.parts import Fineness

SMALL = Geometry(
    638e-9, 0.1, 0.075, Plane((48, 48), (16e-6, 16e-6)), Plane((24, 24), (16e-6, 16e-6)),
    Plane((90, 96), (5.5e-6, 5.5e-6)),
)  # fmt: skip


def generic() -> Twin:
    """A small twin none of whose effects is off."""
    generator = np.random.default_rng(5)
    twin = Twin(SMALL, fineness=Fineness(pupil=4, rough=5))
    turn = np.array([[1.0, 0.03], [-0.03, 1.0]])
    values: dict[str, Any] = {"input_linear": np.asarray(twin.input_linear) @ turn, "centre": [22.0, 25.0]}
    for name, size in (
        ("input_response", 0.05), ("uniformity", 0.1), ("lut", 0.2), ("stroke", 0.05), ("zernikes", 0.05),
        ("rough", 0.1), ("camera", 0.1), ("zero_order", 0.2),
    ):  # fmt: skip
        shape = tuple(getattr(twin, name).shape)
        values[name] = size * generator.standard_normal(shape)
    values["zernikes"][:3] = 0
    values |= {
        "pupil": 0.8 + 0.2 * generator.random((4, 4)),
        "ghosts": [[0.1, 0.05]],
        "ghost_paths": [[4.5, -3.0, 1.0]],
    }
    values |= {"crosstalk": 0.9, "pixel": 0.9, "input_curvature": 0.5, "log_gain": 1.0}
    twin.load_values(values)
    return twin
