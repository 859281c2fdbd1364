"""What an encoder is worth: fidelity of the tiles it yields on an ideal bench, and the light it uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from labctl.optics.detection import expected_tiles
from labctl.optics.encoders import EncoderSpec, gray_from_phase, phase_from_gray
from labctl.optics.fourf import FourF
from labctl.optics.geometry import Geometry
from labctl.optics.tiles import Layout, slm_field


@dataclass(frozen=True)
class Fidelity:
    """Pearson r of the tiles' amplitudes against conv2d, and diffraction efficiency.

    Attributes
    ----------
    per_tile : tuple of float
        Mean over images; NaN for a tile that is dark because its kernel is zero.
    mean, worst : float
        Over all lit tiles and images.
    efficiency : float
        Light inside the tiles' pixels over light that reaches the SLM.
    """

    per_tile: tuple[float, ...]
    mean: float
    worst: float
    efficiency: float


def pearson(a: Float[Tensor, "*batch y x"], b: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch"]:
    """Pearson correlation over the last two axes; NaN where either is constant."""
    a, b = a.flatten(-2), b.flatten(-2)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.pow(2).sum(-1) * b.pow(2).sum(-1)).sqrt()


def encoder_fidelity(
    images: Float[Tensor, "batch 1 y x"],
    kernels: Float[Tensor, "tiles ky kx"],
    layout: Layout,
    geometry: Geometry,
    encoder: EncoderSpec,
    *,
    levels: int = 256,
) -> Fidelity:
    """Run images through the ideal bench with a phase-only SLM of so many gray levels, and compare with conv2d."""
    block = layout.block
    corner = [(geometry.input.shape[i] - layout.image[i] * block[i]) // 2 for i in (0, 1)]
    operator = FourF(
        geometry,
        (corner[0], corner[0] + layout.image[0] * block[0]),
        (corner[1], corner[1] + layout.image[1] * block[1]),
    )
    field, _ = slm_field(kernels, layout, geometry)
    phase = torch.from_numpy(phase_from_gray(gray_from_phase(encoder.encode(field), levels), levels))
    shown = torch.polar(torch.ones_like(phase), phase)
    y, x = operator.image_positions(layout.image, block)
    want = expected_tiles(images, kernels)
    steps = [geometry.slm.pitch[i] / (geometry.wavelength * geometry.f1) for i in (0, 1)]
    pixel = [block[i] * geometry.input.pitch[i] for i in (0, 1)]
    rows: list[Tensor] = []
    efficiency: list[float] = []
    for image in images:
        amplitude = image[0].repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        spectrum = operator.spectrum(amplitude)
        light = spectrum.abs().pow(2).sum() / (steps[0] * steps[1])
        read = operator.tiles_at(spectrum * shown, layout.carriers, y, x).abs()
        rows.append(pearson(read, want[len(rows)]))
        efficiency.append(float(read.pow(2).sum() * pixel[0] * pixel[1] / light))
    r = torch.stack(rows)
    lit = r[~r.isnan()]
    return Fidelity(
        per_tile=tuple(r.nanmean(0).tolist()),
        mean=float(lit.mean()),
        worst=float(lit.min()),
        efficiency=sum(efficiency) / len(efficiency),
    )
