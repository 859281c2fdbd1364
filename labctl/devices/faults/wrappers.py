"""Devices with faults: each wraps one that follows `labctl.devices.contract`, and follows it too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.devices.contract import Instrument, Panel, RawFrame, Sensor
from labctl.devices.faults.trouble import Injected, Trouble

log = logging.getLogger(__name__)
GARBAGE: tuple[Any, ...] = ("\x00\x7f??", "", float("nan"), b"\xff\xfe", None)


class _Faulty:
    """What the three have in common. Whatever is not in the contract goes straight to the device."""

    def __init__(self, device: Any, trouble: Trouble) -> None:
        self._device, self._trouble = device, trouble
        self.name: str = device.name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_device":
            raise AttributeError(name)
        return getattr(self._device, name)

    def renew(self, device: Any) -> None:
        """The device has been opened again. Fails while it is disconnected, and as the plan says."""
        self._device = device  # whatever comes: it is open, and has to be closed one day
        self._trouble.opened()

    @property
    def injected(self) -> list[Injected]:
        """What was done to this device, in order."""
        return [item for item in self._trouble.injected if item.device == self._trouble.device]

    def close(self) -> None:
        """Release the device, which is done even where it is slow or reported to fail."""
        self._trouble.closing(self._device.close)


class FaultyPanel(_Faulty):
    """An SLM or input panel with faults. A late pattern waits here until any device is called after its time."""

    def __init__(self, device: Panel, trouble: Trouble) -> None:
        super().__init__(device, trouble)
        self.shape, self.pitch, self.levels = device.shape, device.pitch, device.levels
        self._late: tuple[float, Callable[[], None]] | None = None

    def show(self, gray: NDArray[np.unsignedinteger[Any]]) -> None:
        """Send a gray pattern [row, column], or not, as the plan says."""
        striking = self._trouble.call("show")
        self._deliver_late(even_early=True)
        if "write-fails" in striking:
            self._trouble.note("write-fails")
            raise OSError("the pattern could not be written (a rehearsed fault)")
        if "write-ignored" in striking:
            self._trouble.note("write-ignored")
        elif entry := striking.get("late-swap"):
            self._trouble.note("late-swap")
            late = np.array(gray)
            self._late = (self._trouble.clock.now() + (entry.for_s or 0.0), lambda: self._device.show(late))
        else:
            self._device.show(gray)

    def blank(self) -> None:
        """Show the safe pattern, or not, as the plan says."""
        striking = self._trouble.call("blank", counted=False)
        self._late = None
        if "write-fails" in striking:
            self._trouble.note("write-fails")
            raise OSError("the pattern could not be written (a rehearsed fault)")
        if "write-ignored" in striking:
            self._trouble.note("write-ignored")
            return
        self._device.blank()

    def tick(self) -> None:
        """Let time take effect: a late pattern arrives."""
        self._deliver_late()

    def _deliver_late(self, *, even_early: bool = False) -> None:
        if self._late is None or not (even_early or self._late[0] <= self._trouble.clock.now()):
            return
        deliver, self._late = self._late[1], None
        try:
            deliver()
        except Exception as error:  # it came too late for anyone to be told
            log.warning("%s: the late pattern could not be shown: %s", self.name, error)


class FaultySensor(_Faulty):
    """A camera with faults."""

    def __init__(self, device: Sensor, trouble: Trouble) -> None:
        super().__init__(device, trouble)
        self.shape, self.pitch, self.bitdepth = device.shape, device.pitch, device.bitdepth
        self.readout_s = device.readout_s
        self._last: RawFrame | None = None
        self._again: RawFrame | None = None

    def set_window(self, window: tuple[int, int, int, int] | None) -> tuple[int, int, int, int]:
        """Read only a window."""
        self._trouble.call("window", counted=False)
        return self._device.set_window(window)

    def expose(self, exposure_s: float) -> None:
        """Expose one frame, to be read out later; of a device that `overlaps`."""
        self._trouble.call("expose", counted=False)
        self._device.expose(exposure_s)

    def discard(self) -> None:
        """Throw away what has been exposed and not read out, a frame that would have come twice with it."""
        discard = getattr(self._device, "discard", None)
        if discard is None:
            return
        self._trouble.call("flush", counted=False)
        self._again = None
        discard()

    def grab(self, exposure_s: float) -> RawFrame:
        """Expose one frame, and hand out what the plan makes of it."""
        return self._handed_out(lambda: self._device.grab(exposure_s))

    def read_out(self) -> RawFrame:
        """The oldest exposure that has not been read out, as the plan makes it; of a device that `overlaps`."""
        return self._handed_out(self._device.read_out)

    def _handed_out(self, take: Callable[[], RawFrame]) -> RawFrame:
        striking, last = self._trouble.call("frame"), self._last
        if "stale" in striking and last is not None:
            self._trouble.note("stale")
            return last
        frame: RawFrame
        if self._again is not None:
            frame, self._again = self._again, None
            return frame
        frame = take()
        if "dropped" in striking:
            self._trouble.note("dropped")
            frame = take()
        self._last = frame
        if "duplicated" in striking:
            self._trouble.note("duplicated")
            self._again = frame
        for fault in striking:
            data = self._damaged(fault, frame.data, last)
            if data is not None:
                self._trouble.note(fault)
                frame = replace(frame, data=data)
        return frame

    def _damaged(self, fault: str, data: NDArray[Any], last: RawFrame | None) -> NDArray[Any] | None:
        """Pixels as the fault leaves them; None where it does nothing to them, or there is no frame before."""
        rows = data.shape[0]
        match fault:
            case "stale-restamped" | "torn":
                if last is None or last.data.shape != data.shape or last.data.dtype != data.dtype:
                    return None
                old = rows if fault == "stale-restamped" else rows // 2
                return np.concatenate([last.data[:old], data[old:]])
            case "wrong-shape":
                return data[: rows // 2]
            case "wrong-dtype":
                return data.astype(np.int32)
            case "nan":
                broken = data.astype(np.float32)
                broken[:: max(1, rows // 8)] = np.nan
                return broken
            case "saturated":
                return np.full_like(data, 2**self.bitdepth - 1)
            case "dark":
                return np.zeros_like(data)
        return None


class FaultyInstrument(_Faulty):
    """A laser, shutter, power meter, stage or environment sensor with faults."""

    def __init__(self, device: Instrument, trouble: Trouble) -> None:
        super().__init__(device, trouble)
        self._dead_until = -np.inf

    def set(self, setting: str, value: Any) -> None:
        """Change a setting, or not, as the plan says."""
        striking = self._call("set")
        if "write-fails" in striking:
            self._trouble.note("write-fails")
            raise OSError(f"'{setting}' could not be set (a rehearsed fault)")
        if "write-ignored" in striking:
            self._trouble.note("write-ignored")
        elif self._trouble.clock.now() >= self._dead_until:
            self._device.set(setting, value)

    def read(self, setting: str) -> Any:
        """Read a setting or a measurement, or garbage."""
        striking = self._call("read")
        reading = self._device.read(setting)
        if "garbage" in striking:
            self._trouble.note("garbage")
            return GARBAGE[int(self._trouble.rng.integers(len(GARBAGE)))]
        return reading

    def make_safe(self) -> None:
        """Laser off, shutter closed, or not, as the plan says."""
        striking = self._trouble.call("make-safe", counted=False)
        if "write-fails" in striking:
            self._trouble.note("write-fails")
            raise OSError("it could not be made safe (a rehearsed fault)")
        if "write-ignored" in striking:
            self._trouble.note("write-ignored")
            return
        self._device.make_safe()

    def tick(self) -> None:
        """Let time take effect: a laser that dies after so long does it now."""
        if entry := self._trouble.due("dies"):
            self._die(entry.for_s, call=0)

    def _call(self, kind: str) -> dict[str, Any]:
        striking = self._trouble.call(kind)
        if entry := striking.get("dies"):
            self._die(entry.for_s)
        return striking

    def _die(self, for_s: float | None, *, call: int | None = None) -> None:
        """Go off, and take commands without obeying them."""
        self._trouble.note("dies", call=call)
        self._dead_until = np.inf if for_s is None else self._trouble.clock.now() + for_s
        try:
            self._device.make_safe()
        except Exception as error:  # a rehearsal must not become another device's failure
            log.warning("%s: could not be switched off to rehearse its death: %s", self.name, error)
