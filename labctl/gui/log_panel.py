"""What happened, line by line: levels coloured, with times, to filter and to copy."""

from __future__ import annotations

import datetime as dt
from collections import deque

from PySide6.QtCore import QEvent
from PySide6.QtGui import QGuiApplication, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QPlainTextEdit, QToolButton, QVBoxLayout, QWidget

from labctl.gui import theme
from labctl.gui.guard import guarded, guarded_event
from labctl.gui.status import Line

KEPT = 5000
LEVELS = ("debug", "info", "warning", "error")
_RANK = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 3}


class LogPanel(QWidget):
    """The newest lines at the bottom; scrolled up, it stays where one reads."""

    def __init__(self, *, level: str = "info", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self.text = QPlainTextEdit(readOnly=True, maximumBlockCount=KEPT)
        self.text.setFont(theme.sized(theme.mono(), 0.95))
        self.text.setPlaceholderText("Nothing has happened yet. What the bench and the runs say appears here.")
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.level = QComboBox()
        self.level.addItems(LEVELS)
        self.level.setCurrentText(level if level in LEVELS else "info")
        self.level.setToolTip("The least serious lines to show")
        self.search = QLineEdit(placeholderText="Filter", clearButtonEnabled=True)
        self.search.setToolTip("Show only lines that contain this text")
        self.copy_button, self.clear_button = QToolButton(), QToolButton()
        self.copy_button.setText("Copy")
        self.copy_button.setToolTip("Copy the selection, or every line shown")
        self.clear_button.setText("Clear")
        self.clear_button.setToolTip("Empty this view; the run's own log is not touched")
        head = QHBoxLayout()
        theme.pad(head, margin=0, spacing=theme.TIGHT)
        head.addWidget(self.level)
        head.addWidget(self.search, 1)
        head.addWidget(self.copy_button)
        head.addWidget(self.clear_button)
        column = QVBoxLayout(self)
        theme.pad(column, spacing=theme.TIGHT)
        column.addLayout(head)
        column.addWidget(self.text, 1)
        self._at_end = True
        bar = self.text.verticalScrollBar()
        bar.valueChanged.connect(self._on_scrolled)
        bar.rangeChanged.connect(self._on_range)
        self.level.currentTextChanged.connect(self.render_again)
        self.search.textChanged.connect(self.render_again)
        self.copy_button.clicked.connect(self.copy)
        self.clear_button.clicked.connect(self.clear)

    @property
    def lines(self) -> list[Line]:
        """Every line kept, shown or not."""
        return list(self._lines)

    @guarded(object)
    def add(self, line: Line) -> None:
        """Keep a line, and show it unless it is filtered out."""
        self._lines.append(line)
        if self._wanted(line):
            self._write(line)

    @guarded()
    def render_again(self) -> None:
        """After another filter, or another palette."""
        self.text.clear()
        for line in self._lines:
            if self._wanted(line):
                self._write(line)

    @guarded()
    def copy(self) -> None:
        """The selection, or every line shown, to the clipboard."""
        chosen = self.text.textCursor().selection().toPlainText()
        QGuiApplication.clipboard().setText(chosen or self.text.toPlainText())

    @guarded()
    def clear(self) -> None:
        """Forget every line."""
        self._lines.clear()
        self.text.clear()

    @guarded_event
    def changeEvent(self, event: QEvent) -> None:
        """The lines' colours follow light and dark."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "_at_end"):
            self.render_again()

    @guarded(int)
    def _on_scrolled(self, value: int) -> None:
        self._at_end = value >= self.text.verticalScrollBar().maximum() - 1

    @guarded()
    def _on_range(self) -> None:
        if self._at_end:  # more lines, or a smaller panel: either way the newest stay in sight
            bar = self.text.verticalScrollBar()
            bar.setValue(bar.maximum())

    def _wanted(self, line: Line) -> bool:
        needle = self.search.text().casefold()
        serious = _RANK.get(line.level, 1) >= _RANK[self.level.currentText()]
        return serious and (not needle or needle in line.text.casefold())

    def _write(self, line: Line) -> None:
        cursor = QTextCursor(self.text.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        if not self.text.document().isEmpty():
            cursor.insertBlock()
        style = QTextCharFormat()
        style.setForeground(theme.level_colour("debug", self.palette()))
        cursor.insertText(
            dt.datetime.fromtimestamp(line.time, dt.UTC).astimezone().strftime("%H:%M:%S.%f")[:-3] + "  ", style
        )
        style.setForeground(theme.level_colour(line.level, self.palette()))
        word = f"{line.level:<8}" if _RANK.get(line.level, 1) != 1 else " " * 8
        cursor.insertText(word + line.text.rstrip(), style)
