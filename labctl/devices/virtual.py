"""A virtual SLM and camera for slmsuite's calibrations: what they show and take becomes questions to somebody else.

slmsuite's calibrations call devices and wait for them. Here the call is answered by whoever listens (see
`labctl.bench.conversation`), so that the exposures can be a procedure's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

Take = Callable[[NDArray[Any], float], NDArray[Any]]
"""From a gray pattern [row, column] and an exposure time (s) to a frame [row, column]."""
TRIES = 8


class VirtualSLM(SLM):
    """Keeps what it is to show; nothing waits for settling, because whoever takes the frame does.

    Parameters
    ----------
    shape : (rows, columns)
    pitch : (y, x), m
    wavelength : float, m
    bitdepth : int
    """

    def __init__(self, *, shape: tuple[int, int], pitch: tuple[float, float], wavelength: float, bitdepth: int) -> None:
        self.shown: NDArray[Any] = np.full(shape, 2**bitdepth - 1, np.uint8 if bitdepth <= 8 else np.uint16)
        super().__init__(
            (shape[1], shape[0]),
            bitdepth=bitdepth,
            name="virtual SLM",
            wav_um=wavelength * 1e6,
            pitch_um=(pitch[1] * 1e6, pitch[0] * 1e6),
            settle_time_s=0.0,
            gpu=False,
        )

    def _set_phase_hw(self, display: NDArray[np.integer[Any]]) -> None:
        self.shown = display.copy()

    def close(self) -> None:
        """Nothing to release."""


class VirtualCamera(Camera):
    """Asks for a frame of what the SLM shows. Every frame is fresh, so that flushing takes none.

    Parameters
    ----------
    slm : VirtualSLM
    take : callable
        What it raises as a `BaseException` ends slmsuite's work; an `Exception` would be tried again five times.
    shape : (rows, columns)
    bitdepth : int
    exposure_s, longest_s : float, s
    """

    def __init__(
        self,
        slm: VirtualSLM,
        take: Take,
        *,
        shape: tuple[int, int],
        pitch: tuple[float, float],
        bitdepth: int,
        exposure_s: float,
        longest_s: float,
    ) -> None:
        self._slm, self._exposure_now = slm, exposure_s
        blank: NDArray[Any] = np.zeros(shape, np.uint8 if bitdepth <= 8 else np.uint16)
        self._take: Take = lambda shown, exposure_s: blank  # slmsuite's constructor looks at a picture's type
        super().__init__(
            (shape[1], shape[0]),
            bitdepth=bitdepth,
            name="virtual camera",
            pitch_um=(pitch[1] * 1e6, pitch[0] * 1e6),
            exposure_bounds_s=(20e-6, longest_s),
        )
        self._take = take

    def _get_exposure_hw(self) -> float:
        return self._exposure_now

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self._exposure_now = float(exposure_s)

    def _get_image_hw(self, timeout_s: float) -> NDArray[Any]:
        return self._take(self._slm.shown, self._exposure_now)

    def flush(self, timeout_s: float = 1.0) -> None:
        """Nothing to throw away."""

    def autoexpose(
        self, set_fraction: Any = 0.5, tol: float = 0.1, exposure_bounds_s: Any = None, window: Any = None, **_more: Any
    ) -> float:
        """As slmsuite's, but it ends after so many frames, not after so many seconds of wall time.

        Parameters
        ----------
        window : bool array [row, column], optional
            Which pixels count; default all.
        """
        target = (0.5 if set_fraction is True else float(set_fraction)) * (self.bitresolution - 1)
        low, high = self.exposure_bounds_s if exposure_bounds_s is None else exposure_bounds_s
        for _ in range(TRIES):
            image = np.asarray(self.get_image(), float)
            dark = float(np.median(image))
            level = float(image.max() if window is None else image[np.asarray(window, bool)].max()) - dark
            if abs(level / max(target - dark, 1.0) - 1) < max(tol, 0.1):
                break
            change = 0.2 if level + dark >= 0.98 * (self.bitresolution - 1) else (target - dark) / max(level, 1.0)
            exposure = float(np.clip(self._exposure_now * min(change, 30.0), low, high))
            if exposure == self._exposure_now:
                break
            self.set_exposure(exposure)
        return self._exposure_now

    def close(self) -> None:
        """Nothing to release."""
