"""The camera's side of a bench: which exposures are under way, and which frame belongs to which of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from labctl.bench.calls import Calls
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame, Taking
from labctl.bench.panels import Panels
from labctl.bench.soundness import Soundness
from labctl.clock import Clock
from labctl.devices.contract import RawFrame, Sensor
from labctl.errors import DeviceError

log = logging.getLogger(__name__)
EARLY_FRAMES = 64
"""Frames from before the patterns had settled that are passed over in one capture."""
EPSILON_S = 1e-9


class Takings:
    """Begins exposures, and finishes them in the same order.

    Attributes
    ----------
    sensor : Sensor
    soundness : Soundness
    next_number : int
        Of the frame that comes next.
    """

    def __init__(self, sensor: Sensor, panels: Panels, *, facts: BenchFacts, calls: Calls, clock: Clock) -> None:
        self.sensor, self.soundness = sensor, Soundness(sensor.shape)
        self.next_number = 0
        self._panels, self._calls, self._clock = panels, calls, clock
        self._readout_s = facts.readout_s
        self._under_way: list[Taking] = []
        self._window: Any = None  # the last that the camera took
        self._left_over = False  # frames may be waiting in the camera that nobody wants

    @property
    def overlaps(self) -> bool:
        """Whether the sensor can expose while a frame is read out."""
        return bool(getattr(self.sensor, "overlaps", False))

    def begin(
        self, exposure_s: float, tag: dict[str, Any], number: int | None, settle_s: float | None = None
    ) -> Taking:
        """`labctl.bench.Bench.begin`."""
        panels, sensor = self._panels, self.sensor
        ready_at = panels.ready_at(settle_s)
        self._clock.sleep(ready_at - self._clock.now())
        number = self.next_number if number is None else number
        if self._left_over:
            self.discard()
        if self.soundness.shape is None:
            self.set_window(self._window)
        announce = getattr(sensor, "announce", None)
        if announce is not None:
            announce(number)
        taking = Taking(
            number, exposure_s, tag, panels.shown["slm"], panels.shown["input"], panels.shown_at["slm"],
            panels.shown_at["input"], panels.slm_before, ready_at,
        )  # fmt: skip
        if self.overlaps:
            self._call(lambda: sensor.expose(exposure_s), exposure_s)  # type: ignore[attr-defined]
            taking.exposed_at = self._clock.now()
            self._under_way.append(taking)
        self.next_number = max(self.next_number, number + 1)
        return taking

    def finish(self, taking: Taking) -> tuple[RawFrame, Frame]:
        """`labctl.bench.Bench.finish`: the frame as it came, and as it is paired."""
        raw = self._read_out(taking) if self.overlaps else self._grab(taking)
        self.soundness.check(raw)
        return raw, Frame(
            data=raw.data,
            number=taking.number,
            started=raw.started,
            ended=raw.ended,
            exposure_s=taking.exposure_s,
            slm=taking.slm,
            input=taking.input,
            origin=raw.origin,
            tag=taking.tag,
            shown_slm=taking.shown_slm,
            shown_input=taking.shown_input,
            slm_before=taking.slm_before,
        )

    def changing(self, when: float) -> None:
        """A pattern changes: exposures that were begun must have ended."""
        for taking in self._under_way:
            taking.until = min(taking.until, when)

    def discard(self) -> None:
        """Forget exposures that were begun; their frames are thrown away."""
        self._under_way.clear()
        discard = getattr(self.sensor, "discard", None)
        if discard is None:
            return
        self._left_over = True  # until the camera has said that they are gone
        if "camera" not in self._calls.lost:
            self._call(discard, 0.0)
            self._left_over = False

    def set_window(self, window: Any) -> None:
        """Read only a window of the sensor; None for all of it."""
        self.soundness.shape = None  # unknown, should the camera fail half way
        rows = self._call(lambda: self.sensor.set_window(window), 0.0)
        self._window = window
        self.soundness.shape = (rows[1] - rows[0], rows[3] - rows[2])

    def renew(self, sensor: Sensor) -> None:
        """The camera has been opened again: give it the window that it had."""
        self.sensor = sensor
        self._under_way.clear()
        self._left_over = False
        self.set_window(self._window)

    def busy_until(self, when: float) -> None:
        """Tell a simulated camera until when it reads out a frame of before."""
        busy = getattr(self.sensor, "busy_until", None)
        if busy is not None:
            busy(when)

    def grab_now(self, exposure_s: float) -> RawFrame:
        """One frame without any wait or pairing, to watch how light changes."""
        frame: RawFrame = self._call(lambda: self.sensor.grab(exposure_s), exposure_s)
        return frame

    def _read_out(self, taking: Taking) -> RawFrame:
        raw: RawFrame = self._call(lambda: self.sensor.read_out(), taking.exposure_s)  # type: ignore[attr-defined]
        self._under_way.remove(taking)
        fits = taking.settled_at - EPSILON_S <= raw.started and raw.ended <= taking.until + EPSILON_S
        if fits and self.soundness.is_new(raw):
            return raw
        raise DeviceError(
            f"camera: gave a frame exposed from {raw.started:.6f} to {raw.ended:.6f} s where one between "
            f"{taking.settled_at:.6f} and {taking.until:.6f} s was due: a frame was lost or given twice",
            device="camera",
        )

    def _grab(self, taking: Taking) -> RawFrame:
        for _ in range(EARLY_FRAMES):
            raw = self.grab_now(taking.exposure_s)
            if self.soundness.is_new(raw) and raw.started >= taking.settled_at - EPSILON_S:
                return raw
            log.debug("camera: passed over a frame that started %.6f s too early", taking.settled_at - raw.started)
        raise DeviceError(
            f"camera: {EARLY_FRAMES} frames in a row started before the patterns had settled, or were old ones: "
            "check settle_ms and the trigger mode in the bench file",
            device="camera",
        )

    def _call(self, call: Callable[[], Any], exposure_s: float) -> Any:
        speed = getattr(self._clock, "speed", 1.0)
        return self._calls("camera", call, may_take_s=(exposure_s + self._readout_s) / speed)
