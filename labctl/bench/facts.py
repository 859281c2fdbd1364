"""What a procedure may know of a bench: its file, its devices' own data, and its calibration records. No more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.optics.geometry import Geometry


@dataclass(frozen=True)
class BenchFacts:
    """A bench as commanded and as calibrated.

    Attributes
    ----------
    name : str
    geometry : Geometry
        Nominal wavelength, focal lengths, shapes and pitches.
    slm_levels, input_levels : int
        Gray levels of the SLM and of the input panel.
    camera_bitdepth : int
    exposure_s : float
        The bench file's exposure time, s.
    slm_settle_s, input_settle_s, readout_s : float
        Times that an exposure costs, s.
    instruments : mapping of name to role
    calibrations : mapping of kind to record
    simulated : bool
    digest : str
        Hash of the bench file's contents.
    longest_exposure_s : float
        What the bench file's safety allows, s.
    devices : mapping of name to identity
        Of the opened devices: what a calibration is of.
    sections : mapping of name to hash
        Of each section of the bench file, as far as a calibration may depend on it.
    mechanics : mapping of part to mapping of axis to float
        How far a part moves (mm, or degrees) for one turn of its screw clockwise, where the bench file says so.
    """

    name: str
    geometry: Geometry
    slm_levels: int
    input_levels: int
    camera_bitdepth: int
    exposure_s: float
    slm_settle_s: float
    input_settle_s: float
    readout_s: float
    instruments: Mapping[str, str] = field(default_factory=dict)
    calibrations: Mapping[str, CalibrationRecord] = field(default_factory=dict)
    simulated: bool = False
    digest: str = ""
    longest_exposure_s: float = math.inf
    devices: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    mechanics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def calibration(self, kind: str) -> CalibrationRecord:
        """The record of one kind.

        Raises
        ------
        CalibrationError
            If the bench has none; the message says how to make one.
        """
        try:
            return self.calibrations[kind]
        except KeyError:
            raise CalibrationError(
                f"bench '{self.name}' has no '{kind}' calibration: run `labctl calibrate {self.name}`"
            ) from None
