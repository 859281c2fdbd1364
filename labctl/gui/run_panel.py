"""Choose, start, follow and stop a run; its result at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, QSize, Qt, QUrl, Signal
from PySide6.QtGui import QAction, QDesktopServices
from PySide6.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from labctl.gui import theme
from labctl.gui.guard import guarded
from labctl.gui.prompt_bar import PromptBar
from labctl.gui.results import Figures, ResultTable
from labctl.gui.status import Outcome, Phase, Status
from labctl.runs.events import Progressed, Published, RunStarted

HINT = (
    "The demo calibrates the bench, shows the model's masks on the SLM, sends test images through the light "
    "and says how many it gets right."
)
NO_MODEL = "There is no model in models/ yet: 'labctl train RECIPE' makes one, 'labctl models import' takes one over."
STEP = 100


class RunPanel(QWidget):
    """The run panel. Buttons are the window's actions; what they may do now is the window's business."""

    bench_chosen = Signal(str)
    choice_changed = Signal()

    def __init__(self, actions: Mapping[str, QAction], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._report: Path | None = None
        self._folder: Path | None = None
        self._phase, self._label, self._done = Phase.CLOSED, "", 0
        self.bench, self.model = QComboBox(), QComboBox()
        self.images = QSpinBox(minimum=10, maximum=10000, singleStep=STEP, value=500)
        self.bench.setToolTip("A file of configs/benches; choosing one opens it")
        self.model.setToolTip("A bundle of models/")
        self.images.setToolTip("How many test images are sent through the bench for each measured row of the table")
        for combo in (self.bench, self.model):
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            combo.setMinimumContentsLength(12)
        self.stage = QLabel(HINT, wordWrap=True)
        self.stage.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.bar = QProgressBar(textVisible=False)
        self.bar.setFixedHeight(10)
        self.progress = theme.quiet()
        self.prompt = PromptBar()
        self.figures, self.table = Figures(), ResultTable()
        self.buttons = {key: _button(actions[key]) for key in ("run.start", "run.pause", "run.stop", "run.abort")}
        self.report_buttons = {key: _button(actions[key]) for key in ("run.report", "run.folder")}
        self._arrange()
        self.bench.activated.connect(self._on_bench)
        self.model.activated.connect(self.choice_changed)
        self.images.editingFinished.connect(self.choice_changed)

    def _arrange(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.setSpacing(theme.GAP)
        form.addRow("Bench", self.bench)
        form.addRow("Model", self.model)
        form.addRow("Test images", self.images)
        start, *others = self.buttons.values()
        starts, buttons, reports = QHBoxLayout(), QHBoxLayout(), QHBoxLayout()
        for row, widgets in ((starts, [start]), (buttons, others), (reports, self.report_buttons.values())):
            theme.pad(row, margin=0, spacing=theme.TIGHT)
            for widget in widgets:
                row.addWidget(widget, 1)
        column = QVBoxLayout(self)
        theme.pad(column, margin=theme.GAP + theme.TIGHT)
        column.addLayout(form)
        column.addLayout(starts)
        column.addLayout(buttons)
        column.addWidget(self.stage)
        column.addWidget(self.bar)
        column.addWidget(self.progress)
        column.addWidget(self.prompt)
        column.addWidget(self.figures)
        column.addWidget(self.table, 1)
        column.addLayout(reports)
        column.addStretch(0)
        self.bar.hide()
        for widget in self.report_buttons.values():
            widget.hide()

    # ---- choices --------------------------------------------------------------------------------------------------

    def set_choices(
        self, benches: Sequence[str], models: Sequence[str], *, bench: str, model: str, images: int
    ) -> None:
        """What there is to choose from, and what is chosen at first."""
        for combo, names, chosen, what in (
            (self.bench, benches, bench, "no bench file in configs/benches"),
            (self.model, models, model, "no model in models"),
        ):
            with QSignalBlocker(combo):
                combo.clear()
                combo.addItems(list(names) or [what])
                combo.setEnabled(bool(names))
                combo.setProperty("choices", bool(names))
                combo.setCurrentIndex(max(combo.findText(chosen), 0))
        with QSignalBlocker(self.images):
            self.images.setValue(images)

    @property
    def chosen_bench(self) -> str:
        """Name of the chosen bench file; "" if there is none."""
        return self.bench.currentText() if self.bench.property("choices") else ""

    @property
    def chosen_model(self) -> str:
        """Name of the chosen bundle; "" if there is none."""
        return self.model.currentText() if self.model.property("choices") else ""

    # ---- the course of a run --------------------------------------------------------------------------------------

    def set_status(self, status: Status) -> None:
        """Choices are fixed while a run has the bench."""
        resumed = self._phase in (Phase.PAUSED, Phase.PAUSING, Phase.RECOVERING) and status.phase is Phase.RUNNING
        self._phase = status.phase
        free = not status.phase.running
        if not status.phase.can_stop:
            self.prompt.withdraw()
        self.images.setEnabled(free)
        self.model.setEnabled(free and bool(self.model.property("choices")))
        self.bench.setEnabled(free and status.phase is not Phase.OPENING and bool(self.bench.property("choices")))
        words = {
            Phase.PAUSING: "Pausing after this exposure ...",
            Phase.PAUSED: "Paused",
            Phase.RECOVERING: "A device failed and is being brought back: the log says which ...",
            Phase.STOPPING: "Stopping after this exposure ...",
            Phase.ABORTING: "Aborting: the bench is being left safe ...",
        }
        if status.phase in words:
            self.stage.setText(words[status.phase])
        elif status.phase is Phase.RUNNING and status.message:
            self._loud_stage(status.message)
        elif resumed:
            self._say_label()
        elif status.phase is Phase.OPENING:
            self._quiet_stage(f"Opening bench {status.bench} ...")
        elif status.phase is Phase.CLOSED and status.message:
            self._quiet_stage(f"{status.message}\n\nChoose another bench, or mend this and press Reopen (F5).")
        elif status.phase is Phase.IDLE and self.stage.text().startswith("Opening"):
            self._quiet_stage(HINT if self.chosen_model else NO_MODEL)

    def begin(self, title: str) -> None:
        """A job was asked for."""
        self._report = self._folder = None
        self._done = 0
        self.figures.clear()
        self.table.show_rows(())
        for widget in self.report_buttons.values():
            widget.hide()
        self._loud_stage(f"Preparing the {title} ...")
        self.progress.clear()
        self.bar.setRange(0, 0)
        self.bar.show()

    def on_started(self, event: RunStarted) -> None:
        """The engine has begun a run."""
        self._folder = event.folder
        self._label = event.procedure
        self._say_label()

    def on_progress(self, event: Progressed) -> None:
        """How far it is."""
        self.bar.setRange(0, max(event.total, 1))
        self.bar.setValue(min(event.done, event.total))
        self._label, self._done = event.label or self._label, event.done
        self._say_label()
        left = "" if event.eta_s is None else f", {duration(event.eta_s)} left"
        self.progress.setText(f"{event.done} of {event.total} frames{left}")

    def on_published(self, event: Published) -> None:
        """A number goes to the figures, a table to the table; pictures are shown elsewhere."""
        if isinstance(event.value, int | float) or getattr(event.value, "ndim", None) == 0:
            self.figures.put(event.name, float(event.value))
        elif isinstance(event.value, list) and event.value and isinstance(event.value[0], Mapping):
            self.table.show_rows(event.value)

    def end(self, outcome: Outcome) -> None:
        """How it ended, and what it left."""
        self._report, self._folder = outcome.report, outcome.folder or self._folder
        title = outcome.title[:1].upper() + outcome.title[1:]
        self.progress.setText(f"{self._done} frames" if self._done else "")
        if outcome.outcome == "done":
            self._loud_stage(f"{title} done")
            self.bar.setRange(0, 1)
            self.bar.setValue(1)
        else:
            self._loud_stage(f"{title} {outcome.outcome}" + (f": {outcome.message}" if outcome.message else ""))
            self.bar.hide()
        if outcome.table:
            self.table.show_rows(outcome.table)
        self.report_buttons["run.report"].setVisible(self._report is not None)
        self.report_buttons["run.folder"].setVisible(self._folder is not None)

    @property
    def report(self) -> Path | None:
        """The HTML report of the last run."""
        return self._report

    @property
    def folder(self) -> Path | None:
        """The folder of the last run."""
        return self._folder

    @guarded()
    def open_report(self) -> None:
        """The report, in the browser."""
        _open(self._report)

    @guarded()
    def open_folder(self) -> None:
        """The run folder, in the file manager."""
        _open(self._folder)

    @guarded()
    def _on_bench(self) -> None:
        if self.chosen_bench:
            self.bench_chosen.emit(self.chosen_bench)

    def _say_label(self) -> None:
        if self._label and self._phase is Phase.RUNNING:
            self._loud_stage(self._label[:1].upper() + self._label[1:])

    def _loud_stage(self, text: str) -> None:
        self.stage.setFont(theme.sized(self.font(), 1.05, bold=True))
        self.stage.setText(text)

    def _quiet_stage(self, text: str) -> None:
        self.stage.setFont(self.font())
        self.stage.setText(text)


def duration(seconds: float) -> str:
    """Seconds in words short enough for a label."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _button(action: QAction) -> QToolButton:
    button = QToolButton()
    button.setDefaultAction(action)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    button.setIconSize(QSize(theme.ICON, theme.ICON))
    button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    button.setMinimumHeight(32)
    return button


def _open(path: Path | None) -> None:
    if path is not None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))
