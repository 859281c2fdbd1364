"""Fixtures of the runs tests: a fresh rig, a runs folder, and a check that no thread is left behind."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's import mode leaves helper modules to be found by ourselves

from runs_fakes import Rig
from small_lab import SmallLab


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture(scope="session")
def small_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLab]:
    """Its bench, model, calibrations and two runs stay as they are; replays may be added to its runs."""
    made = SmallLab(tmp_path_factory.mktemp("lab"))
    yield made
    shutil.rmtree(made.workspace.root)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(3.0)  # one that was told to end, such as a progress display's, may take a moment
    left = [thread.name for thread in left if thread.is_alive()]
    if left:
        pytest.fail(f"threads left behind: {left}")
