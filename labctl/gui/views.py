"""The panels that need pyqtgraph, made together after the first paint."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from labctl.gui.mailbox import Shot
from labctl.gui.settings import Settings
from labctl.gui.status import Phase, Status


class Views:
    """Camera, SLM, input and published pictures."""

    def __init__(self, chosen: Settings) -> None:
        # pyqtgraph and OpenCV take half a second to import: not before the window has painted.
        from labctl.gui.app import clean_environment
        from labctl.gui.camera import CameraPanel
        from labctl.gui.patterns import PatternPanel
        from labctl.gui.watch import WatchPanel

        clean_environment()  # what OpenCV has just set is not for processes that are started from here

        self.camera = CameraPanel(
            colormap=chosen.colormap,
            logarithmic=chosen.log_scale,
            follow=chosen.auto_levels,
        )
        self.slm = PatternPanel("SLM", phase=chosen.phase_colours)
        self.input = PatternPanel("input panel", phase=None)
        self.watch = WatchPanel()
        self._facts: object = None

    def panels(self) -> dict[str, QWidget]:
        """By the key of their dock."""
        return {"camera": self.camera, "slm": self.slm, "input": self.input, "watch": self.watch}

    def show_shot(self, shot: Shot) -> None:
        """A frame, and the patterns that were commanded for it."""
        self.camera.show_shot(shot)
        self.slm.show_pattern(shot.slm, shot.frame.slm)
        self.input.show_pattern(shot.input, shot.frame.input)

    def set_status(self, status: Status) -> None:
        """Another bench, or none."""
        if status.phase is Phase.IDLE:
            self.camera.set_still()
        opened = None if status.phase is Phase.OPENING else status.facts
        key = None if opened is None else (status.bench, opened.digest)
        if key == self._facts and key is not None:
            return
        self._facts = key
        self.camera.set_bench(opened)
        if opened is None:
            note = "the bench is closed" if status.phase is Phase.CLOSED else ""
            self.slm.set_bench(None, note)
            self.input.set_bench(None, note)
        else:
            self.slm.set_bench(opened.slm_levels)
            self.input.set_bench(opened.input_levels)

    def set_blank(self) -> None:
        """After a run the bench is safe: what the panels showed is gone."""
        self.slm.set_blank()
        self.input.set_blank()

    def remember(self, settings: Settings) -> None:
        """The choices made in these panels."""
        settings.colormap = self.camera.colormap.currentText()
        settings.log_scale = self.camera.logarithmic.isChecked()
        settings.auto_levels = self.camera.levels.follow.isChecked()
        settings.phase_colours = self.slm.as_phase
