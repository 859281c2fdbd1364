"""What was commanded: gray levels of the SLM or the input panel, as phase or as gray."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from labctl.gui import theme
from labctl.gui.colormaps import CYCLIC, lut
from labctl.gui.guard import guarded
from labctl.gui.picture import Picture
from labctl.procedures.messages import Gray

GRAY, PHASE = "gray levels", "phase (cyclic)"


class PatternPanel(QWidget):
    """Preview of one panel.

    Parameters
    ----------
    device : str
        As in the text: "SLM" or "input panel".
    phase : bool or None
        Whether gray levels are shown as phase at first; None where they are no phase.
    """

    view_changed = Signal()

    def __init__(self, device: str, *, phase: bool | None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._device, self._levels = device, 256
        self._token = ""
        self._stale = False
        self._empty = f"Nothing commanded yet.\n\nWhat a run shows on the {device} appears here."
        self.picture = Picture(self._empty)
        self.caption = theme.quiet()
        self.mode = QComboBox()
        self.mode.addItems([PHASE, GRAY])
        self.mode.setCurrentText(PHASE if phase else GRAY)
        self.mode.setToolTip("Phase: one turn of the colours is one turn of the phase, as the gray levels command it")
        self._has_phase = phase is not None
        self.mode.hide()
        self.mode.currentTextChanged.connect(self._on_mode)
        self.picture.hovered.connect(self._on_hover)
        foot = QHBoxLayout()
        theme.pad(foot, margin=0, spacing=theme.TIGHT)
        foot.addWidget(self.caption, 1)
        foot.addWidget(self.mode)
        column = QVBoxLayout(self)
        theme.pad(column, spacing=theme.TIGHT)
        column.addWidget(self.picture, 1)
        column.addLayout(foot)
        self._recolour()

    @property
    def as_phase(self) -> bool:
        """Whether gray levels are shown as phase."""
        return self.mode.currentText() == PHASE

    def set_bench(self, levels: int | None, note: str = "") -> None:
        """Another bench with so many gray levels; None while no bench is open, or it has no such panel."""
        self._token = ""
        if levels is None:
            self.picture.set_stale(True)
            self.caption.setText(note)
            return
        self._levels = levels
        self.picture.clear(self._empty)
        self.mode.hide()
        self.caption.clear()

    def show_pattern(self, pattern: Gray | None, token: str) -> None:
        """Show a pattern [row, column] of gray levels, unless its token says that it is the one shown."""
        if pattern is None or (token and token == self._token and not self._stale):
            return
        self._token, self._stale = token, False
        self.picture.set_data(pattern, (0, self._levels - 1))
        self.mode.setVisible(self._has_phase)
        self._say()

    def set_blank(self) -> None:
        """The bench was left safe: what is shown here was the last pattern, and is no longer."""
        if self.picture.data is not None:
            self._stale = True
            self.picture.set_stale(True)
            self.caption.setText("last commanded, now blank")

    def _say(self) -> None:
        data = self.picture.data
        if data is not None and not self._stale:
            self.caption.setText(f"commanded, {data.shape[1]} x {data.shape[0]} px")

    @guarded()
    def _on_mode(self) -> None:
        self._recolour()
        self.view_changed.emit()

    @guarded(int, int)
    def _on_hover(self, row: int, column: int) -> None:
        data = self.picture.data
        if data is None or self._stale:
            return
        if row < 0:
            self._say()
            return
        gray = int(data[row, column])
        turns = f" = {gray / self._levels:.2f} turn" if self.as_phase else ""
        self.caption.setText(f"row {row}, column {column}: gray {gray}{turns}")

    def _recolour(self) -> None:
        self.picture.set_lut(lut(CYCLIC if self.as_phase else "gray"))
