"""A bench: opened from a file, paired frame by frame, left safe, and one line for whatever goes wrong."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.bench import Bench, open_bench, token
from labctl.clock import DrivenClock
from labctl.config.load import parse_bench
from labctl.devices.contract import RawFrame
from labctl.errors import ConfigError, DeviceError

Small = Callable[..., Bench]
FLAT = np.zeros((240, 256), np.uint8)


def picture(value: int) -> np.ndarray:
    shown = np.zeros((96, 96), np.uint8)
    shown[30:60, 30:60] = value
    return shown


def test_a_frame_says_which_patterns_made_it(small: Small) -> None:
    bench = small()
    bench.show(slm=FLAT, input=picture(200))
    frame = bench.capture(tag={"image": 4})
    assert frame.data.shape == (300, 320)
    assert frame.data.dtype == np.uint16
    assert (frame.slm, frame.input) == (token(FLAT), token(picture(200)))
    assert frame.tag == {"image": 4}
    assert frame.data.max() > 200


def test_an_exposure_starts_only_after_both_patterns_settled(small: Small) -> None:
    """SLM 150 ms, panel 5 ms: the later one counts; a pattern that is already shown costs nothing."""
    bench = small()
    start = bench.clock.now()
    bench.show(slm=FLAT, input=picture(10))
    assert bench.capture().started >= start + 0.15
    again = bench.clock.now()
    bench.show(slm=FLAT, input=picture(20))
    assert again + 0.005 <= bench.capture().started < again + 0.02


def test_an_exposure_may_be_asked_for_before_the_patterns_have_settled(small: Small) -> None:
    """So long after the last change, or as soon as the camera can; the frame says how long it was."""
    bench = small()
    bench.show(slm=FLAT, input=picture(10))
    since = []
    for settle_s in (0.0, 0.02, 0.021, None):
        frame = bench.finish(bench.begin(1e-3, settle_s=settle_s))
        since.append(frame.started - frame.shown_slm)
    assert since[0] == pytest.approx(0.0, abs=1e-6)
    assert since[1] == pytest.approx(0.02, abs=1e-6)
    assert 0.021 < since[2] < 0.03  # the frame before was still being read out
    assert since[3] >= 0.15


def test_a_window_is_cut_from_the_whole_frame(small: Small) -> None:
    bench = small(('preset = "typical"', 'preset = "ideal"'))
    bench.show(slm=FLAT, input=picture(255))
    whole = bench.capture()
    bench.set("camera", "window", (100, 180, 40, 230))
    part = bench.capture()
    assert part.origin == (100, 40)
    assert np.abs(part.data.astype(int) - whole.data[100:180, 40:230]).max() <= 1  # rounding of the last bit
    bench.set("camera", "window", None)
    assert bench.capture().data.shape == (300, 320)


def test_a_bench_may_be_incoherent(small: Small) -> None:
    """Its camera sees light all the same; only compiling a model for it is refused."""
    import torch

    from labctl.errors import ModelError
    from labctl.procedures.deployment import compile_deployment

    bench = small(("f2_mm = 75", 'f2_mm = 75\ncoherence = "incoherent"'))
    bench.show(slm=FLAT, input=picture(255))
    assert bench.capture().data.max() > 500
    with pytest.raises(ModelError, match="incoherent light"):
        compile_deployment(torch.ones(1, 1, 3, 3), bench.facts, image=(8, 8), calibrated=False)


def test_closing_leaves_it_dark_and_blank(small: Small) -> None:
    bench = small()
    bench.show(slm=FLAT + 9, input=picture(255))
    bench.close()
    bench.close()
    assert bench.read("laser", "enabled") is False


def test_a_pattern_of_the_wrong_shape_is_refused_by_name(small: Small) -> None:
    with pytest.raises(DeviceError, match=r"slm: a pattern of \(2, 2\)"):
        small().show(slm=np.zeros((2, 2), np.uint8))


def test_an_unknown_instrument_is_refused_with_what_to_add(small: Small) -> None:
    with pytest.raises(DeviceError, match=r"add \[instruments.shutter\]"):
        small().set("shutter", "open", True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('driver = "simulated"\noptions = { resolution = [320', 'driver = "nope"\noptions = { resolution = [320',
         "camera.driver: no driver is called 'nope'"),
        ("pitch_um = 16.0 }", "pich_um = 16.0 }", "did you mean pitch_um"),
        ('driver = "simulated"\noptions = { resolution = [320',
         'driver = "slmsuite:basler.Basle"\noptions = { resolution = [320', "no class 'Basle': did you mean Basler"),
        ('role = "laser"', 'role = "stage"', "no simulated stage"),
        ("[simulation]\npreset = \"typical\"\nseed = 3\n", "", r"no \[simulation\] section"),
    ],
)  # fmt: skip
def test_a_bench_that_cannot_be_opened_says_which_key(text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(ConfigError, match=message):
        open_bench(parse_bench(text.replace(old, new)))


def test_any_class_that_follows_the_contract_is_a_driver(
    text: str, monkeypatch: pytest.MonkeyPatch, small: Small
) -> None:
    """package.module:Class, constructed as Class(**options), given the slm and input objects that it names."""
    from slmsuite.hardware.cameras.camera import Camera
    from slmsuite.hardware.slms.slm import SLM

    class MySlm(SLM):
        def __init__(self, width: int) -> None:
            super().__init__((width, 240), pitch_um=16, wav_um=0.638)

        def _set_phase_hw(self, display: Any) -> None:
            self.sent = display

        def close(self) -> None:
            """Nothing."""

    class MyCamera(Camera):
        def __init__(self, slm: Any, input: Any) -> None:
            self.slm, self.panel = slm, input
            super().__init__((320, 300), bitdepth=8, pitch_um=5.5)

        def _get_exposure_hw(self) -> float:
            return 1e-3

        def _set_exposure_hw(self, exposure_s: float) -> None:
            """Fixed."""

        def _get_image_hw(self, timeout_s: float) -> Any:
            level = int(self.slm.sent[0, 0]) if hasattr(self.slm, "sent") else 0
            return np.full((300, 320), level, np.uint8)

        def close(self) -> None:
            """Nothing."""

    module = types.ModuleType("my_lab")
    module.MySlm, module.MyCamera = MySlm, MyCamera  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_lab", module)
    bench = small(
        ('driver = "simulated"\noptions = { resolution = [256, 240], pitch_um = 16.0 }',
         'driver = "my_lab:MySlm"\noptions = { width = 256 }'),
        ('driver = "simulated"\noptions = { resolution = [320, 300], pitch_um = 5.5, readout_ms = 5.0 }',
         'driver = "my_lab:MyCamera"'),
        clock=DrivenClock(),
    )  # fmt: skip
    bench.show(slm=FLAT + 77)
    frame = bench.capture()
    assert frame.data.dtype == np.uint8
    assert (frame.data == 77).all()


def test_a_driver_that_fails_to_open_closes_what_was_open(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    from labctl.simulation.devices import SimulatedSLM

    class Broken:
        def __init__(self) -> None:
            raise OSError("no camera on the bus")

    module = types.ModuleType("broken_lab")
    module.Broken = Broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_lab", module)
    monkeypatch.setattr(SimulatedSLM, "close", lambda self: closed.append(self.name))
    changed = text.replace(
        'driver = "simulated"\noptions = { resolution = [320, 300], pitch_um = 5.5, readout_ms = 5.0 }',
        'driver = "broken_lab:Broken"',
    )
    with pytest.raises(DeviceError, match=r"camera: Broken could not be opened .*no camera on the bus.*check"):
        open_bench(parse_bench(changed))
    # slmsuite closes once more when a driver is collected: the order of the first times counts
    assert list(dict.fromkeys(closed)) == ["simulated input panel", "simulated SLM"]


@settings(max_examples=40)
@given(early=st.lists(st.floats(-1, 0.2), max_size=7))
def test_frames_that_started_too_early_are_never_taken(early: list[float]) -> None:
    """Whatever a camera hands out first, the frame that counts started after the patterns had settled."""
    from labctl.bench.facts import BenchFacts
    from labctl.optics.geometry import Geometry, Plane

    clock = DrivenClock(5)
    plane = Plane((4, 4), (1e-5, 1e-5))

    class FakePanel:
        name, shape, pitch, levels = "panel", (4, 4), (1e-5, 1e-5), 256

        def show(self, gray: Any) -> None:
            """Nothing."""

        def blank(self) -> None:
            """Nothing."""

        def close(self) -> None:
            """Nothing."""

    class Hasty(FakePanel):
        bitdepth, readout_s = 8, 0.0
        left = list(early)

        def set_window(self, window: Any) -> Any:
            return window

        def grab(self, exposure_s: float) -> RawFrame:
            start = clock.now() + (self.left.pop(0) if self.left else 0.0)
            return RawFrame(np.zeros((4, 4), np.uint8), start, start + exposure_s)

    facts = BenchFacts("fake", Geometry(5e-7, 0.1, 0.1, plane, plane, plane), 256, 256, 8, 1e-3, 0.1, 0.0, 0.0)
    bench = Bench(facts, slm=FakePanel(), camera=Hasty(), clock=clock)
    bench.show(slm=np.ones((4, 4), np.uint8))
    assert bench.capture().started >= 5.1


def test_facts_are_what_the_file_and_the_devices_say(small: Small) -> None:
    facts = small().facts
    assert facts.geometry.slm.shape == (240, 256)
    assert facts.geometry.camera.pitch == pytest.approx((5.5e-6, 5.5e-6))
    assert facts.camera_bitdepth == 12
    assert facts.simulated
    assert not any("truth" in field.name or "world" in field.name for field in dataclasses.fields(facts))
