"""Faults from a bench file: strictly read, announced, and done to simulated and real devices alike."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

import numpy as np
import pytest

from labctl.bench import open_bench
from labctl.config.faults import FAULTS_OF, FaultEntry
from labctl.config.load import parse_bench
from labctl.errors import ConfigError, DeviceError

TEXT = """
[bench]
name = "rehearsed"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [64, 60], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [32, 32], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [40, 30], pitch_um = 5.5, readout_ms = 5.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "ideal"
"""
WHITE = np.full((32, 32), 255, np.uint8)


def planned(*entries: str, seed: int = 1) -> str:
    return f"{TEXT}[faults]\nseed = {seed}\n" + "".join(f"[[faults.plan]]\n{entry}\n" for entry in entries)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('device = "camera"\nfault = "torm"\nat = [5]', r"plan\.0\.fault = 'torm': .*did you mean .torn.\?"),
        ('device = "camra"\nfault = "torn"\nat = [5]', r"there is no device 'camra': did you mean camera\?"),
        ('device = "slm"\nfault = "torn"\nat = [5]', r"torn is no fault of slm, which is a panel: it may have time"),
        ('device = "laser"\nfault = "nan"\nat = [5]', r"nan is no fault of laser, which is an instrument"),
        ('device = "camera"\nfault = "torn"', r"say when torn happens, with at = .*: one of them is needed"),
        ('device = "camera"\nfault = "torn"\nat = [5]\nrate = 0.1', r"not at and rate"),
        ('device = "camera"\nfault = "torn"\nrat = 0.1', r"faults\.plan\.0\.rat is not a key .* did you mean rate\?"),
        ('device = "camera"\nfault = "torn"\nrate = 1.5', r"rate = 1\.5: must be less than or equal to 1"),
        ('device = "camera"\nfault = "torn"\nat = [0]', r"at\.0 = 0: must be greater than or equal to 1"),
        ('device = "camera"\nfault = "hang"\nat = [5]', r"say how long hang lasts: add for_s = 3\.0"),
        ('device = "camera"\nfault = "torn"\nat = [5]\nfor_s = 1.0', r"torn has no duration: leave out for_s"),
        ('device = "camera"\nfault = "failing-close"\nat = [5]', r"happens when the device is closed: leave out at"),
        ('fault = "torn"\nat = [5]', r"faults\.plan\.0\.device is missing"),
        ('device = "camera"\nfault = "torn"\ncall = "frame"\nat = [5]', r"torn cannot happen at .*: leave out call"),
        ('device = "camera"\nfault = "stuck"\ncall = "show"\nat = [5]', r"camera has no call 'show': write one of f"),
        ('device = "slm"\nfault = "timeout"\ncall = "blan"\nat = [5]', r"call = 'blan': .*did you mean .blank.\?"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_meant_is_one_line_with_what_to_write(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_bench(planned(entry))
    assert "\n" not in str(raised.value)


def test_a_problem_is_reported_on_the_line_of_its_own_entry() -> None:
    text = planned('device = "camera"\nfault = "torn"\nat = [5]', 'device = "camera"\nfault = "torn"\nrate = 2.0')
    with pytest.raises(ConfigError) as raised:
        parse_bench(text)
    line = text.splitlines().index("rate = 2.0") + 1
    assert str(raised.value).startswith(f"bench file, line {line}: faults.plan.1.rate")


def test_every_fault_that_a_kind_may_have_can_be_written() -> None:
    named = {name for names in FAULTS_OF.values() for name in names}
    assert named == set(FaultEntry.model_fields["fault"].annotation.__args__)


def test_faults_are_announced_and_done(caplog: pytest.LogCaptureFixture) -> None:
    entries = (
        'device = "camera"\nfault = "dark"\nat = [2]',
        'device = "slm"\nfault = "timeout"\nrate = 0.25\nfor_s = 1.5',
    )
    with caplog.at_level(logging.WARNING):
        bench = open_bench(parse_bench(planned(*entries)))
    assert "faults armed: camera dark at call 2; slm timeout in 0.25 of the calls for 1.5 s" in caplog.text
    bench.show(input=WHITE)
    bright, dark, again = (bench.capture().data for _ in range(3))
    assert bright.max() > 0
    assert dark.max() == 0
    assert (again == bright).all()
    assert [(item.device, item.call, item.fault) for item in bench.injected] == [("camera", 2, "dark")]
    bench.close()


def test_a_bench_without_faults_is_not_wrapped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bench = open_bench(parse_bench(TEXT))
    assert "faults" not in caplog.text
    assert bench.injected == []
    assert type(bench.device("camera")).__name__ == "SlmsuiteSensor"
    bench.close()


def test_a_laser_that_dies_takes_the_light_of_the_simulated_world_with_it() -> None:
    bench = open_bench(parse_bench(planned('device = "laser"\nfault = "dies"\nafter_s = 1.0')))
    bench.show(input=WHITE)
    assert bench.capture().data.max() > 0
    bench.clock.sleep(1.0)
    bench.set("laser", "enabled", True)
    assert bench.capture().data.max() == 0
    bench.close()


def test_real_devices_can_be_rehearsed_with_and_the_warning_is_loud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that labctl has never seen, in a bench with faults: it fails as planned, and the log shouts."""
    from slmsuite.hardware.cameras.camera import Camera

    class Eye(Camera):
        def __init__(self) -> None:
            super().__init__((40, 30), bitdepth=8, pitch_um=5.5)

        def _get_exposure_hw(self) -> float:
            return 1e-3

        def _set_exposure_hw(self, exposure_s: float) -> None:
            """Fixed."""

        def _get_image_hw(self, timeout_s: float) -> Any:
            return np.full((30, 40), 7, np.uint8)

        def close(self) -> None:
            """Nothing."""

    module = types.ModuleType("eye_lab")
    module.Eye = Eye  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eye_lab", module)
    text = planned('device = "camera"\nfault = "nan"\nat = [2]').replace(
        'driver = "simulated"\noptions = { resolution = [40, 30], pitch_um = 5.5, readout_ms = 5.0 }',
        'driver = "eye_lab:Eye"',
    )
    with caplog.at_level(logging.WARNING):
        bench = open_bench(parse_bench(text))
    assert "FAULTS ARE ARMED ON A BENCH WITH REAL DEVICES" in caplog.text
    assert (bench.capture().data == 7).all()
    with pytest.raises(DeviceError, match="camera: gave a frame with 400 pixels that are not numbers"):
        bench.capture()
    assert (bench.capture().data == 7).all()
    bench.close()
