"""A question to the person at the table, in the window: no modal box, and the rest stays usable."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from labctl.gui import theme
from labctl.gui.guard import guarded
from labctl.procedures.messages import Prompt


class PromptBar(QFrame):
    """Shows a `Prompt` with a button for each option; hidden when nothing is asked."""

    answered = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.text.setFont(theme.sized(self.font(), 1.0, bold=True))
        self.buttons: list[QPushButton] = []
        self._row = QHBoxLayout()
        theme.pad(self._row, margin=0, spacing=theme.TIGHT)
        column = QVBoxLayout(self)
        theme.pad(column)
        column.addWidget(self.text)
        column.addLayout(self._row)
        self.hide()

    def ask(self, prompt: Prompt) -> None:
        """Show a question; the first option is the default button."""
        self.withdraw()
        self.text.setText(prompt.text)
        for index, option in enumerate(prompt.options):
            button = QPushButton(option[:1].upper() + option[1:])
            button.setProperty("option", option)
            button.setDefault(index == 0)
            button.clicked.connect(self._on_clicked)
            self._row.addWidget(button)
            self.buttons.append(button)
        self.show()

    def withdraw(self) -> None:
        """Nothing is asked any more."""
        self.hide()
        for button in self.buttons:
            self._row.removeWidget(button)
            button.deleteLater()
        self.buttons = []

    @guarded()
    def _on_clicked(self) -> None:
        option = str(self.sender().property("option"))
        self.withdraw()
        self.answered.emit(option)
