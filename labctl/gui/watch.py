"""Pictures that a run publishes: the newest of each name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from labctl.gui import theme
from labctl.gui.colormaps import lut
from labctl.gui.guard import guarded
from labctl.gui.picture import Picture

EMPTY = "No picture yet.\n\nPictures that a run publishes appear here."


class WatchPanel(QWidget):
    """One picture at a time, chosen by name; the newest name comes to the front."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pictures: dict[str, NDArray[Any]] = {}
        self.picture = Picture(EMPTY)
        self.picture.set_lut(lut("viridis"))
        self.names = QComboBox()
        self.caption = theme.quiet()
        foot = QHBoxLayout()
        theme.pad(foot, margin=0, spacing=theme.TIGHT)
        foot.addWidget(self.caption, 1)
        foot.addWidget(self.names)
        column = QVBoxLayout(self)
        theme.pad(column, spacing=theme.TIGHT)
        column.addWidget(self.picture, 1)
        column.addLayout(foot)
        self.names.hide()
        self.names.currentTextChanged.connect(self._on_name)

    def clear(self) -> None:
        """Before a run."""
        self._pictures.clear()
        self.names.clear()
        self.names.hide()
        self.caption.clear()
        self.picture.clear(EMPTY)

    def put(self, name: str, value: NDArray[Any]) -> None:
        """A published picture [row, column]."""
        new = name not in self._pictures
        self._pictures[name] = np.asarray(value)
        if new:
            self.names.addItem(name)
            self.names.setCurrentText(name)
            self.names.show()
        if self.names.currentText() == name:
            self._show(name)

    @guarded(str)
    def _on_name(self, name: str) -> None:
        if name in self._pictures:
            self._show(name)

    def _show(self, name: str) -> None:
        data = self._pictures[name]
        finite = data[np.isfinite(data)] if data.dtype.kind == "f" else data
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        self.picture.set_data(data, (low, high if high > low else low + 1))
        self.caption.setText(f"{name}: {low:.3g} to {high:.3g}")
