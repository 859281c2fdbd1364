"""The simulated light between simulated devices: a 4f bench with the imperfections of `labctl.simulation.effects`.

Method. The optical frame is the SLM's. Square panel pixels, moved and turned by the panel's true affine map, are spread
onto a fine grid and transformed to the SLM's pixels (a non-uniform FFT of type 1 with a Kaiser-Bessel kernel:
Dutt and Rokhlin 1993; Greengard and Lee 2004), so that no interpolation of the spectrum is needed whatever the ratio
of pitches. The SLM's delivered field multiplies it. A second FFT, oversampled by 2 so that intensity is not aliased and
pruned to the window that is read, gives the camera plane, which an affine map with pixel integration brings to the
camera's pixels; `labctl.simulation.camera` makes counts of it. The work is cut up as `labctl.simulation.hands` says.

Noise is a function of the seed and the exposure's number, not of what ran before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from labctl.clock import Clock
from labctl.optics.geometry import Geometry, Plane
from labctl.optics.zernike import zernike
from labctl.simulation.camera import Sensor
from labctl.simulation.effects import Effects, Truth
from labctl.simulation.hands import Room, hands
from labctl.simulation.history import History, steady
from labctl.simulation.transforms import (
    Complex,
    Float,
    Sampler,
    Spreading,
    Window,
    lit_box,
    phasor,
    rotation,
    shift_invariant,
    transfer_function,
)

LN9 = float(np.log(9.0))
"""10-90 % time of an exponential, in time constants."""
CREEP_STEP_PX = 0.02
"""Mechanical creep is rendered in steps of this size, so that what depends on places is not made anew all the time."""


class World:
    """The light of one simulated bench. The devices' fronts call `show_slm`, `show_input`, `expose`.

    Parameters
    ----------
    geometry : Geometry
        Nominal geometry of the bench file and the devices.
    effects : Effects
    seed : int
    clock : Clock
    slm_levels, input_levels : int
    camera_bitdepth : int
    """

    def __init__(
        self,
        geometry: Geometry,
        effects: Effects,
        *,
        seed: int,
        clock: Clock,
        slm_levels: int = 256,
        input_levels: int = 256,
        camera_bitdepth: int = 12,
    ) -> None:
        self.clock = clock
        self._geometry, self._effects, self._seed = geometry, effects, seed
        self._truth = Truth.draw(effects, seed)
        self._levels = {"slm": slm_levels, "input": input_levels}
        self._sensor = Sensor(geometry, effects, self._truth, seed, camera_bitdepth)
        dark, flat = np.zeros(geometry.input.shape, np.uint16), np.zeros(geometry.slm.shape, np.uint16)
        self._slm: History[NDArray[np.integer]] = History(flat)
        self._input: History[NDArray[np.integer]] = History(dark)
        self._laser = History((True, 1.0))
        self._shutter = History(True)
        self._exposures = 0
        self._fields: OrderedDict[tuple[int, Window], tuple[Complex, Complex | None]] = OrderedDict()
        self._samplers: dict[Window, Sampler] = {}
        self._room, self._rendering = Room(), threading.Lock()
        self._transfer: dict[int, Complex] = {}
        self._crept_h = 0.0

    # what the devices' fronts may do

    def show_slm(self, gray: NDArray[np.integer], *, latency_s: float = 0.0) -> None:
        """A new gray pattern [row, column] on the SLM; it settles exponentially from `latency_s` after now."""
        self._slm.change(gray.copy(), self.clock.now() + latency_s)

    def show_input(self, gray: NDArray[np.integer], *, latency_s: float = 0.0) -> None:
        """A new gray pattern [row, column] on the input panel, from `latency_s` after now."""
        self._input.change(gray.copy(), self.clock.now() + latency_s)

    def set_laser(self, *, on: bool | None = None, power: float | None = None) -> None:
        """Switch the laser, or set its power (fraction of nominal)."""
        was_on, was = self._laser.latest
        self._laser.change((was_on if on is None else on, was if power is None else power), self.clock.now())

    @property
    def laser(self) -> tuple[bool, float]:
        """Whether the laser is on, and its power setting."""
        return self._laser.latest

    def set_shutter(self, is_open: bool) -> None:
        """Open or close the shutter behind the laser; a new world has it open."""
        self._shutter.change(is_open, self.clock.now())

    @property
    def shutter(self) -> bool:
        """Whether the shutter is open."""
        return self._shutter.latest

    def measured_power(self) -> float:
        """Power behind the shutter now, as a fraction of nominal: setting, drift and flicker; no meter's noise."""
        now = self.clock.now()
        number = int(now * 1e6) & (2**63 - 1)
        return self._power(now, now, np.random.Generator(np.random.SFC64([self._seed, 3, number])))

    def expose(
        self,
        exposure_s: float,
        window: Window | None = None,
        *,
        start: float | None = None,
        number: int | None = None,
    ) -> NDArray[np.uint16]:
        """One exposure that starts now and lasts `exposure_s` on the world's clock.

        A device that changes during the exposure contributes both its states, each for as long as it lasted.

        Parameters
        ----------
        exposure_s : float, s
        window : (first row, end row, first column, end column), camera pixels
            Default the whole sensor.
        start : float, s, optional
            A past start of the exposure: the light of then is rendered, and no time passes now.
        number : int, optional
            Of the exposure: it seeds the noise. Default: they are counted.

        Returns
        -------
        uint16 array [row, column], counts
        """
        if start is None:
            start = self.clock.now()
            self.clock.sleep(exposure_s)
        if number is None:
            number = self._exposures
            self._exposures += 1
        shape = self._geometry.camera.shape
        window = window or (0, shape[0], 0, shape[1])
        noise = np.random.Generator(np.random.SFC64([self._seed, number]))
        with self._rendering, hands():
            self._creep(start)
            return self._frame(start, exposure_s, window, noise)

    def _frame(self, start: float, exposure_s: float, window: Window, noise: np.random.Generator) -> NDArray[np.uint16]:
        electrons: Float | None = None
        for begun, ended in steady(start, start + exposure_s, (self._slm, self._input, self._laser, self._shutter)):
            light = self._power(begun, ended, noise)
            if light > 0:
                scale = light * self._effects.flux_e_per_s * (ended - begun)
                part = self._intensity(begun, ended - begun, window, noise, scale)
                electrons = part if electrons is None else electrons + part
        if electrons is None:
            electrons = np.zeros((window[1] - window[0], window[3] - window[2]), np.float32)
        return self._sensor.read_out(electrons, start, exposure_s, window, noise)

    def move(self, truth: Truth) -> None:
        """The mechanics stand as `truth` says from now on: whatever was kept of how they stood is made anew."""
        with self._rendering:
            self._truth, self._sensor = truth, self._sensor.moved(truth)
            self._forget("_spreading", "_incoherent_spreading", "_pupil")

    def _forget(self, *made: str) -> None:
        for name in made:
            self.__dict__.pop(name, None)
        for kept in (self._fields, self._samplers, self._transfer):
            kept.clear()

    def _creep(self, when: float) -> None:
        """Camera and Fourier plane as far as they have wandered by now, in steps of `CREEP_STEP_PX` of the faster."""
        row, column, y, x = self._truth.creep
        if (fastest := max(map(abs, self._truth.creep))) == 0:
            return
        step_h = CREEP_STEP_PX / fastest
        hours = np.floor(when / 3600 / step_h) * step_h
        if (since := float(hours - self._crept_h)) == 0:
            return
        self._crept_h = float(hours)
        shift, fourier = self._truth.camera_shift, self._truth.fourier_shift
        self._truth = replace(
            self._truth,
            camera_shift=(shift[0] + row * since, shift[1] + column * since),
            fourier_shift=(fourier[0] + y * since, fourier[1] + x * since),
        )
        self._forget("_spreading")

    # laser

    def _power(self, begun: float, ended: float, noise: np.random.Generator) -> float:
        on, power = self._laser.at(begun).state
        if not on or not self._shutter.at(begun).state:
            return 0.0
        effects, when = self._effects, (begun + ended) / 2
        periods = 600.0 * 2.0 ** np.arange(len(self._truth.drift_phases))
        # sines of periods from 10 minutes to 5 hours; each has the same rms rate
        swing = periods / (2 * np.pi) * np.sin(2 * np.pi * when / periods + self._truth.drift_phases)
        drift = effects.laser_drift / 3600 * swing.sum() * np.sqrt(2 / len(periods))
        return power * (1 + drift) * (1 + effects.laser_flicker * float(noise.standard_normal()))

    # light

    def _intensity(
        self, start: float, exposure_s: float, window: Window, noise: np.random.Generator, scale: float = 1.0
    ) -> Float:
        if not self._geometry.coherent:
            return self._incoherent_intensity(start, exposure_s, window, scale)
        effects, sampler, spread = self._effects, self._sampler(window), self._spreading
        field, ripple = self._slm_field(start, exposure_s, window, sampler)
        wander = noise.standard_normal(3)
        points, place = spread.spread(*self._input_amplitude(self._input.at(start).state))
        if effects.pointing_jitter_px:
            points *= spread.tilt(wander[1:] * effects.pointing_jitter_px, place)
        lines, flicker = spread.across(points, place), np.float32(effects.slm_flicker * wander[0])

        def behind(first: int, end: int, out: Complex) -> None:
            part = field[:, first:end]
            if ripple is not None:
                part = part + flicker * ripple[:, first:end]
            np.multiply(spread.down(lines[:, first:end], place), part, out=out)

        return sampler(sampler.power(behind, self._room), scale)

    def _incoherent_intensity(self, start: float, exposure_s: float, window: Window, scale: float) -> Float:
        """Every point of the input for itself: squared amplitudes, convolved with the squared response of the bench.

        The tilt of the beam moves nothing here, and the ripple of the phase is left out.
        """
        sampler, spread = self._sampler(window), self._incoherent_spreading
        serial, settled = self._state_of_crystal(start, exposure_s)
        transfer = self._transfer.get(serial) if settled else None
        if transfer is None:
            zero = self._effects.slm_zero_order
            field = np.float32((1 - zero) ** 0.5) * phasor(self._phase_now(start, exposure_s)) + np.float32(zero**0.5)
            transfer = transfer_function(field * self._pupil)
            self._transfer.clear()
            if settled:
                self._transfer[serial] = transfer
        amplitude, box = self._input_amplitude(self._input.at(start).state)
        spectrum = spread.transform(*spread.spread(amplitude**2, box)) * spread.factor
        return sampler(sampler.cut(shift_invariant(spectrum, transfer)), scale)

    @cached_property
    def _incoherent_spreading(self) -> Spreading:
        """As `_spreading`, on twice the band: intensity has twice the frequencies of the field."""
        plane = self._geometry.slm
        twice = replace(self._geometry, slm=Plane((2 * plane.shape[0], 2 * plane.shape[1]), plane.pitch))
        return Spreading.build(*self._panel_pixels(), twice, (0.5, 0.5))

    def _input_amplitude(self, gray: NDArray[np.integer]) -> tuple[Float, Window]:
        """Amplitude of the panel's pixels (response, contrast, illumination and field stop) where it is not black."""
        table, illumination = self._input_tables
        box = lit_box(gray) if table[0] == 0 else self._stop_box
        part = np.s_[box[0] : box[1], box[2] : box[3]]
        return table[gray[part]] * illumination[part], box

    @cached_property
    def _stop_box(self) -> Window:
        return lit_box(self._input_tables[1])

    @cached_property
    def _input_tables(self) -> tuple[Float, Float]:
        effects, levels = self._effects, self._levels["input"]
        floor = 0.0 if np.isinf(effects.input_contrast) else effects.input_contrast**-0.5
        response = (np.arange(levels) / (levels - 1)) ** self._truth.input_gamma
        table = np.sqrt(floor**2 + (1 - floor**2) * response**2)
        shape = self._geometry.input.shape
        y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
        side = min(effects.input_stop_px, *shape)
        stop = (np.abs(y)[:, None] <= side / 2) & (np.abs(x)[None] <= side / 2)
        radius2 = (y[:, None] ** 2 + x[None] ** 2) / (side**2 / 2)
        return table.astype(np.float32), (stop * (1 - effects.input_vignetting * radius2)).astype(np.float32)

    @cached_property
    def _spreading(self) -> Spreading:
        """The input panel's pixels, at their true places in the SLM's frame, on the fine grid."""
        return Spreading.build(*self._panel_pixels(), self._geometry, self._truth.fourier_shift)

    def _panel_pixels(self) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Where the panel's lit pixels are in the SLM's frame (y, x), m, and which (row, column) they are."""
        geometry, truth = self._geometry, self._truth
        turn = truth.input_rotation - truth.fourier_rotation
        affine = truth.input_scale / truth.fourier_scale * rotation(turn)
        lit = np.argwhere(self._input_tables[1] > 0)
        low, high = lit.min(0), lit.max(0) + 1
        pixels = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        place = pixels.reshape(-1, 2) - geometry.input.centre + np.asarray(truth.input_shift)
        metres = (place * geometry.input.pitch) @ affine.T
        return metres, pixels.reshape(-1, 2)

    def _slm_field(
        self, start: float, exposure_s: float, window: Window, sampler: Sampler
    ) -> tuple[Complex, Complex | None]:
        """Delivered field [row, column] x what the transforms need, for the exposure's mean state of the crystal.

        Returns
        -------
        field, ripple : complex64 arrays [row, column]
            The second is the field's derivative by the relative ripple of the phase; None without flicker.
        """
        effects = self._effects
        serial, settled = self._state_of_crystal(start, exposure_s)
        key = (serial, window)
        if settled and key in self._fields:
            self._fields.move_to_end(key)
            return self._fields[key]
        phase = self._phase_now(start, exposure_s)
        zero = effects.slm_zero_order
        field = np.float32((1 - zero) ** 0.5) * phasor(phase)
        ripple = self._to_transform(1j * phase * field, sampler) if effects.slm_flicker else None
        field = self._to_transform(field + np.float32(zero**0.5), sampler)
        if settled:
            self._fields[key] = field, ripple
            while len(self._fields) > 6:
                self._fields.popitem(last=False)
        return field, ripple

    def _state_of_crystal(self, start: float, exposure_s: float) -> tuple[int, bool]:
        """Which pattern is on the SLM in the middle of an exposure, and whether it has settled to a thousandth."""
        shown, effects = self._slm.at(start), self._effects
        slowest = effects.slm_rise_s / LN9 * (1 + effects.slm_rise_slowing)
        since = start + exposure_s / 2 - shown.since
        return shown.serial, slowest <= 0 or np.exp(-since / slowest) < 1e-3

    def _phase_now(self, start: float, exposure_s: float) -> Float:
        """Delivered phase (rad) in the middle of an exposure: what is shown, and what is left of the pattern before."""
        shown, effects = self._slm.at(start), self._effects
        phase = self._delivered_phase(shown.state)
        if self._state_of_crystal(start, exposure_s)[1]:
            return phase
        since = max(start + exposure_s / 2 - shown.since, 0.0)
        step = self._delivered_phase(shown.before) - phase
        tau = effects.slm_rise_s / LN9 * (1 + np.float32(effects.slm_rise_slowing / (2 * np.pi)) * np.abs(step))
        return np.asarray(phase + np.exp(np.float32(-since) / tau) * step, np.float32)

    def _to_transform(self, field: Complex, sampler: Sampler) -> Complex:
        """The field behind the SLM with all that is the same for every image."""
        behind = field * self._pupil
        behind *= self._spreading.factor
        behind *= sampler.ramp
        return behind

    def _delivered_phase(self, gray: NDArray[np.integer]) -> Float:
        """Phase (rad) that the panel gives: response curve, its variation over the panel, spread between pixels."""
        table, stroke = self._slm_tables
        phase = table[gray] * stroke
        width = self._effects.slm_crosstalk_px
        if width > 0:
            phase = cv2.GaussianBlur(phase, (5, 5), width / 2.3548, borderType=cv2.BORDER_REPLICATE)
        return phase

    @cached_property
    def _slm_tables(self) -> tuple[Float, Float]:
        levels = self._levels["slm"]
        command = np.arange(levels) / levels
        bend = sum(a * np.sin((k + 1) * np.pi * command) for k, a in enumerate(self._truth.lut_bend))
        # more gray is less phase, as in slmsuite
        table = 2 * np.pi * (1 - (command + 1 / levels)) - bend
        y, x = (np.linspace(-1, 1, n) for n in self._geometry.slm.shape)
        a, b, c, d = self._truth.stroke
        stroke = 1 + a * y[:, None] + b * x[None] + c * y[:, None] * x[None] + d * (y[:, None] ** 2 - x[None] ** 2)
        return table.astype(np.float32), stroke.astype(np.float32)

    @cached_property
    def _pupil(self) -> Complex:
        """Complex transmission of optics at the SLM's pixels: aberration, roughness, apodisation, and the ghost."""
        effects, truth, shape = self._effects, self._truth, self._geometry.slm.shape
        radius = min(shape) / 2
        rows, columns = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
        y, x = rows / radius, columns / radius
        waves = np.zeros(shape)
        for j, size in enumerate(truth.zernikes):
            if size:
                waves += size * zernike(j, y, x)
        if effects.roughness_waves:
            dice = np.random.default_rng([self._seed, 3]).standard_normal(shape)
            rough = gaussian_filter(dice, max(shape) / 40, mode="wrap")
            waves += effects.roughness_waves * rough / rough.std()
        # camera out of focus: a ray from height r arrives r dz / f2 nearer the axis
        height2 = (y**2 + x**2) * (radius * self._geometry.slm.pitch[0]) ** 2
        waves -= truth.camera_focus * height2 / (2 * self._geometry.f2**2 * self._geometry.wavelength)
        beam_y, beam_x = (offset / radius for offset in truth.beam_offset)
        amplitude = 1 - effects.pupil_apodisation * np.clip((y - beam_y) ** 2 + (x - beam_x) ** 2, 0, 2) / 2
        pupil = amplitude * np.exp(2j * np.pi * waves)
        if effects.ghost:
            # light reflected twice on its way comes out tilted and defocused: a second, weaker system in parallel
            tilt_y, tilt_x, defocus, start = truth.ghost
            path = 2 * np.pi * (tilt_y * rows + tilt_x * columns) + defocus * (y**2 + x**2) + start
            pupil *= 1 + effects.ghost**0.5 * np.exp(1j * path)
        return np.asarray(pupil, np.complex64)

    # camera

    def _sampler(self, window: Window) -> Sampler:
        if window not in self._samplers:
            self._samplers[window] = Sampler.build(window, self._geometry, self._truth)
        return self._samplers[window]
