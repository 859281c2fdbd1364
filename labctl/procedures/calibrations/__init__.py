"""Calibrations: dark frame, camera gain, registration, centre of the Fourier plane.

Each is a procedure that returns a `CalibrationRecord` and refuses a poor result with the reason. They know what they
showed and what the camera saw, and nothing else.
"""

from labctl.procedures.calibrations.dark import Dark
from labctl.procedures.calibrations.fourier_centre import FourierCentre
from labctl.procedures.calibrations.gain import Gain
from labctl.procedures.calibrations.registration import Registration
from labctl.procedures.calibrations.sequence import Calibrate, Calibration

__all__ = ["Calibrate", "Calibration", "Dark", "FourierCentre", "Gain", "Registration"]
