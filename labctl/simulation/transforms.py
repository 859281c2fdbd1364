"""Between planes of the simulated bench: a non-uniform FFT from panel to SLM, and sampling by the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.fft import fft, fft2, ifft2, ifftshift, next_fast_len
from scipy.special import i0

from labctl.optics.geometry import Geometry
from labctl.simulation import hands
from labctl.simulation.effects import Truth
from labctl.simulation.hands import Room, share, stretch

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]
Window = tuple[int, int, int, int]
OVERSAMPLING = 1.25
"""Fine grid of the non-uniform FFT, relative to the SLM's pixels."""
FAR = 0.03
"""The zero frequency may be so far off the SLM's middle, of its size, before the fine grid is made to reach farther."""
KERNEL_WIDTH = 8
KERNEL_BETA = np.pi * np.sqrt((KERNEL_WIDTH / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8)
"""Shape of the Kaiser-Bessel kernel for this width and oversampling (Beatty et al., IEEE Trans. Med. Imag. 24, 799)."""
BOX = 32
"""Panel pixels in one block of the panel that is either spread or left out because it is black."""
BOXES = 24
"""Lit parts of the panel for which the matrix is kept."""


def rotation(angle: float) -> NDArray[np.float64]:
    """Rotation of (y, x) vectors."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def camera_to_metres(geometry: Geometry, truth: Truth) -> NDArray[np.float64]:
    """Affine map [2, 3] from camera pixels (row, column) to the camera plane (y, x), m, in the SLM's frame."""
    turn = rotation(truth.camera_rotation + truth.camera_turns * np.pi / 2)
    if truth.camera_mirror:
        turn = turn @ np.diag([1.0, -1.0])
    linear = turn @ np.diag(geometry.camera.pitch)
    origin = np.asarray(geometry.camera.centre) + np.asarray(truth.camera_shift)
    return np.concatenate([linear, (-linear @ origin)[:, None]], axis=1)


@dataclass(frozen=True, eq=False)
class Spreading:
    """A non-uniform FFT of type 1 from the input panel's pixels to the SLM's pixels."""

    matrix: scipy.sparse.csc_matrix
    panel: tuple[int, int]
    shape: tuple[int, int]
    lengths: tuple[int, int]
    """Lengths (y, x) of the transforms that take the fine grid to the SLM's pixels."""
    ramp: Complex
    factor: Complex
    turns: tuple[NDArray[np.float64], NDArray[np.float64]]
    """Turns of phase of each grid row and column by which the spectrum moves one SLM pixel."""

    def tilt(self, pixels: NDArray[np.float64], place: Window) -> Complex:
        """What moves the spectrum by so many SLM pixels (y, x), on a part of the fine grid [row, column]."""
        y, x = (
            np.exp(2j * np.pi * pixels[i] * self.turns[i][place[2 * i] : place[2 * i + 1]]).astype(np.complex64)
            for i in (0, 1)
        )
        return y[:, None] * x[None]

    def spread(self, amplitude: Float, box: Window) -> tuple[Complex, Window]:
        """Amplitudes of a part of the panel, the rest of which is black, on the fine grid.

        Parameters
        ----------
        amplitude : float32 array [row, column]
        box : (first row, end row, first column, end column)
            Which part of the panel it is, as `lit_box` says.

        Returns
        -------
        grid : complex64 array [row, column]
            Times `ramp`; only the part of the grid that is not zero.
        place : (first row, end row, first column, end column)
            Which part of the grid it is.
        """
        if box not in self._boxes:
            r0, r1, c0, c1 = box
            chosen = (np.arange(r0, r1)[:, None] * self.panel[1] + np.arange(c0, c1)[None]).ravel()
            matrix = self.matrix[:, chosen]
            used = np.unique(matrix.indices)
            rows, columns = (used // self.shape[1], used % self.shape[1]) if len(used) else ([0], [0])
            place = int(min(rows)), int(max(rows)) + 1, int(min(columns)), int(max(columns)) + 1
            cells = np.arange(place[0], place[1])[:, None] * self.shape[1] + np.arange(place[2], place[3])[None]
            if len(self._boxes) >= BOXES:
                self._boxes.pop(next(iter(self._boxes)))
            self._boxes[box] = matrix.tocsr()[cells.ravel()], place
        matrix, place = self._boxes[box]
        part = np.s_[place[0] : place[1], place[2] : place[3]]
        return (matrix @ amplitude.ravel()).reshape(place[1] - place[0], place[3] - place[2]) * self.ramp[part], place

    def across(self, points: Complex, place: Window) -> Complex:
        """A part of the grid, the rest of which is zero, to the columns of the SLM [grid row, column]."""
        grid = np.zeros((len(points), self.lengths[1]), np.complex64)
        grid[:, place[2] : place[3]] = points
        return np.asarray(fft(grid, axis=1, workers=hands.WORKERS, overwrite_x=True)[:, : self.factor.shape[1]])

    def down(self, lines: Complex, place: Window) -> Complex:
        """Some columns of what `across` gives to the SLM's rows.

        Returns
        -------
        complex64 array [row, column]
            The spectrum at the SLM's pixels, but for `factor`.
        """
        grid = np.zeros((self.lengths[0], lines.shape[1]), np.complex64)
        grid[place[0] : place[1]] = lines
        return np.asarray(fft(grid, axis=0, overwrite_x=True)[: self.factor.shape[0]])

    def transform(self, points: Complex, place: Window) -> Complex:
        """What `spread` gives to the SLM's pixels [row, column]; `factor` comes after."""
        lines = self.across(points, place)
        spectrum = np.empty(self.factor.shape, np.complex64)

        def stripe(begun: int, end: int) -> None:
            spectrum[:, begun:end] = self.down(lines[:, begun:end], place)

        share(stripe, lines.shape[1], stretch(self.lengths[0]))
        return spectrum

    @cached_property
    def _boxes(self) -> dict[Window, tuple[scipy.sparse.csr_matrix, Window]]:
        return {}

    @staticmethod
    def build(
        metres: NDArray[np.float64],
        pixels: NDArray[np.intp],
        geometry: Geometry,
        shift: tuple[float, float],
    ) -> Spreading:
        # the kernel is for frequencies about zero: an SLM that is far off needs a grid that reaches as far
        reach = [n + (2 * abs(s) if abs(s) > FAR * n else 0) for n, s in zip(geometry.slm.shape, shift, strict=True)]
        lengths = [next_fast_len(int(np.ceil(OVERSAMPLING * n))) for n in reach]
        fine = [geometry.wavelength * geometry.f1 / (lengths[i] * geometry.slm.pitch[i]) for i in (0, 1)]
        grid = metres / fine
        low = np.floor(grid.min(0)).astype(int) - KERNEL_WIDTH
        size = np.ceil(grid.max(0)).astype(int) + KERNEL_WIDTH - low + 1
        half = KERNEL_WIDTH / 2
        first = np.ceil(grid - half).astype(int)
        taps = first[:, None, :] + np.arange(KERNEL_WIDTH)[None, :, None]
        away = (taps - grid[:, None, :]) / half
        weight = i0(KERNEL_BETA * np.sqrt(np.clip(1 - away**2, 0, None)))
        taps = taps - low
        cells = (taps[:, :, None, 0] * size[1] + taps[:, None, :, 1]).reshape(len(grid), -1)
        weights = (weight[:, :, None, 0] * weight[:, None, :, 1]).reshape(len(grid), -1)
        source = np.repeat(pixels[:, 0] * geometry.input.shape[1] + pixels[:, 1], cells.shape[1])
        matrix = scipy.sparse.csc_matrix(
            (weights.ravel().astype(np.float32), (cells.ravel(), source)),
            shape=(int(size.prod()), int(np.prod(geometry.input.shape))),
        )
        ramps, factors, moves = [], [], []
        for i in (0, 1):
            n = geometry.slm.shape[i]
            step = geometry.slm.pitch[i] / (geometry.wavelength * geometry.f1)
            nu = (np.arange(n) - (n - 1) / 2 - shift[i]) * step
            # the transform of a box of samples starting at `low`, at frequencies nu[0] + k step
            ramps.append(np.exp(-2j * np.pi * nu[0] * np.arange(size[i]) * fine[i]))
            moves.append((low[i] + np.arange(size[i])) * fine[i] * step)
            turns = np.exp(-2j * np.pi * nu * low[i] * fine[i])
            argument = np.sqrt(KERNEL_BETA**2 - (np.pi * KERNEL_WIDTH * nu * fine[i]) ** 2 + 0j)
            kernel = KERNEL_WIDTH * np.sinh(argument) / argument
            envelope = np.sinc(nu * geometry.input.pitch[i])
            factors.append(turns * envelope / kernel * step * geometry.input.pitch[i])
        ramp = ramps[0][:, None] * ramps[1][None]
        factor = factors[0][:, None] * factors[1][None]
        return Spreading(
            matrix,
            geometry.input.shape,
            (int(size[0]), int(size[1])),
            (lengths[0], lengths[1]),
            ramp.astype(np.complex64),
            factor.astype(np.complex64),
            (moves[0], moves[1]),
        )


def phasor(phase: Float) -> Complex:
    """exp(i phase)."""
    field = np.empty(phase.shape, np.complex64)
    field.real, field.imag = np.cos(phase), np.sin(phase)
    return field


def transfer_function(field: Complex) -> Complex:
    """Optical transfer function of a field [row, column] in the Fourier plane, on twice its band.

    The transform of the squared response (Goodman, *Introduction to Fourier Optics*, section 6.3), normalised to the
    mean transmission at zero frequency, which is the first element.
    """
    rows, columns = field.shape
    response = fft2(field, s=(2 * rows, 2 * columns), workers=hands.WORKERS)
    transfer = fft2(response.real**2 + response.imag**2, workers=hands.WORKERS)
    return np.asarray(transfer * (float((np.abs(field) ** 2).mean()) / transfer[0, 0].real), np.complex64)


def shift_invariant(spectrum: Complex, transfer: Complex) -> Float:
    """Intensity of the camera plane [row, column], inverted by the lens, from the spectrum of squared amplitudes."""
    count = transfer.size
    return np.asarray(ifft2(ifftshift(spectrum).conj() * transfer, workers=hands.WORKERS).real * count, np.float32)


def lit_box(panel: NDArray[Any]) -> Window:
    """Rows and columns (first, end, first, end) outside which the panel is zero, widened to whole blocks."""
    box = []
    for axis in (0, 1):
        lit = np.flatnonzero(panel.any(axis=1 - axis))
        first, end = (int(lit[0]), int(lit[-1]) + 1) if len(lit) else (0, 1)
        box += [first // BOX * BOX, min(-(-end // BOX) * BOX, panel.shape[axis])]
    return box[0], box[1], box[2], box[3]


@dataclass(frozen=True, eq=False)
class Sampler:
    """From the oversampled camera plane to the pixels of one camera window."""

    rows: int
    columns: int
    ramp: Complex
    affine: NDArray[np.float64]
    size: tuple[int, int]
    low: tuple[int, int]
    """Where the part of the oversampled camera plane begins that the window needs."""
    lit: Window
    """The part of the window that light can reach: a sensor may be larger than one diffraction order."""

    @staticmethod
    def build(window: Window, geometry: Geometry, truth: Truth) -> Sampler:
        metres = camera_to_metres(geometry, truth)
        fine = np.array([geometry.field_of_view[i] / (2 * geometry.slm.shape[i]) for i in (0, 1)])
        to_fine = metres / fine[:, None]
        corners = np.array([[r, c] for r in window[:2] for c in window[2:]], float) - 0.5
        reach = corners @ to_fine[:, :2].T + to_fine[:, 2]
        low = np.floor(reach.min(0)).astype(int) - 3
        size = np.minimum(np.ceil(reach.max(0)).astype(int) + 3 - low, 2 * np.asarray(geometry.slm.shape))
        # twice as fine as the camera's pixels, averaged 2 x 2: integration over the pixel
        affine = np.empty((2, 3))
        affine[:, :2] = to_fine[:, :2] / 2
        first = np.array([window[0], window[2]], float) - 0.25
        affine[:, 2] = to_fine[:, :2] @ first + to_fine[:, 2] - low
        ramps = [
            np.exp(-2j * np.pi * (np.arange(n) - (n - 1) / 2) * low[i] / (2 * n))
            for i, n in enumerate(geometry.slm.shape)
        ]
        ramp = (ramps[0][:, None] * ramps[1][None]).astype(np.complex64)
        shape = window[1] - window[0], window[3] - window[2]
        return Sampler(
            int(size[0]), int(size[1]), ramp, affine, shape, (int(low[0]), int(low[1])), _lit_part(affine, size, shape)
        )

    def power(self, behind: Callable[[int, int, Complex], None], room: Room) -> Float:
        """Intensity over the part of the oversampled camera plane that the window needs.

        Parameters
        ----------
        behind : callable
            ``behind(first, end, out)`` writes columns of the field behind the SLM, times `ramp`, to out [row, column].
        room : Room

        Returns
        -------
        float32 array [row, column]
            Valid until the next call with this room.
        """
        rows, columns = self.ramp.shape
        lines: Complex = room("lines", (self.rows, columns), np.complex64)
        power: Float = room("power", (self.rows, self.columns), np.float32)

        def down(first: int, end: int) -> None:
            padded = np.zeros((2 * rows, end - first), np.complex64)
            behind(first, end, padded[:rows])
            lines[:, first:end] = fft(padded, axis=0, overwrite_x=True)[: self.rows]

        def across(first: int, end: int) -> None:
            padded = np.zeros((end - first, 2 * columns), np.complex64)
            padded[:, :columns] = lines[first:end]
            field = fft(padded, axis=1, overwrite_x=True)[:, : self.columns]
            part = power[first:end]
            np.square(np.abs(field, out=part), out=part)

        share(down, columns, stretch(2 * rows))
        share(across, self.rows, stretch(2 * columns))
        return power

    def cut(self, plane: Float) -> Float:
        """The part that the window needs of a whole oversampled camera plane, whose origin is its first element."""
        rows, columns = (np.arange(self.low[i], self.low[i] + n) for i, n in ((0, self.rows), (1, self.columns)))
        return plane.take(rows, axis=0, mode="wrap").take(columns, axis=1, mode="wrap")

    def __call__(self, power: Float, scale: float = 1.0) -> Float:
        """Mean intensity over each pixel of the window [row, column], times `scale`."""
        sampled = np.zeros(self.size, np.float32)
        top, bottom, left, right = self.lit

        def sample(first: int, end: int) -> None:
            r0, r1 = top + first, top + end
            # OpenCV counts (x, y)
            affine = self.affine[::-1][:, [1, 0, 2]]
            affine[:, 2] += affine[:, :2] @ (2 * left, 2 * r0)
            size = 2 * (right - left), 2 * (r1 - r0)
            fine = cv2.warpAffine(power, affine, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            part = cv2.resize(fine, (right - left, r1 - r0), interpolation=cv2.INTER_AREA)
            np.multiply(part, np.float32(scale), out=sampled[r0:r1, left:right])

        if right > left:
            share(sample, bottom - top, stretch(right - left))
        return sampled


def _lit_part(affine: NDArray[np.float64], size: NDArray[np.intp], shape: tuple[int, int]) -> Window:
    """Rows and columns (first, end, first, end) of a window outside which half pixels see none of the plane."""
    corners = np.array([[y, x] for y in (-1, size[0]) for x in (-1, size[1])], float)
    half = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    first = np.clip(np.floor(half.min(0) / 2).astype(int) - 1, 0, shape)
    end = np.clip(np.ceil(half.max(0) / 2).astype(int) + 2, first, shape)
    return int(first[0]), int(end[0]), int(first[1]), int(end[1])
