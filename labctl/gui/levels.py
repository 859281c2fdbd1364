"""Which counts get the first and the last colour: two numbers, or following the frame, or the full scale."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSpinBox, QToolButton, QWidget

from labctl.gui import theme
from labctl.gui.guard import guarded
from labctl.gui.statistics import FrameStatistics, auto_levels

DEADBAND = 0.08


class Levels(QWidget):
    """Emits `changed(low, high)`, counts, whenever the display levels change."""

    changed = Signal(int, int)

    def __init__(self, *, follow: bool = True, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._full = 255
        self.low, self.high = QSpinBox(), QSpinBox()
        self.low.setToolTip("Counts shown as the darkest colour")
        self.high.setToolTip("Counts shown as the brightest colour")
        for spin in (self.low, self.high):
            spin.setRange(0, self._full)
            spin.setKeyboardTracking(False)
            spin.setAccelerated(True)
        self.high.setValue(self._full)
        self.follow = QToolButton()
        self.follow.setText("Auto")
        self.follow.setCheckable(True)
        self.follow.setChecked(follow)
        self.follow.setToolTip("Levels follow the frame (darkest 1 % to brightest 0.2 %)")
        self.full = QToolButton()
        self.full.setText("Full scale")
        self.full.setToolTip("Levels from 0 to the largest count that the camera can give")
        self.full.clicked.connect(self._on_full)
        for spin in (self.low, self.high):
            spin.valueChanged.connect(self._on_edited)
        row = QHBoxLayout(self)
        theme.pad(row, margin=0, spacing=theme.TIGHT)
        for widget in (QLabel("Levels"), self.low, QLabel("to"), self.high, self.follow, self.full):
            row.addWidget(widget)

    @property
    def value(self) -> tuple[int, int]:
        """Present levels, counts."""
        return self.low.value(), self.high.value()

    def set_full_scale(self, full: int) -> None:
        """The largest count that the camera can give; levels at the former full scale move along."""
        if full == self._full:
            return
        at_full = self.high.value() == self._full
        self._full = full
        with QSignalBlocker(self.low), QSignalBlocker(self.high):
            self.low.setRange(0, full)
            self.high.setRange(0, full)
            if at_full:
                self.high.setValue(full)
        self.changed.emit(*self.value)

    def offer(self, statistics: FrameStatistics) -> None:
        """Follow a frame, if asked to; small changes are let be, so that the picture does not flicker."""
        if not self.follow.isChecked():
            return
        wanted, (low, high) = auto_levels(statistics), self.value
        span = max(wanted[1] - wanted[0], high - low, 1)
        if max(abs(wanted[0] - low), abs(wanted[1] - high)) > DEADBAND * span:
            self._set(*wanted)

    def set_by_hand(self, low: int, high: int) -> None:
        """Levels that a person chose: following stops."""
        self.follow.setChecked(False)
        self._set(low, high)

    def _set(self, low: int, high: int) -> None:
        with QSignalBlocker(self.low), QSignalBlocker(self.high):
            self.low.setValue(low)
            self.high.setValue(max(high, low + 1))
        self.changed.emit(*self.value)

    @guarded()
    def _on_edited(self) -> None:
        self.follow.setChecked(False)
        self.changed.emit(*self.value)

    @guarded()
    def _on_full(self) -> None:
        self.set_by_hand(0, self._full)
