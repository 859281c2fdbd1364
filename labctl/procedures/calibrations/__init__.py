"""Calibrations: what is measured of a bench, each a procedure that returns a `CalibrationRecord`.

They refuse a poor result with the reason. They know what they showed and what the camera saw, and nothing else.
`labctl.procedures.calibrations.graph` knows what depends on what, and when a record is stale; to add a calibration,
add its line there.
"""

from labctl.procedures.calibrations.dark import Dark
from labctl.procedures.calibrations.fourier_centre import FourierCentre
from labctl.procedures.calibrations.gain import Gain
from labctl.procedures.calibrations.registration import Registration
from labctl.procedures.calibrations.sequence import BASIC, Calibrate, Calibration

__all__ = ["BASIC", "Calibrate", "Calibration", "Dark", "FourierCentre", "Gain", "Registration"]
