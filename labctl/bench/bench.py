"""A bench: devices wired together, opened together, owned by one thread, paired frame by frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from labctl.bench.calls import Calls
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame, Taking
from labctl.bench.guardian import Guardian
from labctl.bench.hand import Hand
from labctl.bench.interlocks import LIGHTS, Interlocks
from labctl.bench.leaving import Caller, PatientCalls, make_safe, release
from labctl.bench.panels import Gray, Panels, token
from labctl.bench.records import CalibrationRecord
from labctl.bench.takings import Takings
from labctl.clock import Clock, passes_by_itself
from labctl.config.schema import RecoverySection, SafetySection
from labctl.devices.contract import Instrument, Panel, RawFrame, Sensor
from labctl.devices.faults.trouble import Injected
from labctl.errors import DeviceError, SafetyError

__all__ = ["Bench", "Gray", "token"]
log = logging.getLogger(__name__)
OPENING_S = 30.0
"""How long a device may take to be opened again, unless the run is aborted meanwhile, real seconds."""


class Bench:
    """Opened devices. Made by `labctl.bench.open_bench`; used by one thread; closed with `close`.

    A frame counts only if its exposure started after both patterns had settled: `capture` waits for that on the
    bench's clock, and passes over a frame that says otherwise.

    `capture` is `begin` and `finish` in one. A camera that offers `expose` and `read_out` lets the next patterns be
    shown, and the next exposure begin, while a frame is being read out (`overlaps`).

    Attributes
    ----------
    calls : Calls
        Through which every device is called.
    recovery : RecoverySection
        What a run does about a device that fails.
    hand : Hand or None
        Turns the screws, on a simulated bench.
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
        recovery: RecoverySection | None = None,
        reopeners: Mapping[str, Callable[[], Any]] | None = None,
        timeout_s: float = 2.0,
        hand: Hand | None = None,
    ) -> None:
        self.facts = facts
        self.hand = hand
        self.clock = clock
        self.calls = Calls(came_back=self._came_back)
        self.recovery = recovery or RecoverySection()
        self._reopeners, self._timeout_s = dict(reopeners or {}), timeout_s
        self._panels = Panels(slm, input, facts=facts, calls=self.calls, clock=clock)
        self._camera = Takings(camera, self._panels, facts=facts, calls=self.calls, clock=clock)
        self._instruments = dict(instruments or {})
        self._blank_on_close, self._laser_off_on_close = blank_on_close, laser_off_on_close
        self._settings: dict[tuple[str, str], Any] = {}
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
        panels = {"slm": self._panels.slm.name, "camera": self._camera.sensor.name}
        if self._panels.input is not None:
            panels["input"] = self._panels.input.name
        return panels | {name: instrument.name for name, instrument in self._instruments.items()}

    def device(self, name: str) -> Any:
        """The device behind a name of the bench file, as `labctl.devices.contract` describes it.

        Raises
        ------
        DeviceError
            If there is none.
        """
        own = {"slm": self._panels.slm, "input": self._panels.input, "camera": self._camera.sensor}
        return own[name] if own.get(name) is not None else self._instrument(name)[1]

    def with_calibrations(self, records: Mapping[str, CalibrationRecord]) -> None:
        """Let procedures know these records from now on."""
        self.facts = replace(self.facts, calibrations={**self.facts.calibrations, **records})

    def show(
        self,
        *,
        slm: Gray | None = None,
        input: Gray | None = None,  # noqa: A002
        tokens: tuple[str, str] = ("", ""),
        again: bool = False,
    ) -> None:
        """Send patterns, if they differ from what is shown. Returns without waiting for them to settle.

        Parameters
        ----------
        tokens : (str, str)
            Names of the SLM and the input pattern, where the caller knows them; default: hashes of their gray levels.
        again : bool
            Send them even if they are shown already, in case the device has lost them.

        Raises
        ------
        DeviceError
            If a pattern has the wrong shape or a device refuses it.
        """
        for name, pattern, given in (("slm", slm, tokens[0]), ("input", input, tokens[1])):
            self._panels.show(name, pattern, given, again=again, changing=self._camera.changing)

    def would_change(self, *, slm: Gray | None, input: Gray | None) -> tuple[bool, bool]:  # noqa: A002
        """Whether showing these would change the SLM and the input panel."""
        return self._panels.would_change(slm, input)

    @property
    def overlaps(self) -> bool:
        """Whether the camera reads a frame out while the next patterns settle and the next exposure is made."""
        return self._camera.overlaps

    @property
    def patience_s(self) -> float:
        """How much longer than it should a device's call may take before the device is given up, real seconds."""
        return self._timeout_s + self.recovery.hang_s

    @property
    def next_number(self) -> int:
        """Number of the frame that comes next."""
        return self._camera.next_number

    @property
    def settled_at(self) -> float:
        """When the patterns shown now have settled, on the bench's clock, s."""
        return self._panels.settled_at

    def ready_at(self, settle_s: float | None) -> float:
        """When an exposure may begin that waits so long (s) after the last change; None: until all has settled."""
        return self._panels.ready_at(settle_s)

    def capture(self, exposure_s: float | None = None, *, tag: Mapping[str, Any] | None = None) -> Frame:
        """Wait until the patterns have settled, then take one frame that started after that.

        Raises
        ------
        DeviceError, SafetyError
            As `begin` and `finish`.
        """
        taking = self.begin(exposure_s, tag=tag)
        try:
            return self.finish(taking)
        except DeviceError:
            self._camera.next_number = taking.number
            self.discard()
            raise

    def begin(
        self,
        exposure_s: float | None = None,
        *,
        tag: Mapping[str, Any] | None = None,
        number: int | None = None,
        settle_s: float | None = None,
    ) -> Taking:
        """Wait until the patterns have settled; where the camera `overlaps`, expose.

        Parameters
        ----------
        exposure_s : float, s, optional
            Default: the bench file's.
        tag : mapping
        number : int, optional
            Of an exposure that is being repeated.
        settle_s : float, s, optional
            How long after the last change of a pattern it may begin; default: once both panels have settled.

        Raises
        ------
        DeviceError
            If the camera fails.
        SafetyError
            If the exposure is longer than the bench file allows.
        """
        exposure = self.facts.exposure_s if exposure_s is None else exposure_s
        self._interlocks.allow_exposure(exposure)
        return self._camera.begin(exposure, dict(tag or {}), number, settle_s)

    def finish(self, taking: Taking) -> Frame:
        """The frame of an exposure; those that were begun earlier must have been finished.

        Raises
        ------
        DeviceError
            If the camera fails, times out, or gives a frame of another shape or of pixels that are no counts; if the
            frame was not exposed while its patterns stood still; or if `EARLY_FRAMES` in a row started too early or had
            been given before.
        SafetyError
            If an interlock trips.
        """
        raw, frame = self._camera.finish(taking)
        self._judge(raw)
        return frame

    def discard(self) -> None:
        """Forget exposures that were begun; their frames are thrown away."""
        self._camera.discard()

    def reopens(self, device: str) -> bool:
        """Whether the bench knows how to open this device again, given by name or by role."""
        return self._name(device) in self._reopeners

    def reopen(self, device: str) -> None:
        """Close a device that failed, open it again, and bring it to where it was.

        Patterns are not shown again: `show` with ``again`` does that.

        Raises
        ------
        DeviceError
            If it does not open, or does not take its settings.
        """
        device = self._name(device)
        if device not in self._reopeners:
            return
        fresh = self.calls(device, self._reopeners[device], patient_s=OPENING_S)
        if device == "camera":
            self._camera.renew(fresh)
        elif device in ("slm", "input"):
            self._panels.renew(device, fresh)
        else:
            self._instruments[device] = fresh
            for setting, value in self._interlocks.in_order(device, self._settings):
                self.calls(device, partial(fresh.set, setting, value))

    def take_up(
        self,
        last: Frame,
        *,
        slm: Gray | None,
        input: Gray | None,  # noqa: A002
        slm_before: Gray | None,
        idle: bool,
    ) -> None:
        """Go on as if `last` had just been taken: number the exposures on from it, and show what it showed.

        Where time does not pass by itself, patterns are shown at the times of then, so that a simulated bench goes on
        in just the state it had; time that has passed already is not turned back.

        Parameters
        ----------
        last : Frame
        slm, input, slm_before : gray patterns
            What `last` was taken with, and the SLM pattern before; None for unknown or none.
        idle : bool
            Whether the bench was idle after that frame; else the next exposure followed while it was being read out.
        """
        self._camera.next_number = last.number + 1
        virtual = not passes_by_itself(self.clock)
        self.show(slm=slm_before)
        for when, name in sorted([(last.shown_slm, "slm"), (last.shown_input, "input")]):
            if virtual and math.isfinite(when):
                self.clock.sleep(when - self.clock.now())
            if name == "slm":
                self.show(slm=slm, tokens=(last.slm, ""))
            else:
                self.show(input=input, tokens=("", last.input))
        if virtual:
            ready = last.ended + self.facts.readout_s
            after = ready if idle or not self.overlaps else last.ended
            self.clock.sleep(after - self.clock.now())
            self._camera.busy_until(ready)

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
            self._camera.set_window(value)
            return
        name, device = self._instrument(instrument)
        self._interlocks.allow_setting(name, setting, value)
        self.calls(name, lambda: device.set(setting, value))
        self._settings.pop((name, setting), None)
        self._settings[name, setting] = value
        self._interlocks.was_set(name, setting, value)

    def read(self, instrument: str, setting: str) -> Any:
        """Read a setting of an instrument, given by name or by role.

        Raises
        ------
        DeviceError
            If the instrument fails, or answers with what cannot be a reading.
        """
        name, device = self._instrument(instrument)
        return self._camera.soundness.reading(name, setting, self.calls(name, lambda: device.read(setting)))

    def make_safe(self) -> list[str]:
        """Laser off, shutter closed, SLM and input blank. Tries everything; returns what failed, one line each.

        What fails is tried again as `recovery` says, also where a run was aborted: light is not left on for one failed
        call.
        """
        try:
            self.discard()
        except DeviceError as error:  # the camera cannot harm
            log.debug("%s", error)
        return self._made_safe(self.calls)

    def _made_safe(self, call: Caller) -> list[str]:
        failures = make_safe(self._safe_actions(), call, recovery=self.recovery, clock=self.clock)
        self._settings.clear()
        self._interlocks.was_made_safe(dark=self._laser_off_on_close)
        return failures

    def close(self) -> None:
        """Leave the bench safe and release every device; where time passes by itself, one that hangs is given up.

        Safe to call twice.
        """
        if self._closed:
            return
        self._closed = True
        devices: list[tuple[str, Any]] = [("camera", self._camera.sensor), ("slm", self._panels.slm)]
        if self._panels.input is not None:
            devices.append(("input", self._panels.input))
        devices += self._instruments.items()
        patient = PatientCalls(self.calls, self.patience_s) if passes_by_itself(self.clock) else None
        try:
            failures = self._made_safe(patient or self.calls)
            release([(name, device.close) for name, device in devices], patient or self.calls)
        finally:
            if patient is not None:
                patient.close()
        if self._guardian is not None:
            if any(failure.partition(":")[0] in self._instruments for failure in failures):
                self._guardian.take_over()
            else:
                self._guardian.stand_down()

    def _came_back(self, name: str) -> None:
        """A call that was given up has ended, on its own thread: until now nobody could make this device safe."""
        instrument = self._instruments.get(name)
        panel = {"slm": self._panels.slm, "input": self._panels.input}.get(name)
        try:
            if instrument is not None and self._laser_off_on_close:
                instrument.make_safe()
            if panel is not None and self._blank_on_close:
                panel.blank()
        finally:
            if self._closed:
                self.device(name).close()

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
                        self.calls(name, device.make_safe)
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
            actions += self._panels.blanking()
        return actions

    def _name(self, key: str) -> str:
        """The name of what is given by name or by role."""
        if key in self._instruments:
            return key
        return next((name for name, role in self.facts.instruments.items() if role == key), key)

    def _instrument(self, key: str) -> tuple[str, Instrument]:
        name = self._name(key)
        if name in self._instruments:
            return name, self._instruments[name]
        raise DeviceError(
            f"bench '{self.facts.name}' has no instrument '{key}': add [instruments.{key}] to its file",
            device=key,
            passing=False,
        )
