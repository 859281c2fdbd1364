"""The simulated devices keep the times that hardware keeps: latency, frames in flight, jitter, and drift over hours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slmsuite.hardware.cameras.camera import Camera

from labctl.bench import open_bench
from labctl.clock import DrivenClock
from labctl.config.load import parse_bench
from labctl.devices.adapter import SlmsuiteSensor
from labctl.errors import DeviceError
from labctl.optics.geometry import Geometry, Plane
from labctl.simulation.devices import SimulatedCamera, SimulatedInput, SimulatedSLM
from labctl.simulation.effects import Effects
from labctl.simulation.world import World

PANEL, SENSOR, SLM = (32, 32), (40, 44), (64, 60)
WHITE, BLACK = np.full(PANEL, 255, np.uint8), np.zeros(PANEL, np.uint8)
BRIGHT_S = 2e-3


class Table:
    """A small ideal bench: camera and panels in front of one world."""

    def __init__(self, *, panel: dict[str, Any] | None = None, effects: Effects | None = None, **camera: Any) -> None:
        self.clock = DrivenClock(100.0)
        geometry = Geometry(638e-9, 0.1, 0.075, Plane(SLM, (16e-6,) * 2), Plane(PANEL, (8e-6,) * 2),
                            Plane(SENSOR, (5.5e-6,) * 2))  # fmt: skip
        self.world = World(geometry, effects or Effects(full_well_e=1e6), seed=1, clock=self.clock,
                           camera_bitdepth=16)  # fmt: skip
        self.panel = SimulatedInput(self.world, resolution=PANEL[::-1], pitch_um=8.0, wav_um=0.638, **(panel or {}))
        self.slm = SimulatedSLM(self.world, resolution=SLM[::-1], pitch_um=16.0, wav_um=0.638)
        self.camera = SimulatedCamera(self.world, resolution=SENSOR[::-1], pitch_um=5.5, bitdepth=16, **camera)
        self.camera.set_exposure(BRIGHT_S)

    def show(self, gray: np.ndarray) -> None:
        self.panel.set_phase(gray, settle=False)

    def light(self) -> float:
        return float(self.camera.get_image().astype(float).sum())


FREE: dict[str, Any] = {"trigger": "free-run", "frame_period_ms": 10.0, "readout_ms": 5.0}


def whole() -> float:
    table = Table()
    table.show(WHITE)
    return table.light()


# -- triggered --------------------------------------------------------------------------------------------------------


def test_a_triggered_exposure_begins_after_the_latency_and_costs_its_read_out() -> None:
    table = Table(latency_ms=3.0, readout_ms=5.0)
    begun = table.clock.now()
    table.camera.get_image()
    assert np.array(table.camera.exposure_interval) - begun == pytest.approx([0.003, 0.005])
    assert table.clock.now() - begun == pytest.approx(0.010)


def test_a_panel_changes_after_its_latency() -> None:
    table = Table(panel={"latency_ms": 20.0}, readout_ms=5.0)
    table.show(WHITE)
    assert table.light() == 0
    table.clock.sleep(0.011)  # 18 ms after the command; the exposure that starts now ends when the panel changes
    assert table.light() == pytest.approx(0, abs=1e-3 * whole())
    assert table.light() == pytest.approx(whole(), rel=1e-3)


def test_a_panel_that_changes_during_an_exposure_contributes_both_patterns() -> None:
    """A quarter of the exposure dark, three quarters bright: three quarters of the light."""
    table = Table(panel={"latency_ms": 0.25 * BRIGHT_S * 1e3})
    table.show(WHITE)
    assert table.light() == pytest.approx(0.75 * whole(), rel=1e-3)


# -- free-running -----------------------------------------------------------------------------------------------------


def test_a_free_running_camera_hands_out_frames_that_began_before_the_call() -> None:
    table = Table(in_flight=3, **FREE)
    begun = table.clock.now()
    table.clock.sleep(0.0995)  # frames 0 to 9 are delivered by now, 17 to 97 ms after the start; three are kept
    starts = []
    for _ in range(5):
        table.camera.get_image()
        started, ended = table.camera.exposure_interval
        assert ended - started == pytest.approx(BRIGHT_S)
        starts.append(started - begun)
    assert starts == pytest.approx([0.07, 0.08, 0.09, 0.1, 0.11])
    assert table.clock.now() - begun == pytest.approx(0.11 + BRIGHT_S + 0.005)


def test_a_frame_in_flight_shows_the_patterns_of_its_own_time() -> None:
    """The panel changes 1/4 into a frame: the frames before are bright, that one by a quarter, the later ones dark."""
    table = Table(in_flight=5, **FREE)
    begun = table.clock.now()
    table.show(WHITE)
    table.clock.sleep(0.05 + 0.25 * BRIGHT_S)
    table.show(BLACK)
    table.clock.sleep(0.04)
    seen = {}
    for _ in range(5):
        light = table.light()
        seen[round((table.camera.exposure_interval[0] - begun) * 1e3)] = light / whole()
    assert seen == pytest.approx({40: 1, 50: 0.25, 60: 0, 70: 0, 80: 0}, abs=2e-3)


def test_a_frame_in_flight_shows_the_laser_of_its_own_time() -> None:
    table = Table(in_flight=2, **FREE)
    table.show(WHITE)
    table.clock.sleep(0.03)
    table.world.set_laser(on=False)
    assert table.light() == pytest.approx(whole(), rel=1e-3)
    table.clock.sleep(0.1)
    assert table.light() == 0


def test_jitter_moves_frames_off_their_beat_and_never_onto_each_other() -> None:
    table = Table(jitter_ms=1.0, **FREE)
    begun, starts = table.clock.now(), []
    for _ in range(200):
        table.camera.get_image()
        starts.append(table.camera.exposure_interval[0] - begun)
    off = np.array(starts) - 0.01 * np.arange(200)
    assert 0.7e-3 < off.std() < 1.3e-3
    assert np.diff(starts).min() >= BRIGHT_S
    assert np.ptp(np.diff(starts)) > 1e-3


def test_a_new_exposure_or_window_starts_the_stream_afresh() -> None:
    for change in (lambda camera: camera.set_exposure(3e-3), lambda camera: camera.set_woi((4, 20, 6, 10))):
        table = Table(**FREE)
        table.clock.sleep(1.0)
        change(table.camera)
        now = table.clock.now()
        table.camera.get_image()
        assert table.camera.exposure_interval[0] == now


def test_a_frame_that_comes_too_late_is_a_time_out() -> None:
    table = Table(trigger="free-run", frame_period_ms=5000.0)
    sensor = SlmsuiteSensor(table.camera, clock=table.clock, trigger="free-run", timeout_s=2.0)
    sensor.grab(BRIGHT_S)
    before = table.clock.now()
    with pytest.raises((DeviceError, TimeoutError), match="no frame within"):
        sensor.grab(BRIGHT_S)
    assert table.clock.now() - before == pytest.approx(2.0, abs=0.01)


# -- pairing through the adapter --------------------------------------------------------------------------------------

TEXT = """
[bench]
name = "free"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [60, 64], pitch_um = 16.0 }
settle_ms = 0
[input]
driver = "simulated"
options = { resolution = [32, 32], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [44, 40], pitch_um = 5.5, bitdepth = 16, OPTIONS }
exposure_ms = 2.0
trigger = "free-run"
[simulation]
preset = "ideal"
effects = { full_well_e = 1e6 }
"""


@pytest.mark.parametrize("timestamps", ["true", "false"])
@settings(max_examples=25)
@given(
    st.floats(2, 40), st.floats(0, 15), st.floats(0, 5), st.integers(1, 12), st.floats(0, 3),
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.1)), min_size=3, max_size=10),
)  # fmt: skip
def test_a_free_running_bench_pairs_every_frame_with_its_pattern(
    timestamps: str, period: float, readout: float, latency: float, in_flight: int, jitter: float, shown: list[Any]
) -> None:
    """Whatever is in flight, and whether or not the camera says when it exposed: white is bright and black is dark."""
    options = (
        f"frame_period_ms = {period}, readout_ms = {readout}, latency_ms = {latency}, in_flight = {in_flight}, "
        f"jitter_ms = {jitter}, timestamps = {timestamps}"
    )
    bench = open_bench(parse_bench(TEXT.replace("OPTIONS", options)))
    for white, wait in shown:
        bench.clock.sleep(wait)
        _, changed = bench.would_change(slm=None, input=WHITE if white else BLACK)
        bench.show(input=WHITE if white else BLACK)
        due = bench.clock.now()
        frame = bench.capture()
        assert frame.data.astype(float).sum() == pytest.approx(whole_light() if white else 0, rel=1e-3)
        if timestamps == "true":
            assert frame.ended <= bench.clock.now() + 1e-9
            if changed:
                assert frame.started >= due + 0.005 - 1e-9
    bench.close()


def whole_light(cache: list[float] = []) -> float:  # noqa: B006 - computed once
    if not cache:
        cache.append(whole())
    return cache[0]


@pytest.mark.parametrize("in_flight", [1, 2, 5, 12])
@pytest.mark.parametrize("flush", [SimulatedCamera.flush, Camera.flush])
def test_a_camera_without_times_is_paired_whether_or_not_its_driver_can_flush(
    flush: Callable[..., None], in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """slmsuite's own flush throws two frames away: of a deeper queue, the third would be an old one."""
    monkeypatch.setattr(SimulatedCamera, "flush", flush)
    table = Table(in_flight=in_flight, timestamps=False, **FREE)
    assert not hasattr(table.camera, "exposure_interval")
    sensor = SlmsuiteSensor(table.camera, clock=table.clock, trigger="free-run", timeout_s=2.0)
    sensor.grab(BRIGHT_S)
    for number in range(12):
        table.clock.sleep(0.0037 * number)
        table.show(WHITE if number % 2 else BLACK)
        light = float(sensor.grab(BRIGHT_S).data.astype(float).sum())
        assert light == pytest.approx(whole() if number % 2 else 0, rel=1e-3)


# -- drift ------------------------------------------------------------------------------------------------------------


def test_the_laser_walks_through_ten_simulated_hours() -> None:
    """200 exposures, one each 3 minutes: the power's rms rate is the 2 % an hour that the effect is asked for."""
    text = TEXT.replace("OPTIONS", "readout_ms = 5.0").replace(
        "full_well_e = 1e6", "full_well_e = 1e6, laser_drift = 0.02"
    )
    bench = open_bench(parse_bench(text))
    bench.show(input=WHITE)
    begun, power = bench.clock.now(), []
    for _ in range(200):
        bench.clock.sleep(180.0)
        power.append(float(bench.capture().data.astype(float).sum()))
    assert bench.clock.now() - begun >= 10 * 3600
    relative = np.array(power) / np.mean(power)
    per_hour = np.diff(relative) * 20
    assert 0.012 < per_hour.std() < 0.026  # a little less than 0.02: the fastest part, of 10 minutes, is averaged
    assert np.ptp(relative) > 0.01
    steps = np.abs(np.diff(relative))
    assert steps.max() < 0.1 * np.ptp(relative) + 0.003  # a walk: no jumps
    bench.close()


def test_the_cameras_offset_rolls_through_ten_simulated_hours() -> None:
    text = TEXT.replace("OPTIONS", "readout_ms = 5.0").replace(
        "full_well_e = 1e6", "full_well_e = 1e6, offset_counts = 200, offset_drift_counts = 20"
    )
    bench = open_bench(parse_bench(text))
    rows = []
    for _ in range(120):
        bench.clock.sleep(300.0)
        rows.append(bench.capture().data.mean(axis=1))
    assert np.mean(rows) == pytest.approx(200, abs=2)
    assert np.std(rows, axis=0) == pytest.approx(20, rel=0.05)
    bench.close()
