"""Complex fields become phase patterns: encoders for a phase-only SLM, all of one signature.

Each takes the complex field that the SLM should impose and a `ceiling`, the modulus that is shown as full depth
(in units of the field's largest modulus; what is above it is clipped), and returns a phase pattern in [0, 2 pi).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from labctl.errors import ModelError

TWO_PI = 2 * torch.pi


def off_axis(field: Complex[Tensor, "row column"], ceiling: float = 1.0) -> Float[Tensor, "row column"]:
    """Phase whose carrier depth follows the modulus: the first diffraction order is the field, exactly.

    The field must ride on carriers. ``psi = M mod(F, 2 pi)`` with ``M = 1 + sinc^-1(A) / pi`` and ``F = arg - pi M``
    (Davis et al., Appl. Opt. 38, 5004 (1999); Bolduc et al., Opt. Lett. 38, 3546 (2013)).
    """
    modulus, argument = _normalised(field, ceiling)
    # first-order amplitude of a blaze of depth M is sinc(1 - M), rising over M in [0, 1]: invert it by table
    depth_table = np.linspace(0.0, 1.0, 4097)
    depth = torch.from_numpy(np.interp(modulus.numpy(), np.sinc(1.0 - depth_table), depth_table).astype(np.float32))
    return depth * torch.remainder(argument - torch.pi * depth, TWO_PI)


def double_phase(field: Complex[Tensor, "row column"], ceiling: float = 1.0) -> Float[Tensor, "row column"]:
    """Two phases in a checkerboard, ``arg +- acos(A)``, whose average is the field.

    What the average does not use goes to the corners of the field of view, half a cycle per pixel away on both axes
    (Hsueh and Sawchuk, Appl. Opt. 17, 3874 (1978); Arrizon, Opt. Lett. 28, 2521 (2003)).
    """
    modulus, argument = _normalised(field, ceiling)
    rows, columns = field.shape
    sign = ((torch.arange(rows)[:, None] + torch.arange(columns)[None]) % 2) * 2 - 1
    return torch.remainder(argument + sign * torch.acos(modulus), TWO_PI)


def phase_only(field: Complex[Tensor, "row column"], ceiling: float = 1.0) -> Float[Tensor, "row column"]:
    """The argument alone. Bright and wrong: kept as the control that shows what an encoder is worth."""
    return torch.remainder(_normalised(field, ceiling)[1], TWO_PI)


Encoder = Callable[[Tensor, float], Tensor]
ENCODERS: dict[str, Encoder] = {"double-phase": double_phase, "off-axis": off_axis, "phase-only": phase_only}


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder by name, with its ceiling (largest modulus shown, over the field's largest)."""

    name: str = "double-phase"
    ceiling: float = 0.8

    def encode(self, field: Complex[Tensor, "row column"]) -> Float[Tensor, "row column"]:
        """The phase pattern, rad in [0, 2 pi).

        Raises
        ------
        ModelError
            If no encoder has this name.
        """
        return self._encoder()(field, self.ceiling)

    def shown(self, modulation: Complex[Tensor, "row column"]) -> Float[Tensor, "row column"]:
        """The phase pattern (rad) of a modulation whose modulus is already the depth to be shown, 0 to 1.

        Raises
        ------
        ModelError
            If no encoder has this name.
        """
        # a ceiling that undoes the encoders' own normalisation
        return self._encoder()(modulation, 1 / max(float(modulation.abs().max()), 1e-30))

    def _encoder(self) -> Encoder:
        if self.name not in ENCODERS:
            raise ModelError(f"no encoder is called '{self.name}': there are {', '.join(sorted(ENCODERS))}")
        return ENCODERS[self.name]


def wrapped(phase: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same phase in [0, 2 pi)."""
    return torch.remainder(phase, TWO_PI)


def _normalised(field: Tensor, ceiling: float) -> tuple[Tensor, Tensor]:
    modulus = field.abs()
    return (modulus / (ceiling * modulus.max()).clamp_min(1e-30)).clamp(max=1.0), field.angle()


def gray_from_phase(phase: Float[Tensor, "row column"], levels: int) -> np.ndarray:
    """Gray levels for a linear SLM of 2 pi range, slmsuite's convention: phase 0 is white, more phase darker.

    Parameters
    ----------
    phase : float tensor [row, column], rad
    levels : int
        2 ** bits of the SLM.

    Returns
    -------
    uint8 or uint16 array [row, column]
    """
    steps = torch.round(phase * (levels / TWO_PI)).to(torch.int64)
    gray = (levels - 1 - steps) % levels
    return gray.to(torch.int32).numpy().astype(np.uint8 if levels <= 256 else np.uint16)


def phase_from_gray(gray: np.ndarray, levels: int) -> np.ndarray:
    """The phase (rad, in [0, 2 pi)) that a linear SLM of 2 pi range gives to gray levels: undoes `gray_from_phase`."""
    return ((levels - 1 - gray.astype(np.float32)) % levels) * np.float32(2 * np.pi / levels)
