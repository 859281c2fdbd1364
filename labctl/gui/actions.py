"""Actions as records: what the window can do, once, from which menus and toolbars are lists of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QToolBar, QWidget

SEPARATOR = "-"


@dataclass(frozen=True)
class Action:
    """One thing that the window can do.

    Attributes
    ----------
    key : str
        Dotted name, e.g. ``run.start``.
    text : str
        As in the menu; & marks the mnemonic.
    handler : callable
        A guarded slot; takes the checked state if `checkable`.
    icon : str
        Name of a drawing in `labctl.gui.icons`; "" for none.
    shortcut : str
        Portable key sequence; "" for none.
    tooltip : str
        What it does, in a sentence.
    checkable : bool
    """

    key: str
    text: str
    handler: Callable[..., None]
    icon: str = ""
    shortcut: str = ""
    tooltip: str = ""
    checkable: bool = False


def build(records: Iterable[Action], owner: QWidget) -> dict[str, QAction]:
    """One `QAction` for each record, owned by `owner`; icons come later, from the palette.

    Raises
    ------
    ValueError
        If two records share a key or a shortcut.
    """
    actions: dict[str, QAction] = {}
    shortcuts: dict[str, str] = {}
    for record in records:
        if record.key in actions:
            raise ValueError(f"two actions are called {record.key}")
        if record.shortcut and record.shortcut in shortcuts:
            raise ValueError(f"{record.key} and {shortcuts[record.shortcut]} share the shortcut {record.shortcut}")
        action = QAction(record.text, owner)
        action.setObjectName(record.key)
        action.setCheckable(record.checkable)
        tip = record.tooltip or record.text.replace("&", "")
        if record.shortcut:
            shortcuts[record.shortcut] = record.key
            action.setShortcut(QKeySequence(record.shortcut))
            action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
            tip = f"{tip} ({action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)})"
        action.setToolTip(tip)
        action.setStatusTip("")
        action.triggered.connect(record.handler)
        owner.addAction(action)
        actions[record.key] = action
    return actions


def fill(target: QMenu | QToolBar, keys: Iterable[str], actions: Mapping[str, QAction]) -> None:
    """Add actions by key; "-" is a separator."""
    for key in keys:
        if key == SEPARATOR:
            target.addSeparator()
        else:
            target.addAction(actions[key])
