"""Where things are: coordinates in metres on the four planes of a 4f bench.

Arrays are ``[row (y), column (x)]`` with row 0 at the top; every pair below is ``(y, x)``. A panel's optical axis is
nominally at the centre of its pixel grid, ``(n - 1) / 2``. Frequencies are those of the *input* plane: the spectrum of
the input falls on the Fourier plane at ``x_F = wavelength * f1 * nu``, and the camera sees the input inverted and
scaled by ``-f2 / f1``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[float, float]
Shape = tuple[int, int]


@dataclass(frozen=True)
class Plane:
    """A pixelated plane.

    Attributes
    ----------
    shape : (rows, columns)
    pitch : (y, x), m
    """

    shape: Shape
    pitch: Pair

    @property
    def centre(self) -> Pair:
        """The middle of the pixel grid, in pixels (y, x)."""
        return (self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2

    @property
    def extent(self) -> Pair:
        """Height and width, m."""
        return self.shape[0] * self.pitch[0], self.shape[1] * self.pitch[1]


@dataclass(frozen=True)
class Geometry:
    """The commanded geometry of a 4f bench: what the bench file and the devices say, before any calibration.

    Attributes
    ----------
    wavelength, f1, f2 : float, m
    slm, input, camera : Plane
    coherent : bool
    """

    wavelength: float
    f1: float
    f2: float
    slm: Plane
    input: Plane
    camera: Plane
    coherent: bool = True

    def frequencies(self, centre: Pair | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Spatial frequency that falls on each SLM row and column.

        Parameters
        ----------
        centre : (row, column), SLM pixels
            Where the zero frequency falls; default the middle of the panel.

        Returns
        -------
        nu_y : float array [row], 1/m
        nu_x : float array [column], 1/m
        """
        centre = centre or self.slm.centre
        axes = [
            (np.arange(self.slm.shape[i], dtype=np.float64) - centre[i])
            * (self.slm.pitch[i] / (self.wavelength * self.f1))
            for i in (0, 1)
        ]
        return np.asarray(axes[0], np.float64), np.asarray(axes[1], np.float64)

    @property
    def field_of_view(self) -> Pair:
        """Height and width of the camera plane that the SLM's pixels can steer over (one diffraction order), m."""
        return self.wavelength * self.f2 / self.slm.pitch[0], self.wavelength * self.f2 / self.slm.pitch[1]

    def nominal_input_to_camera(self) -> NDArray[np.float64]:
        """The affine map, input pixel to camera pixel, of a perfectly aligned bench.

        Returns
        -------
        float array [2, 3]
            ``camera (row, column) = m[:, :2] @ input (row, column) + m[:, 2]``.
        """
        m = np.zeros((2, 3))
        for i in (0, 1):
            m[i, i] = -self.f2 / self.f1 * self.input.pitch[i] / self.camera.pitch[i]
            m[i, 2] = self.camera.centre[i] - m[i, i] * self.input.centre[i]
        return m

    def nominal_carrier_to_camera(self) -> NDArray[np.float64]:
        """How far a carrier on the SLM moves the image, for a perfectly aligned bench.

        Returns
        -------
        float array [2, 2]
            ``shift (row, column) in camera pixels = m @ carrier (y, x) in cycles per SLM pixel``.
        """
        return np.diag([self.field_of_view[i] / self.camera.pitch[i] for i in (0, 1)])
