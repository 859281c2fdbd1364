"""Figures as they are published, and the table at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from labctl.gui import theme
from labctl.gui.guard import guarded_event

SHOWN = 6


def say(value: Any, name: str = "") -> str:
    """A cell's text: percentages with one decimal, other numbers with four significant digits, the rest as it is."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else ("yes" if value else "no")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1f}" if "(%)" in name else f"{value:.4g}"
    return str(value)


def fold_intervals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of text; columns ``NAME low`` and ``NAME high`` become an interval behind column ``NAME``."""
    folded = []
    for row in rows:
        texts = {}
        for name, value in row.items():
            base = name.rsplit(" ", 1)[0]
            if name.endswith((" low", " high")) and base in row:
                continue
            texts[name] = say(value, name)
            if f"{name} low" in row and f"{name} high" in row:
                texts[name] += f" ({say(row[f'{name} low'], name)} to {say(row[f'{name} high'], name)})"
        folded.append(texts)
    return folded


class Figures(QWidget):
    """The numbers published last, newest value each; an accuracy (a share, or in percent) stands large above them."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values: dict[str, str] = {}
        self._rows: list[tuple[QLabel, QLabel]] = []
        self._big, self._big_name = QLabel(), theme.quiet()
        self._big.setFont(theme.sized(self.font(), 2.0, bold=True))
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, theme.TIGHT, 0, 0)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(0, 1)
        column = QVBoxLayout(self)
        theme.pad(column, margin=0, spacing=0)
        column.addWidget(self._big)
        column.addWidget(self._big_name)
        column.addLayout(self._grid)
        self.clear()

    @property
    def values(self) -> dict[str, str]:
        """What is shown, by name."""
        return dict(self._values)

    def clear(self) -> None:
        """Before a run."""
        self._values.clear()
        self._big.hide()
        self._big_name.hide()
        for name, value in self._rows:
            name.hide()
            value.hide()

    def put(self, name: str, value: float) -> None:
        """A published number."""
        if "accuracy" in name.lower():
            percent = value if "(%)" in name else 100 * value
            self._big.setText(f"{percent:.1f} %")
            self._big_name.setText(name.replace("(%)", "").strip())
            self._big.show()
            self._big_name.show()
            self._values[name] = self._big.text()
            return
        self._values.pop(name, None)
        self._values[name] = say(value)
        latest = [item for item in self._values.items() if "accuracy" not in item[0].lower()][-SHOWN:]
        for index, (key, text) in enumerate(sorted(latest)):
            if index == len(self._rows):
                self._rows.append((theme.quiet(), QLabel()))
                self._rows[index][1].setAlignment(Qt.AlignmentFlag.AlignRight)
                for place, widget in enumerate(self._rows[index]):
                    self._grid.addWidget(widget, index, place)
            for widget, content in zip(self._rows[index], (key, text), strict=True):
                widget.setText(content)
                widget.show()


class ResultTable(QTableWidget):
    """A table of text, as high as its rows."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setAlternatingRowColors(True)
        self.setShowGrid(False)
        self.setWordWrap(True)
        self.verticalHeader().hide()
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.horizontalHeader().setHighlightSections(False)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.hide()

    def show_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these rows, or nothing when there are none."""
        texts = fold_intervals(rows)
        columns = list(dict.fromkeys(name for row in texts for name in row))
        self.setColumnCount(len(columns))
        self.setRowCount(len(texts))
        self.setHorizontalHeaderLabels(columns)
        for i, row in enumerate(texts):
            for j, name in enumerate(columns):
                item = QTableWidgetItem(row.get(name, ""))
                item.setToolTip(row.get(name, ""))
                self.setItem(i, j, item)
        for j in range(len(columns)):
            mode = QHeaderView.ResizeMode.Stretch if j == 0 else QHeaderView.ResizeMode.ResizeToContents
            self.horizontalHeader().setSectionResizeMode(j, mode)
        self.setVisible(bool(texts))
        self._fit_height()

    @guarded_event
    def resizeEvent(self, event: QResizeEvent) -> None:
        """Another width breaks lines elsewhere."""
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._fit_height()

    def _fit_height(self) -> None:
        self.resizeRowsToContents()
        for i in range(self.rowCount()):
            self.setRowHeight(i, self.rowHeight(i) + theme.TIGHT)
        rows_height = sum(self.rowHeight(i) for i in range(self.rowCount()))
        self.setFixedHeight(rows_height + self.horizontalHeader().sizeHint().height() + 2 * self.frameWidth())
