"""What a run ran on: versions, revision, machine. Nothing here may stop a run, and nothing heavy is imported."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import labctl

PACKAGES = ("numpy", "scipy", "torch", "slmsuite", "h5py")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of labctl, Python and the packages that results depend on; "" for one that is not installed."""
    found = {"labctl": str(getattr(labctl, "__version__", "")), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


@functools.cache
def git_revision() -> dict[str, Any]:
    """Revision of the checkout that labctl was imported from; empty if it is installed, or git is absent.

    Returns
    -------
    dict
        ``{"revision": str, "dirty": bool}`` or ``{}``.
    """
    root = Path(labctl.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {}
    revision, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    return {} if not revision else {"revision": revision, "dirty": bool(status)}


def machine() -> dict[str, str]:
    """Operating system and machine name."""
    return {"platform": platform.platform(), "node": platform.node(), "processor": platform.machine()}


def _git(root: Path, *arguments: str) -> str:
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows: no console window flashes up
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, encoding="utf-8", timeout=10, check=False, creationflags=flags,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
