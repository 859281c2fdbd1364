"""`labctl bench new` and `labctl bench check`: from what is connected to a bench that has been exercised."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from labctl.cli import main
from labctl.config import load_bench
from labctl.devices.discovery import Finding, Found
from labctl.workspace import Workspace

MONITOR = Found("slm", "PLUTO", "HOL PLUTO 1920x1080", "display", {"monitor": "PLUTO"}, ("pitch_um",))
DESKTOP = Found("slm", "S1", "DEL, carries the desktop", "display", {"monitor": "S1"}, ("pitch_um",))
CAMERA = Found("camera", "0815-0000", "Basler cameras", "basler", {"serial": "0815-0000"}, ("pitch_um",))
UVC = Found("camera", "cam", "video device 0", "opencv", {"source": 0}, ("pitch_um",))
PORT = Found("instruments", "COM3", "USB serial", "serial", {"port": "COM3"}, ("role", "settings"))
OPTICS = [
    "--wavelength-nm",
    "638",
    "--f1-mm",
    "100",
    "--f2-mm",
    "75",
    "--slm-settle-ms",
    "150",
    "--input-settle-ms",
    "5",
]


@pytest.fixture
def found(tmp_path: Path) -> Any:
    def write(*devices: Found) -> list[str]:
        path = tmp_path / "found.json"
        path.write_text(json.dumps([Finding("any", devices).as_json()]), encoding="utf-8")
        return ["--from-json", str(path)]

    return write


def test_a_bench_of_what_is_connected(workspace: Workspace, found: Any) -> None:
    given = found(MONITOR, DESKTOP, CAMERA, PORT)
    assert main.run(
        ["bench", "new", "mine", *given, *OPTICS, "--slm-pitch-um", "8", "--camera-pitch-um", "3.45"]
    ) == 0  # fmt: skip
    config = load_bench("mine", workspace)
    assert (config.slm.driver, config.slm.options) == ("display", {"monitor": "PLUTO", "pitch_um": 8.0})
    assert config.camera.options == {"serial": "0815-0000", "pitch_um": 3.45}
    assert config.input is not None
    assert config.input.driver == "simulated", "the desktop's monitor is not taken"
    assert (config.optics.wavelength_nm, config.slm.settle_ms) == (638, 150)
    text = (workspace.benches / "mine.toml").read_text(encoding="utf-8")
    assert '# driver = "serial"\n# options = {port = "COM3"}' in text


def test_it_never_overwrites(workspace: Workspace, found: Any, capsys: Any) -> None:
    before = (workspace.benches / "sim-4f.toml").read_text(encoding="utf-8")
    assert main.run(["bench", "new", "sim-4f", *found(), *OPTICS]) == 1
    assert "exists, and is not overwritten" in capsys.readouterr().err
    assert (workspace.benches / "sim-4f.toml").read_text(encoding="utf-8") == before


def test_without_a_terminal_it_says_what_it_would_have_asked(
    workspace: Workspace, found: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main.run(["bench", "new", "mine", *found(CAMERA), "--f1-mm", "100"]) == 1
    said = capsys.readouterr().err
    assert "nobody can be asked here: add --wavelength-nm, --f2-mm, --slm-settle-ms, --input-settle-ms" in said
    assert "--camera-pitch-um" in said
    assert main.run(["bench", "new", "mine", *found(CAMERA, UVC), *OPTICS]) == 1
    assert (
        "several devices could be the camera: name one with --camera: 0815-0000, cam, simulated"
        in capsys.readouterr().err
    )
    assert main.run(["bench", "new", "mine", *found(CAMERA), *OPTICS, "--camera", "4711"]) == 1
    assert "'4711' is not connected: there are 0815-0000, simulated" in capsys.readouterr().err
    assert not (workspace.benches / "mine.toml").exists()


def test_what_is_asked_is_answered_at_the_terminal(
    workspace: Workspace, found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("2\n532\n3.0\n"))
    given = found(CAMERA, UVC)
    assert main.run(["bench", "new", "mine", *given, *OPTICS[2:]]) == 0
    config = load_bench("mine", workspace)
    assert (config.camera.driver, config.camera.trigger) == ("opencv", "free-run")
    assert config.optics.wavelength_nm == 532
    assert config.camera.options["pitch_um"] == 3.0


def small(workspace: Workspace, *replacements: tuple[str, str]) -> None:
    """The example bench with fewer pixels, in the workspace as ``small``."""
    text = (workspace.benches / "sim-4f.toml").read_text(encoding="utf-8")
    for old, new in (
        ('name = "sim-4f"', 'name = "small"'), ("[1024, 1024], pitch_um = 8.0", "[256, 256], pitch_um = 16.0"),
        ("[256, 256], pitch_um = 8.0 }", "[96, 96], pitch_um = 8.0 }"),
        ("[1024, 1024], pitch_um = 5.5", "[256, 256], pitch_um = 5.5"), *replacements,
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    (workspace.benches / "small.toml").write_text(text, encoding="utf-8")


def rows_of(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["device"], row["what"]): row for row in json.loads(text)["devices"]}


def test_check_measures_every_device_against_the_file(workspace: Workspace, capsys: Any) -> None:
    small(workspace)
    assert main.run(["bench", "check", "small", "--json"]) == 0
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert json.loads(text)["good"]
    assert rows["camera", "frame rate"]["measured"] == pytest.approx(1 / 6e-3, rel=1e-6), "1 ms exposure, 5 ms read-out"
    assert rows["camera", "read-out"]["measured"] == pytest.approx(5.0)
    assert rows["camera", "window"]["measured"] == 128 * 128
    assert 20 < rows["slm", "settle"]["measured"] <= 150, "a liquid crystal of 30 to 100 ms from 10 to 90 %"
    assert rows["input", "settle"]["measured"] <= 11
    assert ("laser", "power") in rows
    assert main.run(["bench", "check", "small"]) == 0
    assert "frames/s" in capsys.readouterr().out


def test_check_finds_a_settle_time_that_is_too_short(workspace: Workspace, capsys: Any) -> None:
    small(workspace, ("settle_ms = 150", "settle_ms = 10"))
    assert main.run(["bench", "check", "small", "--json"]) == 1
    said = capsys.readouterr()
    assert not json.loads(said.out)["good"]
    assert "slm, settle: settle_ms is too short: write" in said.err


def test_check_of_a_camera_that_sees_no_light_says_so(workspace: Workspace, capsys: Any) -> None:
    """A mixed bench: pylon's emulated camera looks at none of the simulated light."""
    pytest.importorskip("pypylon", reason="pypylon is not installed")
    from labctl.bench import open_bench
    from labctl.bench.checking import check_devices

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYLON_CAMEMU", "1")
        simulated = (
            'driver = "simulated"\n'
            "options = { resolution = [256, 256], pitch_um = 5.5, bitdepth = 12, readout_ms = 5.0 }"
        )
        basler = 'driver = "basler"\noptions = { pitch_um = 3.45, pixel_format = "Mono12" }'
        small(workspace, (simulated, basler), ("settle_ms = 150", "settle_ms = 1"))
        bench = open_bench(load_bench("small", workspace))
        try:
            rows = {(row.device, row.what): row for row in check_devices(bench, frames=3)}
        finally:
            bench.close()
    assert rows["slm", "settle"].measured is None
    assert "the camera sees no change" in rows["slm", "settle"].note
    assert rows["camera", "exposure"].measured == pytest.approx(1.0)
    assert all(row.good for row in rows.values())
