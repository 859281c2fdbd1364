"""A stand-in for a vendor's library. Yours replaces it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Board:
    """An SLM's controller: 8 bit, 320 x 256 pixels."""

    width, height = 320, 256

    def __init__(self, serial: str) -> None:
        if serial != "EX-1":
            raise OSError(f"no board with serial number {serial}")
        self.memory: NDArray[Any] = np.zeros((self.height, self.width), np.uint8)

    def write(self, image: NDArray[np.uint8]) -> None:
        """Send an image."""
        self.memory = image.copy()

    def disconnect(self) -> None:
        """Release the board."""


class Grabber:
    """A triggered 10-bit camera, 400 x 300 pixels, that reads any window and knows when it exposed."""

    width, height = 400, 300

    def __init__(self) -> None:
        self.exposure_us = 1000
        self.window = (0, self.width, 0, self.height)

    def trigger(self, scene: float, timeout_s: float) -> tuple[NDArray[np.uint16], float, float]:
        """Expose: the picture, and when its exposure began and ended (``time.perf_counter``)."""
        x, width, y, height = self.window
        began = time.perf_counter()
        if self.exposure_us * 1e-6 > timeout_s:
            raise TimeoutError(f"no frame within {timeout_s} s")
        while time.perf_counter() < began + self.exposure_us * 1e-6:
            pass
        ended = time.perf_counter()
        picture = np.add.outer(np.arange(y, y + height), np.arange(x, x + width)) * (1 + scene)
        return np.clip(picture * self.exposure_us / 5000, 0, 1023).astype(np.uint16), began, ended
