"""A bench: devices wired together, opened together, owned by one thread, paired frame by frame."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.guardian import Guardian
from labctl.bench.interlocks import LIGHTS, Interlocks
from labctl.bench.records import CalibrationRecord
from labctl.bench.soundness import Soundness
from labctl.clock import Clock
from labctl.config.schema import SafetySection
from labctl.devices.contract import Instrument, Panel, RawFrame, Sensor
from labctl.devices.faults.trouble import Injected
from labctl.errors import DeviceError, LabctlError, SafetyError

log = logging.getLogger(__name__)
Gray = NDArray[np.unsignedinteger[Any]]
EARLY_FRAMES = 64
"""Frames from before the patterns had settled that are passed over in one capture."""


def token(pattern: Gray | None) -> str:
    """A pattern's name: a hash of its gray levels; "" for no pattern."""
    if pattern is None:
        return ""
    return hashlib.blake2b(np.ascontiguousarray(pattern).tobytes(), digest_size=8).hexdigest()


class Bench:
    """Opened devices. Made by `labctl.bench.open_bench`; used by one thread; closed with `close`.

    A frame counts only if its exposure started after both patterns had settled: `capture` waits for that on the
    bench's clock, and passes over a frame that says otherwise.

    Attributes
    ----------
    injected : sequence of Injected
        Faults that a rehearsal did to the devices; empty unless the bench file plans some.
    """

    def __init__(
        self,
        facts: BenchFacts,
        *,
        slm: Panel,
        camera: Sensor,
        input: Panel | None = None,  # noqa: A002 - the bench file's word
        instruments: Mapping[str, Instrument] | None = None,
        clock: Clock,
        blank_on_close: bool = True,
        laser_off_on_close: bool = True,
        interlocks: Interlocks | None = None,
        guardian: Guardian | None = None,
        injected: Sequence[Injected] = (),
    ) -> None:
        self.facts = facts
        self.clock = clock
        self._slm, self._input, self._camera = slm, input, camera
        self._instruments = dict(instruments or {})
        self._blank_on_close, self._laser_off_on_close = blank_on_close, laser_off_on_close
        self._shown: dict[str, str] = {"slm": "", "input": ""}
        self._settled_at = clock.now()
        self._captured = 0
        self._soundness = Soundness(camera.shape)
        self._closed = False
        full_scale = 2**facts.camera_bitdepth - 1
        self._interlocks = interlocks or Interlocks(
            SafetySection(), roles=facts.instruments, full_scale=full_scale, clock=clock
        )
        self._guardian = guardian
        self.injected = injected

    @property
    def devices(self) -> dict[str, str]:
        """Identity of each device, for the run's record."""
        panels = {"slm": self._slm.name, "camera": self._camera.name}
        if self._input is not None:
            panels["input"] = self._input.name
        return panels | {name: instrument.name for name, instrument in self._instruments.items()}

    def with_calibrations(self, records: Mapping[str, CalibrationRecord]) -> None:
        """Let procedures know these records from now on."""
        self.facts = replace(self.facts, calibrations={**self.facts.calibrations, **records})

    def show(self, *, slm: Gray | None = None, input: Gray | None = None) -> None:  # noqa: A002
        """Send patterns, if they differ from what is shown. Returns without waiting for them to settle.

        Raises
        ------
        DeviceError
            If a pattern has the wrong shape or a device refuses it.
        """
        for name, panel, pattern, settle in (
            ("slm", self._slm, slm, self.facts.slm_settle_s),
            ("input", self._input, input, self.facts.input_settle_s),
        ):
            if pattern is None:
                continue
            if panel is None:
                raise DeviceError(f"bench '{self.facts.name}' has no input panel to show a pattern on", device=name)
            if pattern.shape != panel.shape:
                raise DeviceError(
                    f"{name}: a pattern of {pattern.shape} (rows, columns) does not fit {panel.shape}", device=name
                )
            pattern_token = token(pattern)
            if pattern_token == self._shown[name]:
                continue
            self._shown[name] = "unknown"
            self._guard(name, partial(panel.show, pattern))
            self._shown[name] = pattern_token
            self._settled_at = max(self._settled_at, self.clock.now() + settle)

    def would_change(self, *, slm: Gray | None, input: Gray | None) -> tuple[bool, bool]:  # noqa: A002
        """Whether showing these would change the SLM and the input panel."""
        return (
            slm is not None and token(slm) != self._shown["slm"],
            input is not None and token(input) != self._shown["input"],
        )

    def capture(self, exposure_s: float | None = None, *, tag: Mapping[str, Any] | None = None) -> Frame:
        """Wait until the patterns have settled, then take one frame that started after that.

        Raises
        ------
        DeviceError
            If the camera fails, times out, or gives a frame of another shape or of pixels that are no counts; or if
            `EARLY_FRAMES` in a row started too early or had been given before.
        SafetyError
            If the exposure is longer than the bench file allows, or an interlock trips.
        """
        exposure = self.facts.exposure_s if exposure_s is None else exposure_s
        self._interlocks.allow_exposure(exposure)
        self.clock.sleep(self._settled_at - self.clock.now())
        settled_at = self._settled_at
        for _ in range(EARLY_FRAMES):
            raw: RawFrame = self._guard("camera", lambda: self._camera.grab(exposure))
            if self._soundness.is_new(raw) and raw.started >= settled_at - 1e-9:
                break
            log.debug("camera: passed over a frame that started %.6f s too early", settled_at - raw.started)
        else:
            raise DeviceError(
                f"camera: {EARLY_FRAMES} frames in a row started before the patterns had settled, or were old ones: "
                "check settle_ms and the trigger mode in the bench file",
                device="camera",
            )
        self._soundness.check(raw)
        frame = Frame(
            data=raw.data,
            number=self._captured,
            started=raw.started,
            ended=raw.ended,
            exposure_s=exposure,
            slm=self._shown["slm"],
            input=self._shown["input"],
            origin=raw.origin,
            tag=dict(tag or {}),
        )
        self._captured += 1
        self._judge(raw)
        return frame

    def set(self, instrument: str, setting: str, value: Any) -> None:
        """Change a setting of an instrument, given by name or by role.

        The camera answers to ``camera``: ``window`` takes (first row, end row, first column, end column) or None.

        Raises
        ------
        DeviceError
            If the device fails, or the value is outside the limits of the bench file.
        SafetyError
            If an interlock has switched the light off.
        """
        if instrument == "camera" and setting == "window":
            self._soundness.shape = None  # unknown, should the camera fail half way
            rows = self._guard("camera", lambda: self._camera.set_window(value))
            self._soundness.shape = (rows[1] - rows[0], rows[3] - rows[2])
            return
        name, device = self._instrument(instrument)
        self._interlocks.allow_setting(name, setting, value)
        self._guard(name, lambda: device.set(setting, value))
        self._interlocks.was_set(name, setting, value)

    def read(self, instrument: str, setting: str) -> Any:
        """Read a setting of an instrument, given by name or by role.

        Raises
        ------
        DeviceError
            If the instrument fails, or answers with what cannot be a reading.
        """
        name, device = self._instrument(instrument)
        return self._soundness.reading(name, setting, self._guard(name, lambda: device.read(setting)))

    def make_safe(self) -> list[str]:
        """Laser off, shutter closed, SLM and input blank. Tries everything; returns what failed, one line each."""
        failures = []
        for what, action in self._safe_actions():
            try:
                action()
            except Exception as error:  # a dead device must not keep the others from being made safe
                failures.append(f"{what}: {error}")
                log.warning("making the bench safe, %s: %s", what, error)
        self._interlocks.was_made_safe(dark=self._laser_off_on_close)
        return failures

    def close(self) -> None:
        """Leave the bench safe and release every device. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        failures = self.make_safe()
        devices: list[tuple[str, Any]] = [("camera", self._camera), ("slm", self._slm)]
        if self._input is not None:
            devices.append(("input", self._input))
        for name, device in [*devices, *self._instruments.items()]:
            try:
                device.close()
            except Exception as error:
                log.warning("closing %s: %s", name, error)
        if self._guardian is not None:
            if any(failure.partition(":")[0] in self._instruments for failure in failures):
                self._guardian.take_over()
            else:
                self._guardian.stand_down()

    def _judge(self, raw: RawFrame) -> None:
        """Do what the interlocks say about a frame."""
        if self._guardian is not None:
            self._guardian.check()
        found = self._interlocks.after_frame(raw.data, self.read)
        if found is None:
            return
        reaction, why = found
        if reaction == "warn":
            log.warning("%s", why)
            return
        if reaction == "laser-off":
            self._interlocks.trip(why)
            failures = []
            for name, device in self._by_danger():
                if self.facts.instruments.get(name) in LIGHTS:
                    try:
                        device.make_safe()
                    except Exception as error:  # the others must be made safe all the same
                        failures.append(f"{name}: {error}")
            failed = f", which FAILED: {'; '.join(failures)}" if failures else ""
            why += f" (laser and shutter were made safe{failed})"
        raise SafetyError(why)

    def _by_danger(self) -> list[tuple[str, Instrument]]:
        """The instruments, those first that let light out."""
        return sorted(self._instruments.items(), key=lambda item: self.facts.instruments.get(item[0]) not in LIGHTS)

    def _safe_actions(self) -> list[tuple[str, Callable[[], None]]]:
        actions: list[tuple[str, Callable[[], None]]] = []
        if self._laser_off_on_close:
            actions += [(name, device.make_safe) for name, device in self._by_danger()]
        if self._blank_on_close:
            panels = [("slm", self._slm), ("input", self._input)]
            actions += [(name, panel.blank) for name, panel in panels if panel is not None]
            self._shown = {"slm": "", "input": ""}
        return actions

    def _instrument(self, key: str) -> tuple[str, Instrument]:
        if key in self._instruments:
            return key, self._instruments[key]
        for name, role in self.facts.instruments.items():
            if role == key:
                return name, self._instruments[name]
        raise DeviceError(
            f"bench '{self.facts.name}' has no instrument '{key}': add [instruments.{key}] to its file", device=key
        )

    def _guard(self, name: str, call: Callable[[], Any]) -> Any:
        """Turn whatever a driver raises into one line that names the device."""
        try:
            return call()
        except LabctlError:
            raise
        except Exception as error:
            raise DeviceError(f"{name}: {type(error).__name__}: {error}", device=name) from error
