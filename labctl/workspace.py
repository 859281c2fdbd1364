"""Where things are: a lab's working directory with its `configs`, `models`, `calibration` and `runs`."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from labctl.errors import ConfigError, LabctlError

log = logging.getLogger(__name__)
ENVIRONMENT = "LABCTL_WORKSPACE"
MARK = Path("configs", "benches")
SHIPPED = ("configs", "models")
FOLDERS = ("configs", "models", "calibration", "runs")


@dataclass(frozen=True)
class Workspace:
    """A lab's working directory.

    Attributes
    ----------
    root : Path
        Absolute.
    """

    root: Path

    @property
    def configs(self) -> Path:
        """Bench files, recipes and experiments."""
        return self.root / "configs"

    @property
    def benches(self) -> Path:
        """One TOML file for each bench."""
        return self.root / MARK

    @property
    def models(self) -> Path:
        """One folder for each model bundle."""
        return self.root / "models"

    @property
    def calibration(self) -> Path:
        """One folder of records for each bench."""
        return self.root / "calibration"

    @property
    def runs(self) -> Path:
        """One folder for each recorded run."""
        return self.root / "runs"

    def bench_names(self) -> list[str]:
        """The benches that have a file here, sorted."""
        return sorted(path.stem for path in self.benches.glob("*.toml")) if self.benches.is_dir() else []


def is_workspace(folder: Path) -> bool:
    """Whether `folder` holds the bench files that make it a workspace."""
    return (folder / MARK).is_dir()


def find(start: Path | None = None) -> Workspace:
    """The workspace that is meant.

    With `start`: that folder, or the nearest one above it. Without: the folder that the environment variable
    ``LABCTL_WORKSPACE`` names; else the current folder or the nearest one above it; else the one in the user's data
    folder, made from the example on first use.

    Raises
    ------
    ConfigError
        If `start` is in no workspace, or ``LABCTL_WORKSPACE`` names none.
    LabctlError
        If the user's own workspace cannot be made.
    """
    if start is not None:
        found = _upward(start)
        if found is None:
            raise ConfigError(f"{start} is in no workspace: make one with 'labctl init {start}'")
        return found
    named = os.environ.get(ENVIRONMENT)
    if named:
        folder = Path(named).expanduser().absolute()
        if not is_workspace(folder):
            raise ConfigError(
                f"{ENVIRONMENT} names {folder}, which is no workspace (it has no {MARK.as_posix()}): "
                f"make one there with 'labctl init {folder}', or unset the variable"
            )
        return Workspace(folder)
    return _upward(Path.cwd()) or _users_own()


def init(target: Path) -> Workspace:
    """Copy the example workspace to `target`, all of it or nothing.

    Parameters
    ----------
    target : Path
        A folder that may exist and hold other things; none of the files to be written may be there.

    Returns
    -------
    Workspace

    Raises
    ------
    ConfigError
        If a file is in the way.
    LabctlError
        If it cannot be written; nothing is left behind then.
    """
    target = target.expanduser().absolute()
    source = example()
    files = _files(source)
    _refuse_what_is_in_the_way(target, files)
    made: list[Path] = []
    try:
        # Staging beside the final place: what can go wrong slowly (a full disk) goes wrong before anything shows.
        _make_folder(target, made)
        with tempfile.TemporaryDirectory(prefix=".labctl-init-", dir=target) as staging:
            for name in files:
                staged = Path(staging, name)
                staged.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, staged)
            for name in files:
                place = target / name
                _make_folder(place.parent, made)
                if place.exists():
                    raise ConfigError(f"{place} has just appeared: labctl init overwrites nothing")
                Path(staging, name).rename(place)
                made.append(place)
        for part in FOLDERS:
            _make_folder(target / part, made)
    except BaseException as error:
        _take_back(made)
        if isinstance(error, OSError):
            raise LabctlError(
                f"no workspace could be made in {target}: {error.strerror or error}; nothing was left behind"
            ) from error
        raise
    log.info("made a workspace of %d files in %s", len(files), target)
    return Workspace(target)


def example() -> Path:
    """The example workspace: in the installed package, or the checkout that this package runs from.

    Raises
    ------
    LabctlError
        If this installation has none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_workspace", package.parent):
        if is_workspace(folder):
            return folder
    raise LabctlError("this installation of labctl lacks its example workspace: install labctl again")


def _upward(start: Path) -> Workspace | None:
    start = start.expanduser().absolute()
    return next((Workspace(folder) for folder in (start, *start.parents) if is_workspace(folder)), None)


def _users_own() -> Workspace:
    folder = platformdirs.user_data_path("labctl", appauthor=False) / "workspace"
    if not is_workspace(folder):
        try:
            return init(folder)
        except ConfigError:
            # Another labctl that started at the same moment was faster; anything else is still no workspace.
            if not is_workspace(folder):
                raise
    return Workspace(folder)


def _files(source: Path) -> list[Path]:
    """What the example consists of, relative to its root: neither hidden files nor caches."""
    names = [
        path.relative_to(source)
        for part in SHIPPED
        for path in sorted((source / part).rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]
    return [name for name in names if not any(part.startswith((".", "__pycache__")) for part in name.parts)]


def _refuse_what_is_in_the_way(target: Path, files: list[Path]) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file: name a folder for the workspace")
    taken = [name for name in files if (target / name).exists()]
    if taken:
        more = f" and {len(taken) - 1} more files" if len(taken) > 1 else ""
        raise ConfigError(
            f"{target / taken[0]}{more} would be overwritten: choose another folder, or move them away first"
        )


def _make_folder(folder: Path, made: list[Path]) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        made.append(path)


def _take_back(made: list[Path]) -> None:
    for path in reversed(made):
        try:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        except OSError as error:  # someone put a file of theirs there meanwhile: that stays
            log.warning("%s stays: %s", path, error)
