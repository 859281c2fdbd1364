"""Wavefront and pupil amplitude from speckle: what random masks make of a pinhole's light, fitted by a model.

Each mask is a carrier and a smooth random phase. Its first order on the camera is the squared modulus of the Fourier
transform of pinhole spectrum x pupil x mask, whatever the SLM's response (which only takes light from that order), so
frames of some known masks leave one smooth pupil that explains them all (arXiv 2408.07672). The pupil is sampled in the
middle of square blocks of SLM pixels; light that varies faster falls outside the window that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.optics.zernike import zernike
from labctl.procedures.calibrations.pinhole import Carrier, Pinhole, fourier_centre, notch_px, source_profiles
from labctl.procedures.exposing import signal

Array = NDArray[Any]
SPREAD = 0.11
"""Spread of a mask's light, cycles per block, rms."""
REACH = 0.36
"""Half the window that is read, cycles per block; half a cycle would be the blocks' own period."""
LEAST_SIDE = 8
"""Least side of a block, SLM pixels: narrower ones spread a pinhole's light so thinly that a panel's black outshines
it."""
FINE = 3
"""Points per camera pixel and axis over which its light is averaged."""
FIRST, LAST = 2, 36
"""Zernike polynomials that are fitted (Noll)."""
FREE_PENALTY = 4.0
"""Weight of the free form's squared coefficients (rad), relative to counts in units of their standard deviation."""
FREE_WAVES = 20
"""Fastest cosine of the free form, half waves over the SLM's shorter side."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Where the pupil is sampled.

    Attributes
    ----------
    side : int
        SLM pixels per block.
    y, x : float arrays
        Middles of the blocks, SLM pixels from the middle of the panel.
    """

    side: int
    y: NDArray[np.float64]
    x: NDArray[np.float64]

    @staticmethod
    def of(facts: BenchFacts, count: int) -> Blocks:
        """So many blocks along the SLM's shorter side, or as many of `LEAST_SIDE` as there are."""
        shape = facts.geometry.slm.shape
        side = max(LEAST_SIDE, min(shape) // count)
        y, x = ((np.arange(n // side) - (n // side - 1) / 2) * side for n in shape)
        return Blocks(side, y.astype(np.float64), x.astype(np.float64))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    def unit(self, facts: BenchFacts) -> tuple[Array, Array]:
        """Middles (y, x) in units of the SLM's inscribed disk's radius, broadcasting."""
        radius = min(facts.geometry.slm.shape) / 2
        return self.y[:, None] / radius, self.x[None] / radius


def random_phase(facts: BenchFacts, blocks: Blocks, dice: np.random.Generator) -> NDArray[np.float32]:
    """A smooth random phase (rad) on the SLM's pixels [row, column] whose light spreads as `SPREAD` says."""
    size = 5  # its correlation length, blocks
    rough = gaussian_filter(dice.standard_normal([n + 8 * size for n in blocks.shape]), size)
    rough = rough[4 * size : -4 * size, 4 * size : -4 * size]
    slopes = [np.gradient(rough, axis=axis) for axis in (0, 1)]
    rough *= 2 * np.pi * SPREAD / np.sqrt(np.mean([slope**2 for slope in slopes]))
    # bilinear between the blocks' middles, so that a middle has just its block's phase
    places = []
    for n, middles in zip(facts.geometry.slm.shape, (blocks.y, blocks.x), strict=True):
        index = (np.arange(n) - (n - 1) / 2 - middles[0]) / blocks.side
        places.append(np.clip(index, 0, len(middles) - 1.001))
    low = [place.astype(int) for place in places]
    part = [place - at for place, at in zip(places, low, strict=True)]
    rows = rough[low[0]] * (1 - part[0])[:, None] + rough[low[0] + 1] * part[0][:, None]
    return np.asarray(rows[:, low[1]] * (1 - part[1]) + rows[:, low[1] + 1] * part[1], np.float32)


def at_middles(phase: NDArray[np.float32], blocks: Blocks) -> Array:
    """exp(i phase) at the blocks' middles [y, x], by the mean over each block of the phase's phasor, renormalised."""
    s = blocks.side
    start = [(n - m * s) // 2 for n, m in zip(phase.shape, blocks.shape, strict=True)]
    inner = phase[start[0] : start[0] + s * blocks.shape[0], start[1] : start[1] + s * blocks.shape[1]]
    part = np.exp(np.complex64(1j) * inner)
    mean = part.reshape(blocks.shape[0], s, blocks.shape[1], s).mean((1, 3))
    return np.asarray(mean / np.maximum(np.abs(mean), 1e-9))


@dataclass(frozen=True, eq=False)
class Speckle:
    """The model of all frames: from a pupil to counts in their windows.

    Attributes
    ----------
    light : complex array [frame, y, x]
        Spectrum of the pinhole x mask on the blocks.
    counts : float array [frame, pixel]
    down, across : complex arrays
        Transforms from blocks to the fine grid of the camera plane.
    pixels : sparse matrix
        From the fine grid to camera pixels.
    spread : float array [frame, pixel]
        One standard deviation of each count, with 3 % for what the model lacks.
    """

    light: Array
    counts: NDArray[np.float64]
    down: Array
    across: Array
    pixels: scipy.sparse.csr_matrix
    spread: NDArray[np.float64]

    @staticmethod
    def of(
        facts: BenchFacts,
        source: Pinhole,
        blocks: Blocks,
        carrier: Carrier,
        phases: Sequence[NDArray[np.float32]],
        frames: Sequence[Frame],
        counts_per_electron: float,
    ) -> Speckle:
        rows, columns = source_profiles(facts, source.side, fourier_centre(facts))
        middles = [np.interp(m, np.arange(n) - (n - 1) / 2, p) for m, n, p in
                   zip((blocks.y, blocks.x), facts.geometry.slm.shape, (rows, columns), strict=True)]  # fmt: skip
        light = np.stack([at_middles(phase, blocks) for phase in phases]) * np.outer(*middles)
        light *= _beside_notch(facts, blocks)
        place = source.spot(carrier)
        frame = frames[0]
        y, x = np.meshgrid(*(np.arange(n) + o for n, o in zip(frame.data.shape, frame.origin, strict=True)),
                           indexing="ij")  # fmt: skip
        step = (np.arange(FINE) - (FINE - 1) / 2) / FINE
        to_carrier = np.linalg.inv(source.steer)
        away = np.broadcast_arrays(y[..., None, None] + step[:, None] - place[0], x[..., None, None] + step - place[1])
        fine = np.stack(away, -1) @ to_carrier.T  # cycles per SLM pixel, [row, column, fine row, fine column, (y, x)]
        inside = (np.abs(fine).max((2, 3, 4)) * blocks.side) <= REACH
        points = fine[inside].reshape(int(inside.sum()), -1, 2)
        # a grid twice as fine as intensity can vary, straight in the SLM's axes
        pitch = [1 / (4 * blocks.side * n) for n in blocks.shape]
        axes = [np.arange(np.floor(points[..., i].min() / pitch[i]) - 1, np.ceil(points[..., i].max() / pitch[i]) + 2)
                for i in (0, 1)]  # fmt: skip
        down = np.exp(-2j * np.pi * np.outer(axes[0] * pitch[0], blocks.y)).astype(np.complex64)
        across = np.exp(-2j * np.pi * np.outer(axes[1] * pitch[1], blocks.x)).astype(np.complex64)
        at = [points[..., i] / pitch[i] - axes[i][0] for i in (0, 1)]
        low = [np.floor(a).astype(int) for a in at]
        part = [a - b for a, b in zip(at, low, strict=True)]
        entries, cells = [], []
        for dy, wy in ((0, 1 - part[0]), (1, part[0])):
            for dx, wx in ((0, 1 - part[1]), (1, part[1])):
                entries.append(wy * wx / FINE**2)
                cells.append((low[0] + dy) * len(axes[1]) + low[1] + dx)
        pixel = np.broadcast_to(np.arange(len(points))[:, None], low[0].shape)
        matrix = scipy.sparse.csr_matrix(
            (
                np.concatenate([e.ravel() for e in entries]).astype(np.float32),
                (np.tile(pixel.ravel(), 4), np.concatenate([c.ravel() for c in cells])),
            ),
            shape=(len(points), len(axes[0]) * len(axes[1])),
        )
        counts = np.stack([signal(facts, one)[inside] for one in frames]).astype(float)
        floor = (0.02 * float(np.quantile(counts, 0.99))) ** 2
        spread = np.sqrt(np.clip(counts, 0, None) * counts_per_electron + (0.03 * counts) ** 2 + floor)
        return Speckle(light.astype(np.complex64), counts, down, across, matrix, spread)

    def evaluate(self, pupil: Array) -> tuple[float, Array, float]:
        """Half the mean squared miss, its gradient by (log amplitude + i phase) of the pupil, and the relative miss.

        Returns
        -------
        miss : float
        gradient : complex array [y, x]
            Real part by the logarithm of the amplitude, imaginary part by the phase.
        relative : float
            rms miss over rms counts.
        """
        total = wrong = 0.0
        gradient = np.zeros(pupil.shape, complex)
        shape = self.down.shape[0], self.across.shape[0]
        count = self.counts.size
        for light, counts, spread in zip(self.light, self.counts, self.spread, strict=True):
            field = (pupil * light).astype(np.complex64)
            seen = self.down @ field @ self.across.T
            expected = self.pixels @ (seen.real**2 + seen.imag**2).ravel()
            weight = 1 / spread**2
            gain = float((weight * expected * counts).sum() / max((weight * expected**2).sum(), 1e-30))
            away = gain * expected - counts
            total += 0.5 * float((weight * away**2).sum()) / count
            wrong += float((away**2).sum())
            back = (self.pixels.T @ (gain * weight * away / count).astype(np.float32)).reshape(shape)
            field_back = self.down.conj().T @ (back * seen) @ self.across.conj()
            both = 2 * field_back.conj() * field
            gradient += both.real - 1j * both.imag
        return total, gradient, float(np.sqrt(wrong / (self.counts**2).sum()))


@dataclass(frozen=True, eq=False)
class Solved:
    """A fitted pupil on the blocks; its tilt is what the light's place differs from the registration's.

    Attributes
    ----------
    phase : float array [y, x], rad
    amplitude : float array [y, x]
        Without the pinhole's spectrum; 1 at its largest.
    residual : float
        rms miss of the counts over their rms.
    """

    phase: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    residual: float


def solve(
    facts: BenchFacts, blocks: Blocks, speckle: Speckle, *, rounds: int = 60, known: NDArray[np.float64] | None = None
) -> Solved:
    """Fit Zernikes first, then a smooth free form of phase and amplitude besides.

    Parameters
    ----------
    facts : BenchFacts
    blocks : Blocks
    speckle : Speckle
    rounds : int
        Of the optimiser, in each of its stages.
    known : float array [y, x], rad, optional
        Phase to start from; then only what it lacks is fitted.
    """
    y, x = blocks.unit(facts)
    modes = np.stack([zernike(j, y, x) for j in range(FIRST, LAST + 1)])
    # beyond the disk the polynomials grow: their rms over the panel makes all of one weight
    modes /= np.sqrt((modes**2).mean((1, 2), keepdims=True))
    smooth = [zernike(j, y, x) for j in (2, 3, 4, 5, 6)]
    forms = np.stack([form / np.abs(form).max() for form in smooth])
    shape = blocks.shape
    low = _low_pass(shape)
    free = int(low.sum())
    base = np.zeros(shape) if known is None else known

    def pupil_of(p: NDArray[np.float64]) -> tuple[Array, Array]:
        a, b, rest = np.split(p, [len(modes), len(modes) + len(forms)])
        phase, log = np.tensordot(a, modes, 1) + base, np.tensordot(b, forms, 1)
        if len(rest):
            for target, part in ((phase, rest[:free]), (log, rest[free:])):
                spectrum = np.zeros(shape)
                spectrum[low] = part
                target += idctn(spectrum, norm="ortho")
        return phase, log

    def cost(p: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        phase, log = pupil_of(p)
        miss, back, _ = speckle.evaluate(np.exp(log + 1j * phase))
        parts = [np.tensordot(modes, back.imag, 2), np.tensordot(forms, back.real, 2)]
        rest = p[len(modes) + len(forms) :]
        if len(rest):
            parts += [dctn(back.imag, norm="ortho")[low], dctn(back.real, norm="ortho")[low]]
        gradient = np.concatenate(parts)
        if len(rest):
            miss += 0.5 * FREE_PENALTY * float((rest**2).sum()) / speckle.counts.size
            gradient[-len(rest) :] += FREE_PENALTY * rest / speckle.counts.size
        return miss, gradient

    p = np.zeros(len(modes) + len(forms))
    for count in (
        (13, len(modes)) if known is None else (len(modes),)
    ):  # low orders first: high ones need light that is nearly right
        chosen = np.r_[np.arange(count), len(modes) + np.arange(len(forms))]

        def some(q: NDArray[np.float64], chosen: NDArray[np.int_] = chosen) -> tuple[float, NDArray[np.float64]]:
            full = np.zeros(len(modes) + len(forms))
            full[chosen] = q
            value, gradient = cost(full)
            return value, gradient[chosen]

        found = minimize(some, p[chosen], jac=True, method="L-BFGS-B", options={"maxiter": rounds})
        p[chosen] = found.x
    p = np.concatenate([p, np.zeros(2 * free)])
    p = minimize(cost, p, jac=True, method="L-BFGS-B", options={"maxiter": rounds}).x
    phase, log = pupil_of(p)
    residual = speckle.evaluate(np.exp(log + 1j * phase))[2]
    amplitude = np.exp(log)
    return Solved(phase, amplitude / amplitude.max(), residual)


def _beside_notch(facts: BenchFacts, blocks: Blocks) -> NDArray[np.float64]:
    """Share of each block [y, x] whose light is not sent elsewhere by `steered_away`."""
    shares = []
    for n, middles, centre in zip(facts.geometry.slm.shape, (blocks.y, blocks.x), fourier_centre(facts), strict=True):
        place = middles[:, None] + (np.arange(blocks.side) - (blocks.side - 1) / 2) + (n - 1) / 2
        shares.append((np.abs(place - centre) <= notch_px(facts)).mean(1))
    return np.asarray(1 - np.outer(*shares))


def _low_pass(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cosines of the free form [y, x]; not the constant."""
    n, m = (np.arange(k) / k for k in shape)
    low = np.hypot(n[:, None], m[None]) * min(shape) <= FREE_WAVES
    low[0, 0] = False
    return np.asarray(low)
