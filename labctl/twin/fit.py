"""The joint fit: all parameters of the twin from captures of masks and inputs, by stochastic gradient descent.

Each step takes one pattern with some of its inputs, a random choice of camera pixels, and the parameters' own step
sizes (`STEPS`), so that Adam's steps mean the same to a shift in pixels and to a phase in radians. The laser's power is
solved for in every frame. Amplitudes (roots of counts) are compared: their noise is nearly the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labctl.twin.model import Twin
from labctl.twin.plane import Window

STEPS: dict[str, float] = {
    "input_place": 0.1,
    "input_linear": 0.001,
    "carrier_to_camera": 0.3,
    "centre": 0.3,
    "input_curvature": 0.02,
    "input_response": 0.004,
    "uniformity": 0.005,
    "lut": 0.03,
    "stroke": 0.003,
    "crosstalk": 0.05,
    "zero_order": 0.01,
    "pupil": 0.01,
    "zernikes": 0.006,
    "rough": 0.02,
    "ghosts": 0.002,
    "ghost_paths": 0.1,
    "pixel": 0.02,
    "camera": 0.01,
}
"""Steps in which each parameter is sought, in its unit: what makes about the same difference to a capture."""
LEAST_CROSSTALK = 0.45
"""SLM px below which a width makes no difference, and none can be found."""
FLOOR_COUNTS = 4.0
"""Counts whose root is as uncertain as the read noise makes it; they are added before roots are taken."""


@dataclass(frozen=True, eq=False)
class Capture:
    """One frame and what made it.

    Attributes
    ----------
    pattern : int
        Which SLM pattern; captures of one pattern share the SLM's field.
    gray : integer array [row, column]
        Of the input panel.
    counts : float32 array [row, column]
        Above the dark level, of the window.
    good : bool array [row, column]
        Pixels that are neither saturated nor hot.
    exposure_s : float, s
    """

    pattern: int
    gray: NDArray[np.integer]
    counts: NDArray[np.float32]
    good: NDArray[np.bool_]
    exposure_s: float


@dataclass(frozen=True, eq=False)
class Captured:
    """Captures, and the SLM patterns and camera windows that they are of.

    Attributes
    ----------
    patterns : sequence of integer arrays [row, column]
    captures : sequence of Capture
    windows : sequence of (first row, end row, first column, end column)
        Of each pattern's captures.
    """

    patterns: Sequence[NDArray[np.integer]]
    captures: Sequence[Capture]
    windows: Sequence[Window]

    def of(self, pattern: int) -> list[Capture]:
        """Captures of one pattern."""
        return [capture for capture in self.captures if capture.pattern == pattern]

    @property
    def shown(self) -> list[int]:
        """Patterns of which there are captures."""
        return sorted({capture.pattern for capture in self.captures})


@dataclass(frozen=True)
class Plan:
    """How to fit.

    Attributes
    ----------
    steps : int
    rate : float
        Of Adam, in units of `STEPS`, at the start; it falls to a fiftieth along a cosine.
    inputs : int
        Captures of one pattern that each step looks at.
    pixels : int
        Camera pixels that each step looks at.
    free : tuple of str
        Names of the parameters that move.
    """

    steps: int = 300
    rate: float = 1.0
    inputs: int = 2
    pixels: int = 24_000
    free: tuple[str, ...] = tuple(STEPS)
    seed: int = 0


def fitting(twin: Twin, captured: Captured, plan: Plan) -> Iterator[float]:
    """Fit a twin in place, one step for each value asked for; gradients are off again when the iterator is closed.

    Yields
    ------
    float
        Loss of the step: mean squared error of the amplitude over its mean square.
    """
    rng = np.random.default_rng(plan.seed)
    named = dict(twin.named_parameters())
    groups = [{"params": [named[name]], "lr": STEPS[name]} for name in plan.free]
    adam = torch.optim.Adam(groups, lr=1.0, betas=(0.8, 0.97), eps=1e-12)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda n: plan.rate * cosine(n / max(plan.steps, 1)))
    pivot = _mean_carrier(twin, captured)
    order = np.zeros(0, int)
    twin.requires_grad_(False)
    for name in plan.free:
        named[name].requires_grad_(True)
    try:
        for _ in range(plan.steps):
            if not len(order):
                order = rng.permutation(captured.shown)
            pattern, order = int(order[0]), order[1:]
            these = captured.of(pattern)
            chosen = [these[i] for i in rng.permutation(len(these))[: plan.inputs]]
            adam.zero_grad()
            loss = amplitude_error(twin, captured, pattern, chosen, choose(captured.windows[pattern], plan.pixels, rng))
            torch.autograd.backward([loss])
            before = twin.carrier_to_camera.detach().clone()
            if twin.carrier_to_camera.grad is not None and twin.input_place.grad is not None:
                # a carrier's map turns about the middle of the captures, not about the zero order
                twin.carrier_to_camera.grad -= torch.outer(twin.input_place.grad, pivot)
            adam.step()
            falling.step()
            with torch.no_grad():
                if "carrier_to_camera" in plan.free and "input_place" in plan.free:
                    twin.input_place.sub_((twin.carrier_to_camera - before) @ pivot)
                settle(twin)
            yield float(loss.detach())
    finally:
        twin.requires_grad_(False)


def fit(twin: Twin, captured: Captured, plan: Plan) -> list[float]:
    """Fit a twin in place, to the end; losses as `fitting` yields them."""
    return list(fitting(twin, captured, plan))


def cosine(part: float) -> float:
    """A rate that falls from 1 to 0.02 as `part` goes from 0 to 1, after a short rise."""
    return min(1.0, 0.1 + part / 0.05) * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(part, 1.0)))))


def choose(window: Window, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random pixels (row, column) of a window, counted from its corner; none twice."""
    r0, r1, c0, c1 = window
    size = (r1 - r0) * (c1 - c0)
    flat = np.arange(size) if count >= size else rng.choice(size, count, replace=False)
    return np.stack([flat // (c1 - c0), flat % (c1 - c0)], axis=1)


def amplitude_error(
    twin: Twin,
    captured: Captured,
    pattern: int,
    captures: Sequence[Capture],
    pixels: NDArray[np.int64],
    *,
    field: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the amplitude over its mean square, each frame's power solved for.

    Parameters
    ----------
    pixels : integer array [n, 2]
        Rows and columns of the window.
    field : complex tensor [row, column], optional
        In place of what the twin says the SLM does to the pattern.
    """
    spectra = twin.spectra(np.stack([capture.gray for capture in captures]))
    places = torch.from_numpy(pixels + np.asarray(captured.windows[pattern])[[0, 2]]).double()
    field = twin.slm_field(captured.patterns[pattern]) if field is None else field
    found = twin.pixels_of(field, spectra, places)
    errors = []
    for capture, counts in zip(captures, found, strict=True):
        seen, predicted, good = (
            torch.from_numpy(capture.counts[pixels[:, 0], pixels[:, 1]]),
            counts * capture.exposure_s,
            torch.from_numpy(capture.good[pixels[:, 0], pixels[:, 1]]),
        )
        seen, predicted = seen[good], predicted[good].clamp(min=0.0)
        power = power_of(predicted.detach(), seen)
        want = (seen.clamp(min=0) + FLOOR_COUNTS).sqrt()
        errors.append(((power * predicted + FLOOR_COUNTS).sqrt() - want).square().mean() / seen.mean().clamp(min=1.0))
    return torch.stack(errors).mean()


def power_of(predicted: Tensor, seen: Tensor) -> Tensor:
    """Power of one frame relative to the twin's gain: what brings the predicted amplitudes closest."""
    scale = (predicted.clamp(min=0) * seen.clamp(min=0)).sqrt().sum() / predicted.sum().clamp(min=1e-12)
    return scale.square()


def settle(twin: Twin) -> None:
    """Bring parameters back to what their definitions say where a step has left them, changing no prediction."""
    twin.zernikes[:3] = 0
    twin.crosstalk.clamp_(min=LEAST_CROSSTALK)
    twin.pixel.clamp_(min=0.05)
    twin.pupil.clamp_(min=0.0)
    largest = twin.pupil.max().clamp(min=1e-6)
    twin.pupil.div_(largest)
    twin.log_gain.add_(2 * largest.log())


def _mean_carrier(twin: Twin, captured: Captured) -> Tensor:
    """Carrier that brings the panel's middle to the middle of the windows."""
    windows = np.array([captured.windows[capture.pattern] for capture in captured.captures], float)
    middle = torch.tensor([windows[:, :2].mean() - 0.5, windows[:, 2:].mean() - 0.5], dtype=torch.float64)
    return torch.linalg.solve(twin.carrier_to_camera.detach(), middle - twin.input_place.detach())
