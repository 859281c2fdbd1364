"""The simulated devices: ordinary slmsuite drivers in front of one `World`, and a laser.

They take the time that hardware takes, on the world's clock: settling is the crystal's, exposure and read-out are the
camera's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

from labctl.errors import DeviceError
from labctl.simulation.world import World


class SimulatedSLM(SLM):
    """The Fourier-plane SLM of a simulated bench.

    Parameters
    ----------
    world : World
    resolution : (width, height)
    pitch_um, wav_um : float
    bitdepth : int
    """

    def __init__(
        self, world: World, *, resolution: tuple[int, int], pitch_um: float, wav_um: float, bitdepth: int = 8
    ) -> None:
        self._world = world
        super().__init__(
            tuple(resolution), bitdepth=bitdepth, name="simulated SLM", pitch_um=pitch_um, wav_um=wav_um, gpu=False
        )

    def _set_phase_hw(self, display: NDArray[np.integer[Any]]) -> None:
        self._world.show_slm(display)

    def close(self) -> None:
        """Nothing to release."""


class SimulatedInput(SimulatedSLM):
    """The input panel of a simulated bench: gray level sets amplitude, 0 is black."""

    def __init__(
        self, world: World, *, resolution: tuple[int, int], pitch_um: float, wav_um: float, bitdepth: int = 8
    ) -> None:
        super().__init__(world, resolution=resolution, pitch_um=pitch_um, wav_um=wav_um, bitdepth=bitdepth)
        self.name = "simulated input panel"

    def _set_phase_hw(self, display: NDArray[np.integer[Any]]) -> None:
        self._world.show_input(display)


class SimulatedCamera(Camera):
    """The camera of a simulated bench, triggered by software.

    Attributes
    ----------
    exposure_interval : (float, float)
        Start and end of the last frame's exposure on the world's clock, s. Drivers that know these offer them under
        this name.
    """

    def __init__(
        self,
        world: World,
        *,
        resolution: tuple[int, int],
        pitch_um: float,
        bitdepth: int = 12,
        readout_ms: float = 5.0,
    ) -> None:
        self._world = world
        self._readout_s = readout_ms / 1e3
        self._exposure = 1e-3
        self._window = (0, resolution[0], 0, resolution[1])
        self.exposure_interval = (0.0, 0.0)
        super().__init__(
            tuple(resolution), bitdepth=bitdepth, pitch_um=pitch_um, name="simulated camera", capture_attempts=1
        )

    def close(self) -> None:
        """Nothing to release."""

    def _get_exposure_hw(self) -> float:
        return self._exposure

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self._exposure = float(exposure_s)

    def _set_woi_hw(self, woi: tuple[int, int, int, int]) -> None:
        self._window = tuple(int(v) for v in woi)  # type: ignore[assignment]

    def _get_woi_hw(self) -> tuple[int, int, int, int]:
        return self._window

    def _get_image_hw(self, timeout_s: float) -> NDArray[np.uint16]:
        x, width, y, height = self._window
        start = self._world.clock.now()
        counts = self._world.expose(self._exposure, (y, y + height, x, x + width))
        self.exposure_interval = (start, self._world.clock.now())
        self._world.clock.sleep(self._readout_s)
        return counts


class SimulatedLaser:
    """The laser of a simulated bench.

    Settings: ``enabled`` (bool), ``power`` (fraction of nominal).
    """

    def __init__(self, world: World) -> None:
        self.name = "simulated laser"
        self._world = world

    def set(self, setting: str, value: Any) -> None:
        """Change ``enabled`` or ``power``."""
        if setting == "enabled":
            self._world.set_laser(on=bool(value))
        elif setting == "power":
            self._world.set_laser(power=float(value))
        else:
            raise DeviceError(f"{self.name} has no setting '{setting}': it has enabled, power", device=self.name)

    def read(self, setting: str) -> Any:
        """Read ``enabled`` or ``power``."""
        on, power = self._world.laser
        if setting not in ("enabled", "power"):
            raise DeviceError(f"{self.name} has no setting '{setting}': it has enabled, power", device=self.name)
        return on if setting == "enabled" else power

    def make_safe(self) -> None:
        """Light off."""
        self._world.set_laser(on=False)

    def close(self) -> None:
        """Nothing to release."""
