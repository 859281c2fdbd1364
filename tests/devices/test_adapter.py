"""What the adapter makes of a camera driver: pairing by trigger mode, and refusal of what is no sound frame."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from slmsuite.hardware.cameras.camera import Camera

from labctl.clock import DrivenClock
from labctl.devices.adapter import SlmsuiteSensor
from labctl.errors import DeviceError


class Fake(Camera):
    """A camera on a driven clock; what it gives can be changed. It was left with a window of 8 x 8."""

    def __init__(self, clock: DrivenClock, **options: Any) -> None:
        self.clock, self.gives, self.calls, self.timeouts, self.window = clock, None, 0, [], (4, 8, 4, 8)
        self.steps = 1.0
        self.seconds = 1e-3
        super().__init__((20, 16), bitdepth=12, pitch_um=5, name="fake", **options)

    def _get_exposure_hw(self) -> float:
        return self.seconds

    def _set_exposure_hw(self, exposure_s: float) -> None:
        self.seconds = max(self.steps * round(exposure_s / self.steps), self.steps) if self.steps < 1 else exposure_s

    def _get_woi_hw(self) -> Any:
        return self.window

    def _set_woi_hw(self, woi: Any) -> None:
        if woi[1] % 2:
            raise ValueError("width must be even\nreally")
        self.window = tuple(woi)

    def _get_image_hw(self, timeout_s: float) -> Any:
        self.calls += 1
        self.timeouts.append(timeout_s)
        self.clock.sleep(self.seconds)
        if isinstance(self.gives, Exception):
            raise self.gives
        return np.full((self.window[3], self.window[1]), self.calls, np.uint16) if self.gives is None else self.gives

    def close(self) -> None:
        """Nothing."""


def sensor(trigger: str = "software", cls: type[Fake] = Fake, **options: Any) -> tuple[SlmsuiteSensor, Any]:
    clock = DrivenClock(7)
    camera = cls(clock, **options)
    camera.calls, camera.timeouts = 0, []  # slmsuite takes a frame when it opens, to learn its type
    return SlmsuiteSensor(camera, clock=clock, trigger=trigger, timeout_s=0.5), camera


def test_the_whole_sensor_is_read_whatever_window_was_left() -> None:
    opened, camera = sensor()
    assert opened.shape == (16, 20)
    assert camera.window == (0, 20, 0, 16)
    assert opened.grab(1e-3).data.shape == (16, 20)


def test_software_trigger_exposes_on_the_call() -> None:
    opened, camera = sensor()
    camera.clock.sleep(1.0)
    frame = opened.grab(2e-3)
    assert (frame.started, frame.ended) == (pytest.approx(8.001), pytest.approx(8.003))
    assert camera.calls == 1
    assert camera.timeouts == [pytest.approx(0.502)], "the bench file's time limit, and the exposure"


class FreeRunning(Fake):
    """Exposes without a break; a frame waits in its buffer and the next is being exposed when one is asked for."""

    exposures: list[float]

    def _get_image_hw(self, timeout_s: float) -> Any:
        super()._get_image_hw(timeout_s)
        if not hasattr(self, "exposures"):
            self.exposures = [self.clock.now() - 5 * self.seconds, self.clock.now() - 1.5 * self.seconds]
        started = self.exposures.pop(0)
        self.exposures.append(self.exposures[-1] + self.seconds)
        self.given = started
        return np.zeros((16, 20), np.uint16)


def test_a_free_running_camera_is_flushed_and_its_frame_is_no_older_than_it_says() -> None:
    opened, camera = sensor("free-run", FreeRunning)
    frame = opened.grab(2e-3)
    assert camera.calls == 3, "slmsuite flushes two"
    assert frame.started == pytest.approx(7.001)
    assert camera.given >= frame.started - 2e-3


def test_a_driver_that_knows_when_it_exposed_is_believed_and_not_flushed() -> None:
    class Dated(Fake):
        exposure_interval = (3.0, 3.5)

    for trigger in ("software", "hardware", "free-run"):
        opened, camera = sensor(trigger, Dated)
        frame = opened.grab(1e-3)
        assert (frame.started, frame.ended) == (3.0, 3.5)
        assert camera.calls == 1


def test_hardware_trigger_without_times_cannot_be_paired() -> None:
    with pytest.raises(DeviceError, match="triggered by hardware, but its driver does not say when"):
        sensor("hardware")


def test_a_failed_frame_is_counted_and_not_tried_again_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """slmsuite would try five times, each with its time limit, and say nothing if the last one works."""
    opened, camera = sensor(capture_attempts=5)
    camera.gives = RuntimeError("no trigger\n seen")
    with caplog.at_level(logging.WARNING), pytest.raises(DeviceError) as caught:
        opened.grab(1e-3)
    assert str(caught.value) == "camera 'fake' gave no frame: RuntimeError: no trigger seen"
    assert (camera.calls, opened.failures) == (1, 1)
    assert "number 1 that failed" in caplog.text
    camera.gives = None
    assert opened.grab(1e-3).data.shape == (16, 20)


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (np.zeros((16, 20), np.float32), "gave float32 pixels"),
        (np.zeros((16, 20), np.int16), "gave int16 pixels"),
        (np.zeros((16, 19), np.uint16), r"gave a frame of \(16, 19\) \(rows, columns\) where \(16, 20\) were due"),
        (np.zeros((16, 20, 3), np.uint8), r"gives colour frames \(16, 20, 3\): add color_channel"),
    ],
)
def test_what_is_no_sound_frame_is_refused(gives: Any, message: str) -> None:
    opened, camera = sensor()
    camera.gives = gives
    with pytest.raises(DeviceError, match=message):
        opened.grab(1e-3)
    assert opened.failures == 1


def test_a_colour_channel_that_is_named_is_read() -> None:
    opened, camera = sensor(color_channel=2)
    camera.gives = np.stack([np.full((16, 20), level, np.uint8) for level in (10, 20, 30)], axis=-1)
    assert (opened.grab(1e-3).data == 30).all()


def test_a_window_the_camera_refuses_leaves_the_one_it_has() -> None:
    opened, _ = sensor()
    opened.set_window((2, 10, 4, 12))
    with pytest.raises(
        DeviceError, match=r"refuses the window rows 0 to 4, columns 6 to 9: .*width must be even really"
    ):
        opened.set_window((0, 4, 6, 9))
    frame = opened.grab(1e-3)
    assert frame.origin == (2, 4)
    assert frame.data.shape == (8, 8)


def test_an_exposure_that_comes_out_differently_is_said(caplog: pytest.LogCaptureFixture) -> None:
    opened, camera = sensor()
    camera.steps = 1e-2
    opened.grab(1.2e-2)
    assert opened.exposure_s == pytest.approx(1e-2)
    assert "asked to expose for 0.012 s, it does for 0.01 s" in caplog.text
