"""Masks for the bench as it is: what the SLM must be told so that the delivered field is the wanted one.

The delivered field on the SLM is ``P = (exp(i phase) + zero order) . pupil``, and phase is what response curve, stroke
and crosstalk make of the command. `wanted_field` writes the masks at the spatial frequencies that really fall on each
pixel (rotation and scale included), `command` takes optics and panel back analytically, and `refine` goes on from there
by gradient descent through the twin, which alone can do something about crosstalk and about what the encoder's own
side orders leave between the tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int64
from torch import Tensor

from labctl.optics.encoders import TWO_PI, EncoderSpec, wrapped
from labctl.optics.masks import anchor, pixel_compensation
from labctl.optics.tiles import Layout, tile_phases
from labctl.twin.model import Twin

WEAKEST = 0.1
"""Transmission of the pupil (over the mean) below which no more light is asked for."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What the SLM's plane should impose on the spectrum.

    Attributes
    ----------
    fields : complex64 tensor [tiles, row, column]
        Each tile's mask on its carrier, of rms 1; zero for a tile whose kernel is zero.
    scale : float tensor [tiles]
        What each mask was divided by: digital amplitude per unit of optical amplitude.
    """

    fields: Complex[Tensor, "tiles row column"]
    scale: Float[Tensor, " tiles"]


def wanted_field(
    twin: Twin, kernels: Float[Tensor, "tiles ky kx"], layout: Layout, *, compensate: bool = True
) -> Wanted:
    """Masks of a kernel bank on their carriers, at the frequencies that fall on each SLM pixel of the delivered bench.

    With B the turns per SLM pixel of a panel pixel and j0 the centre of the Fourier plane, the mask of `conv2d` is
    ``sum_n k[n] exp(2 pi i (j - j0) . B (n - anchor) block)``: a sum of separable ramps even where the panel is turned
    against the SLM.

    Parameters
    ----------
    twin : Twin
    kernels : float tensor [tiles, ky, kx]
    layout : Layout
    compensate : bool
        See `labctl.optics.tiles.slm_field`.
    """
    turns = -torch.linalg.solve(
        twin.carrier_to_camera.detach(), twin.input_linear.detach()
    )  # B of the twin's docstring
    centre = twin.centre.detach()
    shape = twin.geometry.slm.shape
    index = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape]
    away = [torch.arange(n, dtype=torch.float64) - centre[i] for i, n in enumerate(shape)]
    taps = torch.stack(
        torch.meshgrid(
            *(
                (torch.arange(size, dtype=torch.float64) - anchor(size)) * width
                for size, width in zip(kernels.shape[-2:], layout.block, strict=True)
            ),
            indexing="ij",
        ),
        -1,
    ).reshape(-1, 2)
    steps = taps @ turns.T
    ramps = [_phasor(torch.outer(away[i], steps[:, i])) for i in (0, 1)]
    window = torch.ones(shape)
    if compensate:
        weight = [pixel_compensation(away[i] * float(turns[i].norm()), float(layout.block[i])) for i in (0, 1)]
        window = weight[0][:, None] * weight[1][None]
    fields = torch.zeros(len(kernels), *shape, dtype=torch.complex64)
    scale = torch.ones(len(kernels))
    for t, (carrier, start) in enumerate(zip(layout.carriers, tile_phases(len(kernels)), strict=True)):
        mask = (ramps[0] * kernels[t].reshape(-1)) @ ramps[1].T * window
        rms = float(mask.abs().square().mean().sqrt())
        if rms == 0:
            continue  # an all-positive kernel has an empty negative tile: it stays dark
        on = [_phasor(carrier[i] * index[i] + (float(start) / TWO_PI if i == 0 else 0.0)) for i in (0, 1)]
        fields[t] = mask / rms * on[0][:, None] * on[1][None]
        scale[t] = rms
    return Wanted(fields, scale)


@torch.no_grad()
def command(twin: Twin, field: Complex[Tensor, "row column"], encoder: EncoderSpec) -> Float[Tensor, "row column"]:
    """Phase commands (rad) that deliver a field, as far as each pixel can do by itself.

    The pupil's amplitude and wavefront are divided out, the zero order is taken off, the encoder makes phases, and the
    response curve and its variation over the panel are inverted.

    Parameters
    ----------
    twin : Twin
    field : complex tensor [row, column]
        On the spectrum, in any unit.
    encoder : EncoderSpec
    """
    pupil = twin.pupil_field()
    weakest = WEAKEST * float(pupil.abs().mean())
    asked = field * pupil.conj() / pupil.abs().square().clamp(min=weakest**2)
    asked = asked / (encoder.ceiling * asked.abs().max()).clamp(min=1e-30)
    asked = asked - torch.complex(twin.zero_order[0], twin.zero_order[1])
    return inverted(twin, encoder.shown(asked))


@torch.no_grad()
def inverted(twin: Twin, phase: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Commands (rad) whose delivered phase, but for crosstalk, is `phase` (rad), as near as the stroke allows."""
    table, levels = twin.phase_table(), twin.slm_levels
    rising, order = table.sort()
    gray = torch.arange(levels, dtype=torch.float32)[order]
    asked = wrapped(phase) / twin.stroke_map()
    top = float(rising[-1])
    # beyond the panel's stroke the nearer of its ends
    asked = torch.where(asked > (top + TWO_PI) / 2, asked - TWO_PI, asked).clamp(float(rising[0]), top)
    high = torch.searchsorted(rising.contiguous(), asked.contiguous()).clamp(1, levels - 1)
    low = high - 1
    part = (asked - rising[low]) / (rising[high] - rising[low]).clamp(min=1e-6)
    found = gray[low] + part * (gray[high] - gray[low])
    return (levels - 1 - found) * (TWO_PI / levels)


@dataclass(frozen=True, eq=False)
class Refined:
    """A pattern, and what it is worth by the twin.

    Attributes
    ----------
    phase : float tensor [row, column], rad
        Phase commands.
    gain : complex tensor [tiles]
        Delivered over wanted amplitude of each tile.
    match : (float, float)
        Share of the light around the tiles that is as wanted, before and after.
    """

    phase: Float[Tensor, "row column"]
    gain: Complex[Tensor, " tiles"]
    match: tuple[float, float]


def refine(
    twin: Twin,
    wanted: Wanted,
    layout: Layout,
    phase: Float[Tensor, "row column"],
    *,
    steps: int = 40,
    rate: float = 0.04,
    watch: Callable[[int, float], None] | None = None,
) -> Refined:
    """Improve a pattern by gradient descent through the twin.

    Made small is the part of the light around the tiles, up to one tile's width beyond them, that the wanted field does
    not explain; what goes elsewhere is free.

    Parameters
    ----------
    twin, wanted, layout
    phase : float tensor [row, column], rad
        Commands to begin with; `command` gives good ones.
    steps, rate
        Of Adam. 0 steps only measures.
    watch
        Told (step, share of the light that is as wanted).
    """
    rows, columns = around(layout, twin.geometry.slm.shape)

    def seen(field: Tensor) -> Tensor:
        return torch.fft.fft2(field, norm="ortho").index_select(-2, rows).index_select(-1, columns)

    with torch.no_grad():
        each = torch.stack([seen(one) for one in wanted.fields])
        target = each.sum(0)
        power = target.abs().square().sum()
    now = phase.detach().clone().requires_grad_()
    adam = torch.optim.Adam([now], lr=rate)
    matches: list[float] = []
    best, best_phase = -1.0, phase.detach()
    for step in range(steps + 1):
        delivered = seen(twin.slm_field(now))
        match = (target.conj() * delivered).sum().abs().square() / (power * delivered.abs().square().sum())
        matches.append(float(match.detach()))
        if watch is not None:
            watch(step, matches[-1])
        if matches[-1] > best:
            best, best_phase = matches[-1], now.detach().clone()
        if step == steps:
            break
        for group in adam.param_groups:
            group["lr"] = rate * (1 - step / steps)
        adam.zero_grad()
        (1 - match).backward()
        adam.step()
    with torch.no_grad():
        delivered = seen(twin.slm_field(best_phase))
        own = each.abs().square().sum((-2, -1))
        gain = (each.conj() * delivered).sum((-2, -1)) / own.clamp(min=1e-12)
    return Refined(wrapped(best_phase), gain, (matches[0], best))


def around(layout: Layout, shape: tuple[int, int]) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " columns"]]:
    """Rows and columns of a pattern's transform that hold the tiles and one tile's width around them."""
    found = []
    for axis in (0, 1):
        at = [carrier[axis] for carrier in layout.carriers]
        low, high = min(at) - layout.footprint[axis], max(at) + layout.footprint[axis]
        if high - low >= 1:
            found.append(torch.arange(shape[axis]))
            continue
        found.append(
            torch.arange(round(low * shape[axis]), round(high * shape[axis]) + 1).remainder(shape[axis]).unique()
        )
    return found[0], found[1]


def _phasor(turns: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(turns), TWO_PI * (turns - turns.round())).to(torch.complex64)
