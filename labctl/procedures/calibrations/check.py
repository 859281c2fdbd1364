"""Is the bench still what its records say? Under 20 exposures, compared within their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.probing import Observed, Probe, Scene, Vector, observe, reference_tile, tile_key
from labctl.procedures.exposing import laser_off, laser_on
from labctl.procedures.messages import Exposure, Log, Measure, Publish, Steps

UNITS = {
    "light": "counts/s", "gain": "electrons/count", "dots": "camera px", "carriers": "camera px",
    "centre": "SLM px off fourier-centre", "gray": "rad", "tile": "1",
}  # fmt: skip
SIGMAS = 4.0
SIGMAS_RMS = 2.5
"""Of the root mean square of several figures, which scatters less."""
AFTER_EXPOSING = 12


@dataclass(frozen=True)
class Reference:
    """What the check exposures give now, for `Check` to compare with later.

    Attributes
    ----------
    repeats : int
        Passes; their scatter is the uncertainty.
    """

    repeats: int = 3
    probe: Probe = field(default_factory=Probe)

    needs: ClassVar[tuple[str, ...]] = ("registration", "fourier-centre")
    uses: ClassVar[tuple[str, ...]] = ("dark",)
    max_age_h: ClassVar[float] = 24 * 30.0
    limits: ClassVar[Mapping[str, float]] = {"light_spread": 0.1, "dots_spread_px": 0.5, "tile_spread": 0.2}
    sections: ClassVar[tuple[str, ...]] = ("optics", "slm", "input", "camera", "instruments")

    @property
    def name(self) -> str:
        return "reference"

    def exposures(self, facts: BenchFacts) -> int:
        return 15 * self.repeats + AFTER_EXPOSING

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        passes = yield from observe(facts, self.probe, repeats=self.repeats)
        for note in passes[0].notes:
            yield Log(note)
        values: dict[str, tuple[object, str]] = {}
        spread: dict[str, NDArray[np.float64]] = {}
        for name in passes[0].values:
            if name == "gain":
                continue
            stack = np.stack([one.values[name] for one in passes])
            values[name] = (stack.mean(0).astype(np.float32 if name == "tile" else float), UNITS[name])
            if len(passes) > 1:
                spread[name] = stack.std(0, ddof=1) / np.sqrt(len(passes))
        values |= {f"exposure_{name}": (seconds, "s") for name, seconds in passes[0].exposures.items()}
        values["repeats"] = (float(self.repeats), "1")
        tile = reference_tile(facts)
        if tile is not None:
            values["deployment"] = (tile_key(tile[0]), "1")
        light = values["light"][0]
        quality = {
            "light_spread": float(np.max(spread.get("light", np.zeros(1)) / np.asarray(light))),
            "dots_spread_px": float(np.sqrt(np.nanmean(spread.get("dots", np.zeros(1)) ** 2))),
        }
        if "tile" in values:
            mean = np.asarray(values["tile"][0])
            quality["tile_spread"] = float(max(1 - _pearson(one.values["tile"], mean) for one in passes))
        return record("reference", facts, values, uncertainties=spread, quality=quality)

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """The reference tiles side by side [row, column]; the dots' places where there is no tile."""
        if "tile" in record.values:
            return np.concatenate(list(record["tile"]), axis=1).astype(np.float32)
        return record["dots"].astype(np.float32)


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes
    ----------
    name : str
    value, limit : float
        How far off, and how far it may be, in `unit`.
    good : bool
    record : str
        The kind that is to be measured again if it is not good.
    text : str
        What was found, in plain words.
    """

    name: str
    value: float
    limit: float
    unit: str
    good: bool
    record: str
    text: str


@dataclass(frozen=True)
class Checked:
    """What `Check` found.

    Attributes
    ----------
    findings : tuple of Finding
    redo : tuple of str
        Kinds that no longer hold; () if the bench is what its records say.
    notes : tuple of str
        What could not be compared, and why.
    """

    findings: tuple[Finding, ...]
    redo: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether everything that was compared still holds."""
        return not self.redo


@dataclass(frozen=True)
class Check:
    """Compare the bench with its records.

    With a `reference` record every comparison is like with like; without one, dots, carriers and Fourier centre are
    compared with what registration and fourier-centre say, less sharply, and light, gray levels and tile are left out.
    The limits are floors: where the reference scatters more, four standard deviations count.

    Attributes
    ----------
    dark_counts, shift_px, bent_px, carrier_px, centre_px, light, gain, gray_rad, tile : float
        How far each may be off: counts; camera px; camera px rms; camera px; SLM px; fraction; fraction; rad rms; loss
        of Pearson r.
    """

    dark_counts: float = 1.0
    shift_px: float = 0.3
    bent_px: float = 0.15
    carrier_px: float = 0.5
    centre_px: float = 1.2
    light: float = 0.1
    gain: float = 0.12
    gray_rad: float = 0.06
    tile: float = 0.02
    probe: Probe = field(default_factory=Probe)

    @property
    def name(self) -> str:
        return "check"

    def exposures(self, facts: BenchFacts) -> int:
        return 17 if "reference" in facts.calibrations else 19

    def steps(self, facts: BenchFacts) -> Steps[Checked]:
        reference = facts.calibrations.get("reference")
        known = {} if reference is None else _exposures(reference)
        (seen,) = yield from observe(facts, self.probe, exposures=known, brief=reference is None)
        notes = list(seen.notes)
        found = self._compare(facts, seen, reference, notes)
        if "dark" in facts.calibrations:
            found += yield from self._dark(facts, notes)
        redo = dict.fromkeys(finding.record for finding in found if not finding.good)
        for finding in found:
            yield Log(f"{finding.name}: {finding.text}", "info" if finding.good else "warning")
        for note in notes:
            yield Log(note)
        yield Publish("check", [_row(finding) for finding in found])
        return Checked(tuple(found), tuple(redo), tuple(notes))

    def _dark(self, facts: BenchFacts, notes: list[str]) -> Steps[list[Finding]]:
        if not (yield from laser_off(facts)):
            notes.append("dark: not compared, the bench has neither laser nor shutter that could keep the light off")
            return []
        dark = facts.calibration("dark")
        long = min(facts.exposure_s * 20, facts.longest_exposure_s)
        frames = yield Measure([Exposure(None, None, t, {"for": "check"}) for t in (facts.exposure_s, long)], "dark")
        yield from laser_on(facts)
        off = max((_level(frame, dark) for frame in frames), key=abs)
        limit = max(self.dark_counts, 0.3 * float(dark["read_noise"]))
        text = f"dark level {off:+.2f} counts off the record (limit {limit:.2f})"
        return [Finding("dark level", abs(off), limit, "counts", abs(off) <= limit, "dark", text)]

    def _compare(
        self, facts: BenchFacts, seen: Observed, reference: CalibrationRecord | None, notes: list[str]
    ) -> list[Finding]:
        found: list[Finding] = []
        nominal = _nominal(facts, self.probe)
        slack = 1.0 if reference is not None else 2.0
        old: dict[str, Vector] = {}
        for name in seen.values:
            if reference is not None and name in reference.values:
                old[name] = np.asarray(reference[name], float)
            elif name in nominal:
                old[name] = nominal[name]
        if reference is None:
            notes.append("light, gray levels and tile: not compared, there is no reference record")

        def off(name: str) -> Vector | None:
            if name not in seen.values or name not in old or seen.values[name].shape != old[name].shape:
                return None
            return np.asarray(seen.values[name] - old[name])

        def judge(name: str, what: str, value: float, floor: float, unit: str, kind: str) -> None:
            limit = max(floor, (SIGMAS if what != "gray" else SIGMAS_RMS) * _sigma(reference, what))
            text = f"{value:.3g} {unit} off (limit {limit:.3g})".replace(" 1 off", " off")
            if not np.isfinite(value):
                text = "not seen where it should be"
            found.append(Finding(name, value, limit, unit, bool(value <= limit), kind, text))

        if (moved := off("dots")) is not None:
            shift = np.nanmean(moved, axis=0)
            judge("registration shift", "dots", float(np.hypot(*shift)), slack * self.shift_px, "px", "registration")
            bent = float(np.sqrt(np.nanmean(((moved - shift) ** 2).sum(1))))
            judge("registration scale and turn", "dots", bent, slack * self.bent_px, "px", "registration")
        if (moved := off("carriers")) is not None:
            worst = float(np.max(np.hypot(moved[:, 0], moved[:, 1])))
            judge("carrier map", "carriers", worst, slack * self.carrier_px, "px", "registration")
        if (moved := off("centre")) is not None:
            judge(
                "Fourier centre", "centre", float(np.abs(moved).max()), slack * self.centre_px, "px", "fourier-centre"
            )
        electrons, gain = facts.calibrations.get("gain"), seen.values.get("gain")
        same_gain = True
        if electrons is not None and gain is not None:
            ratio = abs(float(gain[0]) / float(electrons["gain"]) - 1)
            judge("camera gain", "", ratio, max(self.gain, SIGMAS * float(gain[1])), "of it", "gain")
            same_gain = found[-1].good
        if reference is None:
            return found
        if (moved := off("light")) is not None:
            share = float(seen.values["light"][0] / old["light"][0])
            judge("light", "", abs(share - 1), self.light, "of it", "reference" if same_gain else "gain")
            found[-1] = _said(found[-1], f"{100 * share:.0f} % of what it was (limit {100 * self.light:.0f} % off)")
        if (moved := off("gray")) is not None:
            kind = "slm-response" if "slm-response" in facts.calibrations else "reference"
            judge("gray levels", "gray", float(np.sqrt((moved**2).mean())), self.gray_rad, "rad rms", kind)
        self._tile(facts, seen, reference, found, notes)
        return found

    def _tile(
        self, facts: BenchFacts, seen: Observed, reference: CalibrationRecord, found: list[Finding], notes: list[str]
    ) -> None:
        tile = reference_tile(facts)
        if tile is None or "tile" not in seen.values or "tile" not in reference.values:
            return
        if str(reference["deployment"]) != tile_key(tile[0]):
            notes.append("reference tile: not compared, registration or Fourier centre are newer than the reference")
            return
        loss = 1 - _pearson(seen.values["tile"], np.asarray(reference["tile"], float))
        limit = max(self.tile, SIGMAS * reference.quality.get("tile_spread", 0.0))
        kind = next((one for one in ("wavefront", "slm-response") if one in facts.calibrations), "reference")
        blamed = [one for one in found if not one.good and one.record != "gain" and one.name != "light"]
        if blamed and loss > limit:
            text = f"Pearson r {1 - loss:.3f} against the reference, as follows from the {blamed[0].name}"
            found.append(Finding("reference tile", loss, limit, "1 - r", False, blamed[0].record, text))
            return
        text = f"Pearson r {1 - loss:.4f} against the reference (limit {1 - limit:.4f})"
        found.append(Finding("reference tile", loss, limit, "1 - r", loss <= limit, kind, text))


def _said(finding: Finding, text: str) -> Finding:
    return Finding(finding.name, finding.value, finding.limit, finding.unit, finding.good, finding.record, text)


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "what": finding.name, "off": finding.value, "limit": finding.limit, "unit": finding.unit,
        "good": finding.good, "redo": "" if finding.good else finding.record,
    }  # fmt: skip


def _exposures(reference: CalibrationRecord) -> dict[str, float]:
    start = "exposure_"
    return {name[len(start) :]: float(reference[name]) for name in reference.values if name.startswith(start)}


def _nominal(facts: BenchFacts, probe: Probe) -> dict[str, Vector]:
    """What the records themselves say that the check exposures should give."""
    scene = Scene(facts, probe)
    carriers = [scene.steer @ np.asarray(c) for c in scene.carriers if c is not None]
    found = {"dots": scene.spots, "centre": np.zeros(2)}
    return found | ({"carriers": np.array(carriers)} if carriers else {})


def _sigma(reference: CalibrationRecord | None, what: str) -> float:
    """One standard deviation of the difference between the reference and one exposure; 0 if it is not known."""
    if reference is None or what not in reference.uncertainties:
        return 0.0
    of_mean = float(np.sqrt(np.nanmean(np.asarray(reference.uncertainties[what], float) ** 2)))
    return of_mean * float(np.sqrt(float(reference["repeats"]) + 1))


def _level(frame: Frame, dark: CalibrationRecord) -> float:
    """Typical difference of a dark frame from the dark record, counts."""
    r, c = frame.origin
    part = np.s_[r : r + frame.data.shape[0], c : c + frame.data.shape[1]]
    expected = dark["offset"][part] + dark["rate"][part] * frame.exposure_s
    return float(np.mean((frame.data - expected)[~dark["hot"][part]]))


def _pearson(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean Pearson r of tiles."""
    rs = [float(np.corrcoef(x.ravel(), y.ravel())[0, 1]) for x, y in zip(a, b, strict=True) if y.std() > 0]
    return float(np.mean(rs)) if rs else 1.0
