"""From a bench file to an open bench: devices in the order slm, input, camera, then instruments."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.bench.guardian import Guardian, wards_of
from labctl.bench.hand import Hand
from labctl.bench.interlocks import Interlocks, refuse_strong_light
from labctl.bench.records import load_records
from labctl.clock import Clock, DrivenClock, RealClock, ScaledClock
from labctl.config.schema import BenchConfig, InstrumentSection
from labctl.devices.contract import Instrument
from labctl.errors import ConfigError
from labctl.optics.geometry import Geometry, Plane

log = logging.getLogger(__name__)
Wrap = Callable[[str, Any], Any]
SIMULATED = "simulated"
SIMULATED_OPTIONS: dict[str, dict[str, Any]] = {
    "slm": {"resolution": (1024, 1024), "pitch_um": 8.0, "bitdepth": 8},
    "input": {"resolution": (256, 256), "pitch_um": 8.0, "bitdepth": 8},
    "camera": {"resolution": (1024, 1024), "pitch_um": 5.5, "bitdepth": 12, "readout_ms": 5.0},
}


def open_bench(
    config: BenchConfig, *, calibration_dir: Path | None = None, clock: Clock | None = None, wrap: Wrap | None = None
) -> Bench:
    """Open every device of a bench.

    Parameters
    ----------
    config : BenchConfig
    calibration_dir : Path, optional
        The workspace's ``calibration`` folder; the bench's records there are made known to procedures.
    clock : Clock, optional
        Default: virtual time where every device is simulated and the bench file does not ask for real time.
    wrap : callable, optional
        ``(name, device) -> device``: what the bench is given in place of each of its devices.

    Raises
    ------
    ConfigError, DeviceError
        One line that names the device; whatever was already open is closed again.
    """
    from labctl.devices.faults import FaultPlan, Rehearsal

    if config.input is None:
        raise ConfigError(f"bench '{config.bench.name}': a bench without [input] cannot show images yet: add one")
    sections = {"slm": config.slm, "input": config.input, "camera": config.camera}
    virtual = config.simulation is None or config.simulation.clock == "virtual"
    every_simulated = all(section.driver == SIMULATED for section in sections.values())
    speed = 1.0 if config.simulation is None else config.simulation.speed
    if speed != 1.0 and not every_simulated:
        raise ConfigError(
            f"bench '{config.bench.name}': simulation.speed is for benches that are simulated in full: leave it out"
        )
    clock = clock or (
        DrivenClock() if every_simulated and virtual else RealClock() if speed == 1.0 else ScaledClock(speed)
    )
    world = _world(config, clock) if config.simulated else None
    calibrations = load_records(calibration_dir / config.bench.name) if calibration_dir else {}
    opened: list[Any] = []
    instruments: dict[str, Instrument] = {}
    wards = wards_of(config)
    guardian = Guardian(wards) if wards else None  # it starts while the devices open
    devices = _Devices(config, world, clock)
    try:
        for name in sections:
            opened.append(devices.driver(name))  # noqa: PERF401 - those that opened are closed if one does not
        for name, instrument in config.instruments.items():
            instruments[name] = devices.instrument(name)
            opened.append(instruments[name])
            if instrument.role == "laser":
                refuse_strong_light(config.safety, name, instruments[name].read)
        slm, panel, camera = devices.panel("slm"), devices.panel("input"), devices.sensor()
        if guardian is not None:
            guardian.wait_ready()
    except BaseException:
        _give_up(opened, instruments if config.safety.laser_off_on_close else {}, guardian)
        raise
    facts = BenchFacts(
        name=config.bench.name,
        geometry=Geometry(
            wavelength=config.optics.wavelength_nm * 1e-9,
            f1=config.optics.f1_mm * 1e-3,
            f2=config.optics.f2_mm * 1e-3,
            slm=Plane(slm.shape, slm.pitch),
            input=Plane(panel.shape, panel.pitch),
            camera=Plane(camera.shape, camera.pitch),
            coherent=config.optics.coherence == "coherent",
        ),
        slm_levels=slm.levels,
        input_levels=panel.levels,
        camera_bitdepth=camera.bitdepth,
        exposure_s=config.camera.exposure_ms * 1e-3,
        slm_settle_s=config.slm.settle_ms * 1e-3,
        input_settle_s=config.input.settle_ms * 1e-3,
        readout_s=camera.readout_s,
        instruments={name: section.role for name, section in config.instruments.items()},
        calibrations=calibrations,
        simulated=config.simulated,
        digest=config.digest(),
        longest_exposure_s=math.inf if config.safety.max_exposure_ms is None else config.safety.max_exposure_ms * 1e-3,
        devices={"slm": slm.name, "input": panel.name, "camera": camera.name}
        | {name: instrument.name for name, instrument in instruments.items()},
        sections=config.sections(),
        mechanics={part: {str(axis): moved for axis, moved in axes.items()} for part, axes in config.mechanics.items()},
    )
    rehearsal = Rehearsal(config.faults or FaultPlan(), clock)
    armed = bool(rehearsal.plan.plan)
    rehearsal.announce(real=config.real)
    every: dict[str, Any] = {"slm": slm, "input": panel, "camera": camera, **instruments}
    if armed:
        every = {name: rehearsal.inject(device, name) for name, device in every.items()}
    if wrap is not None:
        every = {name: wrap(name, device) for name, device in every.items()}
    return Bench(
        facts,
        slm=every["slm"],
        input=every["input"],
        camera=every["camera"],
        instruments={name: every[name] for name in instruments},
        clock=clock,
        interlocks=Interlocks(
            config.safety, roles=facts.instruments, full_scale=2**facts.camera_bitdepth - 1, clock=clock
        ),
        guardian=guardian,
        injected=rehearsal.injected,
        recovery=config.recovery,
        reopeners={name: partial(devices.again, name, wrapped=every[name] if armed else None) for name in every},
        timeout_s=config.camera.timeout_ms / 1e3,
        blank_on_close=config.safety.blank_on_close,
        laser_off_on_close=config.safety.laser_off_on_close,
        hand=_hand(world) if every_simulated else None,
    )


class _Devices:
    """Makes the devices of one bench file, and makes one again after it has failed."""

    def __init__(self, config: BenchConfig, world: Any, clock: Clock) -> None:
        from labctl.devices import adapter  # slmsuite takes a second to import, and is quiet once this has been

        self._adapter = adapter
        self._config, self._world, self._clock = config, world, clock
        self._sections: dict[str, Any] = {"slm": config.slm, "input": config.input, "camera": config.camera}
        self._drivers: dict[str, Any] = {}
        self._instruments: dict[str, Instrument] = {}

    def driver(self, name: str) -> Any:
        """The slmsuite driver of the SLM, the input or the camera, opened."""
        from labctl.devices.catalogue import construct, driver_class

        config, section = self._config, self._sections[name]
        if section.driver == SIMULATED:
            made = _simulated(name, section.options, self._world, config)
        else:
            panels = {key: driver for key, driver in self._drivers.items() if key != "camera"}
            offered = panels if name == "camera" else {"wav_um": config.optics.wavelength_nm * 1e-3}
            made = construct(driver_class(section.driver, role=name), section.options, role=name, offered=offered)
        self._drivers[name] = made
        return made

    def panel(self, name: str) -> Any:
        """The SLM or the input panel of an opened driver."""
        return self._adapter.SlmsuitePanel(self._drivers[name])

    def sensor(self) -> Any:
        """The camera of an opened driver."""
        section = self._config.camera
        camera = self._adapter.SlmsuiteSensor(
            self._drivers["camera"], clock=self._clock, trigger=section.trigger, timeout_s=section.timeout_ms / 1e3
        )
        if section.driver == SIMULATED:
            camera.readout_s = float(_options("camera", section.options)["readout_ms"]) / 1e3
        return camera

    def instrument(self, name: str) -> Instrument:
        """An instrument, opened."""
        self._instruments[name] = _instrument(name, self._config.instruments[name], self._world, self._config)
        return self._instruments[name]

    def again(self, name: str, *, wrapped: Any = None) -> Any:
        """Close a device as well as it can be closed, and open it again; in its wrapper if it has one."""
        old = self._drivers.get(name) or self._instruments.get(name)
        try:
            old.close()  # type: ignore[union-attr]
        except Exception as error:  # it has failed: that is why it is opened again
            log.debug("closing %s: %s", name, error)
        if name in self._sections:
            made = self.driver(name)
            try:
                fresh = self.sensor() if name == "camera" else self.panel(name)
            except BaseException:
                _give_up([made], {}, None)
                raise
        else:
            fresh = self.instrument(name)
            if self._config.instruments[name].role == "laser":
                try:
                    refuse_strong_light(self._config.safety, name, fresh.read)
                except BaseException:
                    _give_up([], {name: fresh}, None)
                    raise
        if wrapped is None:
            return fresh
        wrapped.renew(fresh)
        return wrapped


def _options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return SIMULATED_OPTIONS[name] | dict(options)


def _world(config: BenchConfig, clock: Clock) -> Any:
    from labctl.simulation.effects import resolve
    from labctl.simulation.world import World

    if config.simulation is None:
        raise ConfigError(f"bench '{config.bench.name}' has a simulated device but no [simulation] section: add one")
    planes: dict[str, Plane] = {}
    depth: dict[str, int] = {}
    for name, section in (("slm", config.slm), ("input", config.input), ("camera", config.camera)):
        # A plane whose device is real plays no part in the world; some size it has to have.
        options = _options(name, section.options if section and section.driver == SIMULATED else {})
        width, height = options["resolution"]
        planes[name] = Plane((int(height), int(width)), (options["pitch_um"] * 1e-6,) * 2)
        depth[name] = int(options["bitdepth"])
    geometry = Geometry(
        wavelength=config.optics.wavelength_nm * 1e-9,
        f1=config.optics.f1_mm * 1e-3,
        f2=config.optics.f2_mm * 1e-3,
        slm=planes["slm"],
        input=planes["input"],
        camera=planes["camera"],
        coherent=config.optics.coherence == "coherent",
    )
    return World(
        geometry,
        resolve(config.simulation.preset, config.simulation.effects),
        seed=config.simulation.seed,
        clock=clock,
        slm_levels=2 ** depth["slm"],
        input_levels=2 ** depth["input"],
        camera_bitdepth=depth["camera"],
    )


def _hand(world: Any) -> Hand:
    from labctl.simulation.screws import Screws

    return Screws(world)


def _simulated(name: str, options: Mapping[str, Any], world: Any, config: BenchConfig) -> Any:
    from labctl.devices.catalogue import construct
    from labctl.simulation.devices import SimulatedCamera, SimulatedInput, SimulatedSLM

    fronts: dict[str, type[Any]] = {"slm": SimulatedSLM, "input": SimulatedInput, "camera": SimulatedCamera}
    offered = {"world": world, "wav_um": config.optics.wavelength_nm * 1e-3, "trigger": config.camera.trigger}
    return construct(fronts[name], _options(name, options), role=name, offered=offered)


def _instrument(name: str, section: InstrumentSection, world: Any, config: BenchConfig) -> Instrument:
    from labctl.devices.catalogue import construct
    from labctl.devices.instruments.guarded import GuardedInstrument
    from labctl.devices.instruments.opening import open_instrument

    limits, safety = dict(section.limits), config.safety
    safe_state = safety.safe_state.get(name, {})
    if section.role == "laser" and safety.max_laser_power is not None:
        low, high = limits.get(safety.laser_power_setting, (0.0, safety.max_laser_power))
        limits[safety.laser_power_setting] = (low, min(high, safety.max_laser_power))
    offered: dict[str, Any] = {}
    if section.simulated:
        from labctl.simulation.instruments import FRONTS, Firmware, FirmwareLink

        where = str(section.options.get("port", section.options.get("resource", "")))
        role = section.role if section.driver == SIMULATED else where.partition(":")[2]
        if role not in FRONTS:
            raise ConfigError(f"instruments.{name}: there is no simulated {role}, only {', '.join(FRONTS)}")
        if section.driver == SIMULATED:
            device = construct(FRONTS[role], section.options, role=f"instruments.{name}", offered={"world": world})
            return GuardedInstrument(name, device, limits=limits, safe_state=safe_state)
        offered["link"] = FirmwareLink(Firmware(world, role))
    return open_instrument(
        name, driver=section.driver, options=section.options, role=section.role,
        limits=limits, safe_state=safe_state, offered=offered,
    )  # fmt: skip


def _give_up(opened: list[Any], instruments: Mapping[str, Instrument], guardian: Guardian | None) -> None:
    """Leave what has been opened safe, and release it, whatever else fails."""
    safe = True
    for name, instrument in instruments.items():
        try:
            instrument.make_safe()
        except Exception as error:  # the others must be made safe all the same
            safe = False
            log.warning("making the bench safe, %s: %s", name, error)
    for device in reversed(opened):
        try:
            device.close()
        except Exception as error:  # what failed to open is the error to report
            log.warning("closing %s: %s", device, error)
    if guardian is not None and safe:
        guardian.stand_down()
    elif guardian is not None:
        guardian.take_over()
