"""Several masks share one pattern: each rides on its own carrier, so that its map lands on its own tile of the camera.

A carrier is given in cycles per SLM pixel (y, x); it moves the image by ``carrier * field_of_view``. What must not land
on a tile: the zero order (light that no pattern steers, at carrier 0), the conjugate orders (``-carrier``), and the
products of pairs of carriers (``c_i - c_j``, ``c_i + c_j``) that every phase-only encoder makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from labctl.errors import ModelError
from labctl.optics.geometry import Geometry, Pair
from labctl.optics.masks import kernel_masks, pixel_compensation


@dataclass(frozen=True)
class Layout:
    """Where the tiles are.

    Attributes
    ----------
    carriers : tuple of (y, x), cycles per SLM pixel
    image : (y, x), image pixels
        Size of a map.
    footprint : (y, x), cycles per SLM pixel
        Room that a tile takes, the kernel's spread and a guard included.
    block : (y, x), panel pixels
        Panel pixels that show one image pixel.
    """

    carriers: tuple[Pair, ...]
    image: tuple[int, int]
    footprint: Pair
    block: tuple[int, int]

    def clearances(self) -> dict[str, float]:
        """Smallest gap, in footprints along the clearer axis, between any tile and each unwanted order.

        1 or more means that no footprint overlaps the order's own footprint.
        """
        tiles = np.asarray(self.carriers)
        size = np.asarray(self.footprint)

        def gap(orders: NDArray[np.float64]) -> float:
            away = (tiles[:, None] - orders[None] + 0.5) % 1.0 - 0.5
            return float((np.abs(away) / size).max(axis=-1).min())

        apart = (tiles[:, None] - tiles[None])[~np.eye(len(tiles), dtype=bool)]
        gaps = {"zero order": gap(np.zeros((1, 2))), "conjugate orders": gap(-tiles)}
        if len(tiles) > 1:
            away = (apart + 0.5) % 1.0 - 0.5
            gaps["other tiles"] = float((np.abs(away) / size).max(axis=-1).min())
        return gaps


def arrange(
    count: int,
    geometry: Geometry,
    *,
    image: tuple[int, int],
    kernel: tuple[int, int],
    block: tuple[int, int] = (2, 2),
    guard: int = 4,
    margin: Pair = (0.0, 0.0),
) -> Layout:
    """Place `count` tiles in rows beside the zero order.

    The rows lie between heights L and L + h with L > h + half a footprint, so that neither sums nor differences of two
    carriers fall on a tile (a sum-free set); the fewest rows that fit the camera are taken.

    Parameters
    ----------
    count : int
    geometry : Geometry
    image, kernel : (y, x), pixels
    block : (y, x)
        Panel pixels per image pixel.
    guard : int
        Dark image pixels between tiles.
    margin : (y, x), camera pixels
        Room to leave at the camera's edges for misalignment.

    Raises
    ------
    ModelError
        If the tiles do not fit the bench; says how many would.
    """
    for axis, name in ((0, "rows"), (1, "columns")):
        if image[axis] * block[axis] > geometry.input.shape[axis]:
            raise ModelError(
                f"an image of {image[axis]} {name} at {block[axis]} panel pixels each does not fit the input panel's "
                f"{geometry.input.shape[axis]} {name}"
            )
    foot = _footprint(geometry, image, kernel, block, guard)
    for rows, most_columns in _ways(geometry, foot, margin):
        columns = -(-count // rows)
        if columns <= most_columns:
            # lower edge of the rows so high that sums and differences stay clear
            centre = rows * foot[0] + foot[0] / 4 + rows * foot[0] / 2
            carriers = [
                (centre + (r - (rows - 1) / 2) * foot[0], (c - (columns - 1) / 2) * foot[1])
                for r in range(rows)
                for c in range(columns)
            ]
            return Layout(tuple(carriers[:count]), image, foot, block)
    best = most_tiles(geometry, image=image, kernel=kernel, block=block, guard=guard, margin=margin)
    raise ModelError(
        f"the model needs {count} tiles in one frame, this bench holds {best} "
        f"({image[0]}x{image[1]} pixels at {block[0]}x{block[1]} panel pixels, kernel {kernel[0]}x{kernel[1]})"
    )


def most_tiles(
    geometry: Geometry,
    *,
    image: tuple[int, int],
    kernel: tuple[int, int],
    block: tuple[int, int] = (2, 2),
    guard: int = 4,
    margin: Pair = (0.0, 0.0),
) -> int:
    """How many tiles `arrange` can place in one frame."""
    ways = _ways(geometry, _footprint(geometry, image, kernel, block, guard), margin)
    return max((rows * columns for rows, columns in ways), default=0)


def _footprint(
    geometry: Geometry, image: tuple[int, int], kernel: tuple[int, int], block: tuple[int, int], guard: int
) -> Pair:
    """Room that a tile takes, cycles per SLM pixel."""
    field, scale = geometry.field_of_view, geometry.f2 / geometry.f1
    y, x = ((image[i] + kernel[i] - 1 + guard) * block[i] * geometry.input.pitch[i] * scale / field[i] for i in (0, 1))
    return y, x


def _ways(geometry: Geometry, foot: Pair, margin: Pair) -> Iterator[tuple[int, int]]:
    """How many rows of tiles may lie beside the zero order, with how many columns at most."""
    field = geometry.field_of_view
    half = [min(0.5, (geometry.camera.extent[i] / 2 - margin[i] * geometry.camera.pitch[i]) / field[i]) for i in (0, 1)]
    for rows in range(1, 9):
        height = rows * foot[0]
        if height + foot[0] / 4 + height > half[0]:
            return
        yield rows, int(2 * half[1] / foot[1])


def tile_phases(count: int) -> NDArray[np.float64]:
    """Constant phase of each tile, rad: quadratic (Schroeder 1970), so that the tiles' fields do not peak together."""
    index = np.arange(count)
    return np.pi * index * index / max(count, 1)


def slm_field(
    kernels: Float[Tensor, "tiles ky kx"],
    layout: Layout,
    geometry: Geometry,
    *,
    centre: Pair | None = None,
    compensate: bool = True,
) -> tuple[Complex[Tensor, "row column"], Float[Tensor, " tiles"]]:
    """The complex field that the SLM should impose: all masks on their carriers, summed.

    Parameters
    ----------
    kernels : float tensor [tiles, ky, kx]
    layout : Layout
    geometry : Geometry
    centre : (row, column), SLM pixels
        Measured zero frequency; default the middle of the panel.
    compensate : bool
        Weigh the masks so that square image pixels do not leak into each other's centres, in coherent light. In
        incoherent light the taps of a kernel must not interfere: the whole aperture, unweighted, keeps them narrowest.

    Returns
    -------
    field : complex64 tensor [row, column]
        Each mask scaled to the same rms, so that weak kernels do not drown in noise.
    scale : float tensor [tiles]
        What each mask was divided by: digital amplitude per unit of optical amplitude.
    """
    nu = [torch.from_numpy(axis) for axis in geometry.frequencies(centre)]
    pixel = (layout.block[0] * geometry.input.pitch[0], layout.block[1] * geometry.input.pitch[1])
    weight = [pixel_compensation(nu[i], pixel[i]) if compensate else torch.ones(len(nu[i])) for i in (0, 1)]
    window = weight[0][:, None] * weight[1][None]
    index = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in geometry.slm.shape]
    total = torch.zeros(geometry.slm.shape, dtype=torch.complex64)
    scale = torch.ones(len(kernels))
    for t, (carrier, phase) in enumerate(zip(layout.carriers, tile_phases(len(kernels)), strict=True)):
        mask = kernel_masks(kernels[t : t + 1], nu[0], nu[1], pixel)[0] * window
        rms = float(mask.abs().pow(2).mean().sqrt())
        if rms == 0:
            continue  # an all-positive kernel has an empty negative tile: it stays dark
        ramp = [torch.polar(torch.ones_like(index[i]), 2 * torch.pi * carrier[i] * index[i]) for i in (0, 1)]
        start = complex(np.exp(1j * phase))
        total += mask / rms * (ramp[0] * start).to(torch.complex64)[:, None] * ramp[1].to(torch.complex64)[None]
        scale[t] = rms
    return total, scale
