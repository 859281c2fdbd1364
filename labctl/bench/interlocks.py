"""Interlocks: what the bench file's ``[safety]`` forbids, and what happens when the light is not as it should be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.clock import Clock
from labctl.config.schema import Reaction, SafetySection
from labctl.errors import DeviceError, LabctlError, SafetyError

log = logging.getLogger(__name__)
LIGHTS = {"laser": "enabled", "shutter": "open"}
"""Role -> the setting that lets light out."""


class Interlocks:
    """Watches one bench. Knows what was commanded, so that a laser that was switched off is no lost power.

    Parameters
    ----------
    safety : SafetySection
    roles : mapping
        Instrument's name -> role.
    full_scale : int, counts
        A pixel at this count is saturated.
    clock : Clock
    """

    def __init__(self, safety: SafetySection, *, roles: Mapping[str, str], full_scale: int, clock: Clock) -> None:
        self._safety, self._roles, self._full_scale, self._clock = safety, dict(roles), full_scale, clock
        self._lit = {name: True for name, role in self._roles.items() if role in LIGHTS}
        self._saturated_in_a_row = 0
        self._power_at = -np.inf
        self._warned: set[str] = set()
        self._tripped = ""

    def allow_exposure(self, exposure_s: float) -> None:
        """Refuse an exposure that is longer than allowed, or no time at all.

        Raises
        ------
        SafetyError
        """
        longest = self._safety.max_exposure_ms
        if longest is not None and not 0 < exposure_s <= longest * 1e-3 * (1 + 1e-9):
            raise SafetyError(
                f"camera: an exposure of {exposure_s * 1e3:g} ms is outside safety.max_exposure_ms = {longest:g}: "
                "no frame was taken"
            )

    def allow_setting(self, name: str, setting: str, value: Any) -> None:
        """Refuse to let light out after an interlock has switched it off, until the bench was made safe.

        Raises
        ------
        SafetyError
        """
        light = LIGHTS.get(self._roles.get(name, ""))
        if self._tripped and light == setting and bool(value):
            raise SafetyError(f"{name}: not switched on again, because an interlock tripped: {self._tripped}")

    def in_order(self, name: str, settings: Mapping[tuple[str, str], Any]) -> list[tuple[str, Any]]:
        """What an instrument that was opened again is to be set to: its light last, and not after an interlock tripped.

        Parameters
        ----------
        settings : mapping of (instrument, setting) to value
            As they were sent, oldest first.
        """
        light = LIGHTS.get(self._roles.get(name, ""))
        own = [(setting, value) for (instrument, setting), value in settings.items() if instrument == name]
        lit = [(setting, value) for setting, value in own if setting == light and not (self._tripped and bool(value))]
        return [(setting, value) for setting, value in own if setting != light] + lit

    def was_set(self, name: str, setting: str, value: Any) -> None:
        """Take note of a setting that was sent."""
        if name in self._lit and setting == LIGHTS[self._roles[name]]:
            self._lit[name] = bool(value)
            self._power_at = -np.inf  # look at once whether it did what it was told

    def was_made_safe(self, *, dark: bool) -> None:
        """The bench is safe, and dark unless its file leaves the laser on: whoever asks for light again may have it."""
        if dark:
            self._lit = dict.fromkeys(self._lit, False)
        self._saturated_in_a_row = 0
        self._warned.clear()
        self._tripped = ""

    def trip(self, why: str) -> None:
        """Keep the light off until `was_made_safe`."""
        self._tripped = why

    def after_frame(
        self, data: NDArray[np.unsignedinteger[Any]], read: Callable[[str, str], Any]
    ) -> tuple[Reaction, str] | None:
        """Judge a frame, and the power if it is time to.

        Parameters
        ----------
        data : unsigned integer array [row, column], counts
        read : (instrument, setting) -> reading

        Returns
        -------
        (reaction, why) or None
            What to do about it; a warning is given once, until things are well again.
        """
        found = self._judged("saturation", self._saturation(data))
        if found is None and self._power_is_due():
            found = self._judged("power", self._power_loss(read))
        return found

    def _judged(self, kind: str, found: tuple[Reaction, str] | None) -> tuple[Reaction, str] | None:
        """`found`, without a warning that has been given."""
        if found is None:
            self._warned.discard(kind)
            return None
        if found[0] == "warn":
            if kind in self._warned:
                return None
            self._warned.add(kind)
        return found

    def _saturation(self, data: NDArray[np.unsignedinteger[Any]]) -> tuple[Reaction, str] | None:
        limit = self._safety.saturation
        if limit is None:
            return None
        count = int(np.count_nonzero(data >= self._full_scale))
        self._saturated_in_a_row = self._saturated_in_a_row + 1 if count >= limit.pixels else 0
        if self._saturated_in_a_row < limit.frames:
            return None
        frames = f"{self._saturated_in_a_row} frames in a row" if limit.frames > 1 else "a frame"
        return limit.reaction, (
            f"camera: {frames} with {limit.pixels} saturated pixels or more (now {count}): "
            "shorten the exposure or lower the laser"
        )

    def _power_is_due(self) -> bool:
        limit = self._safety.power_loss
        if limit is None or not all(self._lit.values()) or self._clock.now() - self._power_at < limit.every_s:
            return False
        self._power_at = self._clock.now()
        return True

    def _power_loss(self, read: Callable[[str, str], Any]) -> tuple[Reaction, str] | None:
        limit = self._safety.power_loss
        if limit is None:
            return None
        try:
            power = float(read(limit.meter, limit.setting))
        except (LabctlError, TypeError, ValueError) as error:
            # A meter that says nothing is no reassurance.
            return limit.reaction, f"{limit.meter}: the power cannot be read ({error}): check meter and light"
        if power >= limit.below:
            return None
        return limit.reaction, (
            f"{limit.meter}: {limit.setting} is {power:.3g}, below safety.power_loss.below = {limit.below:g}: "
            "check laser, shutter and fibre"
        )


def refuse_strong_light(safety: SafetySection, name: str, read: Callable[[str], Any]) -> None:
    """Refuse to open a bench whose laser is set stronger than allowed, as far as it can be asked.

    Raises
    ------
    SafetyError
    """
    strongest = safety.max_laser_power
    if strongest is None:
        return
    setting = safety.laser_power_setting
    try:
        power = float(read(setting))
    except (DeviceError, TypeError, ValueError) as error:
        log.info("%s: its power cannot be read before it is set (%s)", name, error)
        return
    if not power <= strongest * (1 + 1e-9):
        raise SafetyError(
            f"{name}: {setting} is {power:g}, above safety.max_laser_power = {strongest:g}: "
            "lower it at the laser, or raise the limit"
        )
