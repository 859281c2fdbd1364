"""GigE Vision cameras through Aravis: its fake camera in the process, and one that speaks GigE Vision over loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from labctl.bench import Bench
from labctl.devices.aravis import AravisCamera, Library
from labctl.errors import ConfigError, DeviceError

try:
    Library()
except DeviceError as missing:
    pytest.skip(str(missing), allow_module_level=True)

SERVER = shutil.which("arv-fake-gv-camera-0.8")
WithCamera = Callable[[str], Bench]
FAKE = 'driver = "aravis"\noptions = { source = "Fake_1", interface = "Fake", pitch_um = 5.0 }'
GIGE = 'driver = "aravis"\noptions = { source = "127.0.0.1", pitch_um = 5.0 }\ntimeout_ms = 1000'


def exercise(bench: Bench) -> None:
    assert bench.facts.geometry.camera.shape == (2048, 2048)
    bench.set("camera", "window", (32, 128, 64, 192))
    before = bench.clock.now()
    for exposure in (2e-3, 5e-3):
        frame = bench.capture(exposure)
        assert frame.started >= before
        before = frame.ended
        assert frame.data.shape == (96, 128)
        assert frame.data.dtype == np.uint8
        assert frame.origin == (32, 64)
        assert len(np.unique(frame.data)) > 20, "the fake camera shows a diagonal ramp"
        assert bench.device("camera").exposure_s == pytest.approx(exposure, rel=1e-2)


def test_the_fake_camera_in_the_process(with_camera: WithCamera) -> None:
    exercise(with_camera(FAKE))


def test_twelve_bits_that_it_lacks_and_a_colour_format_are_one_line(with_camera: WithCamera) -> None:
    with pytest.raises(ConfigError, match=r"labctl reads Mono8, .* not 'BayerRG8'"):
        AravisCamera(pitch_um=5.0, pixel_format="BayerRG8")
    with pytest.raises(DeviceError, match=r"camera: AravisCamera could not be opened \(OSError: "):
        with_camera(FAKE.replace("Fake_1", "Fake_77"))


@pytest.mark.slow
def test_slmsuites_own_test_passes() -> None:
    camera = AravisCamera("Fake_1", interface="Fake", pitch_um=5.0)
    try:
        assert camera.test()
    finally:
        camera.close()


@pytest.mark.slow
@pytest.mark.skipif(SERVER is None, reason="aravis-tools is not installed")
def test_a_camera_that_speaks_gige_vision(with_camera: WithCamera) -> None:
    """Over loopback: frames, then the camera goes away, which is one line; then it is back, and a new bench works."""
    for _ in range(2):
        assert SERVER is not None
        server = subprocess.Popen(
            [SERVER, "-i", "127.0.0.1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            bench = opened_when_it_answers(with_camera)
            exercise(bench)
        finally:
            server.kill()
            server.wait(10)
        with pytest.raises(DeviceError, match=r"camera '127\.0\.0\.1' ") as caught:
            bench.capture()
        assert "\n" not in str(caught.value)
        bench.close()


def opened_when_it_answers(with_camera: WithCamera) -> Bench:
    """The server needs a moment to bind its port; opening waits for an answer each time."""
    for _ in range(20):
        try:
            return with_camera(GIGE)
        except DeviceError as error:
            last = error
    raise last
