"""The histogram strip: counts on a logarithmic height, with the two display levels to drag."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from labctl.gui.guard import guarded_event
from labctl.gui.statistics import FrameStatistics

HEIGHT = 64
REACH = 8
BARS_SHOWN = 256
BARS, LINE, SATURATED = QColor("#5b8db8"), QColor("#e08a1e"), QColor("#d1495b")


class Histogram(QWidget):
    """Paints `FrameStatistics`; emits the levels as they are dragged."""

    levels_dragged = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._statistics: FrameStatistics | None = None
        self._levels = (0.0, 1.0)
        self._dragging = -1
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        self.setToolTip("Pixels per count (every 4th row and column), logarithmic. Drag the lines to set the levels.")

    def sizeHint(self) -> QSize:
        """As wide as it gets, `HEIGHT` high."""
        return QSize(320, HEIGHT)

    def set_statistics(self, statistics: FrameStatistics | None) -> None:
        """Show these, or nothing."""
        self._statistics = statistics
        self.update()

    def set_levels(self, low: float, high: float) -> None:
        """Where the two lines stand, counts."""
        self._levels = (low, high)
        self.update()

    @guarded_event
    def paintEvent(self, _event: QPaintEvent) -> None:
        """Bars, then lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.setPen(QPen(self.palette().color(QPalette.ColorRole.Mid), 1))
        painter.setBrush(self.palette().color(QPalette.ColorRole.Base))
        painter.drawRoundedRect(area, 3, 3)
        if self._statistics is None:
            return
        bars = self._statistics.histogram
        if len(bars) > BARS_SHOWN:
            bars = bars.reshape(BARS_SHOWN, -1).sum(axis=1)
        heights = np.log1p(bars.astype(np.float64))
        heights *= (area.height() - 6) / max(float(heights.max()), 1e-9)
        width = area.width() / len(heights)
        bottom = area.bottom()
        points = [QPointF(area.left(), bottom)]
        for index, height in enumerate(heights):
            left = area.left() + index * width
            points += [QPointF(left, bottom - height), QPointF(left + width, bottom - height)]
        points.append(QPointF(area.right(), bottom))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(BARS)
        painter.drawPolygon(QPolygonF(points))
        if self._statistics.saturated:
            painter.fillRect(QRectF(area.right() - 3, area.top(), 3, area.height()), SATURATED)
        painter.setPen(QPen(LINE, 1.5))
        for level in self._levels:
            x = self._x(level)
            painter.drawLine(QPointF(x, area.top()), QPointF(x, bottom))

    @guarded_event
    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take the nearer line."""
        if self._statistics is not None and event.button() is Qt.MouseButton.LeftButton:
            distances = [abs(event.position().x() - self._x(level)) for level in self._levels]
            self._dragging = int(np.argmin(distances))
            self._drag_to(event.position().x())

    @guarded_event
    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag it; show that one can."""
        x = event.position().x()
        if self._dragging >= 0:
            self._drag_to(x)
        near = self._statistics is not None and any(abs(x - self._x(level)) < REACH for level in self._levels)
        self.setCursor(Qt.CursorShape.SplitHCursor if near else Qt.CursorShape.ArrowCursor)

    @guarded_event
    def mouseReleaseEvent(self, _event: QMouseEvent) -> None:
        """Let go."""
        self._dragging = -1

    def _x(self, level: float) -> float:
        scale = 1 if self._statistics is None else self._statistics.full_scale + 1
        return 1 + (self.width() - 3) * min(max(level / scale, 0.0), 1.0)

    def _drag_to(self, x: float) -> None:
        if self._statistics is None:
            return
        full = self._statistics.full_scale
        level = round(min(max((x - 1) / max(self.width() - 3, 1), 0.0), 1.0) * (full + 1))
        low, high = (int(value) for value in self._levels)
        if self._dragging == 0:
            low = min(level, high - 1)
        else:
            high = min(max(level, low + 1), full)
        self.levels_dragged.emit(max(low, 0), high)
