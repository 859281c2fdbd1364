"""Cameras that OpenCV opens: UVC devices, video streams, and a video file that stands in for either."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera

from labctl.clock import Clock, RealClock
from labctl.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)

CHANNELS = {"blue": 0, "green": 1, "red": 2}
QUEUE = 16
"""Frames that may lie in the system's buffers before one has to be waited for."""
NOMINAL_FPS = 30.0


class OpenCVCamera(Camera):
    """A camera behind OpenCV's ``VideoCapture``: 8 bit, free-running.

    What it cannot do: trigger, more than 8 bits, a window on the sensor (frames are cut in memory), and an exposure
    that is exact. A UVC camera sets its exposure in its own steps (powers of two on Windows, 0.1 ms on Linux); a file
    or stream not at all: then `get_exposure` says one frame period, whatever is asked for. UVC cameras also apply a
    gamma and sharpen: switch that off in the maker's program before measuring anything.

    A live camera delivers frames that it exposed before they were asked for. Frames that were waiting in a buffer are
    thrown away, and `exposure_interval` dates the others back by one period and by `latency_ms`, so that the bench
    pairs them by time. A file has no time of its own: each call gives the next frame, and after the last the first.

    Parameters
    ----------
    source : int or str
        Number of the device, path of a video file, or the URL of a stream.
    pitch_um : float or (float, float)
        Pixel pitch.
    resolution : (width, height), optional
        By default what the camera is set to.
    channel : "gray", "red", "green" or "blue"
        What of a colour frame is read. ``gray`` is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), which says nothing
        linear of a laser: take the channel that it lights.
    latency_ms : float, optional
        Longest time from the end of an exposure to the frame's arrival; by default one frame period.
    backend : str, optional
        Which of OpenCV's video backends opens it: ``V4L2``, ``MSMF``, ``DSHOW``, ``AVFOUNDATION``, ``FFMPEG`` ...; by
        default what OpenCV takes.
    **options
        Of slmsuite's `Camera`: ``rot``, ``fliplr``, ``flipud``, ``name``, ``exposure_bounds_s``.

    Attributes
    ----------
    exposure_interval : (float, float)
        Bounds of the last frame's exposure on `clock`, s.

    Raises
    ------
    ConfigError
        If an option makes no sense.
    DeviceError
        If it cannot be opened, gives no frame, or has another resolution.
    """

    clock: ClassVar[Clock] = RealClock()

    def __init__(
        self,
        source: int | str = 0,
        *,
        pitch_um: float | tuple[float, float],
        resolution: tuple[int, int] | None = None,
        channel: Literal["gray", "red", "green", "blue"] = "gray",
        latency_ms: float | None = None,
        backend: str | None = None,
        **options: Any,
    ) -> None:
        if channel != "gray" and channel not in CHANNELS:
            raise ConfigError(f"camera.options.channel: {channel!r} is none of gray, {', '.join(CHANNELS)}")
        api = getattr(cv2, f"CAP_{backend}", None) if backend else cv2.CAP_ANY
        if api is None:
            raise ConfigError(f"camera.options.backend: OpenCV has no video backend called {backend!r}")
        self.source = source
        self.is_file = isinstance(source, str) and "://" not in source
        if isinstance(source, str) and self.is_file and not Path(source).is_file():
            raise DeviceError(f"camera: there is no video file {source}", device="camera")
        self._channel = channel
        self.cam: Any = open_capture(source, api)
        try:
            shape = self._start(resolution)
            fps = float(self.cam.get(cv2.CAP_PROP_FPS))
            self.period_s = 1.0 / (fps if math.isfinite(fps) and fps > 0 else NOMINAL_FPS)
            self._latency_s = self.period_s if latency_ms is None else latency_ms / 1e3
            self.exposure_interval = (0.0, 0.0)
            self._scale = exposure_scale(str(self.cam.getBackendName())) if not self.is_file else "none"
            self._manual_exposure()
            super().__init__(
                (shape[1], shape[0]),
                bitdepth=8,
                pitch_um=pitch_um,
                **{"name": f"opencv {source}", "capture_attempts": 1} | options,
            )
            if self.is_file:
                self._rewind()  # slmsuite takes a frame to learn its type
        except BaseException:
            self.cam.release()
            raise

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """Video devices that the system lists, as ``number: name``; without names where the system tells none."""
        if sys.platform.startswith("linux"):
            found = []
            for entry in sorted(Path("/sys/class/video4linux").glob("video*")):
                name = (entry / "name").read_text(encoding="utf-8", errors="replace").strip()
                found.append(f"{entry.name.removeprefix('video')}: {name}")
            return found
        opened = []
        for number in range(4):
            capture = cv2.VideoCapture(number)
            if capture.isOpened():
                opened.append(f"{number}: {capture.getBackendName()}")
            capture.release()
        return opened

    def close(self) -> None:
        """Release the device."""
        self.cam.release()

    def flush(self, timeout_s: float = 1) -> None:
        """Nothing to do: a frame from before the call is never given."""

    def _start(self, resolution: tuple[int, int] | None) -> tuple[int, int]:
        """Apply the resolution; the shape (rows, columns) of a first frame."""
        self.cam.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if resolution is not None and not self.is_file:
            self.cam.set(cv2.CAP_PROP_FRAME_WIDTH, int(resolution[0]))
            self.cam.set(cv2.CAP_PROP_FRAME_HEIGHT, int(resolution[1]))
        good, frame = self.cam.read()
        if not good:
            raise DeviceError(f"camera: {self.source} opens, but gives no frame", device="camera")
        rows, columns = int(frame.shape[0]), int(frame.shape[1])
        if resolution is not None and tuple(resolution) != (columns, rows):
            raise DeviceError(
                f"camera: {self.source} gives {columns} x {rows} pixels, not {resolution[0]} x {resolution[1]}: "
                "correct or remove camera.options.resolution",
                device="camera",
            )
        return rows, columns

    def _rewind(self) -> None:
        if not self.cam.set(cv2.CAP_PROP_POS_FRAMES, 0):
            self.cam.release()
            self.cam = open_capture(self.source, cv2.CAP_ANY)

    def _manual_exposure(self) -> None:
        if self._scale == "none":
            return
        # OpenCV hands the value through: 1 is "manual" to V4L2, 0.25 to Windows.
        self.cam.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1 if self._scale == "100us" else 0.25)

    def _get_exposure_hw(self) -> float:
        value = float(self.cam.get(cv2.CAP_PROP_EXPOSURE)) if self._scale != "none" else 0.0
        if self._scale == "100us" and value > 0:
            return value * 1e-4
        if self._scale == "log2" and value != 0:
            return float(2.0**value)
        return self.period_s

    def _set_exposure_hw(self, exposure_s: float) -> None:
        if self._scale == "100us":
            self.cam.set(cv2.CAP_PROP_EXPOSURE, max(1, round(exposure_s * 1e4)))
        elif self._scale == "log2":
            self.cam.set(cv2.CAP_PROP_EXPOSURE, round(math.log2(exposure_s)))

    def _get_image_hw(self, timeout_s: float) -> NDArray[np.uint8]:
        frame = self._next_of_file() if self.is_file else self._next_live(timeout_s)
        if frame.dtype != np.uint8:
            raise DeviceError(f"camera '{self.name}' gives {frame.dtype} pixels, not 8 bit", device="camera")
        if frame.ndim == 2 or frame.shape[2] == 1:
            return frame.reshape(frame.shape[:2])
        if self._channel == "gray":
            return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
        return frame[:, :, CHANNELS[self._channel]]

    def _next_of_file(self) -> NDArray[Any]:
        called = self.clock.now()
        good, frame = self.cam.read()
        if not good:
            self._rewind()
            good, frame = self.cam.read()
        if not good:
            raise DeviceError(f"camera '{self.name}': {self.source} gives no more frames", device="camera")
        self.exposure_interval = (called, self.clock.now())
        return np.asarray(frame)

    def _next_live(self, timeout_s: float) -> NDArray[Any]:
        """The first frame that had to be waited for: how old those are that lay in a buffer, nobody knows."""
        until = self.clock.now() + timeout_s
        for _ in range(QUEUE):
            called = self.clock.now()
            if called > until:
                raise DeviceError(f"camera '{self.name}' gave no frame within {timeout_s:g} s", device="camera")
            if not self.cam.grab():
                raise DeviceError(f"camera '{self.name}' gives no frames: is it unplugged?", device="camera")
            arrived = self.clock.now()
            if arrived - called < self.period_s / 4:
                continue
            good, frame = self.cam.retrieve()
            if not good:
                raise DeviceError(f"camera '{self.name}': a frame arrived that cannot be decoded", device="camera")
            self.exposure_interval = (arrived - self._latency_s - max(self._exposure_s, self.period_s), arrived)
            return np.asarray(frame)
        raise DeviceError(
            f"camera '{self.name}' gave {QUEUE} frames at once: how old they are cannot be told", device="camera"
        )


def open_capture(source: int | str, api: int) -> Any:
    """OpenCV's capture of a source.

    Raises
    ------
    DeviceError
        If OpenCV cannot open it.
    """
    capture = cv2.VideoCapture(source, api)
    if not capture.isOpened():
        capture.release()
        hint = "'labctl devices' lists the cameras" if isinstance(source, int) else "is it a video that OpenCV reads?"
        raise DeviceError(f"camera: OpenCV cannot open {source!r}: {hint}", device="camera")
    return capture


def exposure_scale(backend: str) -> Literal["100us", "log2", "none"]:
    """In what unit a backend of OpenCV takes ``CAP_PROP_EXPOSURE``.

    Video4Linux: 100 us (``V4L2_CID_EXPOSURE_ABSOLUTE``); DirectShow and Media Foundation: log2 of seconds
    (``KSPROPERTY_CAMERACONTROL_EXPOSURE``); others have no exposure.
    """
    if backend.startswith("V4L"):
        return "100us"
    return "log2" if backend in ("DSHOW", "MSMF") else "none"
