"""The line at the foot of the window: what the bench is at, and what became of the frames."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QLabel, QStatusBar, QWidget

from labctl.gui import theme
from labctl.gui.mailbox import Counts
from labctl.gui.status import Phase, Status

TIPS = {
    "captured": "Frames that the camera gave since the run, or the live view, began",
    "saved": "Frames that are on disk",
    "shown": "Frames that this window showed",
    "dropped": "Frames that this window did not show because a newer one was there; they are on disk all the same",
}


class StatusBar(QStatusBar):
    """Bench state on the left, the four counts on the right, each with its tooltip."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizeGripEnabled(False)
        self.state = QLabel("no bench")
        self.counts = {name: QLabel() for name in TIPS}
        left, right = QWidget(), QWidget()
        for holder, labels in ((left, [self.state]), (right, list(self.counts.values()))):
            row = QHBoxLayout(holder)
            row.setContentsMargins(theme.GAP, 2, theme.GAP, 2)
            row.setSpacing(2 * theme.GAP)
            for label in labels:
                row.addWidget(label)
        for name, label in self.counts.items():
            label.setToolTip(TIPS[name])
        self.addWidget(left)
        self.addPermanentWidget(right)
        self.set_counts(Counts())

    def set_status(self, status: Status) -> None:
        """The bench, with a coloured dot for what it is at."""
        word = status.phase.value
        if status.phase is Phase.CLOSED and status.message:
            word = "did not open"
        bench = f"bench {status.bench}" if status.bench else "no bench"
        dot = f"<span style='color:{theme.phase_colour(word)}'>\N{BLACK CIRCLE}</span>"
        self.state.setText(f"{dot}&nbsp; {bench}: {word}")

    def set_counts(self, counts: Counts) -> None:
        """Frames captured, saved, shown and dropped (by the display)."""
        for name, label in self.counts.items():
            label.setText(f"{name} <b>{getattr(counts, name):,}</b>")
