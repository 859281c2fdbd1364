"""What one kit finds, in a process of its own: vendors' libraries hang, crash and write to the terminal.

``python -m labctl.devices.probing KIT`` writes one line: `MARK` and a JSON list of what was found.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from dataclasses import dataclass
from typing import Any

MARK = "labctl-found "


@dataclass(frozen=True)
class Kit:
    """A vendor's kit, and slmsuite's driver for it.

    Attributes
    ----------
    what : str
        What it drives.
    section : "camera" or "slm"
    driver : str
        As a bench file names it.
    packages : tuple of str
        Python packages, one of which it needs.
    install : str
        How to get them.
    windows : bool
        Whether there is a kit for Windows only.
    """

    what: str
    section: str
    driver: str
    packages: tuple[str, ...] = ()
    install: str = "install the maker's Python package"
    windows: bool = False


KITS = {
    "basler": Kit("Basler cameras", "camera", "basler", ("pypylon",), "pip install pypylon"),
    "alliedvision": Kit("Allied Vision cameras", "camera", "slmsuite:alliedvision.AlliedVision", ("vmbpy", "vimba")),
    "flir": Kit("FLIR cameras", "camera", "slmsuite:flir.FLIR", ("PySpin",)),
    "thorlabs": Kit("Thorlabs cameras", "camera", "slmsuite:thorlabs.ThorCam", ("thorlabs_tsi_sdk",)),
    "mindvision": Kit("MindVision cameras", "camera", "slmsuite:mindvision.MindVision", ("mvsdk",)),
    "imagingsource": Kit(
        "The Imaging Source cameras", "camera", "slmsuite:imagingsource.ImagingSource", ("tisgrabber",)
    ),
    "micromanager": Kit(
        "cameras of Micro-Manager", "camera", "slmsuite:mmcore.MMCore", ("pymmcore",), "pip install pymmcore"
    ),
    "aravis": Kit("GigE Vision cameras", "camera", "aravis"),
    "opencv": Kit("UVC cameras", "camera", "opencv"),
    "holoeye": Kit("Holoeye SLMs", "slm", "slmsuite:holoeye.Holoeye", ("HEDS",), "install Holoeye's SLM Display SDK"),
    "santec": Kit("Santec SLMs", "slm", "slmsuite:santec.Santec", windows=True),
}
"""Kits that can be asked what is connected without opening it."""
UNASKED = {
    "meadowlark": "Meadowlark SLMs are not looked for, because looking opens them: "
    'driver = "slmsuite:meadowlark.Meadowlark", options = { slm_number = 1, lut_path = "..." }',
    "hamamatsu": "Hamamatsu SLMs cannot be looked for: "
    'driver = "slmsuite:hamamatsu.Hamamatsu", options = { serial_number = "..." }',
}
IDENTITIES = ("serial", "serial_number", "preselect", "slm_number", "source", "config", "identifier")
"""What drivers call the option that says which device is meant."""


def look(kit: str) -> list[dict[str, Any]]:
    """What a kit, ``visa`` or ``serial`` finds: dictionaries with the fields of `labctl.devices.discovery.Found`."""
    if kit == "visa":
        return _visa()
    if kit == "serial":
        return _serial()
    if kit == "opencv":
        return _opencv()
    if kit == "micromanager":
        return _micromanager()
    return _vendor(KITS[kit])


def _vendor(kit: Kit) -> list[dict[str, Any]]:
    from labctl.devices.catalogue import driver_class, own_parameters

    cls = driver_class(kit.driver, role=kit.section)
    named = own_parameters(cls)
    option = next((name for name in IDENTITIES if name in named), "")
    found = []
    for device in cls.info(verbose=False) or []:
        identity = device if isinstance(device, int | str) else str(device)
        options = {option: identity} if option else {}
        asks = ["pitch_um"] if "pitch_um" in named else []
        found.append(_found(kit.section, str(identity), kit.what, kit.driver, options, asks))
    return found


def _opencv() -> list[dict[str, Any]]:
    from labctl.devices.opencv import OpenCVCamera

    found = []
    for line in OpenCVCamera.info():
        number, _, name = line.partition(": ")
        found.append(
            _found("camera", name or number, f"video device {number}", "opencv", {"source": int(number)}, ["pitch_um"])
        )
    return found


def _micromanager() -> list[dict[str, Any]]:
    from pathlib import Path

    folder = Path("C:/Program Files/Micro-Manager-2.0")
    driver = KITS["micromanager"].driver
    return [
        _found("camera", path.stem, f"configuration {path}", driver, {"config": str(path)}, ["pitch_um"])
        for path in sorted(folder.glob("*.cfg"))
    ]


def _visa() -> list[dict[str, Any]]:
    import pyvisa

    manager = pyvisa.ResourceManager()
    try:
        resources = [name for name in manager.list_resources("?*::INSTR") if not name.startswith("ASRL")]
    finally:
        manager.close()
    return [
        _found("instruments", name, "VISA resource", "visa", {"resource": name}, ["role", "settings"])
        for name in resources
    ]


def _serial() -> list[dict[str, Any]]:
    from serial.tools.list_ports import comports

    return [
        _found(
            "instruments", port.device, port.description or "", "serial", {"port": port.device}, ["role", "settings"]
        )
        for port in sorted(comports())
    ]


def _found(
    section: str, name: str, detail: str, driver: str, options: dict[str, Any], asks: list[str]
) -> dict[str, Any]:
    return {"section": section, "name": name, "detail": detail, "driver": driver, "options": options, "asks": asks}


def main() -> None:
    """Look with the kit that the command line names."""
    warnings.simplefilter("ignore")
    found = look(sys.argv[1])
    sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    importlib.invalidate_caches()
    main()
