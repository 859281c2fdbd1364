"""What a bench believes of its devices' answers: frames that can be frames, readings that can be readings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from labctl.devices.contract import RawFrame
from labctl.errors import DeviceError

ANSWERS: dict[str, type | tuple[type, ...]] = {"yes or no": bool, "a number": (int, float, np.number), "text": str}


class Soundness:
    """Remembers what a bench's devices gave last, and refuses what cannot follow it.

    Attributes
    ----------
    shape : (rows, columns) or None
        Of the window that the camera reads; None while that is unknown.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape: tuple[int, int] | None = shape
        self._last_started = -math.inf
        self._kinds: dict[tuple[str, str], str] = {}

    def is_new(self, raw: RawFrame) -> bool:
        """Whether a frame's exposure started after that of the last frame which counted.

        A camera whose clock did not move during the exposure cannot be told apart, and is believed.
        """
        return raw.started > self._last_started or raw.ended <= raw.started

    def check(self, raw: RawFrame) -> None:
        """Accept a frame that is a picture of counts of the window's shape.

        Raises
        ------
        DeviceError
            One line that says what the frame is instead.
        """
        data, wrong = raw.data, ""
        if not isinstance(data, np.ndarray):
            wrong = f"a {type(data).__name__} and no frame"
        elif data.dtype.kind == "f" and not np.isfinite(data).all():
            wrong = f"a frame with {int((~np.isfinite(data)).sum())} pixels that are not numbers (NaN)"
        elif data.dtype.kind != "u":
            wrong = f"a frame of {data.dtype} where labctl reads unsigned integers"
        elif self.shape is not None and data.shape != self.shape:
            wrong = f"a frame of {data.shape} (rows, columns) where {self.shape} were due"
        elif not raw.started <= raw.ended:
            wrong = f"a frame exposed from {raw.started} to {raw.ended} s"
        if wrong:
            raise DeviceError(
                f"camera: gave {wrong}: take the exposure again; if it stays so, restart the camera", device="camera"
            )
        self._last_started = raw.started

    def reading(self, instrument: str, setting: str, value: Any) -> Any:
        """Accept a reading that is finite, and of the kind that this setting had before.

        Raises
        ------
        DeviceError
            One line that says what was read.
        """
        kind = next((kind for kind, types in ANSWERS.items() if isinstance(value, types)), type(value).__name__)
        before = self._kinds.get((instrument, setting), kind)
        garbage = value is None or isinstance(value, bytes) or (kind == "text" and not value.isprintable())
        if garbage or before != kind or (kind == "a number" and not math.isfinite(value)):
            due = "" if garbage or before == kind else f" where {before} was due"
            raise DeviceError(
                f"{instrument}: '{setting}' was answered with {value!r:.40}{due}: "
                "read it again, or check the connection",
                device=instrument,
            )
        if value != "":  # no answer is no evidence of what the setting is
            self._kinds[instrument, setting] = kind
        return value
