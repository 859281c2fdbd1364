"""Basler cameras by pylon: slmsuite's driver, with the pixel format, gain and window steps that it leaves out."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import numpy as np

from labctl.errors import ConfigError, DeviceError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # slmsuite warns when pypylon is missing; opening the camera says so
    from slmsuite.hardware.cameras.basler import Basler

log = logging.getLogger(__name__)

SETTINGS = {
    "GainAuto": "Off",
    "ExposureAuto": "Off",
    "ExposureMode": "Timed",
    "CenterX": False,
    "CenterY": False,
    "GammaEnable": False,
    "LUTEnable": False,
}
"""What would change the counts behind labctl's back, set one by one because models differ in what they have. (slmsuite
sets its own in one go and leaves out the rest at the first that a model lacks.)"""


class BaslerCamera(Basler):
    """A Basler camera, triggered by software.

    With the environment variable ``PYLON_CAMEMU=2`` pylon offers two emulated cameras (``0815-0000``, ``0815-0001``).

    Parameters
    ----------
    serial : str, optional
        By default the first camera found.
    pitch_um : float or (float, float)
        Pixel pitch.
    pixel_format : str
        As the camera's data sheet calls it: ``Mono8``, ``Mono10``, ``Mono12`` (12 bit in 16, low bits first).
    gain : float, optional
        In the camera's unit, dB on most; by default as the camera is.
    **options
        Of slmsuite's `Camera`: ``rot``, ``fliplr``, ``flipud``, ``exposure_bounds_s``.

    Raises
    ------
    ConfigError
        If the camera has no such pixel format.
    DeviceError
        If the packed formats are asked for, or pypylon is missing.
    """

    def __init__(
        self,
        serial: str | None = None,
        *,
        pitch_um: float | tuple[float, float],
        pixel_format: str = "Mono8",
        gain: float | None = None,
        **options: Any,
    ) -> None:
        bits = re.fullmatch(r"Mono(\d+)", pixel_format)
        if bits is None:
            raise ConfigError(
                f"camera.options.pixel_format: labctl reads Mono8, Mono10, Mono12 and Mono16, not {pixel_format!r}"
            )
        try:
            super().__init__(serial=serial, pitch_um=pitch_um, **options)
        except ImportError as error:
            raise DeviceError("camera: Basler cameras need pypylon: pip install pypylon", device="camera") from error
        try:
            self._set_up(pixel_format, gain)
            self.bitdepth = int(bits[1])
            self.dtype = np.dtype(np.uint8 if self.bitdepth == 8 else np.uint16)
        except BaseException:
            self.close()
            raise

    def _set_up(self, pixel_format: str, gain: float | None) -> None:
        for name, value in SETTINGS.items():
            try:
                getattr(self.cam, name).SetValue(value)
            except Exception as error:  # pylon's exceptions share no base class but this
                log.debug("basler %s: %s stays as it is: %s", self.name, name, error)
        offered = list(self.cam.PixelFormat.Symbolics)
        if pixel_format not in offered:
            mono = ", ".join(name for name in offered if re.fullmatch(r"Mono\d+", name))
            raise ConfigError(f"camera.options.pixel_format: this camera has {mono}, no {pixel_format}")
        self.cam.PixelFormat.SetValue(pixel_format)
        if gain is not None:
            self.cam.Gain.SetValue(float(gain))

    def _set_woi_hw(self, woi: tuple[int, int, int, int]) -> None:
        """Set ``(x, width, y, height)``, widened to the steps that the camera can place a window in."""
        x, width, y, height = (int(edge) for edge in woi)
        for offset, size, start, extent in (
            (self.cam.OffsetX, self.cam.Width, x, width),
            (self.cam.OffsetY, self.cam.Height, y, height),
        ):
            offset.SetValue(0)
            first, length = widened(
                start,
                extent,
                step=offset.GetInc(),
                size_step=size.GetInc(),
                smallest=size.GetMin(),
                limit=size.GetMax(),
            )
            size.SetValue(length)
            offset.SetValue(first)


def widened(start: int, extent: int, *, step: int, size_step: int, smallest: int, limit: int) -> tuple[int, int]:
    """The smallest window ``(start, extent)`` a camera can read that holds the one asked for, pixels.

    Parameters
    ----------
    step, size_step : int
        What start and extent are multiples of.
    smallest, limit : int
        Smallest extent, and the sensor's size (itself a multiple of `size_step`).
    """
    first = start - start % step
    needed = max(start + extent - first, smallest)
    length = min(-(-needed // size_step) * size_step, limit)
    if first + length > limit:
        first = (limit - length) - (limit - length) % step
        # Moving the start down a step may uncover the end again: then take one more step of size.
        while first + length < min(start + extent, limit) and length + size_step <= limit:
            length += size_step
    return first, length
