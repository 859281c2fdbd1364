"""The window's panels as docks: their first arrangement, and the one that a person made of it."""

from __future__ import annotations

import binascii
import logging

from PySide6.QtCore import QByteArray, Qt
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QDockWidget, QMainWindow

from labctl.gui import theme
from labctl.gui.commands import PANELS

log = logging.getLogger(__name__)
LAYOUT_VERSION = 1
SIMULATED = ("camera",)


class Docks:
    """One dock for each of `PANELS`, filled later."""

    def __init__(self, window: QMainWindow) -> None:
        self._window = window
        self._docks: dict[str, QDockWidget] = {}
        self.toggles: dict[str, QAction] = {}
        window.setDockNestingEnabled(True)
        window.setDockOptions(window.dockOptions() | QMainWindow.DockOption.GroupedDragging)
        window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
        for key, (title, shortcut) in PANELS.items():
            dock = QDockWidget(title, window)
            dock.setObjectName(key)
            waiting = theme.Quiet("Starting ...")
            waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
            dock.setWidget(waiting)
            toggle = dock.toggleViewAction()
            toggle.setObjectName(f"panel.{key}")
            toggle.setShortcut(QKeySequence(shortcut))
            toggle.setToolTip(f"Show or hide the panel ({shortcut})")
            self._docks[key] = dock
            self.toggles[f"panel.{key}"] = toggle

    def __getitem__(self, key: str) -> QDockWidget:
        return self._docks[key]

    def arrange(self) -> None:
        """The first arrangement: camera and log left, patterns beside them, the run panel right."""
        window, docks = self._window, self._docks
        left, right = Qt.DockWidgetArea.LeftDockWidgetArea, Qt.DockWidgetArea.RightDockWidgetArea
        for dock in docks.values():
            dock.setFloating(False)
            window.removeDockWidget(dock)
        window.addDockWidget(left, docks["camera"])
        window.splitDockWidget(docks["camera"], docks["slm"], Qt.Orientation.Horizontal)
        window.splitDockWidget(docks["slm"], docks["input"], Qt.Orientation.Vertical)
        window.tabifyDockWidget(docks["input"], docks["watch"])
        window.addDockWidget(right, docks["run"])
        window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, docks["log"])
        for dock in docks.values():
            dock.show()
        docks["input"].raise_()
        width, height = window.width(), window.height()
        run = min(max(width // 4, 352), 440)
        patterns = max((width - run) // 3, 250)
        window.resizeDocks(
            [docks["camera"], docks["slm"], docks["run"]],
            [width - run - patterns, patterns, run],
            Qt.Orientation.Horizontal,
        )
        window.resizeDocks([docks["log"]], [max(height // 6, 130)], Qt.Orientation.Vertical)
        half = (height - max(height // 6, 130)) // 2
        window.resizeDocks([docks["slm"], docks["input"]], [half, half], Qt.Orientation.Vertical)

    def state(self) -> tuple[str, str]:
        """Geometry and layout of the window, base64."""
        return _text(self._window.saveGeometry()), _text(self._window.saveState(LAYOUT_VERSION))

    def restore(self, geometry: str, layout: str) -> None:
        """What `state` gave; the first arrangement if that is empty or Qt refuses it."""
        if not geometry or not self._window.restoreGeometry(_bytes(geometry)):
            screen = QGuiApplication.primaryScreen().availableGeometry()
            self._window.resize(min(screen.width(), 1680) - 40, min(screen.height(), 1000) - 60)
        self.arrange()
        if layout and not self._window.restoreState(_bytes(layout), LAYOUT_VERSION):
            log.warning("the remembered layout could not be used: every panel is where it was at first")

    def mark_simulated(self, simulated: bool) -> None:
        """What simulated devices show says so in its title."""
        for key in SIMULATED:
            title = PANELS[key][0]
            self._docks[key].setWindowTitle(f"{title} [simulated]" if simulated else title)


def _text(state: QByteArray) -> str:
    return bytes(state.toBase64().data()).decode("ascii")


def _bytes(text: str) -> QByteArray:
    try:
        return QByteArray(binascii.a2b_base64(text))
    except (ValueError, binascii.Error):
        return QByteArray()
