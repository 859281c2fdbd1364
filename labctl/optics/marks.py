"""Marks that say which patterns are shown: where the dots of a proof of pairing go, and what brings them to the camera.

Each input pattern shows a code word in a row of dots beside the image. A dot is striped, so that part of its light
falls near the edge of the SLM, where kernels have next to no weight (`labctl.optics.masks.pixel_compensation`); a small
patch of the SLM there is a blazed grating that images the dots, and little else, to a dark place of the camera.
*Which* place, of a few, is the mark of the SLM's pattern. Two patches, one for each diffraction order of the stripes,
show it twice, on both sides of the tiles: then a frame whose upper and lower part are of two exposures shows two codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import ceil, comb

import numpy as np
from numpy.typing import NDArray

from labctl.errors import ModelError
from labctl.optics.geometry import Geometry, Pair
from labctl.optics.tiles import Layout

Box = tuple[int, int, int, int]
"""First row, end row, first column, end column."""
LOOK_BACK = 4
"""Neighbours in a code book that are kept as different as can be."""
DOT_PX = (5, 6)
APART = 2.2
"""Least distance of dots, over what a patch resolves."""
PATCH = (0.08, 0.25)
"""Height and width of a patch over the SLM's."""


@dataclass(frozen=True, eq=False)
class Marks:
    """What is drawn into the patterns.

    Attributes
    ----------
    dots : tuple of tuples of (first row, end row, first column, end column), input panel pixels
        Places of each dot: one, or several that show the same.
    mark : unsigned integer array [row, column]
        Gray levels of a dot that is on, as large as every place; a dot that is off is black.
    words : bool array [size, dots]
        The code book: the same number of dots is on in every word.
    patches : tuple of boxes, SLM pixels
    sites : tuple of tuples of unsigned integer arrays
        For each mark of the SLM, the gray levels of each patch; empty where the SLM is not marked.
    """

    dots: tuple[tuple[Box, ...], ...]
    mark: NDArray[np.unsignedinteger]
    words: NDArray[np.bool_]
    patches: tuple[Box, ...] = ()
    sites: tuple[tuple[NDArray[np.unsignedinteger], ...], ...] = ()

    def on_input(self, pattern: NDArray[np.unsignedinteger], word: NDArray[np.bool_]) -> NDArray[np.unsignedinteger]:
        """A copy of an input pattern [row, column] with the dots of a word [dots]."""
        drawn = pattern.copy()
        for on, boxes in zip(word, self.dots, strict=True):
            for r0, r1, c0, c1 in boxes:
                drawn[r0:r1, c0:c1] = self.mark if on else 0
        return drawn

    def on_slm(self, pattern: NDArray[np.unsignedinteger], site: int) -> NDArray[np.unsignedinteger]:
        """A copy of an SLM pattern [row, column] with its patches."""
        drawn = pattern.copy()
        for (r0, r1, c0, c1), patch in zip(self.patches, self.sites[site], strict=True):
            drawn[r0:r1, c0:c1] = patch
        return drawn


def code_words(dots: int, on: int) -> NDArray[np.bool_]:
    """Every word of `dots` dots with `on` of them lit, in an order in which neighbours differ much.

    Every word differs from the one before, and as far as can be had from the `LOOK_BACK` before; of 4 in 8, no two
    neighbours (the last and the first too) differ in fewer than 4 dots.

    Returns
    -------
    bool array [size, dots]
    """
    words = np.zeros((comb(dots, on), dots), bool)
    for row, lit in enumerate(combinations(range(dots), on)):
        words[row, list(lit)] = True
    apart = (words[:, None] != words[None]).sum(-1)
    order, left = [0], set(range(1, len(words)))
    while left:
        near = order[-LOOK_BACK:]
        best = max(sorted(left), key=lambda word: (apart[word, near].min(), int(apart[word, near].sum())))
        order.append(best)
        left.remove(best)
    least = 4 if 3 <= on <= dots - 3 else 2
    for word in [word for place, word in enumerate(order) if apart[word, order[place - 1]] < least]:
        order.remove(word)  # what is left over at the end fits better elsewhere
        gaps = zip([order[-1], *order], order, strict=False)
        order.insert(int(np.argmax([min(apart[word, a], apart[word, b]) for a, b in gaps])), word)
    return words[order]


def marks_beside_tiles(
    layout: Layout,
    geometry: Geometry,
    *,
    kernel: tuple[int, int],
    corner: tuple[int, int],
    centre: Pair | None = None,
    slm_levels: int = 256,
    input_levels: int = 256,
    dots: int = 8,
    sites: int = 4,
) -> Marks:
    """Marks for a bench that shows tiles: dots in the gap below the image, patches at two edges of the SLM.

    The dots lie half way between the image and where its neighbour tile's begins, so that the copies which the tiles
    make of them fall between tiles.

    Parameters
    ----------
    layout : Layout
    geometry : Geometry
    kernel : (y, x), image pixels
    corner : (row, column), panel pixels
        Where the image's corner is shown.
    centre : (row, column), SLM pixels
        Measured zero frequency; default the middle of the panel.
    slm_levels, input_levels : int
    dots, sites : int
        At most so many dots: fewer where the tiles are too small for the patches to tell as many apart.

    Raises
    ------
    ModelError
        If there is no room: in the panel, between tiles, or beside them.
    """
    unit = [geometry.f2 / geometry.f1 * geometry.input.pitch[i] / geometry.field_of_view[i] for i in (0, 1)]
    image = [layout.image[i] * layout.block[i] for i in (0, 1)]
    pitch = [layout.footprint[i] / unit[i] for i in (0, 1)]
    reach = (kernel[0] - 1) / 2 * layout.block[0]
    period, order = _stripes(geometry)
    gap = (pitch[0] - image[0]) / 2  # from the image's edge to the middle between tiles
    height = min(DOT_PX[0], 2 * int(gap - reach) - 1)
    patches = _patches(geometry, order, centre)
    sharp = 1 / (patches[0][3] - patches[0][2]) / unit[1]  # what a patch resolves, panel pixels
    dots = min(dots, 1 + int(pitch[1] / (APART * sharp)))
    step = pitch[1] / max(1, dots - 1)
    width = min(DOT_PX[1], int(0.6 * step))
    if height < 3 or width < 2 or dots < 4:
        raise ModelError(
            f"no room for the dots of a proof of pairing between tiles of {pitch[0]:.0f}x{pitch[1]:.0f} panel pixels: "
            "lay them out with a larger guard"
        )
    row = round(corner[0] + image[0] + gap - height / 2)
    middle = corner[1] + image[1] / 2
    left = [round(middle + (n - (dots - 1) / 2) * step - width / 2) for n in range(dots)]
    if row + height > geometry.input.shape[0] or left[0] < 0 or left[-1] + width > geometry.input.shape[1]:
        raise ModelError("no room for the dots of a proof of pairing on the input panel beside the image")
    places = tuple(((row, row + height, c, c + width),) for c in left)
    mark = np.zeros((height, width), np.uint8 if input_levels <= 256 else np.uint16)
    mark[np.arange(height) % period < period // 2] = input_levels - 1
    carriers = _site_carriers(layout, unit, image, reach, gap, height, patches, sites)
    levels = tuple(
        tuple(_blaze(geometry, box, carrier, slm_levels) for box, carrier in zip(patches, pair, strict=True))
        for pair in carriers
    )
    return Marks(places, mark, code_words(dots, dots // 2), patches, levels)


def _stripes(geometry: Geometry) -> tuple[int, float]:
    """Finest period of stripes, panel pixels, whose light falls on the SLM, and how far from its middle, SLM pixels."""
    reach = geometry.wavelength * geometry.f1 / (geometry.input.pitch[0] * geometry.slm.pitch[0])
    period = max(2, ceil(reach / (0.5 * geometry.slm.shape[0])))
    return period, reach / period


def _patches(geometry: Geometry, order: float, centre: Pair | None) -> tuple[Box, Box]:
    """The two patches, around the stripes' diffraction orders as far as the panel goes."""
    middle = centre or geometry.slm.centre
    rows, columns = geometry.slm.shape
    height, width = round(PATCH[0] * rows), round(PATCH[1] * columns)
    c0 = int(np.clip(round(middle[1] - width / 2), 0, columns - width))
    boxes = []
    for sign in (1, -1):
        r0 = int(np.clip(round(middle[0] + sign * order - height / 2), 0, rows - height))
        boxes.append((r0, r0 + height, c0, c0 + width))
    return boxes[0], boxes[1]


def _site_carriers(
    layout: Layout,
    unit: list[float],
    image: list[int],
    reach: float,
    gap: float,
    height: int,
    patches: tuple[Box, Box],
    sites: int,
) -> list[tuple[Pair, Pair]]:
    """Carriers (y, x) of the patches for each site: beyond the tiles, and between them and the zero order.

    The camera sees the input inverted, so that dots below the image lie at a lower carrier than the image's copy.
    """
    blur = 1.0 / (patches[0][1] - patches[0][0])
    tiles = np.asarray(layout.carriers)
    offset, half_dot = (image[0] / 2 + gap) * unit[0], height / 2 * unit[0]
    half_image, spread = image[0] / 2 * unit[0], reach * unit[0]
    beyond = tiles[:, 0].max() + half_image + spread + blur + half_dot + offset
    copies = tiles[:, 0].min() - offset - half_dot - spread  # the dots' own copies under the lowest tiles
    between = copies - blur - half_image
    if beyond - offset + half_dot > 0.5 or between - offset - half_dot < half_image + spread:
        raise ModelError("no room beside the tiles for what a proof of pairing shows: use fewer tiles")
    across = np.linspace(tiles[:, 1].min(), tiles[:, 1].max(), sites)
    return [((float(beyond), float(x)), (float(between), float(x))) for x in across]


def _blaze(geometry: Geometry, box: Box, carrier: Pair, levels: int) -> NDArray[np.unsignedinteger]:
    """Gray levels of a blazed grating in a box, its phase as `labctl.optics.tiles` counts it."""
    y = np.arange(box[0], box[1]) - (geometry.slm.shape[0] - 1) / 2
    x = np.arange(box[2], box[3]) - (geometry.slm.shape[1] - 1) / 2
    turns = (carrier[0] * y[:, None] + carrier[1] * x[None]) % 1.0
    gray = (levels - 1 - np.rint(turns * levels).astype(np.int64)) % levels
    return gray.astype(np.uint8 if levels <= 256 else np.uint16)
