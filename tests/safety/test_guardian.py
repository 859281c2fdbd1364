"""Whatever ends labctl, laser and shutter are made safe: a real process, killed; firmware that records what came."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from labctl.bench import Bench
from labctl.bench.guardian import Guardian, wards_of
from labctl.clock import DrivenClock
from labctl.config.load import parse_bench
from labctl.devices.instruments import guard_process
from labctl.devices.serial import SerialInstrument
from labctl.errors import DeviceError
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.effects import resolve
from labctl.simulation.instruments import Firmware
from labctl.simulation.terminal import Terminal
from labctl.simulation.world import World

HERE = Path(__file__).parent
LONG_S = 60.0
"""For what takes a fraction of a second on an idle machine."""
SERIAL = """
[instruments.laser]
driver = "serial"
role = "laser"
[instruments.laser.options]
port = "{laser}"
timeout_ms = 2000
identify = {{ query = "*IDN?", expect = "labctl,simulated laser,.*" }}
safe = [["enabled", false]]
settings.enabled = {{ set = "OUTP {{value}}", get = "OUTP?", type = "bool" }}
[instruments.shutter]
driver = "serial"
role = "shutter"
[instruments.shutter.options]
port = "{shutter}"
safe = [["open", false]]
settings.open = {{ set = "SHUT {{value}}", get = "SHUT?", type = "bool" }}
"""
FILE = """
[instruments.laser]
driver = "file_laser:FileLaser"
role = "laser"
options = {{ path = '{path}' }}
"""
Start = Callable[[str, str], tuple["subprocess.Popen[str]", dict[str, int]]]
posix = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals and forks are not for Windows")


@pytest.fixture
def terminals() -> Iterator[tuple[World, Terminal, Terminal]]:
    """A world whose laser and shutter listen on a pseudo-terminal each."""
    if sys.platform == "win32":
        pytest.skip("pseudo-terminals are not for Windows")
    plane = Plane((16, 16), (8e-6, 8e-6))
    world = World(Geometry(638e-9, 0.1, 0.1, plane, plane, plane), resolve("ideal", {}), seed=0, clock=DrivenClock())
    with Terminal(Firmware(world, "laser")) as laser, Terminal(Firmware(world, "shutter")) as shutter:
        yield world, laser, shutter


@pytest.fixture
def start(tmp_path: Path, light: str) -> Iterator[Start]:
    """Starts a process that owns a bench with these instruments and will die in this way."""
    with ExitStack() as stack:

        def begin(instruments: str, death: str) -> tuple[subprocess.Popen[str], dict[str, int]]:
            file = tmp_path / "small.toml"
            file.write_text(light + instruments, encoding="utf-8")
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(HERE / "killed_bench.py"), str(file), death],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)},
                    text=True,
                    encoding="utf-8",
                )
            )
            stack.callback(process.kill)
            line = process.stdout.readline() if process.stdout else ""
            assert line, process.stderr.read() if process.stderr else ""
            return process, json.loads(line)

        yield begin


def end(process: subprocess.Popen[str], death: str) -> None:
    if death in ("kill", "fork"):
        process.kill()
    else:
        assert process.stdin
        process.stdin.write("now\n")
        process.stdin.flush()


@posix
@pytest.mark.parametrize("death", ["kill", "abort", "exit", "exception", "fork"])
def test_a_process_that_dies_leaves_laser_and_shutter_safe(
    terminals: tuple[World, Terminal, Terminal], start: Start, death: str
) -> None:
    world, laser, shutter = terminals
    process, told = start(SERIAL.format(laser=laser.port, shutter=shutter.port), death)
    assert laser.wait_for("OUTP 1", LONG_S)
    assert shutter.wait_for("SHUT 1", LONG_S)
    assert world.laser[0]
    assert world.shutter
    assert told["guardian"]
    before = len(laser.received), len(shutter.received)
    end(process, death)
    try:
        assert laser.wait_for("OUTP 0", LONG_S, after=before[0])
        assert shutter.wait_for("SHUT 0", LONG_S, after=before[1])
    finally:
        if told["heir"]:
            with suppress(ProcessLookupError):
                os.kill(told["heir"], signal.SIGKILL)
    assert not world.laser[0]
    assert not world.shutter
    assert laser.received[before[0] :] == ["OUTP 0"]  # opened only now, and asked nothing first
    _, said = process.communicate()
    assert "laser has been made safe" in said
    assert "shutter has been made safe" in said
    assert process.returncode == {"kill": -9, "fork": -9, "abort": -6, "exit": 0, "exception": 1}[death]


def test_a_killed_process_is_survived_on_every_system(tmp_path: Path, start: Start) -> None:
    """No pseudo-terminal, no signal: a pipe that ends, and a third-party driver."""
    beam = tmp_path / "beam"
    process, _ = start(FILE.format(path=beam), "kill")
    assert beam.read_text(encoding="utf-8") == "on"
    process.kill()
    _, said = process.communicate()  # ends when the guardian, which shares its stderr, has ended
    assert "laser has been made safe" in said
    assert beam.read_text(encoding="utf-8") == "off"


def test_after_a_clean_close_the_guardian_stands_down(tmp_path: Path, start: Start) -> None:
    beam = tmp_path / "beam"
    process, _ = start(FILE.format(path=beam), "close")
    end(process, "close")
    _, said = process.communicate()
    assert process.returncode == 0
    assert said == ""
    assert beam.read_text(encoding="utf-8") == "off"


@posix
def test_an_open_bench_has_one_and_a_closed_one_has_none(
    terminals: tuple[World, Terminal, Terminal], light: str, lit: Callable[..., Bench]
) -> None:
    _, laser, shutter = terminals
    bench = lit(light + SERIAL.format(laser=laser.port, shutter=shutter.port))
    bench.capture()
    guardian = bench._guardian
    assert guardian is not None
    assert guardian._process.poll() is None
    bench.close()
    assert guardian._process.returncode == 0
    assert laser.wait_for("OUTP 0", LONG_S)
    assert laser.received.count("OUTP 0") == 1  # the bench's own


@posix
def test_what_the_bench_could_not_make_safe_is_left_to_the_guardian(
    terminals: tuple[World, Terminal, Terminal],
    light: str,
    lit: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, laser, shutter = terminals
    bench = lit(light + SERIAL.format(laser=laser.port, shutter=shutter.port))

    def confused(self: object) -> None:
        raise DeviceError("out of step")

    monkeypatch.setattr(SerialInstrument, "make_safe", confused)
    bench.close()
    assert laser.wait_for("OUTP 0", LONG_S)
    assert shutter.wait_for("SHUT 0", LONG_S)
    assert world.laser[0] is False


def test_simulated_instruments_need_none_and_a_file_may_decline(
    light: str, instruments: str, lit: Callable[..., Bench]
) -> None:
    assert lit(light + instruments)._guardian is None
    real = light + SERIAL.format(laser="COM3", shutter="COM4")
    assert [ward["name"] for ward in wards_of(parse_bench(real))] == ["laser", "shutter"]
    assert wards_of(parse_bench(real + "[safety]\nguardian = false\n")) == []
    assert wards_of(parse_bench(real + "[safety]\nlaser_off_on_close = false\n")) == []


def test_a_guardian_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", _python_that_ends())
    guardian = Guardian([])
    with pytest.raises(DeviceError, match="the guardian process did not start"):
        guardian.wait_ready()


def test_a_guardian_that_cannot_load_a_driver_says_so() -> None:
    guardian = Guardian(
        [{"name": "laser", "driver": "nowhere:Laser", "options": {}, "role": "laser", "safe_state": {}}]
    )
    with pytest.raises(DeviceError, match=r"did not start \(instruments.laser.driver: 'nowhere:Laser' cannot be imp"):
        guardian.wait_ready()


def _python_that_ends() -> str:
    """A program that takes any arguments and ends at once."""
    return "/bin/true" if sys.platform != "win32" else "where.exe"


def test_a_guardian_that_dies_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    guardian = Guardian([])
    guardian.wait_ready()
    guardian._process.kill()
    guardian._process.wait(LONG_S)
    guardian.check()
    guardian.check()
    guardian.stand_down()
    assert [record.message for record in caplog.records if "guardian process has ended" in record.message][1:] == []
    assert "nobody switches the laser off" in caplog.text


def test_it_tries_until_the_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead owner's port may be free only a moment later."""
    tries: list[Any] = []

    class Safe:
        def make_safe(self) -> None:
            tries.append("safe")

        def close(self) -> None:
            tries.append("closed")

    def opened(name: str, **options: Any) -> Safe:
        tries.append(options["options"])
        if len(tries) < 3:
            raise DeviceError("the port is busy")
        return Safe()

    monkeypatch.setattr(guard_process, "open_instrument", opened)
    monkeypatch.setattr(guard_process, "AGAIN_S", 0.0)
    ward = {"name": "laser", "driver": "serial", "role": "laser", "safe_state": {}}
    assert guard_process.make_safe(ward | {"options": {"port": "COM3", "identify": {}}}) == ""
    assert tries == [{"port": "COM3"}] * 3 + ["safe", "closed"]


def test_it_gives_up_and_says_what_failed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(guard_process, "GIVE_UP_S", 0.0)
    ward = {"name": "laser", "driver": "nope", "options": {}, "role": "laser", "safe_state": {}}
    assert guard_process.guard([ward]) is False
    assert "laser could NOT be made safe: instruments.laser.driver: no driver is called 'nope'" in caplog.text


def test_it_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys, labctl.devices.instruments.guard_process, labctl.devices.serial, labctl.devices.visa\n"
        "sys.exit(str(sorted({'torch', 'slmsuite', 'PySide6', 'scipy', 'matplotlib', 'cv2'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
