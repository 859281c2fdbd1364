"""GigE Vision and USB3 Vision cameras of any maker, through the library Aravis."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera

from labctl.errors import ConfigError, DeviceError

NAMES = {"linux": "libaravis-0.8.so.0", "darwin": "libaravis-0.8.0.dylib", "win32": "libaravis-0.8-0.dll"}
_INT, _DOUBLE, _POINTER, _TEXT = ctypes.c_int, ctypes.c_double, ctypes.c_void_p, ctypes.c_char_p
_INT_OUT = ctypes.POINTER(_INT)
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "arv_camera_new": (_POINTER, [_TEXT]),
    "arv_camera_get_sensor_size": (None, [_POINTER, _INT_OUT, _INT_OUT]),
    "arv_camera_get_region": (None, [_POINTER, *[_INT_OUT] * 4]),
    "arv_camera_set_region": (None, [_POINTER, *[_INT] * 4]),
    "arv_camera_set_exposure_time": (None, [_POINTER, _DOUBLE]),
    "arv_camera_get_exposure_time": (_DOUBLE, [_POINTER]),
    "arv_camera_set_pixel_format_from_string": (None, [_POINTER, _TEXT]),
    "arv_camera_acquisition": (_POINTER, [_POINTER, ctypes.c_uint64]),
}
"""What is called of the library (see the reference of Aravis 0.8, ArvCamera); each takes a ``GError**`` last."""


class _GError(ctypes.Structure):
    _fields_ = [("domain", ctypes.c_uint32), ("code", _INT), ("message", _TEXT)]


class Library:
    """libaravis by ctypes: calls raise `OSError` with what the library says.

    Raises
    ------
    DeviceError
        If it is not installed.
    """

    def __init__(self) -> None:
        name = ctypes.util.find_library("aravis-0.8") or NAMES.get(sys.platform, NAMES["linux"])
        try:
            self._lib = ctypes.CDLL(name)
        except OSError as error:
            raise DeviceError(
                "camera: GigE Vision cameras need the library Aravis 0.8: apt-get install libaravis-0.8-0",
                device="camera",
            ) from error
        for function, (result, arguments) in SIGNATURES.items():
            getattr(self._lib, function).restype = result
            getattr(self._lib, function).argtypes = [*arguments, ctypes.POINTER(ctypes.POINTER(_GError))]
        for function, result, arguments in (
            ("arv_update_device_list", None, []),
            ("arv_get_n_devices", ctypes.c_uint, []),
            ("arv_get_device_id", _TEXT, [ctypes.c_uint]),
            ("arv_enable_interface", None, [_TEXT]),
            ("arv_buffer_get_status", _INT, [_POINTER]),
            ("arv_buffer_get_data", _POINTER, [_POINTER, ctypes.POINTER(ctypes.c_size_t)]),
            ("arv_buffer_get_image_width", _INT, [_POINTER]),
            ("arv_buffer_get_image_height", _INT, [_POINTER]),
            ("g_object_unref", None, [_POINTER]),
            ("g_error_free", None, [_POINTER]),
        ):
            getattr(self._lib, function).restype = result
            getattr(self._lib, function).argtypes = arguments

    def call(self, function: str, *arguments: Any) -> Any:
        """One of `SIGNATURES`."""
        error = ctypes.POINTER(_GError)()
        result = getattr(self._lib, function)(*arguments, ctypes.byref(error))
        if error:
            message = (error.contents.message or b"no reason given").decode("utf-8", "replace")
            self._lib.g_error_free(error)
            raise OSError(f"{function.removeprefix('arv_camera_')}: {message}")
        return result

    def plain(self, function: str, *arguments: Any) -> Any:
        """A function that cannot fail."""
        return getattr(self._lib, function)(*arguments)


class AravisCamera(Camera):
    """A GigE Vision or USB3 Vision camera; each frame is an acquisition of its own, started by the call.

    Parameters
    ----------
    source : str, optional
        Its identity as `info` lists it, or a GigE camera's address; by default the first that is found.
    pitch_um : float or (float, float)
    pixel_format : "Mono8", "Mono10", "Mono12" or "Mono16"
    interface : str, optional
        Interface of the library to switch on besides those that always are: ``Fake`` has a camera without hardware.
    **options
        Of slmsuite's `Camera`.

    Raises
    ------
    ConfigError, DeviceError
        If the pixel format is not read here; if the library or the camera is missing.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        pitch_um: float | tuple[float, float],
        pixel_format: str = "Mono8",
        interface: str | None = None,
        **options: Any,
    ) -> None:
        bits = re.fullmatch(r"Mono(8|10|12|16)", pixel_format)
        if bits is None:
            raise ConfigError(
                f"camera.options.pixel_format: labctl reads Mono8, Mono10, Mono12 and Mono16, not {pixel_format!r}"
            )
        self._library = Library()
        if interface is not None:
            self._library.plain("arv_enable_interface", interface.encode())
        self._pixel = np.dtype(np.uint8 if bits[1] == "8" else np.uint16)
        self.cam: int | None = self._library.call("arv_camera_new", source.encode() if source else None)
        if not self.cam:
            raise OSError(f"no camera answers to {source}" if source else "no camera is found")
        try:
            self._library.call("arv_camera_set_pixel_format_from_string", self.cam, pixel_format.encode())
            width, height = _INT(), _INT()
            self._library.call("arv_camera_get_sensor_size", self.cam, ctypes.byref(width), ctypes.byref(height))
            super().__init__(
                (width.value, height.value),
                bitdepth=int(bits[1]),
                pitch_um=pitch_um,
                **{"name": source or "aravis", "capture_attempts": 1} | options,
            )
        except BaseException:
            self.close()
            raise

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """Identities of the cameras that the library finds."""
        library = Library()
        library.plain("arv_update_device_list")
        count = library.plain("arv_get_n_devices")
        return [library.plain("arv_get_device_id", number).decode("utf-8", "replace") for number in range(count)]

    def close(self) -> None:
        """Release the camera."""
        if self.cam:
            self._library.plain("g_object_unref", self.cam)
            self.cam = None

    def _get_exposure_hw(self) -> float:
        return float(self._library.call("arv_camera_get_exposure_time", self.cam)) * 1e-6

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self._library.call("arv_camera_set_exposure_time", self.cam, exposure_s * 1e6)

    def _get_woi_hw(self) -> tuple[int, int, int, int]:
        x, y, width, height = _INT(), _INT(), _INT(), _INT()
        self._library.call("arv_camera_get_region", self.cam, *map(ctypes.byref, (x, y, width, height)))
        return x.value, width.value, y.value, height.value

    def _set_woi_hw(self, woi: tuple[int, int, int, int]) -> None:
        x, width, y, height = (int(edge) for edge in woi)
        self._library.call("arv_camera_set_region", self.cam, 0, 0, width, height)
        self._library.call("arv_camera_set_region", self.cam, x, y, width, height)

    def _get_image_hw(self, timeout_s: float) -> NDArray[Any]:
        buffer = self._library.call("arv_camera_acquisition", self.cam, int(timeout_s * 1e6))
        if not buffer:
            raise TimeoutError(f"no frame within {timeout_s:g} s")
        try:
            status = self._library.plain("arv_buffer_get_status", buffer)
            if status != 0:
                raise OSError(f"a broken frame (ArvBufferStatus {status})")
            rows = self._library.plain("arv_buffer_get_image_height", buffer)
            columns = self._library.plain("arv_buffer_get_image_width", buffer)
            size = ctypes.c_size_t()
            data = self._library.plain("arv_buffer_get_data", buffer, ctypes.byref(size))
            if size.value < rows * columns * self._pixel.itemsize:
                raise OSError(f"a frame of {size.value} bytes, too few for {columns} x {rows} pixels")
            raw = ctypes.string_at(data, rows * columns * self._pixel.itemsize)
            return np.frombuffer(raw, self._pixel).reshape(rows, columns)
        finally:
            self._library.plain("g_object_unref", buffer)
