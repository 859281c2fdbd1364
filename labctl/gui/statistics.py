"""What the camera panel says of a frame, within a millisecond or two at 5 MPx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

STEP = 4
LEAST_SPAN = 1 / 32
BINS = 4096


@dataclass(frozen=True, eq=False)
class FrameStatistics:
    """Figures of one frame.

    Attributes
    ----------
    histogram : float array [bin]
        Pixels per bin in the sample ``[::4, ::4]``; at most 4096 bins divide 0 ... `full_scale` + 1 evenly.
    full_scale : int
        Largest count that the camera can give.
    saturated : int
        Pixels of the full frame at full scale.
    pixels : int
        Pixels of the full frame.
    """

    histogram: NDArray[np.float32]
    full_scale: int
    saturated: int
    pixels: int

    def quantile(self, share: float) -> float:
        """The lower edge of the bin in which this share of the sampled pixels is reached, counts."""
        total = np.cumsum(self.histogram)
        index = int(np.searchsorted(total, share * total[-1]))
        return index * (self.full_scale + 1) / len(self.histogram)


def measure(data: NDArray[Any], full_scale: int) -> FrameStatistics:
    """Histogram and saturation of a frame.

    Parameters
    ----------
    data : unsigned integer array [row, column], counts
    full_scale : int
        Largest count that the camera can give.
    """
    sample = np.ascontiguousarray(data[::STEP, ::STEP])
    if sample.dtype not in (np.uint8, np.uint16):
        sample = sample.astype(np.float32)
    bins = min(BINS, full_scale + 1)
    histogram = cv2.calcHist([sample], [0], None, [bins], [0, full_scale + 1]).ravel()
    # Most frames have none, and the largest value costs less than half of a count.
    saturated = int(np.count_nonzero(data >= full_scale)) if data.max(initial=0) >= full_scale else 0
    return FrameStatistics(histogram.astype(np.float32), full_scale, saturated, int(data.size))


def auto_levels(statistics: FrameStatistics, *, low: float = 0.01, high: float = 0.998) -> tuple[int, int]:
    """Levels from a frame's dark floor to its bright end; never so close that noise alone fills the colours."""
    bin_width = (statistics.full_scale + 1) / len(statistics.histogram)
    top = min(statistics.full_scale, int(np.ceil(statistics.quantile(high) + 2 * bin_width)))
    bottom = max(0, int(statistics.quantile(low) - bin_width))
    span = max(1, int(LEAST_SPAN * statistics.full_scale))
    top = min(max(top, bottom + span), statistics.full_scale)
    return min(bottom, top - span), top
