"""What of the twin no parameter changes: matrices of splines and transforms for one geometry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labctl.optics.geometry import Geometry
from labctl.twin import basis
from labctl.twin.gridding import OVERSAMPLING, window_transform
from labctl.twin.parts import Fineness


class Fixed:
    """Matrices for one geometry; see `labctl.twin.model.Twin`, which uses them."""

    def __init__(self, geometry: Geometry, slm_levels: int, input_levels: int, fine: Fineness) -> None:
        levels = np.arange(input_levels) / (input_levels - 1)
        knots = np.linspace(0, 1, fine.response_knots) ** 2
        self.input_linear = torch.from_numpy(levels).float()
        self.input_spline = basis.spline_matrix(knots, levels)
        gray = np.arange(slm_levels) / (slm_levels - 1)
        self.slm_linear = torch.from_numpy(2 * np.pi * (slm_levels - 1 - np.arange(slm_levels)) / slm_levels).float()
        self.slm_spline = basis.spline_matrix(np.linspace(0, 1, fine.lut_knots), gray)
        slm = geometry.slm.shape
        self.index = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in slm]
        self.middle = torch.tensor(geometry.slm.centre, dtype=torch.float64)
        self.radius = min(slm) / 2
        self.powers = [basis.powers(n, self.radius) for n in slm]
        self.slm_legendre = [basis.legendre_matrix(basis.unit(n), fine.stroke) for n in slm]
        self.input_legendre = [basis.legendre_matrix(basis.unit(n), fine.uniformity) for n in geometry.input.shape]
        self.pupil_spline, self.rough_spline = (
            [basis.spline_matrix(basis.even_knots(n, count), np.arange(float(n))) for n in slm]
            for count in (fine.pupil, fine.rough)
        )
        self.lengths = torch.tensor([int(np.ceil(OVERSAMPLING * n / 2)) * 2 for n in slm], dtype=torch.float64)
        self._transforms: dict[tuple[int, int, int], Tensor] = {}

    def transform(self, axis: int, low: int, size: int) -> Tensor:
        """Matrix [SLM pixel, grid] of the transform from the grid that panel pixels were spread on."""
        key = axis, low, size
        if key not in self._transforms:
            length = float(self.lengths[axis])
            turns = torch.outer(self.index[axis], (low + torch.arange(size, dtype=torch.float64)) / length)
            matrix = torch.polar(torch.ones_like(turns), -2 * torch.pi * (turns - turns.round()))
            window = torch.from_numpy(window_transform(self.index[axis].numpy() / length))
            if len(self._transforms) >= 8:
                self._transforms.pop(next(iter(self._transforms)))
            self._transforms[key] = (matrix / window[:, None]).to(torch.complex64)
        return self._transforms[key]
