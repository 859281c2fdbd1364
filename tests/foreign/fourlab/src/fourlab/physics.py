"""The light of another lab's 4f bench: 532 nm, 150 and 100 mm, and none of labctl's code.

Method: the panel's picture, moved and turned, is resampled on a grid in the SLM's frame; two matrix products give its
spectrum at the SLM's pixels (a discrete Fourier transform at any frequencies); the liquid crystal multiplies it; one
zero-padded FFT gives the image plane, from which a sparse matrix takes the camera's pixels, 2 x 2 points each.

The imperfections have laws of their own: the wavefront is a sum of Legendre products, the illumination a Gaussian off
centre, the stroke falls towards one side, fringing fields reach the next pixel only, the light that the panel does not
modulate is out of phase with the rest, the crystal relaxes faster upwards than downwards, and the input panel's
response is a parabola.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.sparse
from numpy.polynomial.legendre import legval

Window = tuple[int, int, int, int]
"""First row, end row, first column, end column."""


class Time:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self._now = 100.0

    def now(self) -> float:
        """Seconds."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now += max(seconds, 0.0)


def turn(angle: float) -> Any:
    """Rotation of (y, x) vectors; positive takes the x axis towards y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


@dataclass
class Light:
    """Everything between laser and photo-electrons. Lengths in m, angles in rad, times in s.

    Attributes
    ----------
    slm, panel, camera : (rows, columns)
    waves : array [6, 6]
        Coefficients of Legendre products (y, x) over the SLM, waves.
    """

    wavelength: float = 532e-9
    f1: float = 0.150 * 1.004
    f2: float = 0.100 * 0.997
    slm: tuple[int, int] = (240, 320)
    slm_pitch: float = 12.5e-6
    panel: tuple[int, int] = (120, 160)
    panel_pitch: float = 16e-6
    panel_shift: tuple[float, float] = (70e-6, -45e-6)
    panel_angle: float = np.deg2rad(0.7)
    camera: tuple[int, int] = (400, 480)
    camera_pitch: float = 9e-6
    camera_shift: tuple[float, float] = (60e-6, 85e-6)
    camera_angle: float = np.deg2rad(90 - 0.5)
    camera_mirrored: bool = True
    spectrum_shift: tuple[float, float] = (5.3, -8.6)  # SLM pixels
    waves: Any = None
    beam_centre: tuple[float, float] = (-0.15, 0.1)  # half heights and half widths of the SLM
    beam_waist: float = 2.4
    unmodulated: complex = 0.17 * np.exp(0.6j)
    reach: float = 0.035  # of the phase that a pixel gives to each of its four neighbours
    up_s: float = 0.016
    down_s: float = 0.026
    panel_delay_s: float = 0.003
    black: float = 1 / 600  # intensity, white is 1
    bend: float = 0.15
    electrons_per_s: float = 2.4e7
    well: float = 15_000.0
    read_noise: float = 4.0
    dark_per_s: float = 20.0
    flicker: float = 0.002
    drift_per_h: float = 0.01
    bits: int = 10
    offset: float = 18.0
    seed: int = 1
    time: Time = field(default_factory=Time)
    power: float = 0.0

    def __post_init__(self) -> None:
        dice = np.random.default_rng([self.seed, 77])
        if self.waves is None:
            orders = np.add.outer(np.arange(6), np.arange(6))
            self.waves = np.where((orders >= 2) & (orders <= 5), dice.normal(0, 0.4, (6, 6)) / (orders + 1), 0.0)
        self.pixels = 1 + 0.008 * dice.standard_normal(self.camera)
        self.hot = np.where(dice.random(self.camera) < 2e-4, dice.exponential(3e4, self.camera), 0.0)
        self._noise = np.random.default_rng([self.seed, 78])
        self._spectra: dict[bytes, Any] = {}
        self._fields: dict[bytes, Any] = {}
        self._samplers: dict[Window, Any] = {}

    # what each device does

    @cached_property
    def phase_of_gray(self) -> Any:
        """Phase (rad) of the 256 levels; the top one is not quite 0."""
        u = 1 - (np.arange(256) + 1) / 256
        return 2 * np.pi * (u + 0.035 * np.sin(2 * np.pi * u) - 0.02 * u * (1 - u)) + 0.01

    @cached_property
    def stroke(self) -> Any:
        """Of each SLM pixel, relative."""
        y, x = (np.linspace(-1, 1, n) for n in self.slm)
        bowl = np.exp(-((y[:, None] - 0.4) ** 2 + (x[None] + 0.5) ** 2))
        return 1.015 - 0.045 * bowl

    @cached_property
    def waves_on_slm(self) -> Any:
        """Wavefront of the optics at the SLM's pixels, waves."""
        y, x = (np.linspace(-1, 1, n) for n in self.slm)
        over_y = np.stack([legval(y, np.eye(6)[k]) for k in range(6)])
        over_x = np.stack([legval(x, np.eye(6)[k]) for k in range(6)])
        return over_y.T @ self.waves @ over_x

    @cached_property
    def beam(self) -> Any:
        """Amplitude that optics let pass, at the SLM's pixels."""
        y, x = (np.linspace(-1, 1, n) for n in self.slm)
        far = (y[:, None] - self.beam_centre[0]) ** 2 + (x[None] - self.beam_centre[1]) ** 2
        return np.exp(-far / self.beam_waist**2)

    @cached_property
    def amplitude_of_gray(self) -> Any:
        """Amplitude of the input panel's 256 levels."""
        u = np.arange(256) / 255
        return np.sqrt(self.black + (1 - self.black) * ((1 - self.bend) * u + self.bend * u**2) ** 2)

    @cached_property
    def illumination(self) -> Any:
        """Amplitude over the input panel."""
        y, x = (np.linspace(-1, 1, n) for n in self.panel)
        return np.exp(-0.06 * (y[:, None] ** 2 + (x[None] - 0.2) ** 2))

    def delivered(self, gray: Any) -> Any:
        """Phase (rad) of each SLM pixel for a gray pattern at rest."""
        phase = self.phase_of_gray[gray] * self.stroke
        spread = np.array([self.reach, 1 - 2 * self.reach, self.reach])
        for axis in (0, 1):
            phase = scipy.ndimage.correlate1d(phase, spread, axis=axis, mode="nearest")
        return phase

    def moving(self, gray: Any, before: Any, since_s: float) -> Any:
        """The same, so long after the pattern has changed from another."""
        target, start = self.delivered(gray), self.delivered(before)
        slow = np.where(target > start, self.up_s, self.down_s)
        return target + (start - target) * np.exp(-max(since_s, 0.0) / slow)

    # geometry

    @cached_property
    def camera_to_plane(self) -> Any:
        """Camera pixels (row, column) -> image plane (y, x), m, in the SLM's frame: [2, 3]."""
        linear = turn(self.camera_angle) @ np.diag([1.0, -1.0 if self.camera_mirrored else 1.0]) * self.camera_pitch
        middle = (np.array(self.camera) - 1) / 2
        return np.column_stack([linear, np.array(self.camera_shift) - linear @ middle])

    @cached_property
    def panel_to_plane(self) -> Any:
        """Panel pixels (row, column) -> input plane (y, x), m, in the SLM's frame: [2, 3]."""
        linear = turn(self.panel_angle) * self.panel_pitch
        middle = (np.array(self.panel) - 1) / 2
        return np.column_stack([linear, np.array(self.panel_shift) - linear @ middle])

    # light

    def spectrum(self, gray: Any) -> Any:
        """Complex amplitude at the SLM's pixels for a picture on the panel; a few are kept."""
        key = gray.tobytes()
        if key not in self._spectra:
            step = self.panel_pitch / 2
            half = np.ceil((np.array(self.panel) / 2 + 6) * 2).astype(int) + 8
            places = [(np.arange(-h, h + 1)) * step + s for h, s in zip(half, self.panel_shift, strict=True)]
            back = np.linalg.inv(self.panel_to_plane[:, :2])
            shown = self.amplitude_of_gray[gray] * self.illumination
            fine = np.pad(shown, 1).repeat(3, 0).repeat(3, 1)  # a third of a pixel: corners stay square
            # index into `fine` of a place in the plane
            matrix = 3 * back * step
            start = 3 * (back @ (np.array([p[0] for p in places]) - self.panel_to_plane[:, 2]) + 1) + 1
            picture = scipy.ndimage.affine_transform(
                fine, matrix, start, [len(p) for p in places], order=1, mode="constant"
            )
            found = picture.astype(np.complex64)
            for axis in (0, 1):
                nu = self._frequencies(axis)
                kernel = np.exp(-2j * np.pi * np.outer(nu, places[axis])).astype(np.complex64)
                found = kernel @ found if axis == 0 else found @ kernel.T
            cell = self.slm_pitch / (self.wavelength * self.f1) * step
            if len(self._spectra) > 12:
                self._spectra.clear()
            self._spectra[key] = found * np.complex64(cell**2)
        return self._spectra[key]

    def _frequencies(self, axis: int) -> Any:
        middle = (self.slm[axis] - 1) / 2 + self.spectrum_shift[axis]
        return (np.arange(self.slm[axis]) - middle) * self.slm_pitch / (self.wavelength * self.f1)

    def intensity(self, phase: Any, shown: Any, window: Window) -> Any:
        """Over the camera's pixels in a window [row, column]; 1 is a white panel seen in a perfect mirror."""
        behind = self.spectrum(shown) * (np.exp(1j * phase) + self.unmodulated) * self._optics
        return self.image(behind.astype(np.complex64), window)

    @cached_property
    def _optics(self) -> Any:
        share = 1 / np.sqrt(1 + abs(self.unmodulated) ** 2)
        return share * self.beam * np.exp(2j * np.pi * self.waves_on_slm)

    def image(self, behind: Any, window: Window) -> Any:
        """From the field behind the SLM to the camera's pixels."""
        size = 3 * max(self.slm)
        field_ = scipy.fft.fft2(behind, (size, size))
        power = (field_.real**2 + field_.imag**2).ravel()
        if window not in self._samplers:
            if len(self._samplers) > 8:
                self._samplers.clear()
            self._samplers[window] = self._sampler(window, size)
        rows, columns = window[1] - window[0], window[3] - window[2]
        return (self._samplers[window] @ power).reshape(rows, columns)

    def _sampler(self, window: Window, size: int) -> scipy.sparse.csr_matrix:
        """Bilinear weights of 2 x 2 points in each pixel on the periodic FFT grid (an FFT bin is a place u)."""
        step = self.wavelength * self.f2 / (self.slm_pitch * size)
        rows, columns = np.meshgrid(np.arange(*window[:2]), np.arange(*window[2:]), indexing="ij")
        pixel = np.arange(rows.size)
        cells, weights = [], []
        for dy in (-0.25, 0.25):
            for dx in (-0.25, 0.25):
                here = np.stack([rows.ravel() + dy, columns.ravel() + dx])
                place = (self.camera_to_plane[:, :2] @ here + self.camera_to_plane[:, 2:]) / step
                low = np.floor(place).astype(int)
                part = place - low
                for a in (0, 1):
                    for b in (0, 1):
                        cells.append((low[0] + a) % size * size + (low[1] + b) % size)
                        weights.append(abs(1 - a - part[0]) * abs(1 - b - part[1]) / 4)
        values = np.concatenate(weights).astype(np.float32)
        place = (np.tile(pixel, len(cells)), np.concatenate(cells))
        return scipy.sparse.csr_matrix((values, place), shape=(rows.size, size * size))

    # counts

    def counts(self, phase: Any, shown: Any, window: Window, exposure_s: float, at_s: float) -> Any:
        """One frame: photons, electrons, counts [row, column]."""
        part = np.s_[window[0] : window[1], window[2] : window[3]]
        power = self.power * (1 + self.drift_per_h * at_s / 3600) * (1 + self.flicker * self._noise.standard_normal())
        electrons = (self.hot[part] + self.dark_per_s) * exposure_s
        if power > 0:
            light = self.intensity(phase, shown, window) * self.pixels[part]
            electrons = electrons + power * self.electrons_per_s * exposure_s * light
        electrons = self._noise.poisson(np.clip(electrons, 0, 1e7)) + self.read_noise * self._noise.standard_normal(
            electrons.shape
        )
        top = 2**self.bits - 1
        counts = np.clip(electrons, None, self.well) * ((top - self.offset) / self.well) + self.offset
        return np.clip(np.rint(counts), 0, top).astype(np.uint16)
