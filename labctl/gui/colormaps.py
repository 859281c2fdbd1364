"""Look-up tables: perceptually uniform and colour-blind-safe ones first, a cyclic one for phase."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray

NAMES = ("viridis", "cividis", "gray", "inferno", "magma")
CYCLIC = "CET-CBC1"  # Kovesi's cyclic map for red-green colour blindness: its ends meet
POINTS = 256
LOG_POINTS = 4096
LOG_RANGE = 1000.0

Lut = NDArray[np.uint8]


@lru_cache(maxsize=32)
def lut(name: str, *, logarithmic: bool = False) -> Lut:
    """A look-up table from the lower to the upper level.

    Parameters
    ----------
    name : str
        One of `NAMES`, or `CYCLIC`. An unknown name gives gray.
    logarithmic : bool
        Spread the dark end: three decades between the levels. Doing it in the table costs nothing per frame.

    Returns
    -------
    uint8 array [entry, rgb]
    """
    points = LOG_POINTS if logarithmic else POINTS
    at = np.linspace(0.0, 1.0, points)
    if logarithmic:
        at = np.log1p(at * LOG_RANGE) / np.log1p(LOG_RANGE)
    if name in NAMES[:2] + NAMES[3:] or name == CYCLIC:
        table: Lut = pg.colormap.get(name).map(at, mode="byte")[:, :3]
    else:
        table = np.repeat(np.round(at * 255).astype(np.uint8)[:, None], 3, axis=1)
    table = np.ascontiguousarray(table)
    table.setflags(write=False)
    return table
