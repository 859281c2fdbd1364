"""The window with a bench that costs nothing: every action, every panel, a run to its end, every way to close."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QApplication

from labctl.gui import settings
from labctl.gui.commands import MENUS, PANELS, TOOLBAR, records
from labctl.gui.mailbox import Shot
from labctl.gui.settings import Settings
from labctl.gui.status import Phase


def errors(window: Any) -> list[str]:
    return [line.text for line in window.log_panel.lines if line.level in ("error", "critical")]


def wait_for(qtbot: Any, window: Any, *phases: Phase) -> None:
    qtbot.waitUntil(lambda: window.session.status.phase in phases, timeout=15000)


def start(qtbot: Any, window: Any) -> None:
    window.actions_by_key["run.start"].trigger()
    qtbot.waitUntil(window.actions_by_key["run.pause"].isEnabled)


def table(window: Any) -> list[list[str]]:
    shown = window.run_panel.table
    return [[shown.item(i, j).text() for j in range(shown.columnCount())] for i in range(shown.rowCount())]


KEYS = sorted(
    {key for keys in MENUS.values() for key in keys if key != "-"}
    | {"panel." + key for key in PANELS}
    | {key for key in TOOLBAR if key != "-"}
)


def test_every_record_stands_in_a_menu(window: Any) -> None:
    in_menus = {key for keys in MENUS.values() for key in keys}
    assert {record.key for record in records(window)} <= in_menus


@pytest.mark.parametrize("key", KEYS)
def test_every_action_triggers(window: Any, qtbot: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.gui.run_panel.QDesktopServices.openUrl", lambda _url: True)
    action = window.actions_by_key[key]
    assert action.toolTip()
    was_enabled = action.isEnabled()
    action.setEnabled(True)
    action.trigger()
    qtbot.wait(60)
    assert errors(window) == [], was_enabled
    window.actions_by_key["view.system"].trigger()


@pytest.mark.parametrize("key", list(PANELS))
def test_every_panel_hides_and_opens(window: Any, qtbot: Any, key: str) -> None:
    dock, toggle = window.docks[key], window.docks.toggles[f"panel.{key}"]
    toggle.trigger()
    assert dock.isHidden()
    toggle.trigger()
    assert not dock.isHidden()
    assert dock.widget().grab().width() > 100


def test_the_title_says_that_the_bench_is_simulated(window: Any) -> None:
    assert window.windowTitle() == "fake [SIMULATED] - labctl"
    assert window.docks["camera"].windowTitle() == "Camera [simulated]"


def test_the_first_start_chooses_the_simulated_bench() -> None:
    assert Settings().bench == "sim-4f"


def test_a_run_from_start_to_table(window: Any, qtbot: Any, workplace: Any) -> None:
    window.actions_by_key["run.start"].trigger()
    qtbot.waitUntil(lambda: bool(table(window)), timeout=15000)
    wait_for(qtbot, window, Phase.IDLE)
    assert table(window) == [["deployed", "0.87"]]
    assert window.run_panel.stage.text() == "Demo done"
    assert window.run_panel.figures.values == {"accuracy": "100.0 %", "residual_px": "0.25"}
    assert window.views.watch.picture.data.shape == (8, 8)
    counts = window.mailbox.counts()
    assert counts.captured == counts.saved == 20 == counts.shown + counts.dropped
    assert window.run_panel.folder.is_dir()
    assert window.actions_by_key["run.start"].isEnabled()
    assert not window.actions_by_key["run.abort"].isEnabled()
    assert "blank" in window.views.slm.caption.text()
    assert workplace.panels["slm"].blanked >= 1
    assert errors(window) == []


def test_pause_holds_the_run_and_resume_goes_on(window: Any, qtbot: Any, workplace: Any) -> None:
    workplace.frames = 1000
    start(qtbot, window)
    window.actions_by_key["run.pause"].trigger()
    wait_for(qtbot, window, Phase.PAUSED)
    qtbot.waitUntil(lambda: window.actions_by_key["run.pause"].text() == "&Resume")
    qtbot.wait(50)
    held = workplace.camera.grabbed
    qtbot.wait(200)
    assert workplace.camera.grabbed == held < 1000
    assert window.run_panel.stage.text() == "Paused"
    window.actions_by_key["run.pause"].trigger()
    wait_for(qtbot, window, Phase.IDLE)
    assert window.mailbox.counts().saved == 1000


@pytest.mark.parametrize("paused", [False, True])
def test_abort_ends_the_run_and_the_bench_is_usable(window: Any, qtbot: Any, workplace: Any, paused: bool) -> None:
    workplace.frames = 100_000
    start(qtbot, window)
    if paused:
        window.actions_by_key["run.pause"].trigger()
        wait_for(qtbot, window, Phase.PAUSED)
        qtbot.waitUntil(window.actions_by_key["run.abort"].isEnabled)
    qtbot.waitUntil(window.actions_by_key["run.abort"].isEnabled)
    window.actions_by_key["run.abort"].trigger()
    wait_for(qtbot, window, Phase.IDLE)
    qtbot.waitUntil(lambda: "aborted" in window.run_panel.stage.text())
    assert workplace.panels["slm"].blanked >= 1
    workplace.frames = 5
    qtbot.waitUntil(window.actions_by_key["run.start"].isEnabled)
    start_again = window.actions_by_key["run.start"]
    start_again.trigger()
    qtbot.waitUntil(lambda: window.run_panel.stage.text() == "Demo done", timeout=15000)


def test_pause_asked_before_the_engine_runs_is_not_forgotten(window: Any, qtbot: Any, workplace: Any) -> None:
    workplace.frames = 50
    window.on_start()
    window.session.pause()
    wait_for(qtbot, window, Phase.PAUSED, Phase.RUNNING)
    window.session.abort()
    wait_for(qtbot, window, Phase.IDLE)


def test_a_defect_in_a_job_ends_in_log_and_stage_and_leaves_a_usable_window(
    window: Any, qtbot: Any, workplace: Any
) -> None:
    workplace.fails = True
    window.actions_by_key["run.start"].trigger()
    qtbot.waitUntil(lambda: "a defect" in window.run_panel.stage.text())
    assert any("Traceback" in text for text in errors(window))
    wait_for(qtbot, window, Phase.IDLE)


def test_a_camera_that_dies_during_a_run_says_so(window: Any, qtbot: Any, workplace: Any) -> None:
    workplace.frames = 100_000
    start(qtbot, window)
    workplace.camera.broken = True
    wait_for(qtbot, window, Phase.IDLE)
    qtbot.waitUntil(lambda: "cable out" in window.run_panel.stage.text())


def test_live_view_shows_frames_and_stops(window: Any, qtbot: Any, workplace: Any) -> None:
    window.actions_by_key["bench.live"].trigger()
    wait_for(qtbot, window, Phase.LIVE)
    qtbot.waitUntil(lambda: window.views.camera.picture.data is not None)
    qtbot.waitUntil(lambda: window.mailbox.counts().shown >= 3)
    window.actions_by_key["bench.live"].trigger()
    wait_for(qtbot, window, Phase.IDLE)
    assert window.views.camera.statistics.pixels == 96 * 128
    workplace.camera.broken = True
    window.actions_by_key["bench.live"].trigger()
    qtbot.waitUntil(lambda: any("live view stopped" in text for text in errors(window)))
    wait_for(qtbot, window, Phase.IDLE)
    qtbot.waitUntil(lambda: not window.actions_by_key["bench.live"].isChecked())


def test_a_bench_that_does_not_open_says_why_and_what_to_do(window: Any, qtbot: Any) -> None:
    panel = window.run_panel
    panel.bench.setCurrentText("broken")
    panel.bench.activated.emit(panel.bench.currentIndex())
    qtbot.waitUntil(lambda: "HDMI-2" in panel.stage.text())
    assert "Reopen" in panel.stage.text()
    assert not window.actions_by_key["run.start"].isEnabled()
    panel.bench.setCurrentText("fake")
    panel.bench.activated.emit(panel.bench.currentIndex())
    wait_for(qtbot, window, Phase.IDLE)
    qtbot.waitUntil(window.actions_by_key["run.start"].isEnabled)
    assert "HDMI-2" not in panel.stage.text()


def test_closing_a_bench_releases_it(window: Any, qtbot: Any, workplace: Any) -> None:
    window.actions_by_key["bench.close"].trigger()
    wait_for(qtbot, window, Phase.CLOSED)
    assert workplace.camera.closed
    assert workplace.panels["slm"].closed
    assert workplace.panels["slm"].blanked


@pytest.mark.parametrize("held", [False, True])
def test_closing_during_a_run_aborts_it_and_leaves_the_bench_safe(
    window: Any, qtbot: Any, workplace: Any, held: bool
) -> None:
    workplace.frames = 100_000
    start(qtbot, window)
    if held:
        workplace.gate.clear()
        qtbot.wait(200)
    window.close()
    assert window.isVisible()  # the event loop goes on while the run ends
    qtbot.wait(100)
    workplace.gate.set()
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=15000)
    assert not window.session.alive
    assert workplace.camera.closed
    assert workplace.panels["slm"].closed
    assert workplace.panels["slm"].blanked


def test_a_bench_that_never_answers_cannot_keep_the_window(
    window: Any, qtbot: Any, workplace: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("labctl.gui.closing.LIMIT_S", 0.3)
    workplace.frames = 100_000
    start(qtbot, window)
    workplace.gate.clear()
    qtbot.wait(200)
    with caplog.at_level(logging.ERROR):
        window.close()
        qtbot.waitUntil(lambda: not window.isVisible(), timeout=5000)
    assert "by hand" in caplog.text
    workplace.gate.set()
    assert window.session.join(10)


def test_closing_remembers_choices_and_layout(window: Any, qtbot: Any, tmp_path: Path) -> None:
    window.run_panel.images.setValue(120)
    window.docks.toggles["panel.log"].trigger()
    window.views.camera.colormap.setCurrentText("cividis")
    window.close()
    qtbot.waitUntil(lambda: not window.isVisible())
    kept, notes = settings.load(tmp_path / "gui.json")
    assert notes == []
    assert (kept.bench, kept.model, kept.images, kept.colormap) == ("fake", "fake-model", 120, "cividis")
    assert kept.layout
    assert kept.geometry


def test_a_remembered_layout_is_restored_and_a_damaged_one_is_not_in_the_way(make_window: Any, qtbot: Any) -> None:
    first = make_window()
    first.docks.toggles["panel.log"].trigger()
    _geometry, layout = first.docks.state()
    second = make_window(layout=layout)
    assert second.docks["log"].isHidden()
    third = make_window(layout="%%% not base64", geometry="bm90IGEgZ2VvbWV0cnk=")
    assert not third.docks["log"].isHidden()
    second.actions_by_key["view.reset"].trigger()
    assert not second.docks["log"].isHidden()


def test_autostart_runs_the_demo_once(make_window: Any, qtbot: Any) -> None:
    window = make_window(autostart=True)
    qtbot.waitUntil(lambda: window.run_panel.stage.text() == "Demo done", timeout=15000)
    qtbot.wait(100)
    assert [line.text for line in window.log_panel.lines].count("demo: done") == 1


def test_the_camera_panel_says_what_is_under_the_cursor(window: Any, qtbot: Any) -> None:
    camera = window.views.camera
    window.actions_by_key["bench.live"].trigger()
    qtbot.waitUntil(lambda: camera.picture.data is not None)
    window.actions_by_key["bench.live"].trigger()
    wait_for(qtbot, window, Phase.IDLE)
    qtbot.wait(80)
    view = camera.picture._view
    qtbot.mouseMove(view.viewport(), QPoint(view.width() // 2, view.height() // 2))
    camera.picture.hovered.emit(10, 20)
    assert camera.cursor_value.text() == f"row 10, column 20: {camera.picture.data[10, 20]:,} counts"
    camera.picture.hovered.emit(-1, -1)
    assert camera.cursor_value.text() == "128 x 96 px, 12 bit"


def test_levels_by_hand_stop_following_and_full_scale_is_the_cameras(window: Any, qtbot: Any) -> None:
    camera = window.views.camera
    assert window.actions_by_key["view.auto"].isChecked()
    window.actions_by_key["view.full"].trigger()
    assert camera.levels.value == (0, 4095)
    assert not window.actions_by_key["view.auto"].isChecked()
    frame_shot = _shot(np.full((16, 16), 700, np.uint16))
    window.show_shot(frame_shot)
    assert camera.levels.value == (0, 4095)
    qtbot.mousePress(camera.histogram, Qt.MouseButton.LeftButton, pos=QPoint(camera.histogram.width() // 2, 10))
    qtbot.mouseRelease(camera.histogram, Qt.MouseButton.LeftButton)
    low, high = camera.levels.value
    assert (low == 0) != (high == 4095)
    window.actions_by_key["view.auto"].trigger()
    low, high = camera.levels.value
    assert low < 700 <= high < 850


def test_saturation_is_counted_on_the_full_frame(window: Any) -> None:
    data = np.zeros((64, 64), np.uint16)
    data[1, 1] = data[2, 3] = 4095
    window.show_shot(_shot(data))
    assert "2 px saturated" in window.views.camera.saturation.text()


def test_the_view_never_downsamples_and_keeps_fixed_levels(window: Any) -> None:
    item = window.views.camera.picture._item
    window.show_shot(_shot(np.arange(256, dtype=np.uint16).reshape(16, 16)))
    assert item.autoDownsample is False
    assert tuple(item.levels) == window.views.camera.levels.value


def test_an_exception_in_an_event_handler_ends_in_the_log_panel(
    window: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_status: Any) -> None:
        raise RuntimeError("a defect in a panel")

    monkeypatch.setattr(window.run_panel, "set_status", fail)
    window.actions_by_key["bench.live"].trigger()
    qtbot.waitUntil(lambda: any("a defect in a panel" in text for text in errors(window)))
    monkeypatch.undo()
    assert window.isVisible()


def test_nothing_heavy_is_imported_before_the_first_paint() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import labctl.gui.app, labctl.gui.window, labctl.gui.workplace;"
        "sys.stdout.write(' '.join(m for m in ('torch', 'pyqtgraph', 'slmsuite', 'cv2', 'scipy', 'matplotlib')"
        " if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""


def test_settings_that_cannot_be_kept_do_not_keep_the_window_open(
    window: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_remember", lambda: 1 / 0)
    QApplication.sendEvent(window, QCloseEvent())
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=5000)
    monkeypatch.undo()


def _shot(data: Any) -> Shot:
    from labctl.bench.frames import Frame

    return Shot(Frame(data, 0, 0.0, 0.0, 0.01, "", ""))


def test_a_run_that_asks_waits_for_the_answer(window: Any, qtbot: Any, workplace: Any) -> None:
    workplace.asks = True
    start(qtbot, window)
    bar = window.run_panel.prompt
    qtbot.waitUntil(bar.isVisible)
    assert bar.text.text() == "Block the beam."
    qtbot.wait(150)
    assert workplace.camera.grabbed == 0
    qtbot.mouseClick(bar.buttons[1], Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: window.run_panel.stage.text() == "Demo done", timeout=15000)
    assert any("the answer is skip" in line.text for line in window.log_panel.lines)
    assert bar.isHidden()


def test_a_run_that_asks_can_be_aborted(window: Any, qtbot: Any, workplace: Any) -> None:
    workplace.asks = True
    start(qtbot, window)
    bar = window.run_panel.prompt
    qtbot.waitUntil(bar.isVisible)
    window.actions_by_key["run.abort"].trigger()
    wait_for(qtbot, window, Phase.IDLE)
    qtbot.waitUntil(lambda: "aborted" in window.run_panel.stage.text())
    assert bar.isHidden()
    assert workplace.camera.grabbed == 0
