"""Drivers of another lab's bench: a liquid crystal on silicon, an amplitude panel, a camera and a laser.

They follow the driver contract and nothing else. What light does between them is in `fourlab.physics`; drivers with
the same ``table`` option stand on the same optical table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

from fourlab.physics import Light, Time

__all__ = ["Cam", "Laser", "Lcos", "Light", "Panel", "Time", "table"]
TABLES: dict[str, Light] = {}


def table(name: str, **changes: Any) -> Light:
    """The light on a table; made on first use. With `changes`, made anew."""
    if name not in TABLES or changes:
        TABLES[name] = Light(**changes)
    return TABLES[name]


class Lcos(SLM):
    """The SLM in the Fourier plane."""

    def __init__(self, table_name: str = "main", wav_um: float = 0.532) -> None:
        self.light = table(table_name)
        rows, columns = self.light.slm
        blank = np.zeros((rows, columns), np.uint8)
        self.now_shown, self.before, self.since = blank, blank, -1e9
        pitch = self.light.slm_pitch * 1e6
        super().__init__((columns, rows), bitdepth=8, name="fourlab LCOS", pitch_um=pitch, wav_um=wav_um, gpu=False)

    def _set_phase_hw(self, display: Any) -> None:
        self.before, self.now_shown, self.since = self.now_shown, display.copy(), self.light.time.now()

    def crystal(self, at_s: float) -> Any:
        """What the crystal does at a time."""
        since = at_s - self.since
        if since > 20 * self.light.down_s:
            return self._rest()
        return self.light.moving(self.now_shown, self.before, since)

    def _rest(self) -> Any:
        if getattr(self, "_kept", (None, None))[0] is not self.now_shown:
            self._kept = (self.now_shown, self.light.delivered(self.now_shown))
        return self._kept[1]

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """What is connected."""
        return ["fourlab LCOS"]

    def close(self) -> None:
        """Nothing to release."""


class Panel(SLM):
    """The amplitude panel in the input plane; a picture appears some milliseconds after it was sent."""

    def __init__(self, table_name: str = "main", wav_um: float = 0.532) -> None:
        self.light = table(table_name)
        rows, columns = self.light.panel
        blank = np.zeros((rows, columns), np.uint8)
        self.now_shown, self.before, self.since = blank, blank, -1e9
        pitch = self.light.panel_pitch * 1e6
        super().__init__((columns, rows), bitdepth=8, name="fourlab panel", pitch_um=pitch, wav_um=wav_um, gpu=False)

    def _set_phase_hw(self, display: Any) -> None:
        self.before, self.now_shown, self.since = self.now_shown, display.copy(), self.light.time.now()

    def picture(self, at_s: float) -> Any:
        """What is to be seen at a time."""
        return self.now_shown if at_s >= self.since + self.light.panel_delay_s else self.before

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """What is connected."""
        return ["fourlab panel"]

    def close(self) -> None:
        """Nothing to release."""


class Cam(Camera):
    """The camera. It names ``slm`` and ``input``, because what it sees depends on both."""

    def __init__(self, slm: Lcos, input: Panel) -> None:
        self.light, self.slm, self.panel = slm.light, slm, input
        self._exposure = 1e-3
        rows, columns = self.light.camera
        self._woi = (0, columns, 0, rows)
        self.exposure_interval = (0.0, 0.0)
        super().__init__(
            (columns, rows), bitdepth=self.light.bits, name="fourlab camera", pitch_um=self.light.camera_pitch * 1e6
        )

    def _get_exposure_hw(self) -> float:
        return self._exposure

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self._exposure = max(10e-6, round(exposure_s * 1e6) * 1e-6)  # whole microseconds

    def _set_woi_hw(self, woi: Any) -> None:
        self._woi = tuple(int(v) for v in woi)

    def _get_woi_hw(self) -> Any:
        return self._woi

    def _get_image_hw(self, timeout_s: float) -> Any:
        x, width, y, height = self._woi
        start = self.light.time.now()
        self.light.time.sleep(self._exposure)
        middle = start + self._exposure / 2
        self.exposure_interval = (start, start + self._exposure)
        self.light.time.sleep(0.004)
        return self.light.counts(
            self.slm.crystal(middle), self.panel.picture(middle), (y, y + height, x, x + width), self._exposure, middle
        )

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """What is connected."""
        return ["fourlab camera"]

    def close(self) -> None:
        """Nothing to release."""


class Laser:
    """The laser: an instrument."""

    def __init__(self, table_name: str = "main") -> None:
        self.name = "fourlab laser"
        self._light = table(table_name)
        self._state: dict[str, Any] = {"enabled": False, "power": 1.0}
        self._apply()

    def set(self, setting: str, value: Any) -> None:
        """``enabled`` or ``power`` (of its full power)."""
        if setting not in self._state:
            raise ValueError(f"no setting '{setting}'")
        self._state[setting] = type(self._state[setting])(value)
        self._apply()

    def read(self, setting: str) -> Any:
        """As set."""
        return self._state[setting]

    def make_safe(self) -> None:
        """Off."""
        self.set("enabled", False)

    def close(self) -> None:
        """Nothing to release."""

    def _apply(self) -> None:
        self._light.power = self._state["power"] if self._state["enabled"] else 0.0
