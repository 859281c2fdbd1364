"""The 4f operator: input amplitude -> spectrum on the SLM's pixels -> field on the camera plane, in metres.

``E(u) = IFT{ FT{a} . m }``. Fields of the image plane are in image orientation and in units of the input plane (the
camera's inversion and scaling by ``-f2 / f1`` belong to `labctl.optics.geometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from labctl.optics.geometry import Geometry, Pair


def dft(positions: Float[Tensor, " n"], frequencies: Float[Tensor, " k"], *, sign: int = -1) -> Complex[Tensor, "k n"]:
    """Matrix of the Fourier transform between any positions (m) and any frequencies (1/m)."""
    turns = torch.outer(frequencies.to(torch.float64), positions.to(torch.float64))
    return torch.polar(torch.ones_like(turns), sign * 2 * torch.pi * (turns - turns.round())).to(torch.complex64)


def matched(amplitude: Float[Tensor, "*batch y x"], mask: Complex[Tensor, "*maps y x"]) -> Complex[Tensor, "*out y x"]:
    """The ideal bench with matched sampling: every frequency of the image's grid has its own mask pixel.

    Parameters
    ----------
    amplitude : float tensor [..., y, x]
        Image, on a grid that holds it and the kernel's support (the transform is periodic).
    mask : complex tensor [..., y, x]
        Mask at ``torch.fft.fftfreq`` frequencies; broadcasts against `amplitude`.

    Returns
    -------
    complex tensor [..., y, x]
        Field in image orientation, on the image's grid. Energy is conserved for a mask of modulus one (Parseval).
    """
    return torch.fft.ifft2(torch.fft.fft2(amplitude.to(mask.dtype)) * mask)


@dataclass(frozen=True, eq=False)
class FourF:
    """The 4f operator of one geometry, for a window of the input panel.

    Parameters
    ----------
    geometry : Geometry
    rows, columns : (start, stop)
        The lit window of the input panel, in panel pixels.
    centre : (row, column), SLM pixels
        Where the zero frequency falls on the SLM; default the middle.
    square_pixels : bool
        Whether an input pixel is a square of light (True) or a point (False).
    """

    geometry: Geometry
    rows: tuple[int, int]
    columns: tuple[int, int]
    centre: Pair | None = None
    square_pixels: bool = True

    def frequencies(self) -> tuple[Tensor, Tensor]:
        """Spatial frequency of each SLM row and column, 1/m, float64."""
        nu_y, nu_x = self.geometry.frequencies(self.centre)
        return torch.from_numpy(nu_y), torch.from_numpy(nu_x)

    def spectrum(self, amplitude: Float[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch row column"]:
        """Spectrum that falls on the SLM's pixels, scaled so that a 4f pass with a mask of 1 has unit gain.

        Parameters
        ----------
        amplitude : float tensor [..., y, x]
            Amplitude of the panel's pixels inside the window.
        """
        geometry = self.geometry
        matrices = []
        for axis, nu, (start, stop) in zip((0, 1), self.frequencies(), (self.rows, self.columns), strict=True):
            pitch = geometry.input.pitch[axis]
            place = (torch.arange(start, stop, dtype=torch.float64) - geometry.input.centre[axis]) * pitch
            envelope = torch.sinc(nu * pitch) if self.square_pixels else torch.ones_like(nu)
            # d_nu * pitch is the weight that makes the inverse transform a unit-gain sum
            step = geometry.slm.pitch[axis] / (geometry.wavelength * geometry.f1)
            matrices.append(dft(place, nu) * (envelope * step * pitch)[:, None].to(torch.complex64))
        return matrices[0] @ amplitude.to(torch.complex64) @ matrices[1].T

    def field_at(
        self,
        slm_field: Complex[Tensor, "*batch row column"],
        y: Float[Tensor, " j"],
        x: Float[Tensor, " i"],
    ) -> Complex[Tensor, "*batch j i"]:
        """Field at the rows `y` and columns `x` (m, image orientation, input-plane scale) of the image plane."""
        nu_y, nu_x = self.frequencies()
        return dft(nu_y, y, sign=+1) @ slm_field @ dft(nu_x, x, sign=+1).T

    def tiles_at(
        self,
        slm_field: Complex[Tensor, "*batch row column"],
        carriers: Sequence[Pair],
        y: Float[Tensor, " j"],
        x: Float[Tensor, " i"],
    ) -> Complex[Tensor, "*batch tiles j i"]:
        """Field at rows `y` and columns `x` of the tile on each carrier (y, x), cycles per SLM pixel."""
        index = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in self.geometry.slm.shape]
        nu_y, nu_x = self.frequencies()
        to_y, to_x = dft(nu_y, y, sign=+1), dft(nu_x, x, sign=+1)
        tiles = []
        for carrier in carriers:
            ramp_y, ramp_x = (dft(index[i], torch.tensor([carrier[i]])) for i in (0, 1))
            tiles.append((to_y * ramp_y) @ slm_field @ (to_x * ramp_x).T)
        return torch.stack(tiles, dim=-3)

    def image_positions(self, pixels: tuple[int, int], block: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Centres (m) of an image's pixels, each shown as a block of panel pixels, in the window's corner."""
        places = []
        for axis, start in ((0, self.rows[0]), (1, self.columns[0])):
            index = start + torch.arange(pixels[axis], dtype=torch.float64) * block[axis] + (block[axis] - 1) / 2
            places.append((index - self.geometry.input.centre[axis]) * self.geometry.input.pitch[axis])
        return places[0], places[1]
