"""Make the pictures of the documentation from the running app: `python docs/make_screenshots.py`.

Starts a virtual X server of its own, opens the window on the simulated bench, runs the demo with a few images, and
saves ``docs/images/gui-*.png``. Needs Xvfb; takes about a minute.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SIZES = {"1920x1080": (1920, 1080), "1366x768": (1366, 768)}
LIMIT_S = 400


def main() -> int:
    """Start the X server, then this script again under it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100, help="test images of the demo run")
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return shoot(options.images, options.out)
    server, display = start_xvfb()
    try:
        environment = os.environ | {"DISPLAY": display, "QT_QPA_PLATFORM": "xcb", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, "--inside", "--images", str(options.images), "--out", str(options.out)]
        return subprocess.run(command, env=environment, check=False, timeout=LIMIT_S).returncode
    finally:
        server.terminate()
        server.wait(10)


def start_xvfb(size: str = "1920x1080x24") -> tuple[subprocess.Popen[bytes], str]:
    """A virtual X server on a display number that it chooses itself."""
    program = shutil.which("Xvfb")
    if program is None:
        raise SystemExit("Xvfb is missing: apt install xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as answer:
        number = answer.readline().strip()
    if not number:
        server.wait(10)
        raise SystemExit("Xvfb did not start")
    return server, f":{number}"


def shoot(images: int, out: Path) -> int:
    """Run the app as a person would, and take the pictures on the way."""
    from labctl.gui.app import clean_environment
    from labctl.workspace import find, init

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        workspace = init(Path(folder) / "lab") if find(ROOT).root == ROOT else find(ROOT)
        clean_environment()
        return _drive(workspace.root, images, out, Path(folder) / "gui.json")


def _drive(root: Path, images: int, out: Path, settings: Path) -> int:
    import logging

    from PySide6.QtWidgets import QApplication

    from labctl.gui.heartbeat import Heartbeat
    from labctl.gui.settings import Settings
    from labctl.gui.status import Phase
    from labctl.gui.window import MainWindow
    from labctl.gui.workplace import RealWorkplace

    app = QApplication(["labctl"])
    app.setStyle("Fusion")
    logging.getLogger("labctl").setLevel(logging.DEBUG)
    window = MainWindow(RealWorkplace.find(root), Settings(images=images), settings)
    heartbeat = Heartbeat(window)
    taken: set[str] = set()
    outcomes: list[str] = []

    def wait(ready: object, limit: float = LIMIT_S) -> None:
        until = time.monotonic() + limit
        while not ready():  # type: ignore[operator]
            if time.monotonic() > until:
                raise TimeoutError("the app did not get there in time")
            app.processEvents()
            time.sleep(0.002)

    def save(name: str, size: str) -> None:
        window.resize(*SIZES[size])
        window.docks.arrange()
        since = time.monotonic()
        wait(lambda: time.monotonic() - since > 0.5)
        window.views.camera.picture.fit()
        window.views.slm.picture.fit()
        window.views.input.picture.fit()
        app.processEvents()
        window.grab().save(str(out / f"gui-{name}.png"))
        taken.add(name)

    window.move(0, 0)
    window.resize(*SIZES["1920x1080"])
    window.show()
    wait(lambda: window.session.status.phase is Phase.IDLE, 60)
    save("start", "1366x768")
    window.resize(*SIZES["1920x1080"])
    window.bridge.outcome.connect(lambda outcome: outcomes.append(outcome.outcome))
    heartbeat.start()
    window.actions_by_key["run.start"].trigger()
    wait(lambda: outcomes or "test images, calibrated" in window.run_panel.stage.text().lower())
    since = time.monotonic()
    wait(lambda: outcomes or time.monotonic() - since > 3)
    heartbeat.stop()
    sys.stdout.write(
        f"event loop during the run: p50 {1e3 * heartbeat.quantile(0.5):.0f} ms, "
        f"p99 {1e3 * heartbeat.quantile(0.99):.0f} ms, longest {1e3 * heartbeat.quantile(1):.0f} ms\n"
    )
    if not outcomes:
        save("running", "1920x1080")
        save("running-1366", "1366x768")
    wait(lambda: bool(outcomes))
    wait(lambda: window.session.status.phase is Phase.IDLE)
    save("demo", "1920x1080")
    save("demo-1366", "1366x768")
    window.actions_by_key["view.dark"].trigger()
    save("demo-dark", "1920x1080")
    window.close()
    wait(lambda: not window.isVisible(), 30)
    sys.stdout.write(f"demo {outcomes[0]}; saved {', '.join(sorted(taken))} in {out}\n")
    return 0 if outcomes == ["done"] else 1


if __name__ == "__main__":
    sys.exit(main())
