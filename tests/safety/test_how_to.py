"""The bench files in the how-to pages: each is read, opened, and exercised as its page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.bench import Bench
from labctl.clock import DrivenClock
from labctl.errors import DeviceError
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import resolve
from labctl.simulation.instruments import Firmware
from labctl.simulation.terminal import Terminal
from labctl.simulation.world import World

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs" / "how-to"
SIM = ROOT / "tests" / "instruments" / "bench.yaml"
TERMINATIONS = r'read_termination = "\n", write_termination = "\n"'
Open = Callable[[str], Bench]


@pytest.fixture
def opened(lit: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a bench file; closed after the test."""
    monkeypatch.setattr(Bench, "show", lambda self, **patterns: None)  # the panels are of no interest here
    return lit


def files(page: str) -> dict[str, str]:
    """The bench files of a page, by their name."""
    blocks = re.findall(r"```toml\n(.*?)```", (HOW_TO / page).read_text(encoding="utf-8"), re.DOTALL)
    return {re.findall(r'name = "(.*?)"', block)[0]: block for block in blocks}


def test_simulated_instruments(opened: Open) -> None:
    bench = opened(files("instruments.md")["simulated-instruments"])
    bench.set("laser", "power", 0.005)
    assert bench.read("power-meter", "power") == pytest.approx(5e-3, rel=0.05)
    bench.set("shutter", "open", False)
    assert bench.read("power-meter", "power") == 0


def test_guarded(opened: Open) -> None:
    bench = opened(files("safety.md")["guarded"])
    bench.capture()
    with pytest.raises(DeviceError, match=r"outside 0 ... 1.5"):
        bench.set("laser", "power", 2.0)
    bench.make_safe()
    assert bench.read("laser", "power") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are not for Windows")
def test_real_instruments(opened: Open) -> None:
    """The page's file with its ports and its USB resource replaced by simulated ones, and nothing else."""
    plane = Plane((16, 16), (8e-6, 8e-6))
    world = World(Geometry(638e-9, 0.1, 0.1, plane, plane, plane), resolve("ideal", {}), seed=0, clock=DrivenClock())
    text = files("instruments.md")["real-instruments"]
    with Terminal(Firmware(world, "laser")) as laser, Terminal(Firmware(world, "shutter")) as shutter:
        for old, new in (
            ("COM3", laser.port),
            ("COM4", shutter.port),
            ('P2001234::INSTR" }', f"P2001234::INSTR\", visa_library = '{SIM}@sim', {TERMINATIONS} }}"),
            ("ACME,", "labctl,"),
            ("timeout_ms = 500 ", "timeout_ms = 5000 "),  # a busy machine
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        bench = opened(text)
        bench.set("laser", "power", 0.02)
        with pytest.raises(DeviceError, match=r"outside 0 ... 0.02"):
            bench.set("laser", "power", 0.021)
        assert bench.read("laser", "power") == pytest.approx(0.02)
        assert bench.read("meter", "power") == pytest.approx(2.5e-3)
        bench.close()
        assert laser.wait_for("OUTP 0", 60)
        assert shutter.wait_for("SHUT 0", 60)
        assert world.laser[0] is False
