"""slmsuite's drivers behind labctl's device contract. Apart from driver subclasses, slmsuite is touched only here."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite._plotting import configure_plotting
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

from labctl.clock import Clock
from labctl.devices.contract import RawFrame
from labctl.errors import DeviceError

configure_plotting("suppress", headless=True)
# slmsuite writes to the terminal in colours of its own: let its warnings go where labctl's go
for _handler in list(logging.getLogger("slmsuite").handlers):
    if type(_handler) is logging.StreamHandler:
        logging.getLogger("slmsuite").removeHandler(_handler)
logging.getLogger("slmsuite").setLevel(logging.ERROR)


class SlmsuitePanel:
    """An SLM or input panel driven by any slmsuite `SLM`. Gray levels go through untouched."""

    def __init__(self, slm: SLM) -> None:
        self.driver = slm
        self.name = str(slm.name)
        self.shape = (int(slm.shape[0]), int(slm.shape[1]))
        self.pitch = (float(slm.pitch_um[1]) * 1e-6, float(slm.pitch_um[0]) * 1e-6)
        self.levels = int(slm.bitresolution)

    def show(self, gray: NDArray[np.unsignedinteger[Any]]) -> None:
        """Send a gray pattern [row, column]."""
        self.driver.set_phase(np.ascontiguousarray(gray, dtype=self.driver.dtype), settle=False)

    def blank(self) -> None:
        """Gray level 0 everywhere: a flat phase on an SLM, black on an input panel."""
        self.show(np.zeros(self.shape, self.driver.dtype))

    def close(self) -> None:
        """Release the driver."""
        self.driver.close()


class SlmsuiteSensor:
    """A camera driven by any slmsuite `Camera`.

    When the driver offers ``exposure_interval``, that is when the frame was exposed. Otherwise a software-triggered
    camera is taken to start exposing no earlier than the call, and a free-running one is flushed first, so that no
    frame in flight is taken for an answer.
    """

    def __init__(self, camera: Camera, *, clock: Clock, trigger: str, timeout_s: float) -> None:
        self.driver = camera
        self.name = str(camera.name)
        self.shape = (int(camera.shape[0]), int(camera.shape[1]))
        self.bitdepth = int(camera.bitdepth)
        if camera.pitch_um is None:
            raise DeviceError(
                f"camera '{self.name}' does not know its pixel pitch: add pitch_um to camera.options", device="camera"
            )
        self.pitch = (float(camera.pitch_um[1]) * 1e-6, float(camera.pitch_um[0]) * 1e-6)
        self.readout_s = 0.0
        self._clock, self._trigger, self._timeout_s = clock, trigger, timeout_s
        self._exposure_s: float | None = None
        self.origin = (0, 0)

    def set_window(self, window: tuple[int, int, int, int] | None) -> tuple[int, int, int, int]:
        """Read only rows and columns ``(first row, end row, first column, end column)``; None for the whole sensor.

        Returns
        -------
        (first row, end row, first column, end column)
            What the camera made of it.
        """
        if window is None:
            x, width, y, height = self.driver.set_woi(None)
        else:
            r0, r1, c0, c1 = window
            x, width, y, height = self.driver.set_woi((c0, c1 - c0, r0, r1 - r0))
        self.origin = (int(y), int(x))
        return int(y), int(y + height), int(x), int(x + width)

    def grab(self, exposure_s: float) -> RawFrame:
        """Expose one frame."""
        if exposure_s != self._exposure_s:
            self.driver.set_exposure(exposure_s)
            self._exposure_s = exposure_s
        if self._trigger == "free-run" and not hasattr(self.driver, "exposure_interval"):
            self.driver.flush()
        before = self._clock.now()
        data = self.driver.get_image(timeout_s=self._timeout_s)
        after = self._clock.now()
        started, ended = getattr(self.driver, "exposure_interval", (before, after))
        if data.dtype.kind != "u":
            raise DeviceError(
                f"camera '{self.name}' gave {data.dtype} pixels: labctl reads unsigned integers", device="camera"
            )
        return RawFrame(data, float(started), float(ended), self.origin)

    def close(self) -> None:
        """Release the driver."""
        self.driver.close()
