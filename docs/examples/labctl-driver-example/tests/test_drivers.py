"""What every driver should be tested for. With hardware connected, the same tests run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from labctl_driver_example import ExampleCamera, ExampleLaser, ExampleSLM

from labctl.bench import Bench, open_bench
from labctl.config import load_bench
from labctl.errors import ConfigError, DeviceError

BENCH = Path(__file__).resolve().parents[1] / "example.toml"


@pytest.fixture
def bench() -> Iterator[Bench]:
    opened = open_bench(load_bench(BENCH))
    yield opened
    opened.close()


def test_slmsuites_own_tests_pass() -> None:
    slm = ExampleSLM()
    camera = ExampleCamera(slm)
    assert slm.test()
    assert camera.test()


def test_a_frame_shows_the_pattern_that_was_sent_before(bench: Bench) -> None:
    levels = []
    for level in (0, 255, 0, 255):
        bench.show(slm=np.full((256, 320), level, np.uint8))
        frame = bench.capture()
        assert frame.started <= frame.ended
        levels.append(int(frame.data[40, 40]))
    assert levels[0] == levels[2] < levels[1] == levels[3]


def test_a_window_is_read_where_it_was_asked_for(bench: Bench) -> None:
    whole = bench.capture()
    bench.set("camera", "window", (20, 80, 30, 130))
    part = bench.capture()
    assert part.origin == (20, 30)
    np.testing.assert_array_equal(part.data, whole.data[20:80, 30:130])


def test_a_frame_that_does_not_come_is_one_line_and_the_next_works(bench: Bench) -> None:
    bench.capture()
    trigger = bench.device("camera").driver.grabber.trigger

    def silent(*args: object) -> object:
        raise TimeoutError("no frame")

    bench.device("camera").driver.grabber.trigger = silent
    with pytest.raises(DeviceError, match="camera 'example camera' gave no frame: TimeoutError: no frame"):
        bench.capture()
    bench.device("camera").driver.grabber.trigger = trigger
    assert bench.capture().data.shape == (300, 400)


def test_the_laser_is_off_when_the_bench_is_closed(bench: Bench) -> None:
    bench.set("laser", "enabled", True)
    bench.set("laser", "power", 5.0)
    with pytest.raises(DeviceError):
        bench.set("laser", "power", 15.0)  # the bench file's limit, stricter than the laser's own
    assert bench.read("laser", "power") == 5.0
    bench.close()
    assert bench.read("laser", "enabled") is False


def test_a_wrong_serial_number_and_a_wrong_option_are_one_line() -> None:
    from labctl.devices.catalogue import construct

    with pytest.raises(DeviceError, match=r"ExampleSLM could not be opened .*no board with serial number EX-2"):
        construct(ExampleSLM, {"serial": "EX-2"}, role="slm")
    with pytest.raises(ConfigError, match="did you mean serial"):
        construct(ExampleSLM, {"seral": "EX-1"}, role="slm")
    with pytest.raises(ConfigError, match="lacks port"):
        construct(ExampleLaser, {}, role="laser")
