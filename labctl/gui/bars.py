"""Menus and the toolbar, from the lists of keys in `labctl.gui.commands`."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMainWindow, QToolBar

from labctl.gui import icons, theme
from labctl.gui.actions import Action, fill
from labctl.gui.commands import MENUS, TOOLBAR


def fill_bars(window: QMainWindow, actions: Mapping[str, QAction], toggles: Mapping[str, QAction]) -> None:
    """Menus and a toolbar of these actions; the panels' toggles end the View menu."""
    for title, keys in MENUS.items():
        menu = window.menuBar().addMenu(title)
        fill(menu, keys, actions)
        if title == "&View":
            menu.addActions(list(toggles.values()))
    bar = QToolBar("Toolbar", window)
    bar.setMovable(False)
    bar.setIconSize(QSize(theme.ICON, theme.ICON))
    bar.setObjectName("toolbar")
    bar.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    fill(bar, TOOLBAR, actions)
    window.addToolBar(bar)


def draw_icons(records: list[Action], actions: Mapping[str, QAction], window: QMainWindow) -> None:
    """Icons in the colours of the window's palette."""
    for record in records:
        if record.icon:
            actions[record.key].setIcon(icons.icon(record.icon, window.palette()))
