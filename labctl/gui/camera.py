"""The camera as it is: picture, levels, histogram, saturation, value under the cursor, rates."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from labctl.bench.facts import BenchFacts
from labctl.gui import theme
from labctl.gui.colormaps import NAMES, lut
from labctl.gui.guard import guarded
from labctl.gui.histogram import Histogram
from labctl.gui.levels import Levels
from labctl.gui.mailbox import Counts, Shot
from labctl.gui.picture import Picture
from labctl.gui.statistics import FrameStatistics, measure

EMPTY = "No frame yet.\n\nTurn on the live view (Ctrl+L) to see the camera,\nor start the demo to see a whole run."


class CameraPanel(QWidget):
    """Live camera view. `show_shot` is called by the display timer, never by the hardware thread."""

    view_changed = Signal()  # colormap, scale or following changed by hand: worth remembering

    def __init__(
        self,
        *,
        colormap: str = NAMES[0],
        logarithmic: bool = False,
        follow: bool = True,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._bitdepth = 8
        self._shape: tuple[int, int] | None = None
        self._at = (-1, -1)
        self.statistics: FrameStatistics | None = None
        self.picture = Picture(EMPTY)
        self.histogram = Histogram()
        self.levels = Levels(follow=follow)
        self.colormap = QComboBox()
        self.colormap.addItems(NAMES)
        self.colormap.setCurrentText(colormap if colormap in NAMES else NAMES[0])
        self.colormap.setToolTip("Colours of the picture; viridis and cividis are safe for colour-blind eyes")
        self.logarithmic = _toggle("Log", "Logarithmic brightness: three decades between the levels", logarithmic)
        self.fit = _button("Fit", "The whole frame (or double-click the picture)")
        self.actual = _button("1:1", "One camera pixel on one screen pixel")
        self.cursor_value, self.saturation, self.rates = theme.quiet(), theme.quiet(), theme.quiet()
        self.saturation.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.rates.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._arrange()
        self._connect()
        self._recolour()

    def _arrange(self) -> None:
        head, caption, foot = QHBoxLayout(), QHBoxLayout(), QHBoxLayout()
        for row in (head, caption, foot):
            theme.pad(row, margin=0, spacing=theme.TIGHT)
        for widget in (self.colormap, self.logarithmic):
            head.addWidget(widget)
        head.addStretch(1)
        for widget in (self.fit, self.actual):
            head.addWidget(widget)
        caption.addWidget(self.cursor_value, 1)
        caption.addWidget(self.saturation, 1)
        foot.addWidget(self.levels)
        foot.addWidget(self.rates, 1)
        column = QVBoxLayout(self)
        theme.pad(column, spacing=theme.TIGHT)
        column.addLayout(head)
        column.addWidget(self.picture, 1)
        column.addLayout(caption)
        column.addWidget(self.histogram)
        column.addLayout(foot)

    def _connect(self) -> None:
        self.colormap.currentTextChanged.connect(self._on_view)
        self.logarithmic.toggled.connect(self._on_view)
        self.levels.follow.toggled.connect(self._on_follow)
        self.levels.changed.connect(self._on_levels)
        self.histogram.levels_dragged.connect(self._on_dragged)
        self.fit.clicked.connect(self._on_fit)
        self.actual.clicked.connect(self._on_actual)
        self.picture.hovered.connect(self._on_hover)

    @property
    def full_scale(self) -> int:
        """The largest count that the camera can give."""
        return (1 << self._bitdepth) - 1

    def set_bench(self, facts: BenchFacts | None) -> None:
        """Another bench, or none: what was shown is no longer so."""
        if facts is None:
            self.picture.set_stale(True)
            return
        self._bitdepth = facts.camera_bitdepth
        self._shape = facts.geometry.camera.shape
        self.levels.set_full_scale(self.full_scale)
        self.statistics = None
        self.histogram.set_statistics(None)
        self.picture.clear(EMPTY)
        self.saturation.clear()
        self.rates.clear()

    def show_shot(self, shot: Shot) -> None:
        """Show a frame, and what is known of it."""
        self.statistics = measure(shot.frame.data, self.full_scale)
        self.levels.offer(self.statistics)
        self.histogram.set_statistics(self.statistics)
        self.picture.set_data(shot.frame.data, self.levels.value)
        share = 100 * self.statistics.saturated / max(self.statistics.pixels, 1)
        self.saturation.setText(
            f"<span style='color:#d1495b'><b>{self.statistics.saturated:,} px saturated</b> ({share:.2g} %)</span>"
            if self.statistics.saturated
            else "0 px saturated"
        )
        self._say_value()

    def set_still(self) -> None:
        """No more frames for now."""
        self.rates.setText("" if self.picture.data is None else "not live: this is the last frame")

    def set_rates(self, captured: float, shown: float, counts: Counts) -> None:
        """Frames per second, and how many the display left out."""
        self.rates.setText(f"captured {captured:.0f}/s, shown {shown:.0f}/s, {counts.dropped:,} not shown")

    @guarded(int, int)
    def _on_levels(self, low: int, high: int) -> None:
        self.picture.set_levels(low, high)
        self.histogram.set_levels(low, high)

    @guarded(int, int)
    def _on_dragged(self, low: int, high: int) -> None:
        self.levels.set_by_hand(low, high)

    @guarded()
    def _on_follow(self) -> None:
        if self.statistics is not None:
            self.levels.offer(self.statistics)
        self.view_changed.emit()

    @guarded()
    def _on_view(self) -> None:
        self._recolour()
        self.view_changed.emit()

    @guarded()
    def _on_fit(self) -> None:
        self.picture.fit()

    @guarded()
    def _on_actual(self) -> None:
        self.picture.actual_size()

    @guarded(int, int)
    def _on_hover(self, row: int, column: int) -> None:
        self._at = (row, column)
        self._say_value()

    def _recolour(self) -> None:
        self.picture.set_lut(lut(self.colormap.currentText(), logarithmic=self.logarithmic.isChecked()))

    def _say_value(self) -> None:
        row, column = self._at
        data = self.picture.data
        if data is None:
            self.cursor_value.clear()
        elif 0 <= row < data.shape[0] and 0 <= column < data.shape[1]:
            self.cursor_value.setText(f"row {row}, column {column}: {int(data[row, column]):,} counts")
        else:
            whole = self._shape is None or data.shape == self._shape
            part = "" if whole or self._shape is None else f" window of {self._shape[1]} x {self._shape[0]} px"
            self.cursor_value.setText(f"{data.shape[1]} x {data.shape[0]} px{part}, {self._bitdepth} bit")


def _button(text: str, tip: str) -> QToolButton:
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    return button


def _toggle(text: str, tip: str, on: bool) -> QToolButton:
    button = _button(text, tip)
    button.setCheckable(True)
    button.setChecked(on)
    return button
