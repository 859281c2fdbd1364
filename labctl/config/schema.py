"""What a bench file may say. Keys carry their unit; an unknown key is refused, never ignored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PrivateAttr, field_validator, model_validator

from labctl.config.faults import FaultsSection

NonNegative = Annotated[float, Field(ge=0)]
Driver = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*(:[A-Za-z_][A-Za-z0-9_.]*)?$",
        description="catalogue name, entry point, or package.module:Class",
    ),
]


class Section(BaseModel):
    """A table of a labctl TOML file: strict about keys, frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BenchSection(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""


class OpticsSection(Section):
    wavelength_nm: Annotated[float, Field(gt=200, lt=20000)]
    f1_mm: PositiveFloat
    f2_mm: PositiveFloat
    coherence: Literal["coherent", "incoherent"] = "coherent"


class DeviceSection(Section):
    """A device: what drives it, and what its constructor is given."""

    driver: Driver
    options: dict[str, Any] = {}

    @property
    def simulated(self) -> bool:
        """Whether it is a simulated device, or a real driver in front of one."""
        where = self.options.get("port", self.options.get("resource", ""))
        return self.driver == "simulated" or (isinstance(where, str) and where.startswith("simulated:"))


class SlmSection(DeviceSection):
    """The Fourier plane."""

    settle_ms: NonNegative


class InputSection(DeviceSection):
    """The input plane: a panel whose gray level sets the amplitude of the light."""

    settle_ms: NonNegative


class CameraSection(DeviceSection):
    exposure_ms: PositiveFloat
    trigger: Literal["software", "hardware", "free-run"] = "software"
    timeout_ms: PositiveFloat = 2000.0


class InstrumentSection(DeviceSection):
    role: Literal["laser", "shutter", "power-meter", "stage", "environment"]
    limits: dict[str, Annotated[tuple[float, float], Field(strict=False)]] = {}

    @field_validator("limits")
    @classmethod
    def _low_before_high(cls, limits: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for setting, (low, high) in limits.items():
            if low > high:
                raise ValueError(f"the limits of {setting} must be [lowest, highest], not [{low:g}, {high:g}]")
        return limits


Part = Literal["input", "slm", "beam", "camera"]
Axis = Literal["x", "y", "rotation", "focus"]


class SimulationSection(Section):
    """The world behind the simulated devices. `effects` overrides single sizes of the preset."""

    preset: Literal["ideal", "mild", "typical", "nasty"] = "typical"
    seed: int = 0
    clock: Literal["virtual", "real"] = "virtual"
    speed: PositiveFloat = 1.0
    """Seconds of the simulated bench in one real second, with ``clock = "real"``."""
    effects: dict[str, Any] = {}

    @model_validator(mode="after")
    def _speed_is_of_the_real_clock(self) -> Self:
        if self.speed != 1.0 and self.clock != "real":
            raise ValueError('speed is of the real clock: add clock = "real", or leave out speed')
        return self


Reaction = Literal["warn", "abort", "laser-off"]


class SaturationSection(Section):
    """What happens after `frames` frames in a row with at least `pixels` saturated pixels each."""

    pixels: Annotated[int, Field(ge=1)]
    frames: Annotated[int, Field(ge=1)] = 1
    reaction: Reaction = "abort"


class PowerLossSection(Section):
    """What happens when a power meter reads too little while laser and shutter were told to let light out."""

    meter: str
    setting: str = "power"
    below: PositiveFloat
    every_s: NonNegative = 1.0
    reaction: Reaction = "abort"


class SafetySection(Section):
    """Limits, interlocks and the safe state."""

    blank_on_close: bool = True
    laser_off_on_close: bool = True
    guardian: bool = True
    """Whether a process of its own makes laser and shutter safe should labctl be killed; real instruments only."""
    max_laser_power: PositiveFloat | None = None
    """In the unit of the laser's `laser_power_setting`."""
    laser_power_setting: str = "power"
    max_exposure_ms: PositiveFloat | None = None
    saturation: SaturationSection | None = None
    power_loss: PowerLossSection | None = None
    safe_state: dict[str, dict[str, bool | int | float | str]] = {}
    """Instrument -> setting -> value, set in this order before what its driver does to be safe."""


class RecoverySection(Section):
    """What a run does about a device that fails, before it gives up."""

    retries: Annotated[int, Field(ge=0)] = 2
    """How often one exposure, setting or reading is tried again."""
    reopens: Annotated[int, Field(ge=0)] = 1
    """How often after that the device is closed and opened again."""
    wait_s: NonNegative = 0.2
    """Rest before each further try, on the bench's clock."""
    hang_s: PositiveFloat = 10.0
    """A device that takes so much longer than a call should is given up, in real seconds."""
    mismatches: Annotated[int, Field(ge=0)] = 5
    """With proof of pairing: how often one exposure is repeated because its frame shows other patterns."""


class BenchConfig(Section):
    """One bench file.

    Raises
    ------
    pydantic.ValidationError
        When a key is unknown or a value is out of range; `labctl.config.load_bench` turns it into one clear line.
    """

    bench: BenchSection
    optics: OpticsSection
    slm: SlmSection
    input: InputSection | None = None
    camera: CameraSection
    instruments: dict[str, InstrumentSection] = {}
    simulation: SimulationSection | None = None
    safety: SafetySection = SafetySection()
    recovery: RecoverySection = RecoverySection()
    faults: FaultsSection | None = None
    mechanics: dict[Part, dict[Axis, float]] = {}
    """How far a part moves (mm; degrees for a rotation) for one turn of its screw clockwise; negative for backwards."""

    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _faults_are_of_its_devices(self) -> Self:
        if self.faults is not None:
            panels = ["slm"] if self.input is None else ["slm", "input"]
            kinds = dict.fromkeys(panels, "panel") | {"camera": "camera"}
            self.faults.check_devices(kinds | dict.fromkeys(self.instruments, "instrument"))
        return self

    @field_validator("mechanics")
    @classmethod
    def _screws_move_something(cls, mechanics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for part, axes in mechanics.items():
            for axis, travel in axes.items():
                if travel == 0:
                    raise ValueError(f"{part}.{axis} = 0 is a screw that moves nothing: leave it out")
        return mechanics

    @model_validator(mode="after")
    def _safety_is_of_its_instruments(self) -> Self:
        safety = self.safety
        named = [("safe_state", name) for name in safety.safe_state]
        if safety.power_loss is not None:
            named.append(("power_loss.meter", safety.power_loss.meter))
        for key, name in named:
            if name not in self.instruments:
                there = f"there are {', '.join(self.instruments)}" if self.instruments else "there are none"
                raise ValueError(f"safety.{key}: there is no instrument '{name}': {there}")
        if safety.max_laser_power is not None and all(part.role != "laser" for part in self.instruments.values()):
            raise ValueError("safety.max_laser_power limits nothing: no instrument has the role laser")
        if safety.max_exposure_ms is not None and self.camera.exposure_ms > safety.max_exposure_ms:
            raise ValueError(
                f"camera.exposure_ms = {self.camera.exposure_ms:g} is above "
                f"safety.max_exposure_ms = {safety.max_exposure_ms:g}"
            )
        return self

    @property
    def path(self) -> Path | None:
        """The file it was read from."""
        return self._path

    @property
    def simulated(self) -> bool:
        """Whether any device of the bench is simulated."""
        return any(section.simulated for section in self._devices())

    @property
    def real(self) -> bool:
        """Whether any device of the bench is not simulated: someone has to agree before it is used."""
        return any(not section.simulated for section in self._devices())

    def _devices(self) -> list[DeviceSection]:
        panels = [self.slm] if self.input is None else [self.slm, self.input]
        return [*panels, self.camera, *self.instruments.values()]

    def digest(self) -> str:
        """SHA-256 over everything that the file says, independent of layout and comments."""
        # these change nothing that a calibration knows
        told = self.model_dump(mode="json", exclude={"recovery", "mechanics"})
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def sections(self) -> dict[str, str]:
        """SHA-256 of what each section says that a calibration may depend on.

        Not among it: how long to wait and to expose, triggers and timeouts (frames are paired with settled patterns
        whatever these are), names and descriptions, safety, recovery, planned faults, and the simulation's clock.
        """
        timing = {"settle_ms", "exposure_ms", "trigger", "timeout_ms"}
        parts: dict[str, Any] = {"optics": self.optics, "slm": self.slm, "input": self.input, "camera": self.camera}
        told = {name: part.model_dump(mode="json", exclude=timing) for name, part in parts.items() if part is not None}
        told["instruments"] = {
            name: part.model_dump(mode="json", exclude={"limits"}) for name, part in self.instruments.items()
        }
        if self.simulation is not None:
            told["simulation"] = self.simulation.model_dump(mode="json", exclude={"clock", "speed"})
        return {
            name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in told.items()
        }
