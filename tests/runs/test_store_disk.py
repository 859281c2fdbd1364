"""A disk that is full, that may only be read, or that goes away: one line, and everything before it is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs_fakes import Pairs, Rig

from labctl.errors import RunError
from labctl.runs.engine import Engine
from labctl.runs.events import Captured, Event
from labctl.runs.store import RunFolder, RunStore, open_run
from labctl.runs.verify import verify_run

HERE = Path(__file__).parent


def namespace() -> list[str]:
    """What to put before a command so that it may mount; skips where nobody may."""
    for before in (["unshare", "-rm"], ["unshare", "-m"]):
        if shutil.which("unshare"):
            done = subprocess.run([*before, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
            if done.returncode == 0:
                return before
    pytest.skip("no file system can be mounted here")


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs, limits the size of files")
@pytest.mark.parametrize("how", ["tmpfs", "surprise", "limit"])
def test_a_disk_that_is_full_for_good(tmp_path: Path, how: str) -> None:
    before = [] if how == "limit" else namespace()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)])}
    script = [sys.executable, str(HERE / "full_disk.py"), str(tmp_path / "runs"), str(tmp_path / "copy"), how]
    done = subprocess.run(
        [*before, *script], capture_output=True, text=True, encoding="utf-8", env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    why = "File too large" if how == "limit" else "the disk is full: free some space"
    assert all(why in words and "\n" not in words for words in told["words"][:1])
    assert f"frame {told['saved']} could not be saved; the {told['saved']} before it are in" in told["words"][0]
    assert told["saved"] >= (15 if how == "limit" else 20)
    assert (told["ended"], told["left"]) == ("", [])
    run = open_run(tmp_path / "copy")
    assert (run.outcome, run.frame_count) == ("failed", told["saved"])
    for number, frame in enumerate(run.frames(check=True)):
        assert np.array_equal(frame.data, np.random.default_rng(number).integers(0, 4096, (512, 1024), np.uint16))
    assert verify_run(run.path).whole
    with RunFolder.reopen(run.path) as folder:  # on a disk with room
        assert folder.saved == told["saved"]


def test_a_folder_that_may_only_be_read(rig: Rig, tmp_path: Path) -> None:
    where = Path("/proc/runs")
    if os.name == "nt" or os.geteuid() != 0:
        where = tmp_path / "read-only" / "runs"
        where.parent.mkdir(mode=0o500)
    if os.name == "nt":
        pytest.skip("folders have no such mode")
    with pytest.raises(RunError, match="cannot be made") as caught:
        Engine(rig.bench, store=RunStore(where)).run(Pairs())
    assert "\n" not in str(caught.value)
    assert rig.is_safe


@pytest.mark.skipif(os.name == "nt", reason="files that are open cannot be deleted")
def test_a_folder_that_is_deleted_while_the_run_goes_on(rig: Rig, runs_dir: Path) -> None:
    def delete(event: Event) -> None:
        if isinstance(event, Captured) and event.frame.number == 3:
            shutil.rmtree(engine.folder)

    engine = Engine(rig.bench, store=RunStore(runs_dir), observer=delete)
    with pytest.raises(
        RunError, match=r"frame \d+ could not be saved.*was deleted while the run was going on"
    ) as caught:
        engine.run(Pairs(batches=10))
    assert "\n" not in str(caught.value)
    assert rig.is_safe
    assert list(runs_dir.iterdir()) == []
    engine.observer = None
    assert engine.run(Pairs()).values == Pairs().expected()
    assert verify_run(engine.folder).whole
