"""Discovery: what kits find, and one line for one that is missing, fails, crashes or hangs."""

from __future__ import annotations

import json
import sys
import tomllib
from typing import Any

import pytest

from labctl.cli import main
from labctl.devices import discovery
from labctl.devices.discovery import Finding, Found, discover, read_findings
from labctl.devices.probing import KITS, MARK


def answers(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let every probe be this program."""
    monkeypatch.setattr(discovery, "probe_command", lambda kit: [sys.executable, "-c", code])
    monkeypatch.setattr(discovery, "_importable", lambda package: True)


def test_pylons_emulated_cameras_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypylon", reason="pypylon is not installed")
    monkeypatch.setenv("PYLON_CAMEMU", "2")
    (finding,) = discover(["basler"])
    assert finding.note == ""
    assert [found.name for found in finding.found] == ["0815-0000", "0815-0001"]
    content = tomllib.loads(finding.found[1].snippet)
    assert content == {"camera": {"driver": "basler", "options": {"serial": "0815-0001"}}}
    assert "# add pitch_um" in finding.found[1].snippet


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import os; os.abort()", "its library crashed (code -6)"),
        ("import nothing_of_that_name", "its library failed: ModuleNotFoundError: No module named"),
        ("import time; time.sleep(60)", "no answer within 0.5 s: its library hangs"),
        ("print('chatter')", "its library crashed (code 0)"),
    ],
)  # fmt: skip
def test_a_kit_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, code: str, note: str) -> None:
    answers(monkeypatch, code)
    (finding,) = discover(["flir"], limit_s=0.5 if "sleep" in code else 30)
    if sys.platform == "win32" and "abort" in code:
        note = "its library crashed"
    assert finding.note.startswith(note)
    assert "\n" not in finding.note
    assert finding.found == ()


def test_what_a_kit_writes_besides_its_answer_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    device = {"section": "camera", "name": "7", "detail": "", "driver": "d", "options": {}, "asks": []}
    answers(monkeypatch, f"print('SDK 3.1 ready'); print({MARK + json.dumps([device])!r}); print('bye')")
    (finding,) = discover(["flir"])
    assert finding.found == (Found("camera", "7", "", "d"),)


def test_a_kit_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_importable", lambda package: False)
    (finding,) = discover(["basler"])
    assert not finding.installed
    assert finding.note == "Basler cameras: pypylon is not installed: pip install pypylon"


@pytest.mark.parametrize("kit", KITS)
def test_every_kits_driver_is_slmsuites_or_ours(kit: str) -> None:
    """The name in the snippet names a class; it needs no kit to say so."""
    import importlib.util
    from pathlib import Path

    _, _, name = KITS[kit].driver.partition(":")
    if not name:
        return  # ours: opened by other tests
    module, _, cls = name.rpartition(".")
    spec = importlib.util.find_spec(f"slmsuite.hardware.{KITS[kit].section}s.{module}")
    assert spec is not None
    assert spec.origin is not None
    # Read, not imported: some modules need their kit for that.
    assert f"class {cls}(" in Path(spec.origin).read_text(encoding="utf-8")


def test_findings_survive_json(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("basler", (Found("camera", "1", "d", "basler", {"serial": "1"}, ("pitch_um",)),)),
        Finding("flir", note="gone", installed=False),
    ]
    assert read_findings(json.dumps([finding.as_json() for finding in findings])) == findings


def test_monitors_are_named_so_that_no_other_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    import labctl.devices.display as display
    from labctl.devices.display.finding import MonitorInfo

    twins = [
        MonitorInfo("HDMI-1", "HOL", "PLUTO", width=1920, height=1080, x=1920),
        MonitorInfo("HDMI-2", "HOL", "PLUTO", width=1920, height=1080, x=3840),
        MonitorInfo("DP-1", "DEL", "U2412", "S123", width=1920, height=1200, primary=True),
    ]
    monkeypatch.setattr(display, "monitors", lambda timeout_s: twins)
    (finding,) = discover(["monitors"])
    assert [found.name for found in finding.found] == ["HDMI-1", "HDMI-2", "S123"]
    assert "carries the desktop" in finding.found[2].detail
    assert tomllib.loads(finding.found[0].snippet)["slm"]["options"]["resolution"] == [1920, 1080]


def test_the_command_prints_snippets_and_json(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    device = {
        "section": "camera",
        "name": "7",
        "detail": "x",
        "driver": "basler",
        "options": {"serial": "7"},
        "asks": [],
    }
    answers(monkeypatch, f"print({MARK + json.dumps([device])!r})")
    assert main.run(["devices", "--only", "basler"]) == 0
    assert (
        'basler: 7  (x)\n    [camera]\n    driver = "basler"\n    options = {serial = "7"}' in capsys.readouterr().out
    )
    assert main.run(["devices", "--only", "basler", "--json"]) == 0
    assert read_findings(capsys.readouterr().out)[0].found[0].name == "7"
    assert main.run(["devices", "--only", "lasers"]) == 1
    assert "--only lasers: labctl looks at monitors" in capsys.readouterr().err
