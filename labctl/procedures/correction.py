"""Corrected deployment: masks, images and reading for the bench as its twin knows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from labctl.bench.facts import BenchFacts
from labctl.errors import CalibrationError
from labctl.optics.encoders import EncoderSpec
from labctl.optics.tiles import Layout
from labctl.twin.encoding import command, refine, wanted_field
from labctl.twin.model import Twin

STEPS = 40
"""Of the descent through the twin."""
DARKEST = 0.3
"""Least amplitude of a white image's corner, over its middle, that is still evened out."""


@dataclass(frozen=True, eq=False)
class Correction:
    """What software does with input panel and camera so that a deployment is read as if they were ideal.

    Attributes
    ----------
    amplitude : float array [levels]
        Amplitude of each gray level of the input panel; white is 1.
    shade : float array [y, x]
        Amplitude of the image's pixels when all of them are white.
    black, white : float
        Amplitudes that an image of 0 and of 1 are shown with, the same all over the image.
    response : float tensor [tiles, y, x]
        Intensity that is read over intensity that is there.
    match : (float, float)
        Share of the light around the tiles that is as wanted, by the twin, before and after descending through it.
    """

    amplitude: NDArray[np.float64]
    shade: NDArray[np.float64]
    black: float
    white: float
    response: Float[Tensor, "tiles y x"]
    match: tuple[float, float]

    def gray(self, image: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gray levels [y, x] that show amplitudes from 0 to 1, `black` being 0 and `white` 1."""
        wanted = (self.black + (self.white - self.black) * image) / self.shade
        rising = np.maximum.accumulate(self.amplitude)
        return np.interp(wanted, rising, np.arange(len(rising)))

    def pedestal(self, kernels: Float[Tensor, "tiles ky kx"]) -> Float[Tensor, " tiles"]:
        """Digital amplitude that black, which surrounds the image too, adds to every place of each tile."""
        return kernels.sum((-2, -1)) * (self.black / (self.white - self.black))


@dataclass(frozen=True, eq=False)
class Corrected:
    """Parts of a `labctl.procedures.deployment.Deployment` that the twin has made.

    Attributes
    ----------
    phase : float tensor [row, column], rad
        Phase commands.
    scale : float tensor [tiles]
    centre : (row, column), SLM pixels
    input_to_camera : float array [2, 3]
    carrier_to_camera : float array [2, 2]
    correction : Correction
    """

    phase: Float[Tensor, "row column"]
    scale: Float[Tensor, " tiles"]
    centre: tuple[float, float]
    input_to_camera: NDArray[np.float64]
    carrier_to_camera: NDArray[np.float64]
    correction: Correction


def correct(
    kernels: Float[Tensor, "tiles ky kx"],
    layout: Layout,
    facts: BenchFacts,
    *,
    corner: tuple[int, int],
    encoder: EncoderSpec,
    steps: int = STEPS,
) -> Corrected:
    """Make a deployment of a kernel bank for the delivered bench, with the twin of `facts`.

    Parameters
    ----------
    kernels : float tensor [tiles, ky, kx]
    layout : Layout
    facts : BenchFacts
        With a `twin` record, or as many others as there are.
    corner : (row, column), panel pixels
        Where the image's corner is shown.
    encoder : EncoderSpec
        What the descent through the twin begins with.
    steps : int
        Of the descent.

    Raises
    ------
    CalibrationError
        If the image lies where the input panel is hardly lit.
    """
    twin = Twin.from_facts(facts)
    with torch.no_grad():
        wanted = wanted_field(twin, kernels, layout)
        start = command(twin, wanted.fields.sum(0), encoder)
    refined = refine(twin, wanted, layout, start, steps=steps)
    with torch.no_grad():
        gain = refined.gain.abs()
        lit = kernels.abs().sum((-2, -1)) > 0
        scale = torch.where(lit, wanted.scale * gain[lit].mean() / gain.clamp(min=1e-12), wanted.scale)
        correction = _panel_and_camera(twin, layout, corner, refined.match)
        linear, place = twin.input_linear.numpy(), twin.input_place.numpy()
        origin = place - linear @ np.asarray(facts.geometry.input.centre)
        row, column = (float(v) for v in twin.centre)
        return Corrected(
            refined.phase,
            scale,
            (row, column),
            np.concatenate([linear, origin[:, None]], axis=1),
            twin.carrier_to_camera.numpy().copy(),
            correction,
        )


def _panel_and_camera(twin: Twin, layout: Layout, corner: tuple[int, int], match: tuple[float, float]) -> Correction:
    size = [layout.image[i] * layout.block[i] for i in (0, 1)]
    part = twin.uniformity_map()[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    shade = torch.nn.functional.avg_pool2d(part[None], layout.block)[0].double().numpy()
    amplitude = twin.input_table().double().numpy()
    white, middle = float(shade.min()), float(np.median(shade))
    if not white > DARKEST * middle:
        raise CalibrationError(
            f"the image's darkest corner gets {100 * white / max(middle, 1e-9):.0f} % of the amplitude of its middle: "
            "align the input panel (labctl align), or show smaller images"
        )
    places = twin.places(layout, corner)
    response = twin.response(places.reshape(-1, 2)).reshape(len(layout.carriers), *layout.image)
    return Correction(
        amplitude=amplitude,
        shade=shade,
        black=float(amplitude.min() * shade.max()),
        white=white,
        response=(response / response.mean()).float(),
        match=match,
    )
