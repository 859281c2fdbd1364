"""All calibrations in one go, in the order in which they need each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.dark import Dark
from labctl.procedures.calibrations.fourier_centre import FourierCentre
from labctl.procedures.calibrations.gain import Gain
from labctl.procedures.calibrations.registration import Registration
from labctl.procedures.messages import Log, Steps


@dataclass(frozen=True)
class Calibration:
    """Records of one pass through all calibrations, for the bench's calibration folder."""

    records: tuple[CalibrationRecord, ...]


@dataclass(frozen=True)
class Calibrate:
    """All calibrations that exist, in the order in which they need each other."""

    @property
    def name(self) -> str:
        return "calibrate"

    def exposures(self, facts: BenchFacts) -> int:
        return sum(step.exposures(facts) for step in ORDER)

    def steps(self, facts: BenchFacts) -> Steps[Calibration]:
        known: dict[str, CalibrationRecord] = {}
        for step in ORDER:
            try:
                record = yield from step.steps(replace(facts, calibrations={**facts.calibrations, **known}))
            except CalibrationError as error:
                if step.name != "gain":
                    raise
                yield Log(f"{error}; going on without it, because nothing depends on it", "warning")
                continue
            known[record.kind] = record
            quality = ", ".join(f"{name} {figure:.3g}" for name, figure in record.quality.items())
            yield Log(f"{record.kind}: {quality}")
        return Calibration(tuple(known.values()))


ORDER: tuple[Dark | Registration | Gain | FourierCentre, ...] = (Dark(), Registration(), Gain(), FourierCentre())
