"""The window on the real simulated bench, and the app as a person starts it: on an X server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labctl.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_simulated_bench_opens_shows_live_frames_and_calibrates(
    qtbot: Any, workspace: Workspace, tmp_path: Path
) -> None:
    from labctl.gui.settings import Settings
    from labctl.gui.status import Phase
    from labctl.gui.window import MainWindow
    from labctl.gui.workplace import RealWorkplace

    window = MainWindow(RealWorkplace(workspace), Settings(), tmp_path / "gui.json")
    try:
        window.show()
        qtbot.waitUntil(lambda: window.session.status.phase is Phase.IDLE, timeout=60000)
        qtbot.waitUntil(window.actions_by_key["bench.live"].isEnabled)
        assert window.windowTitle() == "sim-4f [SIMULATED] - labctl"
        window.actions_by_key["bench.live"].trigger()
        qtbot.waitUntil(lambda: window.mailbox.counts().shown >= 2, timeout=30000)
        window.actions_by_key["run.calibrate"].trigger()
        qtbot.waitUntil(lambda: window.mailbox.counts().saved >= 5, timeout=60000)
        assert window.views is not None
        qtbot.waitUntil(lambda: window.views.slm.picture.data is not None)
        window.actions_by_key["run.abort"].trigger()
        qtbot.waitUntil(lambda: "aborted" in window.run_panel.stage.text(), timeout=30000)
    finally:
        window.close()
        qtbot.waitUntil(lambda: not window.isVisible(), timeout=30000)
        window.deleteLater()
    runs = list(workspace.runs.glob("*calibrate*"))
    assert len(runs) == 1


def test_the_workplace_lists_benches_and_models(workspace: Workspace) -> None:
    from labctl.gui.workplace import RealWorkplace

    place = RealWorkplace(workspace)
    assert "sim-4f" in place.benches()
    assert all((workspace.models / name / "recipe.toml").is_file() for name in place.models())


def test_a_workspace_that_is_none_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labctl.gui.app", "--workspace", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("labctl: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.xserver
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_app_starts_on_a_real_x_server_and_ctrl_c_closes_it(workspace: Workspace, tmp_path: Path) -> None:
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("Xvfb is missing: apt install xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writing), "-screen", "0", "1366x768x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    app = None
    try:
        with os.fdopen(reading, encoding="ascii") as answer:
            display = f":{answer.readline().strip()}"
        settings = tmp_path / "gui.json"
        settings.write_text("{damaged", encoding="utf-8")
        app = subprocess.Popen(
            [sys.executable, "-m", "labctl.gui.app", "--workspace", str(workspace.root), "--settings", str(settings)],
            cwd=ROOT,
            env=os.environ | {"DISPLAY": display, "QT_QPA_PLATFORM": "xcb"},
            stderr=subprocess.PIPE,
            text=True,
        )
        title = _wait_for_title(display, "SIMULATED", app)
        assert "sim-4f" in title
        app.send_signal(signal.SIGINT)
        _, said = app.communicate(timeout=60)
        assert app.returncode == 0, said
        assert "Traceback" not in said
        assert settings.with_name("gui.json.damaged").is_file()
    finally:
        if app is not None and app.poll() is None:
            app.kill()
            app.wait(10)
        server.terminate()
        server.wait(10)


def _wait_for_title(display: str, text: str, app: subprocess.Popen[str]) -> str:
    """The title of a window that has this text, as the X server knows it."""
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is missing: apt install xdotool")
    until = time.monotonic() + 90
    while time.monotonic() < until:
        assert app.poll() is None, "the app ended by itself"
        found = subprocess.run(
            ["xdotool", "search", "--name", text, "getwindowname"],
            env=os.environ | {"DISPLAY": display},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        if found.returncode == 0 and text in found.stdout:
            return found.stdout.strip()
        time.sleep(0.3)
    raise AssertionError(f"no window with {text} in its title")
