"""The one exception tree. A message says what happened, to which device, file or key, and what to do about it.

Whatever reaches a user as one line is a `LabctlError`; anything else that escapes is a defect of labctl and shows its
traceback in the log.
"""

from __future__ import annotations


class LabctlError(Exception):
    """Something that the user can understand and act on."""


class ConfigError(LabctlError):
    """A bench, recipe or experiment file is missing, damaged, or says something that it may not."""


class DataError(LabctlError):
    """A data set is missing, truncated, or not what its name says."""


class ModelError(LabctlError):
    """A model bundle is missing or damaged, or does not fit the bench."""


class DeviceError(LabctlError):
    """A device could not be opened, or failed at a call.

    Attributes
    ----------
    device : str
        Its name in the bench file.
    passing : bool
        Whether trying again may help: a pattern of the wrong shape, or a device that the bench does not have, stays so.
    """

    def __init__(self, message: str, *, device: str = "", passing: bool = True) -> None:
        super().__init__(message)
        self.device = device
        self.passing = passing


class SafetyError(LabctlError):
    """An interlock of the bench file forbids this, or has tripped. No device has failed, and no retry helps."""


class CalibrationError(LabctlError):
    """A calibration is missing, or a measurement is too poor to be one."""


class RunError(LabctlError):
    """A run folder cannot be written, is cut off, or does not hold what was asked of it."""


class Aborted(LabctlError):
    """The person at the table ended the run at once. Not a failure, but not a success either."""


class Stopped(Aborted):
    """The person at the table ended the run after the exposures under way; all that was taken is kept."""
