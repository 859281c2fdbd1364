"""What every test gets: user folders of its own, one thread per worker, and a look at what it leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports numpy, torch or Qt: they read these once.
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir(), "labctl-tests-matplotlib")))
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

import pytest
from hypothesis import HealthCheck, settings

from labctl.workspace import Workspace, init

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 3.0
"""How long a thread or process that was told to end may take."""


@pytest.fixture(autouse=True)
def _folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what belongs to the person who runs it. `LABCTL_DATA` stays: data sets are only read."""
    user = tmp_path / "user"
    monkeypatch.setenv("LABCTL_WORKSPACE", str(user / "workspace"))
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(user / name.lower()))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The example workspace, copied; `labctl.workspace.find` finds it."""
    return init(tmp_path / "user" / "workspace")


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process, a running timer or an open window behind."""
    threads, children = set(threading.enumerate()), _children()
    timers = _watch_timers(monkeypatch)
    yield
    left = _left(lambda: {thread.name for thread in threading.enumerate() if _counts(thread, threads)})
    assert not left, f"threads left running: {sorted(left)}"
    left = _left(lambda: _children() - children)
    assert not left, f"child processes left running: {sorted(left)}"
    _finish_deletions()
    left = _windows()
    assert not left, f"windows left open: {sorted(left)}"
    left = {f"{timer.parent()!r}" for timer in list(timers) if _is_active(timer)}
    assert not left, f"timers left running, of {sorted(left)}"


def _left(look: Any) -> set[Any]:
    until = time.monotonic() + GRACE_S
    while (left := look()) and time.monotonic() < until:
        time.sleep(0.01)
    return left


def _counts(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    """Whether a thread is this test's to end; tqdm's monitor lives as long as the process, by design."""
    return thread not in before and thread.is_alive() and type(thread).__name__ not in {"TMonitor", "_DummyThread"}


def _children() -> set[int]:
    """Process ids of the living children, where the system tells; else those that multiprocessing started."""
    found = {process.pid for process in multiprocessing.active_children() if process.pid}
    tasks = Path(f"/proc/{os.getpid()}/task")
    if tasks.is_dir():
        for task in tasks.iterdir():
            try:
                found |= {int(pid) for pid in (task / "children").read_text(encoding="ascii").split()}
            except OSError:  # the task or the listing is gone, and its children with it
                continue
    from multiprocessing import resource_tracker

    # The tracker of shared memory lives as long as the process.
    return found - {getattr(resource_tracker._resource_tracker, "_pid", None)}


def _watch_timers(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    started: weakref.WeakSet[Any] = weakref.WeakSet()
    core = sys.modules.get("PySide6.QtCore")
    if core is None:
        return started
    start = core.QTimer.start

    def watched(timer: Any, *args: Any) -> None:
        started.add(timer)
        start(timer, *args)

    monkeypatch.setattr(core.QTimer, "start", watched)
    return started


def _application() -> Any:
    widgets = sys.modules.get("PySide6.QtWidgets")
    return widgets.QApplication.instance() if widgets is not None else None


def _finish_deletions() -> None:
    if _application() is not None:
        core = sys.modules["PySide6.QtCore"]
        core.QCoreApplication.sendPostedEvents(None, core.QEvent.Type.DeferredDelete.value)


def _windows() -> set[str]:
    application = _application()
    if application is None or not hasattr(application, "topLevelWidgets"):
        return set()
    return {repr(widget) for widget in application.topLevelWidgets() if widget.isVisible()}


def _is_active(timer: Any) -> bool:
    try:
        return bool(timer.isActive())
    except RuntimeError:  # Qt has deleted it
        return False
