"""slmsuite's drivers behind labctl's device contract. Apart from driver subclasses, slmsuite is touched only here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite._plotting import configure_plotting
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

from labctl.clock import Clock
from labctl.devices.contract import RawFrame
from labctl.errors import DeviceError, LabctlError

log = logging.getLogger(__name__)
MOST_QUEUED = 18
"""Frames that are thrown away at most before one counts, where a driver cannot flush."""
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

    @property
    def shown_at(self) -> float:
        """When the last pattern was swapped in, on the bench's clock, s, where the driver says so; else -inf."""
        swap = getattr(self.driver, "last_swap", None)
        return float(getattr(swap, "at_s", -math.inf))

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
    """A camera driven by any slmsuite `Camera`, opened on its whole sensor whatever window it was left with.

    When a frame started, and so which patterns it shows, is known in one of three ways:

    - the driver offers ``exposure_interval = (start, end)`` of its last frame, on the bench's clock
      (``time.perf_counter`` where the clock is real);
    - `trigger` is ``"software"``: the driver exposes on the call, no earlier;
    - `trigger` is ``"free-run"``: the driver is flushed first, which by slmsuite's contract means that the next frame
      is no older than the flush. slmsuite's own flush takes two frames, which is not enough for a driver that queues
      more; where a driver has no flush of its own, frames are thrown away until two in a row had to be waited for (half
      an exposure or longer): then the queue is empty, and the next frame begins after the call.

    A camera triggered by hardware has frames from before the call in its queue, so without ``exposure_interval`` it
    cannot be paired, and is refused.

    A driver that says ``overlaps = True`` and offers ``expose()``, ``read_out(timeout_s)`` and ``exposure_interval``
    gains the time of read-out: ``expose`` returns when the exposure has ended, ``read_out`` gives the frames in the
    order exposed (with ``exposure_interval`` of that frame), and one more exposure may be made while a frame is still
    to be read out. A driver with an attribute ``exposure_number`` is told the number of the exposure that comes next.

    slmsuite's own retries (``capture_attempts``) are switched off: a broken frame is reported and counted, and whoever
    asked decides whether to ask again.

    Parameters
    ----------
    camera : slmsuite Camera
    clock : Clock
    trigger : "software", "hardware" or "free-run"
    timeout_s : float
        How long a frame may take beyond its exposure. A driver whose vendor ignores it may hang for ever: the limit is
        the driver's to keep.

    Attributes
    ----------
    failures : int
        Frames that the driver could not deliver since it was opened.
    exposure_s : float or None
        Exposure that the camera really set, s.
    overlaps : bool
        Whether it can expose while a frame is read out: `expose` and `read_out` then stand beside `grab`.

    Raises
    ------
    DeviceError
        If the camera cannot be paired, does not know its pitch, or does not give its whole sensor.
    """

    def __init__(self, camera: Camera, *, clock: Clock, trigger: str, timeout_s: float) -> None:
        self.driver = camera
        self.name = str(camera.name)
        if trigger == "hardware" and not hasattr(camera, "exposure_interval"):
            raise DeviceError(
                f"camera '{self.name}' is triggered by hardware, but its driver does not say when a frame was exposed: "
                'use trigger = "software" or "free-run", or a driver that offers exposure_interval',
                device="camera",
            )
        if camera.pitch_um is None:
            raise DeviceError(
                f"camera '{self.name}' does not know its pixel pitch: add pitch_um to camera.options", device="camera"
            )
        self.pitch = (float(camera.pitch_um[1]) * 1e-6, float(camera.pitch_um[0]) * 1e-6)
        self.readout_s = float(getattr(camera, "readout_s", 0.0))
        self.failures = 0
        self.exposure_s: float | None = None
        self.overlaps = bool(getattr(camera, "overlaps", False))
        self._clock, self._trigger, self._timeout_s = clock, trigger, timeout_s
        self._asked_s: float | None = None
        camera.capture_attempts = 1
        if camera.color_channel is None:
            camera._parse_color_image = self._refuse_colour
        try:
            self.set_window(None)
        except Exception as error:
            raise DeviceError(
                f"camera '{self.name}' does not give its whole sensor: {_reason(error)}", device="camera"
            ) from error
        self.shape = (int(camera.sensor_shape[0]), int(camera.sensor_shape[1]))
        self.bitdepth = int(camera.bitdepth)

    def set_window(self, window: tuple[int, int, int, int] | None) -> tuple[int, int, int, int]:
        """Read only rows and columns ``(first row, end row, first column, end column)``; None for the whole sensor.

        Returns
        -------
        (first row, end row, first column, end column)
            What the camera made of it: many can only place a window in steps of a few pixels.

        Raises
        ------
        DeviceError
            If the window is empty or leaves the sensor, or the camera refuses it.
        """
        if window is None:
            x, width, y, height = self.driver.set_woi(None)
        else:
            r0, r1, c0, c1 = (int(edge) for edge in window)
            rows, columns = self.shape
            if not (0 <= r0 < r1 <= rows and 0 <= c0 < c1 <= columns):
                raise DeviceError(
                    f"camera '{self.name}': a window of rows {r0} to {r1} and columns {c0} to {c1} "
                    f"does not lie on its {rows} rows and {columns} columns",
                    device="camera",
                )
            try:
                x, width, y, height = self.driver.set_woi((c0, c1 - c0, r0, r1 - r0))
            except Exception as error:
                self._follow_window()
                raise DeviceError(
                    f"camera '{self.name}' refuses the window rows {r0} to {r1}, columns {c0} to {c1}: "
                    f"{_reason(error)}",
                    device="camera",
                ) from error
        self.origin = (int(y), int(x))
        return int(y), int(y + height), int(x), int(x + width)

    def grab(self, exposure_s: float) -> RawFrame:
        """Expose one frame.

        Raises
        ------
        DeviceError
            If the camera delivers no frame, or one that is not what it says it gives. The next call starts afresh.
        """
        if exposure_s != self._asked_s:
            self._set_exposure(exposure_s)
        called = self._clock.now()
        flushes = self._trigger == "free-run" and not hasattr(self.driver, "exposure_interval")

        def get() -> Any:
            if flushes:
                self._flush(exposure_s)
            return self.driver.get_image(timeout_s=self._timeout_s)

        data = self._delivering(get)
        started, ended = getattr(self.driver, "exposure_interval", (called, self._clock.now()))
        self._check(data, float(started), float(ended))
        return RawFrame(data, float(started), float(ended), self.origin)

    def expose(self, exposure_s: float) -> None:
        """Expose one frame, to be read out later; returns when the exposure has ended. Only if it `overlaps`.

        Raises
        ------
        DeviceError
            As `grab`.
        """
        if exposure_s != self._asked_s:
            self._set_exposure(exposure_s)
        self._delivering(self.driver.expose)

    def read_out(self) -> RawFrame:
        """The frame of the oldest exposure that has not been read out. Only if it `overlaps`.

        Raises
        ------
        DeviceError
            As `grab`.
        """
        data = self._delivering(lambda: self.driver.read_out(timeout_s=self._timeout_s))
        started, ended = (float(t) for t in self.driver.exposure_interval)
        self._check(data, started, ended)
        return RawFrame(data, started, ended, self.origin)

    def discard(self) -> None:
        """Throw away what has been exposed and not read out."""
        if self.overlaps:
            self._delivering(lambda: self.driver.flush(timeout_s=self._timeout_s))

    def announce(self, number: int) -> None:
        """Tell a driver that cares the number of the exposure that comes next."""
        if hasattr(self.driver, "exposure_number"):
            self.driver.exposure_number = number

    def busy_until(self, when: float) -> None:
        """Tell a driver that cares until when it reads out a frame of before, on the bench's clock, s."""
        if hasattr(self.driver, "reads_until"):
            self.driver.reads_until = when

    def close(self) -> None:
        """Release the driver."""
        self.driver.close()

    def _delivering(self, call: Callable[[], Any]) -> Any:
        """A call for a frame: what it raises is counted, and said in one line."""
        try:
            return call()
        except Exception as error:
            self.failures += 1
            log.warning("camera '%s': no frame (number %d that failed): %s", self.name, self.failures, _reason(error))
            if isinstance(error, LabctlError):
                raise
            raise DeviceError(f"camera '{self.name}' gave no frame: {_reason(error)}", device="camera") from error

    def _flush(self, exposure_s: float) -> None:
        """Throw away every frame that began before now."""
        if type(self.driver).flush is not Camera.flush:
            self.driver.flush(timeout_s=self._timeout_s)
            return
        waited = 0
        for _ in range(MOST_QUEUED):
            asked = self._clock.now()
            self.driver.get_image(timeout_s=self._timeout_s)
            waited = waited + 1 if self._clock.now() - asked >= exposure_s / 2 else 0
            if waited == 2:
                return

    def _set_exposure(self, exposure_s: float) -> None:
        self._asked_s = None
        try:
            realised = self.driver.set_exposure(exposure_s)
        except Exception as error:
            raise DeviceError(
                f"camera '{self.name}' does not take an exposure of {exposure_s:g} s: {_reason(error)}", device="camera"
            ) from error
        # Third-party drivers may override it and return nothing.
        self.exposure_s = float(exposure_s if realised is None else realised)
        self._asked_s = exposure_s
        if abs(self.exposure_s - exposure_s) > 0.01 * exposure_s:
            log.warning(
                "camera '%s': asked to expose for %.6g s, it does for %.6g s", self.name, exposure_s, self.exposure_s
            )

    def _check(self, data: NDArray[Any], started: float, ended: float) -> None:
        """Refuse what would be taken for a frame of the window that was asked for, and is none."""
        wrong = ""
        if data.dtype.kind != "u":
            wrong = f"gave {data.dtype} pixels: labctl reads unsigned integers"
        elif data.shape != tuple(self.driver.shape):
            wrong = f"gave a frame of {data.shape} (rows, columns) where {tuple(self.driver.shape)} were due"
        elif not started <= ended:
            wrong = f"says that a frame was exposed from {started} to {ended} s"
        if wrong:
            self.failures += 1
            raise DeviceError(f"camera '{self.name}' {wrong}", device="camera")

    def _follow_window(self) -> None:
        """Learn which window the camera was left with by a call that failed."""
        try:
            x, _, y, _ = self.driver.get_woi()
        except Exception as error:  # the failure that led here is the one to report
            log.debug("camera '%s': its window cannot be read: %s", self.name, error)
        else:
            self.origin = (int(y), int(x))

    def _refuse_colour(self, frame: NDArray[Any]) -> NDArray[Any]:
        raise DeviceError(
            f"camera '{self.name}' gives colour frames {frame.shape}: add color_channel to camera.options "
            "(the number of the channel that the laser lights), or set the camera to monochrome",
            device="camera",
        )


def _reason(error: Exception) -> str:
    """An exception in one line."""
    said = " ".join(str(error).split()) or "no reason given"
    return said if isinstance(error, LabctlError) else f"{type(error).__name__}: {said}"
