"""What labctl needs of a machine, one check each: what is there, and the line that gets what is not."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from labctl.errors import LabctlError

MIB = 2**20

#: Shared library -> Debian package, Fedora package. The first group is linked by OpenCV and Qt whether or not there
#: is a screen, the second by Qt's windows on X.
ALWAYS = {
    "libGL.so.1": ("libgl1", "mesa-libGL"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libEGL.so.1": ("libegl1", "mesa-libEGL"),
    "libxkbcommon.so.0": ("libxkbcommon0", "libxkbcommon"),
    "libdbus-1.so.3": ("libdbus-1-3", "dbus-libs"),
    "libfontconfig.so.1": ("libfontconfig1", "fontconfig"),
}
WINDOWS_ON_X = {
    "libxcb-cursor.so.0": ("libxcb-cursor0", "xcb-util-cursor"),
    "libxcb-icccm.so.4": ("libxcb-icccm4", "xcb-util-wm"),
    "libxcb-image.so.0": ("libxcb-image0", "xcb-util-image"),
    "libxcb-keysyms.so.1": ("libxcb-keysyms1", "xcb-util-keysyms"),
    "libxcb-render-util.so.0": ("libxcb-render-util0", "xcb-util-renderutil"),
    "libxcb-shape.so.0": ("libxcb-shape0", "libxcb"),
    "libxcb-xinerama.so.0": ("libxcb-xinerama0", "libxcb"),
    "libxkbcommon-x11.so.0": ("libxkbcommon-x11-0", "libxkbcommon-x11"),
}
#: Import name -> what it drives, and what to install.
VENDORS = {
    "pypylon": ("Basler cameras", "pypylon"),
    "pymmcore": ("whatever Micro-Manager drives", "pymmcore"),
}


class Need(Enum):
    """How much a check matters."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True)
class Check:
    """One finding. `fix` is the line that gets what is missing, empty where there is none."""

    name: str
    good: bool
    detail: str
    fix: str = ""
    need: Need = Need.REQUIRED


def python() -> Check:
    """This Python's version."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def dependencies() -> list[Check]:
    """Every package that labctl asks for, installed against required."""
    from packaging.requirements import Requirement

    checks = []
    for text in requirements():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        fix = pip_line(f"{wanted.name}{wanted.specifier}")
        try:
            installed = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(wanted.name, False, f"missing, labctl needs {wanted.specifier}", fix))
            continue
        good = wanted.specifier.contains(installed, prereleases=True)
        detail = installed if good else f"{installed}, labctl needs {wanted.specifier}"
        if not good and wanted.name.lower() == "pyside6-essentials":
            detail += " (the versions left out crash or leak)"
        checks.append(Check(wanted.name, good, detail, "" if good else fix))
    return checks


def requirements() -> list[str]:
    """What labctl asks for: of the installed package, or of the checkout that it runs from."""
    try:
        found = importlib.metadata.requires("labctl")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        if not project.is_file():
            return []
        found = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return list(found)


def imports() -> list[Check]:
    """Whether the big packages load: each in a process of its own, because a broken one may take its process along."""
    torch = _try_python(
        "import torch; gpu = torch.cuda.is_available(); "
        "print(torch.__version__, 'on', torch.cuda.get_device_name(0) if gpu else 'the processor only', end='')"
    )
    checks = [Check("torch loads", torch[0], torch[1], "" if torch[0] else pip_line("--force-reinstall torch"))]
    for name, statement, fix in (
        ("OpenCV loads", "import cv2; print(cv2.__version__, end='')", "--force-reinstall opencv-python"),
        ("HDF5 loads", "import h5py; print(h5py.version.hdf5_version, end='')", "--force-reinstall h5py"),
    ):
        good, said = _try_python(statement)
        checks.append(Check(name, good, said, "" if good else library_line(ALWAYS) or pip_line(fix)))
    return checks


def qt() -> list[Check]:
    """Whether Qt starts: without a screen, and on this one if there is one."""
    start = "from PySide6.QtWidgets import QApplication; print(QApplication([]).platformName(), end='')"
    good, said = _try_python(start, QT_QPA_PLATFORM="offscreen")
    checks = [Check("Qt starts", good, said, "" if good else library_line(ALWAYS))]
    if has_screen():
        good, said = _try_python(start)
        fix = library_line(ALWAYS | WINDOWS_ON_X)
        checks.append(Check("Qt opens windows here", good, said, "" if good else fix))
    return checks


def libraries() -> list[Check]:
    """System libraries that OpenCV and Qt are linked against; only Linux machines may lack them."""
    if not sys.platform.startswith("linux"):
        return []
    groups = ((ALWAYS, Need.REQUIRED), (WINDOWS_ON_X, Need.REQUIRED if has_screen() else Need.OPTIONAL))
    checks = []
    for group, need in groups:
        for name in group:
            there = _loads(name)
            detail = "" if there else ("missing" if need is Need.REQUIRED else "missing (needed for windows on X)")
            checks.append(Check(name, there, detail, "" if there else library_line({name: group[name]}), need))
    return checks


def disk(folder: Path) -> Check:
    """Space for runs: a run of 500 frames of a megapixel is about 1 GB."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1024 / MIB:.1f} GiB free for runs in {folder}"
    return Check("disk space", free >= 2048 * MIB, detail, "" if free >= 2048 * MIB else "free 2 GiB or more")


def data_sets() -> list[Check]:
    """Image sets that are here."""
    try:
        from labctl.learning.data import fetch_hint, find_sets

        found = find_sets()
    except (ImportError, LabctlError) as error:
        return [Check("image sets", False, str(error), "labctl data list", Need.OPTIONAL)]
    if not found:
        return [Check("image sets", False, "none found", "labctl data list")]
    return [
        Check(
            place.name,
            not place.problem,
            place.problem or f"{place.source}, {place.train} train, {place.test} test, in {place.folder}",
            fetch_hint(place.name) if place.problem else "",
            Need.OPTIONAL,
        )
        for place in found
    ]


def vendors() -> list[Check]:
    """Kits for devices of certain makers."""
    checks = []
    for module, (what, package) in VENDORS.items():
        there = importlib.util.find_spec(module) is not None
        checks.append(Check(module, there, what, "" if there else pip_line(package), Need.OPTIONAL))
    return checks


def has_screen() -> bool:
    """Whether windows can be meant to open here."""
    return os.name == "nt" or sys.platform == "darwin" or bool(os.environ.get("DISPLAY"))


def pip_line(what: str) -> str:
    """The line that installs `what` into this Python."""
    checkout = Path(__file__).resolve().parents[2] / "constraints.txt"
    constraint = f' -c "{checkout}"' if checkout.is_file() else ""
    return f'"{sys.executable}" -m pip install{constraint} {_quoted(what)}'


def library_line(group: dict[str, tuple[str, str]]) -> str:
    """The line that installs the missing ones of these libraries on this system; empty if none is missing."""
    if not sys.platform.startswith("linux"):
        return ""
    missing = [packages for name, packages in group.items() if not _loads(name)]
    if not missing:
        return ""
    sudo = "" if _is_root() else "sudo "
    if shutil.which("dnf"):
        return f"{sudo}dnf install {' '.join(dict.fromkeys(fedora for _, fedora in missing))}"
    return f"{sudo}apt-get install {' '.join(dict.fromkeys(debian for debian, _ in missing))}"


def install_libraries() -> bool:
    """Install what is missing of `ALWAYS`, where this process may; whether everything is there now."""
    missing = [packages[0] for name, packages in ALWAYS.items() if not _loads(name)]
    apt = shutil.which("apt-get")
    if missing and apt and _is_root():
        quiet = {"check": False, "stdin": subprocess.DEVNULL, "capture_output": True}
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for line in ([apt, "update", "-qq"], [apt, "install", "-y", "-qq", "--no-install-recommends", *missing]):
            subprocess.run(line, env=environment, **quiet)  # type: ignore[call-overload]
    return all(_loads(name) for name in ALWAYS)


def _quoted(what: str) -> str:
    return what if all(char.isalnum() or char in "-_. " for char in what) or what.startswith('"') else f'"{what}"'


def _is_root() -> bool:
    return getattr(os, "geteuid", lambda: 1)() == 0


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _try_python(statement: str, **environment: str) -> tuple[bool, str]:
    """Whether a statement runs in a fresh Python, and the last line that it said."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", statement],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, "no answer within 60 s"
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    fallback = "" if done.returncode == 0 else f"ended with code {done.returncode}"
    return done.returncode == 0, said[-1] if said else fallback
