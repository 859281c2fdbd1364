"""A picture of counts or gray levels: one `ImageItem` with fixed levels, or a line that says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtWidgets import QStackedLayout, QWidget

from labctl.gui import theme
from labctl.gui.colormaps import Lut, lut
from labctl.gui.guard import guarded, guarded_event

STALE_OPACITY = 0.35


class Picture(QWidget):
    """Shows an array [row, column], row 0 at the top.

    Levels are always given, never looked for, and pyqtgraph's `autoDownsample`, which averages, stays off: at 5 MPx
    that is 7 ms a frame against 49.

    Parameters
    ----------
    empty : str
        What to do to see something here.
    """

    hovered = Signal(int, int)  # row, column; -1, -1 outside
    shown_first = Signal()

    def __init__(self, empty: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._data: NDArray[Any] | None = None
        self._levels = (0.0, 1.0)
        self._step = 1
        self._note = theme.Quiet(empty)
        self._note.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._note.setWordWrap(True)
        self._note.setMargin(2 * theme.GAP)
        self._item = pg.ImageItem(axisOrder="row-major")
        self._item.setLookupTable(lut("gray"))
        self._box = pg.ViewBox(lockAspect=True, invertY=True, enableMenu=False, defaultPadding=0.01)
        self._box.addItem(self._item)
        self._view = pg.GraphicsView(background=None)
        self._view.setCentralItem(self._box)
        self._view.setFrameShape(pg.GraphicsView.Shape.NoFrame)
        self._box.sigRangeChanged.connect(self._on_range)
        self._view.viewport().installEventFilter(self)
        self._view.scene().sigMouseMoved.connect(self._on_mouse)
        self._view.setToolTip("Wheel: zoom. Drag: move. Double click: the whole picture.")
        self._stack = QStackedLayout(self)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self._stack.addWidget(self._note)
        self._stack.addWidget(self._view)

    @property
    def data(self) -> NDArray[Any] | None:
        """What is shown."""
        return self._data

    def set_lut(self, table: Lut) -> None:
        """Colours from the lower to the upper level."""
        self._item.setLookupTable(table)

    def set_levels(self, low: float, high: float) -> None:
        """Values that get the first and the last colour."""
        self._levels = (low, high)
        self._item.setLevels(self._levels)

    def set_data(self, data: NDArray[Any], levels: tuple[float, float]) -> None:
        """Show an array [row, column] between two levels."""
        new_shape = self._data is None or self._data.shape != data.shape
        first = self._data is None
        self._data = data
        self._levels = levels
        self._stack.setCurrentWidget(self._view)
        if new_shape:
            self.fit()
        self._render()
        self._item.setOpacity(1.0)
        if first:
            self.shown_first.emit()

    def clear(self, note: str = "") -> None:
        """Show nothing but the note."""
        self._data = None
        if note:
            self._note.setText(note)
        self._item.clear()
        self._stack.setCurrentWidget(self._note)

    def set_stale(self, stale: bool) -> None:
        """Fade a picture that no longer says what is so."""
        self._item.setOpacity(STALE_OPACITY if stale else 1.0)

    def fit(self) -> None:
        """The whole picture, as large as it goes."""
        if self._data is not None:
            rows, columns = self._data.shape[:2]
            self._box.setRange(xRange=(0, columns), yRange=(0, rows), padding=0.01)

    def actual_size(self) -> None:
        """One pixel of the picture on one pixel of the screen, about the centre."""
        if self._data is None:
            return
        rows, columns = self._data.shape[:2]
        ratio = self._view.devicePixelRatioF()
        half_w, half_h = self._view.width() * ratio / 2, self._view.height() * ratio / 2
        self._box.setRange(
            xRange=(columns / 2 - half_w, columns / 2 + half_w),
            yRange=(rows / 2 - half_h, rows / 2 + half_h),
            padding=0,
        )

    def _render(self) -> None:
        """Hand over every n-th row and column where a screen pixel covers n or more.

        Drawing takes the nearest pixel anyway, so the picture is the same and a 5 MPx frame costs a quarter or less.
        """
        if self._data is None:
            return
        self._step = self._wanted_step()
        part = self._data[:: self._step, :: self._step]
        self._item.setImage(part, autoLevels=False, levels=self._levels)
        self._item.setRect(QRectF(0, 0, part.shape[1] * self._step, part.shape[0] * self._step))

    def _wanted_step(self) -> int:
        width, height = self._box.viewPixelSize()
        return max(1, int(min(width, height) / self._view.devicePixelRatioF()))

    @guarded()
    def _on_range(self) -> None:
        if self._data is not None and self._wanted_step() != self._step:
            self._render()

    @guarded()
    def _on_mouse(self, position: QPointF) -> None:
        point = self._box.mapSceneToView(position)
        row, column = int(np.floor(point.y())), int(np.floor(point.x()))
        inside = self._data is not None and 0 <= row < self._data.shape[0] and 0 <= column < self._data.shape[1]
        self.hovered.emit(*((row, column) if inside else (-1, -1)))

    @guarded_event
    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """Leaving the picture leaves no value behind; a double click fits it."""
        if event.type() == QEvent.Type.Leave:
            self.hovered.emit(-1, -1)
        elif event.type() == QEvent.Type.MouseButtonDblClick:
            self.fit()
        return False
