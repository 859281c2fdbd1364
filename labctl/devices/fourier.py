"""slmsuite's `FourierSLM` over two drivers of a bench: the adapter's other half, for slmsuite's own calibrations."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

import labctl.devices.adapter  # noqa: F401 - keeps slmsuite from plotting and from writing to the terminal
from labctl.clock import Clock, RealClock


class _TimeOf:
    """What slmsuite's settle calibration uses of the module `time`, on a bench's clock."""

    def __init__(self, clock: Clock) -> None:
        self.perf_counter = clock.now
        self.sleep = clock.sleep


@contextmanager
def fourier_slm(
    slm: SLM, camera: Camera, *, clock: Clock, settle_s: float, longest_exposure_s: float = math.inf
) -> Iterator[Any]:
    """A `FourierSLM` for as long as the block lasts; then the drivers are as they were, pattern included.

    Parameters
    ----------
    slm, camera : slmsuite drivers
    clock : Clock
        The bench's. slmsuite's settle calibration waits on it, whatever time it is; all others wait through
        ``set_phase``, which is the driver's.
    settle_s : float, s
        What ``set_phase(..., settle=True)`` waits.
    longest_exposure_s : float, s
        Exposures are kept within this.

    Yields
    ------
    slmsuite.hardware.cameraslms.FourierSLM
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no GPU
        from slmsuite.hardware.cameraslms import FourierSLM, _settle

    said = logging.getLogger("slmsuite")
    low, high = camera.exposure_bounds_s or (0.0, math.inf)
    with ExitStack() as after:

        def set_for_now(owner: Any, name: str, value: Any) -> None:
            after.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        after.callback(slm.set_phase, slm.display.copy(), settle=settle_s)
        after.callback(camera.set_exposure, camera.get_exposure())
        set_for_now(slm, "settle_time_s", settle_s)
        set_for_now(camera, "exposure_bounds_s", (low, min(high, longest_exposure_s)))
        # what the adapter keeps quiet is what one wants to read while calibrating
        set_for_now(said, "propagate", True)
        after.callback(said.setLevel, said.level)
        said.setLevel(logging.WARNING)
        if not isinstance(clock, RealClock):
            set_for_now(_settle, "time", _TimeOf(clock))
        yield FourierSLM(camera, slm)


def in_zernike_units(system: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places on the camera (x, y; [2, point]) in slmsuite's ``"zernike"`` units."""
    from slmsuite.holography.toolbox import convert_vector

    return np.asarray(convert_vector(points, from_units="ij", to_units="zernike", hardware=system))


def zernike_phase(system: Any, indices: NDArray[np.int_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phase (rad) of a sum of Zernike polynomials over the SLM [row, column], by slmsuite's (ANSI) indices."""
    from slmsuite.holography.toolbox.phase import zernike_sum

    phase = zernike_sum(system.slm, indices, np.reshape(weights, (-1, 1)), use_mask=False)
    return np.asarray(np.reshape(np.asarray(phase), system.slm.shape), np.float64)
