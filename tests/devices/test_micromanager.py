"""Micro-Manager's demo camera through slmsuite's own driver, unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labctl.bench import Bench
from labctl.errors import DeviceError

pytest.importorskip("pymmcore", reason="pymmcore is not installed")
adapters = pytest.importorskip("mm_test_adapters", reason="mm-test-adapters is not installed")

CFG = """Property,Core,Initialize,0
Device,Camera,DemoCamera,DCam
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Camera,PixelType,16bit
Property,Camera,BitDepth,12
"""


@pytest.fixture
def demo(tmp_path: Path, with_camera: Callable[[str], Bench]) -> Bench:
    """A bench with the 12-bit demo camera."""
    cfg = tmp_path / "demo.cfg"
    cfg.write_text(CFG, encoding="utf-8")
    return with_camera(
        "driver = 'slmsuite:mmcore.MMCore'\n"
        f"options = {{ config = '{cfg}', path = '{adapters.device_adapter_path()}', pitch_um = 6.5 }}"
    )


def test_frames_exposure_and_window(demo: Bench) -> None:
    assert demo.facts.geometry.camera.shape == (512, 512)
    assert demo.facts.camera_bitdepth == 12
    start = demo.clock.now()
    frame = demo.capture(20e-3)
    assert frame.data.dtype == np.uint16
    assert frame.data.shape == (512, 512)
    assert demo.clock.now() - start >= 20e-3, "the demo camera takes its exposure"
    assert demo.device("camera").exposure_s == pytest.approx(20e-3)
    demo.set("camera", "window", (96, 224, 100, 356))
    part = demo.capture()
    assert part.data.shape == (128, 256)
    assert part.origin == (96, 100)


def test_a_demo_camera_that_fails_is_one_line(demo: Bench) -> None:
    demo.capture()
    driver = demo.device("camera").driver
    core, driver.cam = driver.cam, None
    with pytest.raises(DeviceError, match="camera 'demo' gave no frame: AttributeError"):
        demo.capture()
    driver.cam = core
    assert demo.capture().data.shape == (512, 512)


def test_a_missing_configuration_is_one_line(with_camera: Callable[[str], Bench]) -> None:
    with pytest.raises(DeviceError, match=r"camera: MMCore could not be opened .*nowhere.*check that") as caught:
        with_camera("driver = 'slmsuite:mmcore.MMCore'\noptions = { config = '/nowhere/at-all', path = '/nowhere' }")
    assert "\n" not in str(caught.value)
