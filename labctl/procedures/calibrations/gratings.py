"""Binary gratings, one for each region of the SLM, all at once: what light each sends into its own first orders.

With a pinhole lit on the input panel every region of the SLM makes an image of it of its own, and a grating of two gray
levels sends a share ``|c1(D)|^2`` of the region's light into each first order, ``D`` being the phase between its two
levels. A sharp grating of equal bars has ``|c1| = (2 / pi) |sin(D / 2)|`` (Goodman, *Introduction to Fourier Optics*,
section 4.4); what neighbouring pixels share of their phase rounds its bars and is computed on the pixels shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.procedures.calibrations.pinhole import Carrier, Pinhole, box, notch_px, steered_away
from labctl.procedures.exposing import signal
from labctl.procedures.messages import Gray

BINS = 64
FWHM_PER_SIGMA = 2.3548
PATCH = 96
"""Side of the patch of a grating on which its first order is computed, SLM pixels."""


@dataclass(frozen=True, eq=False)
class Gratings:
    """Regions of the SLM with a grating each.

    Attributes
    ----------
    facts : BenchFacts
    edges : (rows, columns)
        Where the regions begin and end, SLM pixels.
    carriers : sequence of (y, x), cycles per SLM pixel
        Of the regions, row by row.
    """

    facts: BenchFacts
    edges: tuple[NDArray[np.intp], NDArray[np.intp]]
    carriers: Sequence[Carrier]

    @staticmethod
    def regular(facts: BenchFacts, regions: int, periods: Sequence[float]) -> Gratings:
        """Regions x regions squares, whose orders stand around the zero order on as many rings as there are periods."""
        edges = [np.rint(np.linspace(0, n, regions + 1)).astype(np.intp) for n in facts.geometry.slm.shape]
        count = regions**2
        carriers = []
        for n in range(count):
            turn = np.pi * (n + 0.37) / count
            period = periods[n % len(periods)]
            carriers.append((float(np.sin(turn) / period), float(np.cos(turn) / period)))
        return Gratings(facts, (edges[0], edges[1]), carriers)

    @property
    def width_px(self) -> float:
        """Width of a region's spot on the camera, pixels (to its first zero)."""
        geometry = self.facts.geometry
        size = [float(np.diff(edge).min()) * p for edge, p in zip(self.edges, geometry.slm.pitch, strict=True)]
        return geometry.wavelength * geometry.f2 / min(size) / min(geometry.camera.pitch)

    @property
    def half_px(self) -> int:
        """Half the box that holds a spot's light, camera pixels."""
        return max(2, round(1.2 * self.width_px))

    def bars(self, region: int) -> NDArray[np.bool_]:
        """Which pixels of a region [row, column] show the first level."""
        row, column = divmod(region, len(self.edges[1]) - 1)
        y, x = (np.arange(edge[at], edge[at + 1]) for edge, at in zip(self.edges, (row, column), strict=True))
        ky, kx = self.carriers[region]
        return np.asarray(np.cos(2 * np.pi * (ky * y[:, None] + kx * x[None]) + 0.3) >= 0)

    def pattern(self, first: int | Sequence[int], second: int | Sequence[int]) -> Gray:
        """Gray pattern of all gratings between two levels; light of the Fourier plane's middle goes elsewhere."""
        facts, count = self.facts, len(self.carriers)
        ones = [first] * count if isinstance(first, int) else first
        others = [second] * count if isinstance(second, int) else second
        shown = np.zeros(facts.geometry.slm.shape, np.uint8 if facts.slm_levels <= 256 else np.uint16)
        columns = len(self.edges[1]) - 1
        for region in range(count):
            row, column = divmod(region, columns)
            part = np.s_[self.edges[0][row] : self.edges[0][row + 1], self.edges[1][column] : self.edges[1][column + 1]]
            shown[part] = np.where(self.bars(region), ones[region], others[region])
        return steered_away(facts, shown, notch_px(facts))

    def spots(self, source: Pinhole) -> list[list[NDArray[np.float64]]]:
        """Both first orders of every region (row, column), camera pixels."""
        return [[source.spot(c), source.spot((-c[0], -c[1]))] for c in self.carriers]

    def light(self, frame: Frame, spots: Sequence[Sequence[NDArray[np.float64]]]) -> NDArray[np.float64]:
        """Counts in both first orders of every region."""
        picture = signal(self.facts, frame)
        return np.array([sum(float(picture[box(frame, at, self.half_px)].sum()) for at in pair) for pair in spots])

    def mean_over(self, region: int, weight: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Mean of 1, y, x, y x, y^2, x^2 (from -1 to 1 over the SLM) over a region, by weight of rows and columns."""
        row, column = divmod(region, len(self.edges[1]) - 1)
        means = []
        for edge, at, w, n in zip(self.edges, (row, column), weight, self.facts.geometry.slm.shape, strict=True):
            place = np.linspace(-1, 1, n)[edge[at] : edge[at + 1]]
            share = w[edge[at] : edge[at + 1]] / w[edge[at] : edge[at + 1]].sum()
            means.append((float((share * place).sum()), float((share * place**2).sum())))
        (y, yy), (x, xx) = means
        return np.array([1.0, y, x, y * x, yy, xx])


@dataclass(frozen=True, eq=False)
class Share:
    """Share of light in a first order of one grating, for any phase between its levels.

    Attributes
    ----------
    depths : float array [bin]
        How far between both levels a pixel stands.
    weights : complex array [bin]
        Sum of ``exp(-2 pi i k x)`` over the pixels that stand there, by the number of pixels.
    """

    depths: NDArray[np.float64]
    weights: NDArray[np.complex128]

    @staticmethod
    def of(gratings: Gratings, region: int, fwhm_px: float) -> Share:
        """The share of a region's grating whose phase is spread between pixels by a Gaussian of this width."""
        bars = gratings.bars(region)[:PATCH, :PATCH].astype(float)
        if fwhm_px > 0:
            bars = gaussian_filter(bars, fwhm_px / FWHM_PER_SIGMA, mode="nearest", truncate=6.0)
        y, x = (np.arange(n) - (n - 1) / 2 for n in bars.shape)
        ky, kx = gratings.carriers[region]
        # a patch need not hold whole periods: a smooth window keeps the zero order out
        window = np.outer(np.hanning(len(y) + 2)[1:-1], np.hanning(len(x) + 2)[1:-1])
        wave = window / window.sum() * np.exp(-2j * np.pi * (ky * y[:, None] + kx * x[None]))
        place = np.clip(bars * (BINS - 1), 0, BINS - 1).ravel()
        low = np.minimum(place.astype(int), BINS - 2)
        part = place - low
        weights = np.zeros(BINS, complex)
        np.add.at(weights, low, (1 - part) * wave.ravel())
        np.add.at(weights, low + 1, part * wave.ravel())
        return Share(np.linspace(0, 1, BINS), weights)

    def __call__(self, phase: NDArray[np.float64]) -> NDArray[np.float64]:
        """|c1|^2 for phases (rad) of any shape."""
        return np.asarray(np.abs(np.exp(1j * phase[..., None] * self.depths) @ self.weights) ** 2)
