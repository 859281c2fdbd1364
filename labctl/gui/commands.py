"""Everything that the window can do, and where it stands in menus and the toolbar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.gui.actions import Action

if TYPE_CHECKING:
    from labctl.gui.window import MainWindow

MENUS: dict[str, tuple[str, ...]] = {
    "&Bench": ("bench.live", "-", "bench.reopen", "bench.close", "-", "app.quit"),
    "&Run": ("run.start", "run.calibrate", "-", "run.pause", "run.stop", "run.abort", "-", "run.report", "run.folder"),
    "&View": (
        "view.fit",
        "view.actual",
        "view.auto",
        "view.full",
        "-",
        "view.light",
        "view.dark",
        "view.system",
        "-",
        "view.reset",
        "-",
    ),
    "&Help": ("help.versions",),
}
TOOLBAR = ("bench.live", "-", "run.start", "run.pause", "run.stop", "run.abort", "-", "run.report")
PANELS = {
    "camera": ("Camera", "Ctrl+1"),
    "slm": ("SLM", "Ctrl+2"),
    "input": ("Input", "Ctrl+3"),
    "watch": ("Published pictures", "Ctrl+4"),
    "run": ("Run", "Ctrl+5"),
    "log": ("Log", "Ctrl+6"),
}


def records(window: MainWindow) -> list[Action]:
    """The records of one window."""
    w = window
    return [
        Action("bench.live", "&Live view", w.on_live, "live", "Ctrl+L", "Grab frames while no run has the bench", True),
        Action("bench.reopen", "&Reopen", w.on_reopen, "reload", "F5", "Close the chosen bench and open it again"),
        Action("bench.close", "&Close bench", w.on_close_bench, "", "", "Leave the bench safe and release its devices"),
        Action("app.quit", "&Quit", w.on_quit, "", "Ctrl+Q", "Abort what runs, leave the bench safe, and quit"),
        Action(
            "run.start", "&Start demo", w.on_start, "play", "Ctrl+Return", "Calibrate, deploy the model, measure it"
        ),
        Action("run.calibrate", "&Calibrate only", w.on_calibrate, "", "Ctrl+K", "Measure what is missing or stale"),
        Action("run.pause", "&Pause", w.on_pause, "pause", "Ctrl+P", "Hold the run at the next frame, or go on"),
        Action(
            "run.stop", "S&top", w.on_stop, "stop", "Ctrl+Shift+.", "End the run after this exposure; it can be resumed"
        ),
        Action("run.abort", "&Abort", w.on_abort, "abort", "Ctrl+.", "End the run at once, the bench safe"),
        Action("run.report", "&Open report", w.on_report, "report", "Ctrl+R", "The HTML report of the last run"),
        Action("run.folder", "Run &folder", w.on_folder, "folder", "Ctrl+Shift+R", "The folder of the last run"),
        Action("view.fit", "&Fit", w.on_fit, "fit", "Ctrl+0", "The whole camera frame"),
        Action("view.actual", "&One to one", w.on_actual, "", "Ctrl+Shift+0", "One camera pixel on one screen pixel"),
        Action("view.auto", "&Auto levels", w.on_auto, "levels", "Ctrl+T", "Levels follow the frame", True),
        Action("view.full", "F&ull scale", w.on_full, "", "Ctrl+Shift+T", "Levels from 0 to the camera's full scale"),
        Action("view.light", "Light", w.on_light, "", "", "Light colours, whatever the system says"),
        Action("view.dark", "Dark", w.on_dark, "", "", "Dark colours, whatever the system says"),
        Action("view.system", "As the system", w.on_system, "", "", "Light or dark, as the system says"),
        Action("view.reset", "&Reset layout", w.on_reset, "", "", "Put every panel back to where it was at first"),
        Action("help.versions", "Copy &versions", w.on_versions, "", "", "Versions, for a question or a bug report"),
    ]
