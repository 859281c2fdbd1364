"""OpenCV cameras: a video file that stands in for one, and the pairing of one that runs freely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from labctl.bench import Bench
from labctl.clock import DrivenClock
from labctl.devices.adapter import SlmsuiteSensor
from labctl.devices.opencv import OpenCVCamera, exposure_scale
from labctl.errors import ConfigError, DeviceError

FRAMES = 5


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of 64 x 48 in a lossless codec: frame n is 40 n + 20 in green, half that in red, 0 in blue."""
    path = tmp_path_factory.mktemp("video") / "uvc.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25.0, (64, 48))
    assert writer.isOpened()
    for number in range(FRAMES):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 1], frame[..., 2] = 40 * number + 20, 20 * number + 10
        writer.write(frame)
    writer.release()
    return path


def test_a_file_is_a_camera_that_starts_again_after_its_last_frame(
    video: Path, with_camera: Callable[[str], Bench]
) -> None:
    bench = with_camera(
        f"driver = 'opencv'\noptions = {{ source = '{video}', pitch_um = 3.0, channel = 'green' }}\n"
        "trigger = 'free-run'"
    )
    assert bench.facts.geometry.camera.shape == (48, 64)
    assert bench.facts.camera_bitdepth == 8
    levels = []
    for _ in range(2 * FRAMES + 1):
        frame = bench.capture()
        assert frame.data.dtype == np.uint8
        levels.append(int(frame.data[10, 10]))
    expected = [40 * (n % FRAMES) + 20 for n in range(2 * FRAMES + 1)]
    assert np.abs(np.subtract(levels, expected)).max() <= 3, "colour conversion of the codec rounds"
    bench.set("camera", "window", (8, 24, 16, 60))
    assert bench.capture().data.shape == (16, 44)


@pytest.mark.parametrize(("channel", "weight"), [("red", 0.5), ("blue", 0.0), ("gray", 0.587 + 0.299 / 2)])
def test_a_channel_or_the_gray_of_all_is_read(video: Path, channel: Any, weight: float) -> None:
    camera = OpenCVCamera(str(video), pitch_um=3.0, channel=channel)
    try:
        for number in range(FRAMES):
            assert abs(float(camera.get_image().mean()) - weight * (40 * number + 20)) <= 3
    finally:
        camera.close()


def test_a_file_has_no_exposure_to_set_and_says_so(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    camera = OpenCVCamera(str(video), pitch_um=3.0)
    try:
        assert camera.set_exposure(1e-3) == pytest.approx(1 / 25)
        SlmsuiteSensor(camera, clock=DrivenClock(), trigger="free-run", timeout_s=1).grab(1e-3)
    finally:
        camera.close()
    assert "asked to expose for 0.001 s, it does for 0.04 s" in caplog.text


def test_slmsuites_own_test_passes(video: Path) -> None:
    camera = OpenCVCamera(str(video), pitch_um=3.0)
    try:
        assert camera.test()
    finally:
        camera.close()


def test_what_cannot_be_opened_is_one_line(video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no video" * 100)
    for source, options, error, message in (
        (str(tmp_path / "none.avi"), {}, DeviceError, "there is no video file"),
        (str(broken), {}, DeviceError, "OpenCV cannot open .*is it a video"),
        (str(video), {"resolution": (640, 480)}, DeviceError, "gives 64 x 48 pixels, not 640 x 480"),
        (str(video), {"channel": "infrared"}, ConfigError, "none of gray"),
        (str(video), {"backend": "NOSUCH"}, ConfigError, "no video backend called 'NOSUCH'"),
    ):
        with pytest.raises(error, match=message):
            OpenCVCamera(source, pitch_um=3.0, **options)


class Live:
    """OpenCV's capture of a free-running camera at 25 frames/s, on a driven clock, with frames waiting in a buffer."""

    period = 0.04

    def __init__(self, clock: DrivenClock, *, buffered: int) -> None:
        self.clock, self.buffer, self.queued = clock, buffered, [0.0] * buffered
        self.ends, self.dead = 0.0, False

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FPS: 25.0, cv2.CAP_PROP_EXPOSURE: 200.0}.get(what, 0.0)

    def set(self, what: int, value: float) -> bool:
        return True

    def isOpened(self) -> bool:
        return True

    def getBackendName(self) -> str:
        return "V4L2"

    def grab(self) -> bool:
        if self.dead:
            return False
        while self.ends + self.period <= self.clock.now():  # it ran while nobody looked
            self.ends += self.period
            self.queued = [*self.queued, self.ends][-self.buffer :]
        if self.queued:
            self.frame = self.queued.pop(0)
            self.clock.sleep(1e-4)
        else:
            self.ends += self.period
            self.clock.sleep(self.ends - self.clock.now())
            self.frame = self.ends
        return True

    def retrieve(self) -> tuple[bool, Any]:
        """A frame whose level says in hundredths of a second when its exposure ended."""
        return True, np.full((4, 6, 3), round(self.frame * 100), np.uint8)

    def read(self) -> tuple[bool, Any]:
        return self.grab(), self.retrieve()[1]

    def release(self) -> None:
        """Nothing."""


def live(monkeypatch: pytest.MonkeyPatch, clock: DrivenClock, buffered: int) -> tuple[OpenCVCamera, Live]:
    capture = Live(clock, buffered=buffered)
    monkeypatch.setattr("labctl.devices.opencv.open_capture", lambda source, api: capture)
    monkeypatch.setattr(OpenCVCamera, "clock", clock)
    return OpenCVCamera(0, pitch_um=3.0), capture


@pytest.mark.parametrize("buffered", [1, 4, 10])
def test_a_frame_that_lay_in_a_buffer_is_never_given(monkeypatch: pytest.MonkeyPatch, buffered: int) -> None:
    """Whatever the buffer holds, the interval that a frame comes with holds its true exposure."""
    clock = DrivenClock()
    camera, _ = live(monkeypatch, clock, buffered)
    assert camera.exposure_s == pytest.approx(0.02), "Video4Linux counts exposure in 0.1 ms"
    for pause in (0.0, 0.013, 0.3, 1.0):
        clock.sleep(pause)
        asked = clock.now()
        level = int(camera.get_image(timeout_s=2)[0, 0])
        started, ended = camera.exposure_interval
        assert started <= level / 100 - 0.02 < level / 100 <= ended + 1e-9
        assert ended > asked


def test_a_camera_that_is_unplugged_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    camera, capture = live(monkeypatch, DrivenClock(), 1)
    capture.dead = True
    with pytest.raises(DeviceError, match=r"'opencv 0' gives no frames: is it unplugged"):
        camera.get_image()


def test_exposure_units_are_the_backends() -> None:
    assert [exposure_scale(name) for name in ("V4L2", "MSMF", "DSHOW", "FFMPEG")] == ["100us", "log2", "log2", "none"]
