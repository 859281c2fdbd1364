"""From a section of a bench file to an instrument: the same way for a bench and for its guardian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labctl.devices.catalogue import construct, driver_class
from labctl.devices.contract import Instrument
from labctl.devices.instruments.guarded import GuardedInstrument
from labctl.errors import ConfigError, DeviceError

HARMFUL = ("laser", "shutter")
TABLE_DRIVERS = ("visa", "serial")


def open_instrument(
    name: str,
    *,
    driver: str,
    options: Mapping[str, Any],
    role: str,
    limits: Mapping[str, tuple[float, float]] | None = None,
    safe_state: Mapping[str, Any] | None = None,
    offered: Mapping[str, Any] | None = None,
) -> GuardedInstrument:
    """Open an instrument.

    Parameters
    ----------
    name : str
        Its name in the bench file.
    driver, options, role, limits
        As in ``[instruments.NAME]``.
    safe_state : mapping, optional
        As in ``[safety.safe_state.NAME]``.
    offered : mapping, optional
        What its constructor is given if it names it.

    Raises
    ------
    ConfigError
        If the section is wrong, or nothing says how to make a laser or shutter safe.
    DeviceError
        If the instrument cannot be opened.
    """
    where = f"instruments.{name}"
    found = driver_class(driver, role=where)
    device: Any
    if driver.startswith("pymeasure:"):
        from labctl.devices.instruments.pymeasure import PymeasureInstrument

        given = dict(options)
        device = PymeasureInstrument(
            found, given, name=name, safe=given.pop("safe", ()), retries=_count(given.pop("retries", 2), where)
        )
        knows_safe = device.knows_safe
    else:
        device = construct(found, options, role=where, offered={"name": name, **(offered or {})})
        knows_safe = bool(device.safe) if driver in TABLE_DRIVERS else True
    try:
        if not isinstance(device, Instrument):
            raise DeviceError(f"{where}: {driver} does not follow the instrument contract", device=name)
        if role in HARMFUL and not knows_safe and not safe_state:
            raise ConfigError(
                f'{where}: nothing says how to make this {role} safe: add safe = [["SETTING", VALUE]] to its options'
            )
    except BaseException:
        device.close()
        raise
    return GuardedInstrument(name, device, limits=limits, safe_state=safe_state)


def without_identification(driver: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options to open an instrument with where only its safe state counts: nothing that could fail before."""
    given = dict(options)
    if driver in TABLE_DRIVERS:
        given.pop("identify", None)
    return given


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10:
        raise ConfigError(f"{where}.options.retries must be a whole number from 0 to 10")
    return value
