"""Many inputs through the same world at once, in torch, on any device: the light before noise.

Shares the world's drawn truth, tables and transforms' constants; only the arithmetic is torch's. Slow effects that
differ from exposure to exposure (jitter, flicker, drift, noise) are left out: what comes back is the expected light.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from labctl.simulation.transforms import Window
from labctl.simulation.world import World


class BatchedWorld:
    """Expected light of a batch of input patterns, for the SLM pattern that a world shows now, settled.

    Parameters
    ----------
    world : World
        Coherent.
    window : (first row, end row, first column, end column), camera pixels
    device : str
        ``cpu``, ``cuda`` ...
    """

    def __init__(self, world: World, window: Window, device: str = "cpu") -> None:
        spread, sampler = world._spreading, world._sampler(window)
        self._device = torch.device(device)
        self._shape, self._lengths = spread.shape, spread.lengths
        self._size, self._part = sampler.size, (sampler.rows, sampler.columns)
        self._slm = world._geometry.slm.shape
        field, _ = world._slm_field(np.inf, 0.0, window, sampler)
        matrix = spread.matrix.tocoo()
        on_cpu = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64)),
            torch.from_numpy(matrix.data),
            matrix.shape,
            check_invariants=True,
        )
        self._matrix = on_cpu.coalesce().to(self._device)
        self._ramp, self._field = self._put(spread.ramp), self._put(field)
        table, illumination = world._input_tables
        self._table, self._illumination = self._put(table), self._put(illumination)
        self._grid = self._sampling(sampler.affine)

    @torch.no_grad()
    def __call__(self, gray: Integer[Tensor, "batch y x"]) -> Float[Tensor, "batch row column"]:
        """Intensity (1 for a white input and a mirror on the SLM) at the window's pixels, before their own response.

        Parameters
        ----------
        gray : integer tensor [batch, y, x]
            Gray patterns of the input panel.
        """
        rows, columns = self._slm
        amplitude = self._table[gray.to(self._device).long()] * self._illumination
        points = self._spread(amplitude.flatten(1)).reshape(len(gray), *self._shape)
        spectrum = torch.fft.fft(points * self._ramp, n=self._lengths[1])[..., :columns]
        spectrum = torch.fft.fft(spectrum, n=self._lengths[0], dim=-2)[:, :rows] * self._field
        camera = torch.fft.fft(spectrum, n=2 * rows, dim=-2)[:, : self._part[0]]
        camera = torch.fft.fft(camera, n=2 * columns)[..., : self._part[1]]
        power = torch.view_as_real(camera).square().sum(-1)
        fine = torch.nn.functional.grid_sample(
            power[:, None], self._grid.expand(len(gray), -1, -1, -1), align_corners=True, padding_mode="zeros"
        )
        return torch.nn.functional.avg_pool2d(fine, 2)[:, 0]

    def _spread(self, amplitude: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch point"]:
        return torch.sparse.mm(self._matrix, amplitude.T).T

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _sampling(self, affine: np.ndarray) -> Tensor:
        """Where the camera's half pixels lie on the oversampled plane, in `grid_sample`'s coordinates."""
        rows, columns = (torch.arange(2 * n, dtype=torch.float64) for n in self._size)
        y = affine[0, 0] * rows[:, None] + affine[0, 1] * columns[None] + affine[0, 2]
        x = affine[1, 0] * rows[:, None] + affine[1, 1] * columns[None] + affine[1, 2]
        high = [max(n - 1, 1) for n in self._part]
        return torch.stack([2 * x / high[1] - 1, 2 * y / high[0] - 1], -1).float()[None].to(self._device)
