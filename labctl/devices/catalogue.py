"""From a driver's name in a bench file to the class that drives the device.

``simulated``; labctl's own (`BUILT_IN`); ``slmsuite:module.Class``; ``pymeasure:module.Class``;
``package.module:Class``; or a name that an installed package registers under the entry point group ``labctl.drivers``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from labctl.errors import ConfigError, DeviceError, LabctlError

BUILT_IN = {
    "display": "labctl.devices.display:Display",
    "opencv": "labctl.devices.opencv:OpenCVCamera",
    "basler": "labctl.devices.basler:BaslerCamera",
    "aravis": "labctl.devices.aravis:AravisCamera",
    "visa": "labctl.devices.visa:VisaInstrument",
    "serial": "labctl.devices.serial:SerialInstrument",
}
"""labctl's own drivers by the name that a bench file gives them."""
SLMSUITE_PACKAGES = {"slm": "slmsuite.hardware.slms", "camera": "slmsuite.hardware.cameras"}


def driver_class(driver: str, *, role: str) -> type[Any]:
    """The class behind a driver's name.

    Parameters
    ----------
    driver : str
    role : "slm", "input", "camera" or an instrument's name
        Where in the bench file it stands.

    Raises
    ------
    ConfigError
        If there is no such driver, or its package is not installed.
    """
    driver = BUILT_IN.get(driver, driver)
    if ":" not in driver:
        registered = {point.name: point for point in entry_points(group="labctl.drivers")}
        if driver not in registered:
            near = difflib.get_close_matches(driver, ["simulated", *BUILT_IN, *registered], n=1)
            hint = (
                f"did you mean '{near[0]}'?" if near else "use simulated, slmsuite:module.Class or package.module:Class"
            )
            raise ConfigError(f"{role}.driver: no driver is called '{driver}': {hint}")
        try:
            return registered[driver].load()
        except Exception as error:
            raise ConfigError(f"{role}.driver: '{driver}' is registered but cannot be imported: {error}") from error
    package, _, name = driver.partition(":")
    if package == "pymeasure":
        module, _, name = name.rpartition(".")
        package = f"pymeasure.instruments.{module}".rstrip(".")
    elif package == "slmsuite":
        module, _, name = name.rpartition(".")
        package = f"{SLMSUITE_PACKAGES['camera' if role == 'camera' else 'slm']}.{module}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # vendors' modules warn that their own kit is missing; opening them will say so
            module_found = importlib.import_module(package)
        found = getattr(module_found, name)
    except ImportError as error:
        raise ConfigError(
            f"{role}.driver: '{driver}' cannot be imported ({error}): install its package or correct the name"
        ) from error
    except AttributeError as error:
        near = difflib.get_close_matches(name, dir(module_found), n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{role}.driver: module {package} has no class '{name}'{hint}") from error
    if not inspect.isclass(found):
        raise ConfigError(f"{role}.driver: '{driver}' is not a class")
    return found


def own_parameters(cls: type[Any]) -> set[str]:
    """What a driver's own constructor names, without its base classes'."""
    try:
        return set(inspect.signature(cls).parameters)
    except (TypeError, ValueError):  # a constructor written in C that does not say
        return set()


def options_of(cls: type[Any]) -> tuple[dict[str, bool], bool]:
    """What a driver's constructor takes by name.

    A ``**kwargs`` constructor passes what it does not name to its base class, as slmsuite's drivers do: then the base
    class's parameters are options too, and so on up; if the last one takes anything, so does the driver.

    Returns
    -------
    (dict of name to whether it must be given, whether any other name is taken too)
    """
    taken: dict[str, bool] = {}
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base) or base is object:
            continue
        try:
            # Positional-only parameters and *args cannot be given by name.
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        except (TypeError, ValueError):  # a constructor written in C that does not say
            return taken, True
        direct = not taken
        for parameter in parameters:
            if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
                # What a base class must have, the driver gives it.
                taken.setdefault(parameter.name, direct and parameter.default is inspect.Parameter.empty)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return taken, False
    return taken, bool(taken) or cls.__init__ is not object.__init__


def construct(
    cls: type[Any], options: Mapping[str, Any], *, role: str, offered: Mapping[str, Any] | None = None
) -> Any:
    """Open a device: ``cls(**options)``, with those of `offered` that its constructor names.

    Raises
    ------
    ConfigError
        If an option is not one of the driver's, is missing, or is not for the bench file to say.
    DeviceError
        If the driver fails to open the device.
    """
    parameters, anything = options_of(cls)
    for option in options:
        if option not in parameters and not anything:
            near = difflib.get_close_matches(option, parameters, n=1)
            names = ", ".join(parameters) or "none"
            hint = f": did you mean {near[0]}?" if near else f": it takes {names}"
            raise ConfigError(f"{role}.options.{option} is not an option of {cls.__name__}{hint}")
    named = own_parameters(cls)
    extra = {name: value for name, value in (offered or {}).items() if name in named and name not in options}
    needed = [name for name, needs in parameters.items() if needs and name not in options and name not in extra]
    if needed:
        raise ConfigError(f"{role}.options lacks {', '.join(needed)}: {cls.__name__} cannot be opened without")
    try:
        return cls(**options, **extra)
    except LabctlError:
        raise
    except Exception as error:
        twice = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and twice and twice[1] in options:
            raise ConfigError(
                f"{role}.options.{twice[1]}: {cls.__name__} finds this out by itself: remove it"
            ) from error
        raise DeviceError(
            f"{role}: {cls.__name__} could not be opened ({type(error).__name__}: {' '.join(str(error).split())}): "
            "check that it is connected, powered, and not open in another program",
            device=role,
        ) from error
