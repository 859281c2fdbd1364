"""The digital model of the delivered bench: from commanded patterns to what the tiles will read, differentiably.

In this first form its parameters come from the calibrations (Fourier centre) and from two scalars that are fitted to
captures (gain, zero-order amplitude). It predicts with the pattern that was really commanded, so it shares the
encoder's imperfections, which ``conv2d`` does not.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labctl.optics.fourf import FourF
from labctl.optics.geometry import Geometry, Pair
from labctl.optics.tiles import Layout


class Twin(nn.Module):
    """Predicts tile intensities from a phase pattern and images.

    Parameters
    ----------
    geometry : Geometry
        Commanded geometry.
    layout : Layout
    corner : (row, column), panel pixels
        Where an image's corner is shown.
    centre : (row, column), SLM pixels
        Where the zero frequency falls.
    """

    def __init__(self, geometry: Geometry, layout: Layout, *, corner: tuple[int, int], centre: Pair) -> None:
        super().__init__()
        self.geometry, self.layout, self.corner = geometry, layout, corner
        self.centre = nn.Parameter(torch.tensor(centre, dtype=torch.float64))
        self.log_gain = nn.Parameter(torch.zeros(()))
        self.zero_order = nn.Parameter(torch.zeros(()))

    def forward(
        self, phase: Float[Tensor, "row column"], images: Float[Tensor, "batch y x"]
    ) -> Float[Tensor, "batch tiles y x"]:
        """Intensity at the centre of each image pixel of each tile, in units of the fitted gain.

        Parameters
        ----------
        phase : float tensor [row, column], rad
            Commanded phase pattern.
        images : float tensor [batch, y, x]
            Amplitudes from 0 to 1.
        """
        rows, columns = ((self.corner[i], self.corner[i] + self.layout.image[i] * self.layout.block[i]) for i in (0, 1))
        operator = FourF(self.geometry, rows, columns)
        shown = images.repeat_interleave(self.layout.block[0], -2).repeat_interleave(self.layout.block[1], -1)
        # a moved zero frequency is a tilt of the input: exact, and differentiable in `centre`
        tilt = self._tilt(operator, rows, columns)
        spectrum = operator.spectrum(shown * tilt)
        field = spectrum * (torch.polar(torch.ones_like(phase), phase) + self.zero_order)
        y, x = operator.image_positions(self.layout.image, self.layout.block)
        tiles = operator.tiles_at(field, self.layout.carriers, y, x)
        return tiles.abs().square() * self.log_gain.exp()

    def _tilt(self, operator: FourF, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        geometry = self.geometry
        ramps = []
        for i, (start, stop) in ((0, rows), (1, columns)):
            place = (torch.arange(start, stop, dtype=torch.float64) - geometry.input.centre[i]) * geometry.input.pitch[
                i
            ]
            shift = (
                (self.centre[i] - geometry.slm.centre[i]) * geometry.slm.pitch[i] / (geometry.wavelength * geometry.f1)
            )
            turns = place * shift
            ramps.append(torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(torch.complex64))
        return ramps[0][:, None] * ramps[1][None]
