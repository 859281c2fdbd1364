"""Drivers for labctl: an SLM, a camera and a laser."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

from labctl.errors import DeviceError
from labctl_driver_example.vendor import Board, Grabber

__all__ = ["ExampleCamera", "ExampleLaser", "ExampleSLM"]


class ExampleSLM(SLM):
    """The SLM on a `Board`. What stands in ``options`` of the bench file arrives here by name."""

    def __init__(self, serial: str = "EX-1", pitch_um: float = 8.0, wav_um: float = 0.638) -> None:
        # Open the device first: slmsuite's constructor already writes a pattern.
        self.board = Board(serial)
        super().__init__(
            (Board.width, Board.height),  # (width, height): slmsuite's order
            bitdepth=8, name=f"example SLM {serial}", pitch_um=pitch_um, wav_um=wav_um,
        )  # fmt: skip

    def _set_phase_hw(self, display: NDArray[np.uint8]) -> None:
        """Gray levels [row, column], as they are to be sent. Return when the device has taken them."""
        self.board.write(display)

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """Serial numbers of what is connected."""
        return ["EX-1"]

    def close(self) -> None:
        self.board.disconnect()


class ExampleCamera(Camera):
    """The camera on a `Grabber`. It names ``slm``, and so is given the bench's SLM (its picture depends on that)."""

    def __init__(self, slm: ExampleSLM | None = None, pitch_um: float = 5.0) -> None:
        self.grabber, self.slm = Grabber(), slm
        # When the last frame was exposed, on time.perf_counter. With it, labctl pairs frames and patterns by time;
        # without it, trigger = "software" has to be true: the exposure starts when a frame is asked for.
        self.exposure_interval = (0.0, 0.0)
        super().__init__((Grabber.width, Grabber.height), bitdepth=10, name="example camera", pitch_um=pitch_um)

    def _get_exposure_hw(self) -> float:
        return self.grabber.exposure_us * 1e-6

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self.grabber.exposure_us = max(1, round(exposure_s * 1e6))

    def _set_woi_hw(self, woi: tuple[int, int, int, int]) -> None:
        """``(x, width, y, height)``. Leave both window methods out if the camera has no window: frames are then cut."""
        x, width, y, height = woi
        self.grabber.window = (x, width, y, height)

    def _get_woi_hw(self) -> tuple[int, int, int, int]:
        return self.grabber.window

    def _get_image_hw(self, timeout_s: float) -> NDArray[np.uint16]:
        """One frame [row, column] of unsigned integers. Raise what the vendor raises; never return an old frame."""
        scene = float(np.mean(self.slm.board.memory)) / 255 if self.slm is not None else 0.0
        picture, began, ended = self.grabber.trigger(scene, timeout_s)
        self.exposure_interval = (began, ended)
        return picture

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        return ["example camera"]

    def close(self) -> None:
        """Nothing to release."""


class ExampleLaser:
    """An instrument: no base class, five methods and a name."""

    def __init__(self, port: str, highest_mw: float = 20.0) -> None:
        self.name = f"example laser on {port}"
        self.highest_mw = highest_mw
        self.state: dict[str, Any] = {"enabled": False, "power": 0.0}

    def set(self, setting: str, value: Any) -> None:
        self._known(setting)
        if setting == "power" and not 0 <= value <= self.highest_mw:
            raise DeviceError(f"{self.name}: power {value} mW: from 0 to {self.highest_mw}", device=self.name)
        self.state[setting] = bool(value) if setting == "enabled" else float(value)

    def read(self, setting: str) -> Any:
        self._known(setting)
        return self.state[setting]

    def make_safe(self) -> None:
        """Called on every way out; must not depend on what went before."""
        self.state["enabled"] = False

    def close(self) -> None:
        """Release the port."""

    def _known(self, setting: str) -> None:
        if setting not in self.state:
            raise DeviceError(
                f"{self.name} has no setting '{setting}': it has {', '.join(self.state)}", device=self.name
            )
