"""An independent oracle: torchoptics propagates the same 4f system through free space, lens by lens."""

from __future__ import annotations

import math
import sys

import torch
from torchoptics import Field, System
from torchoptics.elements import Lens, Modulator

from labctl.optics.fourf import FourF
from labctl.optics.geometry import Geometry, Plane


def agreement() -> tuple[float, float]:
    """Correlation of the camera plane's amplitudes, and energy of torchoptics' over ours."""
    wavelength, focal, pitch, grid, slm = 638e-9, 0.05, 8e-6, 512, 256
    geometry = Geometry(
        wavelength,
        focal,
        focal,
        Plane((slm, slm), (pitch,) * 2),
        Plane((48, 48), (pitch,) * 2),
        Plane((grid, grid), (pitch,) * 2),
    )
    torch.manual_seed(0)
    amplitude = torch.zeros(48, 48)
    amplitude[8:38, 10:28] = torch.rand(5, 3).repeat_interleave(6, 0).repeat_interleave(6, 1)
    amplitude[20:26, 14:18] = 1
    row = torch.arange(slm, dtype=torch.float64) - (slm - 1) / 2
    phase = 2 * math.pi * 0.06 * row[:, None] + 2 * torch.cos(row[None] / 20) + torch.sin(row[:, None] / 12)
    mask = torch.polar(torch.ones_like(phase), phase)

    operator = FourF(geometry, (0, 48), (0, 48))
    place = (torch.arange(grid, dtype=torch.float64) - (grid - 1) / 2) * pitch
    ours = operator.field_at(operator.spectrum(amplitude) * mask.to(torch.complex64), -place, -place).abs()

    edge = (grid - slm) // 2
    bench = System(
        Lens((grid, grid), focal, focal, spacing=pitch),
        Modulator(torch.nn.functional.pad(mask, [edge] * 4), 2 * focal, spacing=pitch),
        Lens((grid, grid), focal, 3 * focal, spacing=pitch),
    )
    start = torch.nn.functional.pad(amplitude, [(grid - 48) // 2] * 4).to(torch.complex128)
    theirs = bench.measure_at_z(Field(start, wavelength, 0, spacing=pitch), 4 * focal).data.abs().squeeze().float()

    correlation = torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]
    return float(correlation), float(theirs.square().sum() / ours.square().sum())


def test_a_4f_propagated_lens_by_lens_agrees() -> None:
    """Correlation above 0.999; inversion, scale and energy of the light included."""
    correlation, energy = agreement()
    assert correlation > 0.999
    assert abs(energy - 1) < 0.03


if __name__ == "__main__":
    sys.stdout.write("correlation {:.5f}, energy ratio {:.4f}\n".format(*agreement()))
