"""The simulated devices: ordinary slmsuite drivers in front of one `World`.

They take the time that hardware takes, on the world's clock: settling is the crystal's, exposure and read-out are the
camera's, and a command takes effect after the device's latency.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slmsuite.hardware.cameras.camera import Camera
from slmsuite.hardware.slms.slm import SLM

from labctl.simulation.transforms import Window
from labctl.simulation.world import World


class SimulatedSLM(SLM):
    """The Fourier-plane SLM of a simulated bench.

    Parameters
    ----------
    world : World
    resolution : (width, height)
    pitch_um, wav_um : float
    bitdepth : int
    latency_ms : float
        From the command until the panel begins to change.
    """

    def __init__(
        self,
        world: World,
        *,
        resolution: tuple[int, int],
        pitch_um: float,
        wav_um: float,
        bitdepth: int = 8,
        latency_ms: float = 0.0,
    ) -> None:
        self._world = world
        self._latency_s = latency_ms / 1e3
        super().__init__(
            tuple(resolution), bitdepth=bitdepth, name="simulated SLM", pitch_um=pitch_um, wav_um=wav_um, gpu=False
        )

    def set_phase(
        self,
        phase: Any,
        phase_correct: bool | None = None,
        settle: bool | float | None = None,
        execute: bool | None = None,
        block: bool | None = None,
        **kwargs: Any,
    ) -> NDArray[np.integer[Any]]:
        """As slmsuite's, but what it waits for settling passes on the world's clock."""
        shown = super().set_phase(phase, phase_correct, False, execute, block, **kwargs)
        wait = self.settle if settle is None else settle
        if block is not False:
            self._world.clock.sleep(self.settle_time_s * wait if isinstance(wait, (bool, np.bool_)) else float(wait))
        return shown

    def _set_phase_hw(self, display: NDArray[np.integer[Any]]) -> None:
        self._world.show_slm(display, latency_s=self._latency_s)

    def close(self) -> None:
        """Nothing to release."""


class SimulatedInput(SimulatedSLM):
    """The input panel of a simulated bench: gray level sets amplitude, 0 is black. Parameters as `SimulatedSLM`."""

    def __init__(
        self,
        world: World,
        *,
        resolution: tuple[int, int],
        pitch_um: float,
        wav_um: float,
        bitdepth: int = 8,
        latency_ms: float = 0.0,
    ) -> None:
        super().__init__(
            world, resolution=resolution, pitch_um=pitch_um, wav_um=wav_um, bitdepth=bitdepth, latency_ms=latency_ms
        )
        self.name = "simulated input panel"

    def _set_phase_hw(self, display: NDArray[np.integer[Any]]) -> None:
        self._world.show_input(display, latency_s=self._latency_s)


class SimulatedCamera(Camera):
    """The camera of a simulated bench.

    Triggered, it begins to expose `latency_ms` after it was asked. Free-running, it exposes on the world's clock
    whether asked or not, and keeps the last `in_flight` frames: who asks gets the oldest one that nobody has had yet,
    which began before the call, or else the one that is being exposed. Only frames that are handed out are rendered,
    with the patterns and the laser of the time when they were exposed. As in real cameras, a new exposure time or
    window starts the stream afresh.

    Parameters
    ----------
    world : World
    resolution : (width, height)
    pitch_um : float
    bitdepth : int
    readout_ms : float
        From the end of an exposure until the frame is delivered; a free-running camera exposes the next one meanwhile.
    latency_ms : float
        Triggered: from the call until the exposure begins. Free-running: what delivery takes on top of read-out.
    trigger : "software", "hardware" or "free-run"
    frame_period_ms : float, optional
        Of a free-running camera; default, and least, the longer of exposure and read-out.
    in_flight : int
        Delivered frames that a free-running camera keeps.
    jitter_ms : float
        Start of exposure in a free-running camera: standard deviation around the period's beat. A frame never begins
        before the one before it has been exposed.
    timestamps : bool
        Whether the camera says when its frames were exposed.

    Triggered and with timestamps, it also exposes and reads out one after the other (`expose`, `read_out`), so that
    the next exposure can be made while a frame is read out; no exposure ends before the frame before it has left the
    sensor.

    Attributes
    ----------
    overlaps : bool
        Whether the bench may use `expose` and `read_out`.
    exposure_number : int
        Of the exposure that comes next: noise is a function of the seed and of this.
    reads_until : float
        When the frame before will have left the sensor, on the world's clock, s.
    exposure_interval : (float, float)
        Start and end of the last frame's exposure on the world's clock, s. Drivers that know these offer them under
        this name; without `timestamps` there is no such attribute.
    """

    def __init__(
        self,
        world: World,
        *,
        resolution: tuple[int, int],
        pitch_um: float,
        bitdepth: int = 12,
        readout_ms: float = 5.0,
        latency_ms: float = 0.0,
        trigger: str = "software",
        frame_period_ms: float | None = None,
        in_flight: int = 3,
        jitter_ms: float = 0.0,
        timestamps: bool = True,
    ) -> None:
        self._world = world
        self._readout_s, self._latency_s = readout_ms / 1e3, latency_ms / 1e3
        self._free_run, self._timestamps = trigger == "free-run", timestamps
        self._period_s = (frame_period_ms or 0.0) / 1e3
        self._in_flight, self._jitter_s = max(1, int(in_flight)), jitter_ms / 1e3
        self._exposure = 1e-3
        self._window = (0, resolution[0], 0, resolution[1])
        self.exposure_number = 0
        self.reads_until = -np.inf
        self.overlaps = timestamps and not self._free_run
        self._exposed: deque[tuple[int, float, float, Window]] = deque()
        if timestamps:
            self.exposure_interval = (0.0, 0.0)
        self._streams = self._next = 0
        self._restart()
        super().__init__(
            tuple(resolution), bitdepth=bitdepth, pitch_um=pitch_um, name="simulated camera", capture_attempts=1
        )

    def close(self) -> None:
        """Nothing to release."""

    @staticmethod
    def info(verbose: bool = False) -> list[str]:
        """The one simulated camera."""
        return ["simulated camera"]

    def flush(self, timeout_s: float = 1) -> None:
        """Let go of every frame that has begun: the next one that is handed out begins after this call."""
        if not self._free_run:
            self._exposed.clear()
            return
        now = self._world.clock.now()
        self._next = max(self._next, int((now - self._streaming_since) // self._beat_s))
        while self._start_of(self._next) < now:
            self._next += 1

    def _get_exposure_hw(self) -> float:
        return self._exposure

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self._exposure = float(exposure_s)
        self._restart()

    def _set_woi_hw(self, woi: tuple[int, int, int, int]) -> None:
        self._window = tuple(int(v) for v in woi)  # type: ignore[assignment]
        self._restart()

    def _get_woi_hw(self) -> tuple[int, int, int, int]:
        return self._window

    def _get_image_hw(self, timeout_s: float) -> NDArray[np.uint16]:
        if not self._free_run:
            self._exposed.clear()
            self.expose()
            return self.read_out(timeout_s)
        start = self._next_frame(timeout_s)
        number, self.exposure_number = self.exposure_number, self.exposure_number + 1
        counts = self._world.expose(self._exposure, self._rows_and_columns, start=start, number=number)
        if self._timestamps:
            self.exposure_interval = (start, start + self._exposure)
        return counts

    # triggered: exposing, and reading out

    def expose(self) -> None:
        """Expose one frame; returns when the exposure has ended."""
        clock = self._world.clock
        clock.sleep(max(self._latency_s, self.reads_until - self._exposure - clock.now()))
        start = clock.now()
        clock.sleep(self._exposure)
        end = start + self._exposure
        self.reads_until = end + self._readout_s
        self._exposed.append((self.exposure_number, start, end, self._rows_and_columns))
        self.exposure_number += 1

    def read_out(self, timeout_s: float) -> NDArray[np.uint16]:
        """The frame exposed first of those that have not been read out, once it has left the sensor."""
        if not self._exposed:
            self._world.clock.sleep(timeout_s)
            raise TimeoutError(f"no frame within {timeout_s:g} s")
        number, start, end, window = self._exposed.popleft()
        counts = self._world.expose(end - start, window, start=start, number=number)
        self._world.clock.sleep(end + self._readout_s - self._world.clock.now())
        if self._timestamps:
            self.exposure_interval = (start, end)
        return counts

    @property
    def _rows_and_columns(self) -> Window:
        x, width, y, height = self._window
        return (y, y + height, x, x + width)

    # the stream of a free-running camera: which frames exist follows from when it was started

    def _restart(self) -> None:
        """Begin the stream now, with nothing in flight."""
        self._streaming_since = self._world.clock.now()
        self._streams += 1
        self._next = 0

    @property
    def _beat_s(self) -> float:
        return max(self._period_s, self._readout_s, self._exposure)

    def _start_of(self, number: int) -> float:
        """Start of a frame's exposure, s: on its beat, give or take the jitter that the gap between frames allows."""
        beat = self._streaming_since + number * self._beat_s
        if not self._jitter_s:
            return beat
        gap = self._beat_s - self._exposure
        dice = np.random.default_rng([self._streams, number])
        return beat + float(np.clip(dice.normal(0.0, self._jitter_s), 0.0 if number == 0 else -gap / 2, gap / 2))

    def _next_frame(self, timeout_s: float) -> float:
        """Take the oldest delivered frame, or wait for the one under way; returns the start of its exposure, s."""
        clock, cost = self._world.clock, self._exposure + self._readout_s + self._latency_s
        delivered = int((clock.now() - self._streaming_since - cost) // self._beat_s) + 2  # no more than so many
        while delivered > 0 and self._start_of(delivered - 1) + cost > clock.now():
            delivered -= 1
        number = max(self._next, delivered - self._in_flight)
        start = self._start_of(number)
        missing = start + cost - clock.now()
        if missing > timeout_s:
            clock.sleep(timeout_s)
            raise TimeoutError(f"no frame within {timeout_s:g} s")
        clock.sleep(missing)
        self._next = number + 1
        return start
