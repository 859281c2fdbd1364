"""Starting the app: a clean environment for Qt, the window first, everything slow after it has painted."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PySide6.QtWidgets import QMainWindow

JOIN_LIMIT_S = 5.0
log = logging.getLogger(__name__)


def clean_environment() -> None:
    """Undo what `import cv2` does to Qt: opencv-python points it to plugins and fonts of its own Qt 5.

    Call before a QApplication exists, after whatever may have imported cv2; it is the one place that does.
    """
    for name in ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"):
        if "cv2" in Path(os.environ.get(name, "")).parts:
            del os.environ[name]


def main(argv: Sequence[str] | None = None, *, autostart_demo: bool = False) -> int:
    """Run the desktop app until its window is closed.

    Parameters
    ----------
    argv : sequence of str, optional
        Options without the program's name; default those of the command line.
    autostart_demo : bool
        Start the demo as soon as the bench is open.

    Returns
    -------
    int
        0 if the bench was left safe; 1 if it could not be opened at all, or did not close in time.
    """
    options = _parse(argv)
    clean_environment()
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from labctl.errors import LabctlError
    from labctl.gui import settings as remembered
    from labctl.gui import theme
    from labctl.gui.guard import install_hooks
    from labctl.gui.window import MainWindow
    from labctl.gui.workplace import RealWorkplace

    app = QApplication.instance() or QApplication([sys.argv[0]])
    if not isinstance(app, QApplication):
        raise RuntimeError("a QCoreApplication without windows is running in this process")
    app.setApplicationName("labctl")
    app.setStyle("Fusion")
    try:
        workplace = RealWorkplace.find(options.workspace)
    except LabctlError as error:
        sys.stderr.write(f"labctl: {error}\n")
        return 1
    path = options.settings or remembered.default_path()
    chosen, notes = remembered.load(path)
    chosen.bench = options.bench or chosen.bench
    chosen.images = options.images or chosen.images
    chosen.model = options.model or chosen.model
    theme.apply_appearance(options.appearance or chosen.appearance)
    _listen_to_everything()
    restore_hooks = install_hooks()
    window = MainWindow(workplace, chosen, path, autostart=autostart_demo or options.demo)
    for note in notes:
        log.warning("%s", note)
    window.show()
    former = _on_interrupt(window)
    # Python runs signal handlers between bytecodes only: a timer sees to it that there are some.
    pulse = QTimer(interval=200)
    pulse.timeout.connect(_nothing)
    pulse.start()
    if options.quit_after:
        QTimer.singleShot(round(1000 * options.quit_after), window, window.on_quit)
    try:
        app.exec()
    finally:
        pulse.stop()
        window.session.shutdown()
        safe = window.session.join(JOIN_LIMIT_S)
        for number, handler in former.items():
            signal.signal(number, handler)
        restore_hooks()
    return 0 if safe else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="labctl gui", description="The labctl window.")
    parser.add_argument("--bench", help="open this bench instead of the last one")
    parser.add_argument("--model", help="choose this model")
    parser.add_argument("--images", type=int, help="test images of a demo run")
    parser.add_argument("--demo", action="store_true", help="start the demo as soon as the bench is open")
    parser.add_argument("--workspace", type=Path, help="the folder with configs, models, calibration and runs")
    parser.add_argument("--settings", type=Path, help="the window's settings file")
    parser.add_argument("--appearance", choices=["system", "light", "dark"])
    parser.add_argument("--quit-after", type=float, metavar="SECONDS", help="close the window by itself, for tests")
    return parser.parse_args(argv)


def _on_interrupt(window: QMainWindow) -> dict[int, Any]:
    """Ctrl-C and SIGTERM close the window as its button does; a second one ends at once."""
    asked: list[float] = []

    def close(_number: int, _frame: FrameType | None) -> None:
        if asked and time.monotonic() - asked[0] > 0.5:
            os._exit(130)
        asked.append(time.monotonic())
        window.close()

    former: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        former[number] = signal.signal(number, close)
    return former


def _listen_to_everything() -> None:
    """The log panel gets every line and filters; the terminal gets what it got before."""
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setLevel(max(handler.level, root.level))
    logging.getLogger("labctl").setLevel(logging.DEBUG)


def _nothing() -> None:
    return None


if __name__ == "__main__":
    sys.exit(main())
