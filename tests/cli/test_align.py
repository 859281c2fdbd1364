"""`labctl align`: the table, the JSON, the exit code, and what a person at the keyboard sees and types."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from labctl.cli import keys
from labctl.cli.align import AlignObserver, bar, chosen
from labctl.cli.keys import line_within
from labctl.cli.main import run
from labctl.errors import LabctlError
from labctl.procedures.messages import AT_ITS_END, MEANWHILE, Adjustment, Prompt
from labctl.runs.events import Logged, Progressed, Prompted, Published, RunStarted
from labctl.workspace import Workspace

SMALL = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [192, 192], pitch_um = 8.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [128, 128], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [512, 512], pitch_um = 5.5 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[mechanics]
camera = { x = 0.5, y = -0.5 }
[simulation]
preset = "ideal"
seed = 3
[simulation.effects]
slm_zero_order = 0.03
shot_noise = true
read_noise_e = 2.5
input_stop_px = 96
camera_shift_px = 20
"""


@pytest.fixture
def lab(workspace: Workspace) -> Workspace:
    (workspace.benches / "small.toml").write_text(SMALL, encoding="utf-8")
    return workspace


def test_it_aligns_a_simulated_bench_and_says_so(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", "small", "--only", "camera", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"]
    assert said["turns"] > 0
    assert {row["step"] for row in said["rows"]} == {"light", "camera"}
    assert all(row["ok"] for row in said["rows"])
    assert said["rows"][0]["before"] is None
    kept = json.loads((lab.runs / said["run"] / "result.json").read_text(encoding="utf-8"))
    assert kept["result"]["turns"] == said["turns"]


def test_a_dry_run_follows_the_hand(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", "small", "--only", "camera", "--dry-run", "--json"]) == 0
    (account,) = json.loads(capsys.readouterr().out)["dry_run"]
    assert account["runs"][0]["prompts"] > 0
    assert account["limits"] == []
    assert not list(lab.runs.glob("*align*"))


def test_a_target_that_is_not_met_is_no_success(
    lab: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from labctl.simulation import screws

    monkeypatch.setitem(screws.TRAVEL, "x", 0.001)
    assert run(["align", "small", "--only", "camera"]) == 1
    out, err = (" ".join(text.split()) for text in capsys.readouterr())
    assert "Move the camera towards its first" in err
    assert "turns clockwise" in err  # the bench file says how far a turn goes
    assert "NOT OK" in out
    assert "the bench is not aligned" in out


def test_a_step_that_does_not_exist_is_one_line(lab: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", "small", "--only", "lens"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("labctl: align: only")


@pytest.mark.parametrize(
    ("mechanics", "said"),
    [
        ("camera = { x = 0.0 }", "camera.x = 0 is a screw that moves nothing: leave it out"),
        ("camera = { tilt = 1.0 }", "mechanics.camera"),
        ("lens = { x = 1.0 }", "mechanics.lens"),
    ],
)
def test_mechanics_that_make_no_sense_are_one_line(
    lab: Workspace, capsys: pytest.CaptureFixture[str], mechanics: str, said: str
) -> None:
    text = SMALL.replace("camera = { x = 0.5, y = -0.5 }", mechanics)
    (lab.benches / "small.toml").write_text(text, encoding="utf-8")
    assert run(["align", "small", "--dry-run"]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("labctl:")]) == 1


def test_mechanics_leave_calibrations_valid(lab: Workspace) -> None:
    from labctl.config.load import load_bench

    known = load_bench("small", lab)
    assert known.mechanics == {"camera": {"x": 0.5, "y": -0.5}}
    (lab.benches / "small.toml").write_text(SMALL.replace("[mechanics]\ncamera", "[mechanics]\nslm"), encoding="utf-8")
    assert load_bench("small", lab).digest() == known.digest()


PROMPT = Prompt(
    "Move the camera.",
    ("done", AT_ITS_END, "skip", "abort"),
    "off (mm)",
    0.1,
    Adjustment("camera", "x", 0.3, "mm"),
    0.2,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def observer(monkeypatch: pytest.MonkeyPatch, *lines: str | None) -> tuple[AlignObserver, Terminal]:
    """With a keyboard on which these lines are typed; None where nothing comes in time."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    shown, left = Terminal(), list(lines)

    def typed(seconds: float) -> str | None:
        assert seconds == PROMPT.wait_s
        if not left:
            raise EOFError
        return left.pop(0)

    return AlignObserver(
        Console(file=shown, width=140, force_terminal=True, highlight=False, soft_wrap=True), typed=typed
    ), shown


def test_the_figure_moves_while_the_screw_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, shown = observer(monkeypatch, None, None, "x", "")
    with watch:
        watch(RunStarted("", "align", None, 10))
        watch(Prompted(PROMPT))
        assert watch.ask(PROMPT) == MEANWHILE
        for value in (0.4, 0.05):
            watch(Published("off (mm)", value))
            watch(Progressed(1, 10, "", None, 1))
            watch(Published("something else", 1.0))
        assert watch.ask(PROMPT) == MEANWHILE
        assert watch.ask(PROMPT) == MEANWHILE  # no option begins with x
        assert watch.ask(PROMPT) == "done"
        watch(Published("off (mm)", 7.0))  # nobody looks any more
        watch(Logged("next", "info"))
    text = shown.getvalue()
    assert text.count("Move the camera.") == 1
    assert text.count("Enter for 'done'; e for 'end of travel', s for 'skip', a for 'abort', and Enter") == 1
    assert "0.4  target 0.1" in text
    assert "0.05  target 0.1  good" in text
    assert "'x' is none of done, end of travel, skip, abort" in text
    assert "7  target" not in text


def test_a_keyboard_that_is_gone_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = observer(monkeypatch)
    with watch, pytest.raises(LabctlError, match="keyboard is gone"):
        watch.ask(PROMPT)


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = observer(monkeypatch)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with watch, pytest.raises(LabctlError, match="nobody can answer"):
        watch.ask(PROMPT)


@pytest.mark.parametrize(
    ("line", "option"),
    [("", "done"), ("e", AT_ITS_END), ("s", "skip"), ("ABORT", "abort"), ("x", None), ("done it", None)],
)
def test_a_letter_is_enough(line: str, option: str | None) -> None:
    assert chosen(line, PROMPT.options) == option


def test_the_bar_is_as_long_as_the_figure_is_of_the_worst() -> None:
    assert bar(2.0, 1.0, 2.0).count("█") == 29  # and the mark of the target
    assert bar(0.5, 1.0, 2.0).count("█") == 8
    assert "good" in bar(0.5, 1.0, 2.0)
    assert "target" not in bar(0.5, None, 2.0)
    assert bar(0.0, 0.0, 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is no Windows keyboard")
def test_a_line_is_waited_for_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    source, sink = os.pipe()
    with os.fdopen(source, encoding="utf-8") as reading:
        monkeypatch.setattr(sys, "stdin", reading)
        assert line_within(0.01) is None
        os.write(sink, b" skip \n")
        assert line_within(5.0) == "skip"
        os.close(sink)
        with pytest.raises(EOFError):
            line_within(5.0)


def test_keys_come_one_by_one_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was typed without Enter is kept for the next call."""
    pressed: list[str] = list("skx")

    class Keyboard:
        kbhit = staticmethod(lambda: bool(pressed))
        getwche = staticmethod(lambda: pressed.pop(0))

    modules: dict[str, Any] = {"msvcrt": Keyboard}
    monkeypatch.setattr("importlib.import_module", modules.__getitem__)
    assert keys._windows_line_within(0.02) is None
    pressed += ["\b", "i", "p", "\r"]
    assert keys._windows_line_within(0.02) == "skip"
    pressed += ["\x03"]
    with pytest.raises(KeyboardInterrupt):
        keys._windows_line_within(0.02)


def test_the_how_to_is_about_steps_that_there_are() -> None:
    from labctl.procedures.align import STEPS

    text = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "align.md").read_text(encoding="utf-8")
    for step in STEPS:
        assert f"`{step}`" in text
