"""The main window: docks around one session. Handlers only ask the session; what it tells comes back by the bridge."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEvent, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QGuiApplication, QPaintEvent, QShowEvent
from PySide6.QtWidgets import QMainWindow

import labctl
from labctl.gui import settings, theme
from labctl.gui.actions import build
from labctl.gui.bars import draw_icons, fill_bars
from labctl.gui.bridge import Bridge, LogHandler
from labctl.gui.closing import Closing
from labctl.gui.commands import records
from labctl.gui.display import Display
from labctl.gui.docks import Docks
from labctl.gui.guard import guarded, guarded_event
from labctl.gui.log_panel import LogPanel
from labctl.gui.mailbox import Counts, Mailbox, Shot
from labctl.gui.run_panel import RunPanel
from labctl.gui.session import Job, Session
from labctl.gui.settings import Settings
from labctl.gui.status import Outcome, Phase, Status
from labctl.gui.status_bar import StatusBar
from labctl.gui.views import Views
from labctl.gui.workplace import Workplace
from labctl.runs.events import Progressed, Prompted, Published, RunStarted

log = logging.getLogger(__name__)
LATEST_MS = 500


class MainWindow(QMainWindow):
    """One window on one session.

    Parameters
    ----------
    workplace : Workplace
    chosen : Settings
        What was remembered; written back to `settings_path` on closing (None: nowhere).
    autostart : bool
        Start the demo as soon as the bench is open.
    """

    closed = Signal()
    views_ready = Signal()

    def __init__(
        self,
        workplace: Workplace,
        chosen: Settings,
        settings_path: Path | None = None,
        *,
        autostart: bool = False,
    ) -> None:
        super().__init__()
        self.workplace, self.settings, self._settings_path = workplace, chosen, settings_path
        self._autostart, self._may_close, self._painted = autostart, False, False
        self.views: Views | None = None
        self.bridge, self.mailbox = Bridge(self), Mailbox()
        self._log_handler = LogHandler(self.bridge)
        logging.getLogger("labctl").addHandler(self._log_handler)
        self.session = Session(workplace.open, self.bridge, self.mailbox)
        self.actions_by_key = build(records(self), self)
        self.run_panel = RunPanel(self.actions_by_key)
        self.log_panel = LogPanel(level=chosen.log_level)
        self.status = StatusBar(self)
        self.setStatusBar(self.status)
        self.docks = Docks(self)
        self.docks["run"].setWidget(self.run_panel)
        self.docks["log"].setWidget(self.log_panel)
        fill_bars(self, self.actions_by_key, self.docks.toggles)
        self.actions_by_key |= self.docks.toggles
        self._records = records(self)
        draw_icons(self._records, self.actions_by_key, self)
        self._listen()
        self.display = Display(self.mailbox, self, self)
        self._closing = Closing(self.session, self)
        self._closing.over.connect(self.on_closing_over)
        self.on_status(Status())
        self._list_choices()
        self.docks.restore(chosen.geometry, chosen.layout)

    # ---- building -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        bridge = self.bridge
        bridge.session.connect(self.on_status)
        bridge.started.connect(self.on_started)
        bridge.progressed.connect(self.on_progressed)
        bridge.published.connect(self.on_published)
        bridge.prompted.connect(self.on_prompted)
        bridge.outcome.connect(self.on_outcome)
        bridge.logged.connect(self.log_panel.add)
        self.run_panel.bench_chosen.connect(self.on_bench_chosen)
        self.run_panel.prompt.answered.connect(self.session.answer)

    def _list_choices(self) -> None:
        chosen = self.settings
        self.run_panel.set_choices(
            self.workplace.benches(),
            self.workplace.models(),
            bench=chosen.bench,
            model=chosen.model,
            images=chosen.images,
        )

    @guarded_event
    def showEvent(self, event: QShowEvent) -> None:
        """A window that is never painted (shown minimised) is completed all the same."""
        super().showEvent(event)
        if self.views is None:
            QTimer.singleShot(LATEST_MS, self, self.complete)

    @guarded_event
    def paintEvent(self, event: QPaintEvent) -> None:
        """The window paints first; what is slow to import comes in the next turn of the event loop."""
        super().paintEvent(event)
        if not self._painted:
            self._painted = True
            QTimer.singleShot(0, self, self.complete)

    @guarded()
    def complete(self) -> None:
        """Make the views that need pyqtgraph, and open the bench. Once."""
        if self.views is not None:
            return
        self.views = Views(self.settings)
        for key, widget in self.views.panels().items():
            self.docks[key].setWidget(widget)
        if not self.settings.layout:
            self.docks.arrange()  # once more: only now do the panels know how much room they need
        self.actions_by_key["view.auto"].setChecked(self.settings.auto_levels)
        self.views.camera.levels.follow.toggled.connect(self.actions_by_key["view.auto"].setChecked)
        self.display.start()
        self.views_ready.emit()
        log.info("labctl %s, %s", labctl.__version__, self.workplace.where)
        if self.run_panel.chosen_bench:
            self.session.open(self.run_panel.chosen_bench)
        else:
            log.warning("there is no bench file: 'labctl init DIR' makes a workspace with a simulated bench")

    # ---- told by the session, through the bridge ------------------------------------------------------------------

    @guarded(object)
    def on_status(self, status: Status) -> None:
        """Titles, buttons and panels say what the hardware thread is at."""
        phase, facts = status.phase, status.facts
        name = f"{status.bench}{' [SIMULATED]' if facts is not None and facts.simulated else ''}"
        self.setWindowTitle(f"{name} - labctl" if status.bench else "labctl")
        self.display.spare(phase.running)
        self.status.set_status(status)
        self.run_panel.set_status(status)
        self.docks.mark_simulated(facts is not None and facts.simulated)
        actions = self.actions_by_key
        actions["bench.live"].setEnabled(phase in (Phase.IDLE, Phase.LIVE))
        actions["bench.live"].setChecked(phase is Phase.LIVE)
        actions["bench.reopen"].setEnabled(phase in (Phase.IDLE, Phase.LIVE, Phase.CLOSED))
        actions["bench.close"].setEnabled(phase in (Phase.IDLE, Phase.LIVE))
        actions["run.start"].setEnabled(phase in (Phase.IDLE, Phase.LIVE) and bool(self.run_panel.chosen_model))
        actions["run.calibrate"].setEnabled(phase in (Phase.IDLE, Phase.LIVE))
        actions["run.pause"].setEnabled(phase in (Phase.RUNNING, Phase.PAUSED))
        actions["run.pause"].setText("&Resume" if phase is Phase.PAUSED else "&Pause")
        actions["run.stop"].setEnabled(phase.can_stop)
        actions["run.abort"].setEnabled(phase.can_abort)
        actions["run.report"].setEnabled(self.run_panel.report is not None)
        actions["run.folder"].setEnabled(self.run_panel.folder is not None)
        if self.views is not None:
            self.views.set_status(status)
        if self._autostart and phase is Phase.IDLE:
            self._autostart = False
            self.on_start()

    @guarded(object)
    def on_started(self, event: RunStarted) -> None:
        """The engine has begun."""
        self.run_panel.on_started(event)
        self.actions_by_key["run.folder"].setEnabled(event.folder is not None)

    @guarded(object)
    def on_progressed(self, event: Progressed) -> None:
        """How far it is."""
        self.run_panel.on_progress(event)

    @guarded(object)
    def on_published(self, event: Published) -> None:
        """Numbers and tables to the run panel, pictures to the watch panel."""
        if isinstance(event.value, np.ndarray) and event.value.ndim == 2:
            if self.views is not None:
                self.views.watch.put(event.name, event.value)
        else:
            self.run_panel.on_published(event)

    @guarded(object)
    def on_prompted(self, event: Prompted) -> None:
        """A run waits for an answer."""
        self.run_panel.prompt.ask(event.prompt)

    @guarded(object)
    def on_outcome(self, outcome: Outcome) -> None:
        """A job has ended, and the bench was left safe."""
        self.run_panel.end(outcome)
        self.actions_by_key["run.report"].setEnabled(outcome.report is not None)
        if self.views is not None:
            last = self.mailbox.take()  # shown now, or it would come after the news that the bench is blank
            if last is not None:
                self.views.show_shot(last)
            self.views.set_blank()
        log.info("%s: %s", outcome.title, outcome.outcome)

    @guarded(str)
    def on_bench_chosen(self, name: str) -> None:
        """Another bench."""
        self.session.open(name)

    # ---- the display timer's screen -------------------------------------------------------------------------------

    def show_shot(self, shot: Shot) -> None:
        """The newest frame."""
        if self.views is not None:
            self.views.show_shot(shot)

    def show_counts(self, counts: Counts, captured_rate: float, shown_rate: float) -> None:
        """The four counts, side by side, and the rates."""
        self.status.set_counts(counts)
        if self.views is not None and self.session.status.phase in (Phase.LIVE, Phase.RUNNING):
            self.views.camera.set_rates(captured_rate, shown_rate, counts)

    # ---- asked by the person --------------------------------------------------------------------------------------

    @guarded()
    def on_start(self) -> None:
        """Start the demo with what is chosen."""
        panel = self.run_panel
        self._begin(self.workplace.demo(panel.chosen_bench, panel.chosen_model, panel.images.value()))

    @guarded()
    def on_calibrate(self) -> None:
        """Calibrate the bench, and no more."""
        self._begin(self.workplace.calibration())

    def _begin(self, job: Job) -> None:
        self.run_panel.begin(job.title)
        if self.views is not None:
            self.views.watch.clear()
        self.session.start(job)

    @guarded()
    def on_pause(self) -> None:
        """Pause, or go on."""
        if self.session.status.phase is Phase.PAUSED:
            self.session.resume()
        else:
            self.session.pause()

    @guarded()
    def on_stop(self) -> None:
        """End the run after the exposure under way."""
        self.session.stop()

    @guarded()
    def on_abort(self) -> None:
        """End the run at once."""
        self.session.abort()

    @guarded(bool)
    def on_live(self, on: bool) -> None:
        """Grab continuously, or stop."""
        self.session.live(on)

    @guarded()
    def on_reopen(self) -> None:
        """The chosen bench, anew; bench files and models are listed anew too."""
        self.settings.bench, self.settings.model = self.run_panel.chosen_bench, self.run_panel.chosen_model
        self._list_choices()
        if self.run_panel.chosen_bench:
            self.session.open(self.run_panel.chosen_bench)

    @guarded()
    def on_close_bench(self) -> None:
        """Release the devices."""
        self.session.release()

    @guarded()
    def on_quit(self) -> None:
        """As closing the window."""
        self.close()

    @guarded()
    def on_report(self) -> None:
        """The last run's report."""
        self.run_panel.open_report()

    @guarded()
    def on_folder(self) -> None:
        """The last run's folder."""
        self.run_panel.open_folder()

    @guarded()
    def on_fit(self) -> None:
        """The whole frame."""
        self._need_views().camera.picture.fit()

    @guarded()
    def on_actual(self) -> None:
        """Pixel for pixel."""
        self._need_views().camera.picture.actual_size()

    @guarded(bool)
    def on_auto(self, on: bool) -> None:
        """Levels follow the frame."""
        self._need_views().camera.levels.follow.setChecked(on)

    @guarded()
    def on_full(self) -> None:
        """Levels over the full scale."""
        camera = self._need_views().camera
        camera.levels.set_by_hand(0, camera.full_scale)

    @guarded()
    def on_light(self) -> None:
        """Light colours."""
        self._appear("light")

    @guarded()
    def on_dark(self) -> None:
        """Dark colours."""
        self._appear("dark")

    @guarded()
    def on_system(self) -> None:
        """The system's colours."""
        self._appear("system")

    @guarded()
    def on_reset(self) -> None:
        """Every panel where it was at first."""
        self.docks.arrange()

    @guarded()
    def on_versions(self) -> None:
        """Versions to the clipboard."""
        import PySide6

        versions = f"labctl {labctl.__version__}, Python {platform.python_version()}, PySide6 {PySide6.__version__}"
        QGuiApplication.clipboard().setText(f"{versions}, {platform.platform()}")
        log.info("copied: %s, %s", versions, platform.platform())

    def _appear(self, name: str) -> None:
        self.settings.appearance = name
        theme.apply_appearance(name)

    def _need_views(self) -> Views:
        self.complete()
        if self.views is None:
            raise RuntimeError("the views could not be made: the log says why")
        return self.views

    # ---- closing --------------------------------------------------------------------------------------------------

    @guarded_event
    def changeEvent(self, event: QEvent) -> None:
        """Icons follow light and dark."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "display"):
            draw_icons(self._records, self.actions_by_key, self)

    @guarded_event
    def closeEvent(self, event: QCloseEvent) -> None:
        """Abort what runs, leave the bench safe, then close: without the event loop ever waiting."""
        if self._may_close or not self.session.alive:
            self._finish_closing()
            return
        event.ignore()
        if not self._closing.begun:
            self.setEnabled(False)
            self.status.showMessage("Closing: the bench is being left safe ...")
            self._closing.begin()
            self._remember()

    @guarded()
    def on_closing_over(self) -> None:
        """The bench is closed, or will not be: either way the window goes."""
        self._may_close = True
        self.close()

    def _finish_closing(self) -> None:
        self._closing.stop()
        self.display.stop()
        logging.getLogger("labctl").removeHandler(self._log_handler)
        self.bridge.close()
        self.closed.emit()

    def _remember(self) -> None:
        kept, panel = self.settings, self.run_panel
        kept.bench, kept.model, kept.images = panel.chosen_bench or kept.bench, panel.chosen_model, panel.images.value()
        kept.log_level = self.log_panel.level.currentText()
        kept.geometry, kept.layout = self.docks.state()
        if self.views is not None:
            self.views.remember(kept)
        if self._settings_path is not None:
            settings.keep(self._settings_path, kept)
