"""A stand-in for a bench: the same geometry and the same timing on a clock of its own, with light that is computed.

Only the first few exposures of a kind are rendered; the others get one of those frames again. So a procedure that asks
for thousands of exposures can be followed from beginning to end in seconds, and its clock tells what it would take.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench import open_bench
from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.bench.panels import token
from labctl.bench.records import CalibrationRecord, load_records, standing_in
from labctl.clock import DrivenClock
from labctl.config.schema import (
    BenchConfig,
    CameraSection,
    InputSection,
    InstrumentSection,
    SimulationSection,
    SlmSection,
)
from labctl.devices.contract import RawFrame
from labctl.optics.geometry import Geometry, Plane

RENDERED = 6
"""Frames that are rendered of exposures with one label, SLM pattern, exposure time and window."""
SIMULATED_ROLES = ("laser", "shutter", "power-meter")
DARK_COUNTS = 64.0
PLAIN = {"shot_noise": True, "read_noise_e": 2.5, "offset_counts": DARK_COUNTS, "slm_zero_order": 0.04}
"""An ideal world, but for the noise that photon transfer lives on and the zero order that shows where things are."""


class SideClock(DrivenClock):
    """Driven time that can be left for a while: what passes `aside` has not happened when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self._aside: float | None = None

    def now(self) -> float:
        return super().now() if self._aside is None else self._aside

    def sleep(self, seconds: float) -> None:
        if self._aside is None:
            super().sleep(seconds)
        elif seconds > 0:
            self._aside += seconds

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time goes on from now, and back to now at the end."""
        self._aside = super().now()
        try:
            yield
        finally:
            self._aside = None


@dataclass
class Costs:
    """What the stand-in takes of this computer, and how much of that counts on the bench's clock.

    Attributes
    ----------
    rendering, computing : float
        Seconds of the bench's clock for one second of rendering frames, which real devices do not need, and for one of
        all else.
    rendering_s : float
        Of every exposure, those included that were given an old frame.
    spent_s : float
        What was really spent on rendering.
    showing_s : float
        What the panels' drivers spent on their patterns.
    """

    rendering: float
    computing: float
    rendering_s: float = 0.0
    spent_s: float = 0.0
    showing_s: float = 0.0


@dataclass
class TimedPanel:
    """A panel whose driver's own computing takes time on the bench's clock, as it does on a real one.

    Attributes
    ----------
    shown : str
        Token of what it shows.
    """

    panel: Any
    clock: SideClock
    costs: Costs
    shown: str = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.panel, name)

    def show(self, gray: NDArray[Any]) -> None:
        begun = time.perf_counter()
        self.panel.show(gray)
        seconds = time.perf_counter() - begun
        self.costs.showing_s += seconds
        self.clock.sleep(seconds * self.costs.computing)
        self.shown = token(gray)


@dataclass
class SparingCamera:
    """A camera that renders few frames and gives them again. It times exposure and read-out itself.

    Attributes
    ----------
    camera : Sensor
        Of the simulated world.
    label : str
        What the exposures to come are for.
    """

    camera: Any
    slm: TimedPanel
    clock: SideClock
    costs: Costs
    overlaps: bool
    latency_s: float = 0.0
    label: str = ""
    _free_at: float = -np.inf
    _window: Any = None
    _exposed: deque[tuple[NDArray[Any], float, float, float]] = field(default_factory=deque)
    _known: dict[Any, list[tuple[NDArray[Any], float]]] = field(default_factory=dict)
    _given: dict[Any, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.camera, name)

    def set_window(self, window: Any) -> Any:
        self._window = window
        return self.camera.set_window(window)

    def expose(self, exposure_s: float) -> None:
        data, cost = self._frame(exposure_s)
        self.clock.sleep(max(self.latency_s, self._free_at - exposure_s - self.clock.now()))
        start = self.clock.now()
        self.clock.sleep(exposure_s)
        self._free_at = start + exposure_s + self.camera.readout_s
        self._exposed.append((data, start, start + exposure_s, cost))

    def read_out(self) -> RawFrame:
        data, start, end, cost = self._exposed.popleft()
        self.clock.sleep(cost * self.costs.rendering)
        self.clock.sleep(end + self.camera.readout_s - self.clock.now())
        return RawFrame(data, start, end, self.camera.origin)

    def grab(self, exposure_s: float) -> RawFrame:
        self.expose(exposure_s)
        return self.read_out()

    def discard(self) -> None:
        self._exposed.clear()

    def announce(self, number: int) -> None:
        """The numbers of frames that are given twice mean nothing."""

    def busy_until(self, when: float) -> None:
        self._free_at = when

    def _frame(self, exposure_s: float) -> tuple[NDArray[Any], float]:
        """A frame, and what rendering it takes, s."""
        key = (self.label, self.slm.shown, exposure_s, self._window)
        known, number = self._known.setdefault(key, []), self._given.get(key, 0)
        self._given[key] = number + 1
        if len(known) < RENDERED:
            begun = time.perf_counter()
            with self.clock.aside():
                data = self.camera.grab(exposure_s).data
            cost = time.perf_counter() - begun
            self.costs.spent_s += cost
            known.append((data, cost))
        else:
            data = known[number % RENDERED][0]
            # The first one of a kind also made what all of them share.
            cost = float(np.median([taken for _, taken in known[1:]]))
        self.costs.rendering_s += cost
        return data, cost


@dataclass(frozen=True, eq=False)
class StandIn:
    """An open stand-in; closed with ``bench.close()``.

    Attributes
    ----------
    bench : Bench
    clock : SideClock
    camera : SparingCamera
    costs : Costs
    exact : bool
        Whether its light is that of the bench: it is a simulated one.
    """

    bench: Bench
    clock: SideClock
    camera: SparingCamera
    costs: Costs
    exact: bool


def stand_in(config: BenchConfig, calibration_dir: Path, facts: BenchFacts | None = None) -> StandIn:
    """A stand-in for a bench. No device is opened, nothing is written.

    Parameters
    ----------
    config : BenchConfig
    calibration_dir : Path
        The workspace's ``calibration`` folder.
    facts : BenchFacts, optional
        What is known of a bench that is not simulated in full: sizes, levels, read-out.

    Raises
    ------
    ConfigError
        If the bench file leaves out what is needed.
    """
    if facts is None:
        simulation = config.simulation or SimulationSection()
        simulated = config.model_copy(
            update={
                "simulation": simulation.model_copy(update={"clock": "virtual", "speed": 1.0}),
                "faults": None,
                "safety": config.safety.model_copy(update={"guardian": False}),
            }
        )
        share = simulation.speed if simulation.clock == "real" else 0.0
        made = _open(simulated, Costs(share, share), exact=True)
        made.bench.with_calibrations(load_records(calibration_dir / config.bench.name))
        return made
    made = _open(_as_simulated(config, facts), Costs(0.0, 1.0), exact=False)
    known = {**facts.calibrations, **load_records(calibration_dir / config.bench.name)}
    made.bench.facts = replace(
        made.bench.facts,
        calibrations=nominal(known, made.bench.facts.geometry),
        simulated=False,
        digest=facts.digest,
        devices=facts.devices,
        sections=config.sections(),
    )
    return made


def nominal(known: Mapping[str, CalibrationRecord], geometry: Geometry) -> dict[str, CalibrationRecord]:
    """Records of the same kinds, saying what is true of an ideal bench; kinds that are not known here as they are."""
    shape = geometry.camera.shape
    true: dict[str, dict[str, Any]] = {
        "registration": {
            "input_to_camera": geometry.nominal_input_to_camera(),
            "carrier_to_camera": geometry.nominal_carrier_to_camera(),
        },
        "fourier-centre": {"centre": np.asarray(geometry.slm.centre, float)},
        "dark": {
            "offset": np.full(shape, DARK_COUNTS, np.float32),
            "rate": np.zeros(shape, np.float32),
            "hot": np.zeros(shape, bool),
        },
    }
    return {kind: standing_in(record, true[kind]) if kind in true else record for kind, record in known.items()}


def _open(config: BenchConfig, costs: Costs, *, exact: bool) -> StandIn:
    clock = SideClock()
    wrapped: dict[str, Any] = {}
    latency_s = float(config.camera.options.get("latency_ms", 0.0)) / 1e3

    def wrap(name: str, device: Any) -> Any:
        if name == "camera":
            overlaps = exact and bool(getattr(device, "overlaps", False))
            wrapped[name] = SparingCamera(device, wrapped["slm"], clock, costs, overlaps, latency_s)
        elif name in ("slm", "input"):
            wrapped[name] = TimedPanel(device, clock, costs)
        return wrapped.get(name, device)

    bench = open_bench(config, clock=clock, wrap=wrap)
    return StandIn(bench, clock, wrapped["camera"], costs, exact)


def _as_simulated(config: BenchConfig, facts: BenchFacts) -> BenchConfig:
    """A bench file of the same sizes and times whose devices are all simulated, with next to no imperfections."""
    geometry, options = facts.geometry, config.camera.options
    bits = {"slm": facts.slm_levels.bit_length() - 1, "input": facts.input_levels.bit_length() - 1}
    settle = {"slm": config.slm.settle_ms, "input": 0.0 if config.input is None else config.input.settle_ms}
    camera = _options(geometry.camera, facts.camera_bitdepth) | {"readout_ms": facts.readout_s * 1e3}
    if "readout_ms" in options:
        camera["readout_ms"] = options["readout_ms"]
    return config.model_copy(
        update={
            "slm": SlmSection(driver="simulated", options=_options(geometry.slm, bits["slm"]), settle_ms=settle["slm"]),
            "input": InputSection(
                driver="simulated", options=_options(geometry.input, bits["input"]), settle_ms=settle["input"]
            ),
            "camera": CameraSection(
                driver="simulated", options=camera, exposure_ms=config.camera.exposure_ms, trigger="software"
            ),
            "instruments": {
                name: InstrumentSection(driver="simulated", role=section.role, limits=section.limits)
                for name, section in config.instruments.items()
                if section.role in SIMULATED_ROLES
            },
            "simulation": SimulationSection(preset="ideal", effects=PLAIN),
            "safety": config.safety.model_copy(
                update={"guardian": False, "saturation": None, "power_loss": None, "safe_state": {}}
            ),
            "faults": None,
        }
    )


def _options(plane: Plane, bits: int) -> dict[str, Any]:
    rows, columns = plane.shape
    return {"resolution": [columns, rows], "pitch_um": plane.pitch[0] * 1e6, "bitdepth": bits}
