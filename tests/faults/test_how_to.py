"""The how-to page does what it says: its bench file opens, its scripts run, its table is complete."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from labctl.cli import main
from labctl.config.faults import FAULTS_OF
from labctl.config.load import parse_bench
from labctl.workspace import Workspace

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "rehearse-faults.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_can_be_followed(
    workspace: Workspace, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = blocks("toml")
    (workspace.benches / "rehearsal.toml").write_text(text, encoding="utf-8")
    assert main.run(["bench", "check", "--file-only", "rehearsal"]) == 0
    assert "faults are armed, nothing measured is to be trusted: camera nan at call 3, 8; " in capsys.readouterr().out
    assert main.run(["bench", "show", "rehearsal"]) == 0
    assert parse_bench(capsys.readouterr().out).digest() == parse_bench(text).digest()
    names: dict[str, Any] = {}
    with caplog.at_level(logging.WARNING):
        for script in blocks("python"):
            exec(compile(script, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    announced = re.search(r"`(faults armed: .*?)`", PAGE.read_text(encoding="utf-8"))
    assert announced is not None
    assert announced[1] in caplog.text
    assert names["levels"] == [9, 255, 9]

    done, outcomes = names["done"], names["outcomes"]
    assert [call for device, call, fault in done if fault == "nan"] == [3, 8]
    assert [fault for device, _, fault in done if device == "laser"] == ["dies"]
    assert ("slm", "hang") in {(device, fault) for device, _, fault in done}
    failed = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(failed) == 2
    assert all(line.startswith("camera: gave a frame with ") for line in failed)
    levels = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert levels[0] > 4 * levels[-1]  # the laser died on the way


def test_the_table_names_every_fault() -> None:
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = {(fault, where.strip()) for _, faults, where, *_ in rows for fault in re.findall(r"`([a-z-]+)`", faults)}
    kinds = {"any": {"camera", "panel", "instrument"}, "panel, instrument": {"panel", "instrument"}}
    listed = {(kind, fault) for fault, where in named for kind in kinds.get(where, {where})}
    assert listed == {(kind, fault) for kind, faults in FAULTS_OF.items() for fault in faults}
