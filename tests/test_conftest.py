"""The fixtures that fail a test which leaves something behind do so, and leave tidy tests alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SAMPLES = """
import subprocess, sys, threading
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QWidget

kept = []

def test_thread():
    done = threading.Event()
    kept.append(done)
    threading.Thread(target=done.wait, args=(20,), name="lost", daemon=True).start()

def test_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"]))

def test_window(qapp):
    window = QWidget()
    kept.append(window)
    window.show()

def test_timer(qapp):
    for window in kept:
        if isinstance(window, QWidget):
            window.close()
    timer = QTimer()
    kept.append(timer)
    timer.start(1000)

def test_tidy(qapp, qtbot):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    subprocess.run([sys.executable, "-c", ""], check=True)
    window = QWidget()
    qtbot.addWidget(window)
    window.show()
    timer = QTimer(window)
    timer.start(5)
    qtbot.wait(10)
    timer.stop()

def test_end():
    kept[0].set()
    for thing in kept:
        if isinstance(thing, subprocess.Popen):
            thing.kill()
            thing.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists child processes of any kind")
def test_what_is_left_behind_fails_the_test_that_left_it(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "tests" / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_samples.py").write_text(SAMPLES, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "."],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    told = re.compile(r"^ERROR test_samples\.py::test_(\w+) - AssertionError: ([a-z ]+)", re.MULTILINE)
    left = dict(told.findall(done.stdout))
    assert left == {
        "thread": "threads left running",
        "process": "child processes left running",
        "window": "windows left open",
        "timer": "timers left running",
    }, done.stdout
