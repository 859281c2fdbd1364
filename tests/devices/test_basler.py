"""Basler's real stack on pylon's emulated cameras: a bench with one, as a user would have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from labctl.bench import Bench
from labctl.errors import ConfigError, DeviceError

pytest.importorskip("pypylon", reason="pypylon is not installed")

WithCamera = Callable[[str], Bench]
SLMSUITE = 'driver = "slmsuite:basler.Basler"\noptions = { serial = "0815-0000", pitch_um = 3.45 }'
OURS = 'driver = "basler"\noptions = { serial = "0815-0001", pitch_um = 3.45, pixel_format = "Mono12" }'
WINDOW = (200, 328, 100, 356)


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYLON_CAMEMU", "2")
    yield
    from slmsuite.hardware.cameras.basler import Basler

    Basler.sdk = None


def pylon(bench: Bench) -> Any:
    """pylon's camera behind a bench."""
    return bench.device("camera").driver.cam


@pytest.mark.parametrize(("lines", "top"), [(SLMSUITE, 255), (OURS, 4095)])
def test_live_frames_of_the_window_that_was_set(with_camera: WithCamera, lines: str, top: int) -> None:
    bench = with_camera(lines)
    assert bench.facts.geometry.camera.shape == (4096, 4096), "the whole sensor, whatever window was left"
    assert bench.facts.geometry.camera.pitch == pytest.approx((3.45e-6, 3.45e-6))
    assert 2**bench.facts.camera_bitdepth - 1 == top
    bench.set("camera", "window", WINDOW)
    before = bench.clock.now()
    for number in range(8):
        bench.show(slm=np.full((128, 128), number, np.uint8))
        frame = bench.capture()
        assert frame.data.shape == (128, 256)
        assert frame.origin == (200, 100)
        assert frame.started >= before
        before = frame.ended
    assert frame.data.dtype == (np.uint8 if top == 255 else np.uint16)
    assert 0.9 * top <= frame.data.max() <= top
    bench.set("camera", "window", None)
    assert bench.capture().data.shape == (4096, 4096)


def test_exposure_is_set_on_the_camera(with_camera: WithCamera) -> None:
    bench = with_camera(OURS)
    bench.set("camera", "window", WINDOW)
    for exposure in (2e-3, 7.5e-3):
        frame = bench.capture(exposure)
        assert frame.exposure_s == exposure
        assert pylon(bench).ExposureTime.GetValue() == pytest.approx(exposure * 1e6)


@pytest.mark.parametrize("lines", [SLMSUITE, OURS])
def test_a_broken_frame_is_one_line_and_the_next_is_whole(with_camera: WithCamera, lines: str) -> None:
    bench = with_camera(lines)
    bench.set("camera", "window", WINDOW)
    bench.capture()
    pylon(bench).ForceFailedBufferCount.SetValue(1)
    pylon(bench).ForceFailedBuffer.Execute()
    with pytest.raises(DeviceError, match=r"camera '0815-000\d' gave no frame: .*incompletely grabbed") as caught:
        bench.capture()
    assert "\n" not in str(caught.value)
    assert caught.value.device == "camera"
    assert bench.device("camera").failures == 1
    assert bench.capture().data.shape == (128, 256)


def test_a_window_off_the_sensor_is_refused_and_the_old_one_stays(with_camera: WithCamera) -> None:
    bench = with_camera(OURS)
    bench.set("camera", "window", WINDOW)
    with pytest.raises(DeviceError, match=r"rows 0 to 5000 .* does not lie on its 4096 rows"):
        bench.set("camera", "window", (0, 5000, 0, 10))
    assert bench.capture().origin == (200, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('serial = "0815-0000", pitch_um = 3.45, pixel_format = "BGR8"', "labctl reads Mono8"),
        ('serial = "0815-0000", pitch_um = 3.45, pixel_format = "Mono14"', "this camera has Mono8, Mono10.*no Mono14"),
        ('serial = "0815-0000"', r"camera.options lacks pitch_um"),
        ('serial = "0815-0000", pitch_um = 3.45, gian = 2.0', "gian is not an option .*did you mean gain"),
        ('serial = "0815-0000", pitch_um = 3.45, bitdepth = 12', "finds this out by itself: remove it"),
        ('serial = "4711", pitch_um = 3.45', "could not be opened .*4711 not found"),
    ],
)  # fmt: skip
def test_options_are_checked_by_name(with_camera: WithCamera, options: str, message: str) -> None:
    with pytest.raises((ConfigError, DeviceError), match=message):
        with_camera(f'driver = "basler"\noptions = {{ {options} }}')


@pytest.mark.slow
def test_slmsuites_own_test_passes() -> None:
    from labctl.devices.basler import BaslerCamera

    camera = BaslerCamera("0815-0000", pitch_um=3.45, pixel_format="Mono12")
    try:
        assert camera.test()
    finally:
        camera.close()


def test_windows_are_widened_to_the_cameras_steps() -> None:
    """Start a multiple of 4, size of 8: what was asked for lies inside, and nothing leaves the sensor."""
    from labctl.devices.basler import widened

    for start in range(63):
        for extent in range(1, 64 - start + 1):
            first, length = widened(start, extent, step=4, size_step=8, smallest=16, limit=64)
            assert first % 4 == 0
            assert length % 8 == 0
            assert first <= start
            assert start + extent <= first + length <= 64
            assert 16 <= length <= max(16, extent + 8 + 4)
