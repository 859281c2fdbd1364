"""The non-uniform FFT against the sum that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.transforms import Spreading, lit_box


@settings(max_examples=15)
@given(
    angle=st.floats(-0.05, 0.05), scale=st.floats(0.98, 1.02), y=st.floats(-2e-4, 2e-4), x=st.floats(-2e-4, 2e-4),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_spectrum_of_a_moved_panel(angle: float, scale: float, y: float, x: float, seed: int) -> None:
    """Error below 5e-4 of the largest value at the panel's very edge and 5e-6 in the median, for any affine map."""
    geometry = Geometry(
        638e-9, 0.1, 0.1, Plane((120, 96), (16e-6,) * 2), Plane((40, 40), (8e-6,) * 2), Plane((64, 64), (5e-6,) * 2)
    )
    pixels = np.argwhere(np.ones((40, 40)))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * scale
    metres = (pixels - 19.5) * 8e-6 @ turn.T + [y, x]
    made = Spreading.build(metres, pixels, geometry, (1.25, -3.5))
    amplitude = np.random.default_rng(seed).random((40, 40)).astype(np.float32)
    amplitude[:, 33:] = 0
    box = lit_box(amplitude)
    assert box == (0, 40, 0, 40)
    got = made.transform(*made.spread(amplitude, box)) * made.factor
    step = 16e-6 / (638e-9 * 0.1)
    nu_y = (np.arange(120) - 59.5 - 1.25) * step
    nu_x = (np.arange(96) - 47.5 + 3.5) * step
    kernel_y = np.exp(-2j * np.pi * np.outer(nu_y, metres[:, 0]))
    kernel_x = np.exp(-2j * np.pi * np.outer(nu_x, metres[:, 1]))
    want = (kernel_y * amplitude.ravel()) @ kernel_x.T
    want *= np.sinc(nu_y * 8e-6)[:, None] * np.sinc(nu_x * 8e-6)[None] * (step * 8e-6) ** 2
    error = np.abs(got - want) / np.abs(want).max()
    assert error.max() < 5e-4
    assert np.median(error) < 5e-6


def test_black_blocks_are_left_out() -> None:
    geometry = Geometry(
        638e-9, 0.1, 0.1, Plane((128, 128), (16e-6,) * 2), Plane((96, 96), (8e-6,) * 2), Plane((64, 64), (5e-6,) * 2)
    )
    pixels = np.argwhere(np.ones((96, 96)))
    made = Spreading.build((pixels - 47.5) * 8e-6, pixels, geometry, (0.0, 0.0))
    amplitude = np.zeros((96, 96), np.float32)
    amplitude[40:50, 40:50] = 1
    r0, r1, c0, c1 = box = lit_box(amplitude)
    assert box == (32, 64, 32, 64)
    points, (first, end, left, right) = made.spread(amplitude[r0:r1, c0:c1], box)
    assert points.size < 0.3 * made.ramp.size
    whole = (made.matrix @ amplitude.ravel()).reshape(made.shape)
    assert points == pytest.approx((whole * made.ramp)[first:end, left:right], abs=1e-5)
    whole[first:end, left:right] = 0
    assert not whole.any()


def test_a_black_panel_gives_no_light() -> None:
    geometry = Geometry(
        638e-9, 0.1, 0.1, Plane((64, 64), (16e-6,) * 2), Plane((40, 40), (8e-6,) * 2), Plane((64, 64), (5e-6,) * 2)
    )
    pixels = np.argwhere(np.ones((40, 40)))
    made = Spreading.build((pixels - 19.5) * 8e-6, pixels, geometry, (0.0, 0.0))
    box = lit_box(np.zeros((40, 40)))
    assert not made.transform(*made.spread(np.zeros((box[1], box[3]), np.float32), box)).any()
