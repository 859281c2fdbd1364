"""The `display` driver: slmsuite's SLM in front of a monitor."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.slms.slm import SLM

from labctl.devices.display.finding import DESKTOP_VARIABLE, MonitorInfo
from labctl.devices.display.link import Swap, WindowLink
from labctl.devices.display.listing import monitors
from labctl.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)
HOLD_BLACK_S = 12 * 3600.0
"""How long the screen stays black after this process was killed: a night."""
_OPEN: weakref.WeakSet[Display] = weakref.WeakSet()
CHANNELS = {"b": 0, "g": 1, "r": 2}
"""Place of each colour in a pixel's four bytes."""


class Display(SLM):
    """An SLM or input panel that is a monitor.

    Gray levels reach the monitor as they are; phases go through slmsuite's wrap and look-up table first.

    Parameters
    ----------
    monitor : str
        Serial number, "manufacturer model", model, name, "x,y" or "WIDTHxHEIGHT+X+Y": what `monitors` lists.
    resolution : (width, height), optional
        What the monitor must be running at, pixels; default whatever it runs at.
    pitch_um : float or (x, y)
        Pixel pitch, µm.
    wav_um, wav_design_um : float
        Wavelength in use, and the one at which the highest level is 2π, µm.
    bitdepth : int
        Of the panel.
    lut : path or sequence of float, optional
        Measured phase response in units of 2π, unwrapped, growing with gray level: one number per level, or a text file
        with that column, or with two columns, level and phase.
    packing : str
        ``"gray"``: up to 8 bits, the same in red, green and blue. Or the colours that carry the level, most significant
        byte first: ``"g"`` for 8 bits in green alone, ``"rg"`` for up to 16 bits with the high byte in red.
    allow_primary : bool
        Whether the monitor may be the one with the desktop.
    hold_black_s : float
        How long the screen stays black after this process has been killed, s; at most 10 on the desktop's monitor.
    timeout_s : float
        How long one swap may take, s.

    Attributes
    ----------
    monitor : MonitorInfo
    last_swap : Swap or None
        Time of the last swap that was waited for.

    Raises
    ------
    ConfigError
        If an option makes no sense, or fits several monitors.
    DeviceError
        If the monitor is missing, is the desktop's, runs at another resolution, or shows no window.
    """

    def __init__(
        self,
        monitor: str,
        resolution: Sequence[int] | None = None,
        *,
        pitch_um: float | Sequence[float],
        wav_um: float = 1.0,
        wav_design_um: float | None = None,
        bitdepth: int = 8,
        lut: str | Path | Sequence[float] | None = None,
        packing: str = "gray",
        allow_primary: bool = False,
        hold_black_s: float = HOLD_BLACK_S,
        timeout_s: float = 5.0,
    ) -> None:
        _check(monitor, resolution, bitdepth, packing)
        gamma = None if lut is None else _response(lut)
        request = {
            "monitor": monitor,
            "allow_primary": bool(allow_primary),
            "desktop": os.environ.get(DESKTOP_VARIABLE, ""),
            "hold_black_s": float(hold_black_s),
        }
        # Slm and input on one monitor would cover each other without a word.
        taken = [other.monitor for other in _OPEN if other._closing.alive]
        self._packing = packing
        self._link = WindowLink(
            request,
            pixel_bytes=1 if packing == "gray" else 4,
            timeout_s=float(timeout_s),
            fits=lambda found: _fits(found, resolution, taken),
        )
        # A script that ends without closing takes its window with it; only one that is killed leaves it, black.
        self._closing: weakref.finalize[[], Display] = weakref.finalize(self, self._link.close)
        try:
            self.monitor: MonitorInfo = self._link.monitor
            self.last_swap: Swap | None = None
            super().__init__(
                (self.monitor.width, self.monitor.height),
                bitdepth=bitdepth,
                name=f"display {monitor}",
                pitch_um=pitch_um,
                wav_um=wav_um,
                wav_design_um=wav_design_um,
                gpu=False,
            )
            if gamma is not None:
                self._set_response(*gamma)
            _OPEN.add(self)
        except BaseException:
            self._closing()
            raise

    @staticmethod
    def info(verbose: bool = True) -> list[MonitorInfo]:
        """The monitors of this computer; logged too where `verbose`."""
        found = monitors()
        if verbose:
            for monitor in found:
                log.info("%s", monitor)
        return found

    monitors = staticmethod(monitors)

    def close(self) -> None:
        """Take the window away, within a few seconds. Safe to call twice."""
        self._closing()

    def wait(self) -> Swap | None:
        """Return when the last pattern sent with ``block=False`` is on the screen."""
        self.last_swap = self._link.wait() or self.last_swap
        return self.last_swap

    def set_phase(self, phase: Any, phase_correct: bool | None = None, settle: Any = None, **more: Any) -> Any:
        """Show a phase (float, rad) or gray levels (`dtype`): slmsuite's `SLM.set_phase`.

        Gray levels of full size take a shorter way to the same end: slmsuite works out a phase for each of two million
        pixels, which takes six times as long as showing them; here each of the levels' phases is worked out once.
        """
        settles = self.settle if settle is None else settle
        gray = isinstance(phase, np.ndarray) and phase.dtype == self.dtype and phase.shape == self.shape
        if not gray or settles or more or self.viewer is not None or phase.max() >= self.bitresolution:
            return super().set_phase(phase, phase_correct, settle, **more)
        np.copyto(self.display, phase)
        np.take(self._phase_of_level(), phase, out=self.phase, mode="clip")
        self._set_phase_hw(self.display)
        return self.display

    def _phase_of_level(self) -> NDArray[np.float32]:
        """What slmsuite takes each gray level's phase to be, rad in [0, 2π)."""
        levels: NDArray[np.float64] = np.arange(self.bitresolution) / self.phase_scaling / self.bitresolution
        if self.gamma is not None:
            levels = self.gamma
        return np.mod(self._gamma_sign * 2 * np.pi * levels, 2 * np.pi).astype(np.float32)

    def _set_phase_hw(self, display: NDArray[np.integer[Any]], block: bool = True) -> None:
        swap = self._link.show(self._pixels(display), wait=block)
        self.last_swap = swap or self.last_swap

    def _pixels(self, display: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        if self._packing == "gray":
            return display.astype(np.uint8, copy=False)
        pixels = np.zeros((*display.shape, 4), np.uint8)
        for place, channel in enumerate(reversed(self._packing)):
            pixels[..., CHANNELS[channel]] = (display >> (8 * place)) & 255
        return pixels

    def _set_response(self, levels: NDArray[np.float64] | None, phases: NDArray[np.float64]) -> None:
        try:
            self.set_gamma(phases, levels)
        except ValueError as error:
            raise ConfigError(f"display: lut does not fit {self.bitdepth} bits: {error}") from error


def _check(monitor: object, resolution: Sequence[int] | None, bitdepth: int, packing: str) -> None:
    if not isinstance(monitor, str) or not monitor.strip():
        raise ConfigError(
            f'display: monitor = {monitor!r}: give its name, model, serial number or place ("1920,0") as text: '
            "numbers of monitors change with the cables"
        )
    if resolution is not None and (len(resolution) != 2 or not all(isinstance(n, int) and n > 0 for n in resolution)):
        raise ConfigError(f"display: resolution = {resolution!r}: write [width, height] in pixels, or leave it out")
    if packing != "gray" and (not packing or set(packing) - set("rgb") or len(set(packing)) != len(packing)):
        raise ConfigError(f'display: packing = \'{packing}\': write "gray", or the colours used, such as "g" or "rg"')
    most = 8 if packing == "gray" else min(16, 8 * len(packing))
    if not 1 <= bitdepth <= most:
        raise ConfigError(f"display: bitdepth = {bitdepth} does not fit packing = '{packing}', which takes 1 to {most}")


def _fits(monitor: MonitorInfo, resolution: Sequence[int] | None, taken: Sequence[MonitorInfo] = ()) -> None:
    """Refuse a monitor that cannot show patterns pixel by pixel, or that this process shows patterns on already."""
    if monitor in taken:
        raise DeviceError(
            f"display: monitor {monitor} is in use as another device of this bench: name two monitors",
            device=monitor.name,
        )
    if monitor.pixel_ratio != 1:
        raise DeviceError(
            f"display: monitor {monitor} is scaled by {monitor.pixel_ratio:g}: set its scaling to 100 %",
            device=monitor.name,
        )
    if monitor.depth not in (24, 32):
        raise DeviceError(
            f"display: monitor {monitor} has {monitor.depth}-bit colour: set it to 24-bit (8 per colour)",
            device=monitor.name,
        )
    if resolution is not None and tuple(resolution) != (monitor.width, monitor.height):
        width, height = resolution
        raise DeviceError(
            f"display: monitor {monitor} does not run at {width}x{height}, as the bench file's resolution says: "
            "change the one or the other",
            device=monitor.name,
        )


def _response(lut: str | Path | Sequence[float]) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Levels (None: all) and phases in units of 2π."""
    try:
        if isinstance(lut, (str, Path)):
            text = Path(lut).read_text(encoding="utf-8").replace(",", " ")
            table = np.loadtxt(text.splitlines(), dtype=np.float64, ndmin=2)
        else:
            table = np.asarray(lut, dtype=np.float64).reshape(-1, 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"display: lut cannot be read: {error}") from error
    if table.shape[1] == 1:
        return None, table[:, 0]
    if table.shape[1] == 2:
        return table[:, 0], table[:, 1]
    raise ConfigError(f"display: lut '{lut}' has {table.shape[1]} columns: it takes phase, or level and phase")
