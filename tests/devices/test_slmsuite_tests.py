"""slmsuite's own `SLM.test()` and `Camera.test()` on every driver of ours, in each mode that changes what it does.

The other drivers have theirs beside their own tests: `test_aravis`, `test_basler`,
`tests/display/test_slmsuite.py`, and the example package's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from labctl.bench import Bench, open_bench
from labctl.config.load import parse_bench

BENCH = """
[bench]
name = "one"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = {{ resolution = [160, 96], pitch_um = 16.0{slm} }}
settle_ms = 2
[input]
driver = "simulated"
options = {{ resolution = [64, 48], pitch_um = 8.0{slm} }}
settle_ms = 1
[camera]
driver = "simulated"
options = {{ resolution = [128, 80], pitch_um = 5.5{camera} }}
exposure_ms = 4.0
trigger = "{trigger}"
[simulation]
preset = "typical"
"""


@pytest.mark.parametrize(
    ("slm", "camera", "trigger"),
    [
        ("", "", "software"),
        (", bitdepth = 10, latency_ms = 3.0", ", bitdepth = 8, latency_ms = 3.0", "software"),
        ("", ", timestamps = false", "software"),
        ("", ", bitdepth = 16", "hardware"),
        ("", ", in_flight = 5, jitter_ms = 1.0, frame_period_ms = 20.0", "free-run"),
        ("", ", in_flight = 1, timestamps = false", "free-run"),
    ],
)
def test_simulated_devices(slm: str, camera: str, trigger: str) -> None:
    bench = open_bench(parse_bench(BENCH.format(slm=slm, camera=camera, trigger=trigger)))
    try:
        for name in ("slm", "input", "camera"):
            assert bench.device(name).driver.test(), name
        assert bench.capture().data.shape == (80, 128), "and the bench goes on"
    finally:
        bench.close()


@pytest.mark.parametrize("channel", ["red", "gray"])
def test_a_video_file(tmp_path: Path, with_camera: Callable[[str], Bench], channel: str) -> None:
    path = tmp_path / "uvc.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25.0, (64, 48))
    for number in range(3):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()
    options = f"options = {{ source = '{path}', pitch_um = 3.0, channel = '{channel}' }}\ntrigger = 'free-run'"
    assert with_camera(f"driver = 'opencv'\n{options}").device("camera").driver.test()
