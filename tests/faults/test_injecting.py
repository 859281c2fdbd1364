"""Each fault does what its name says, when the plan says, and is written down; nothing unsound gets through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from labctl.clock import DrivenClock
from labctl.devices.contract import Instrument, Panel, Sensor
from labctl.devices.faults import Fault, FaultPlan, inject
from labctl.errors import ConfigError, DeviceError


def one(device: str, fault: str, **more: Any) -> list[dict[str, Any]]:
    return [{"device": device, "fault": fault, **({"at": [2]} if not more else {}), **more}]


# -- the camera -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong-shape", r"^camera: gave a frame of \(4, 6\) \(rows, columns\) where \(8, 6\) were due: "),
        ("wrong-dtype", r"^camera: gave a frame of int32 where labctl reads unsigned integers: "),
        ("nan", r"^camera: gave a frame with 48 pixels that are not numbers \(NaN\): "),
        ("timeout", r"^camera: TimeoutError: no answer within 2 s \(a rehearsed fault\)$"),
    ],
)
def test_a_frame_that_is_none_is_one_line_and_the_next_is_right(rig: Any, fault: str, message: str) -> None:
    tiny = rig(one("camera", fault))
    tiny.show(1, 2)
    tiny.bench.capture()
    with pytest.raises(DeviceError, match=message) as raised:
        tiny.bench.capture()
    assert raised.value.device == "camera"
    assert "\n" not in str(raised.value)
    assert (tiny.bench.capture().data == 18).all()
    assert tiny.done() == [("camera", 2, fault)]
    assert tiny.bench.injected == tiny.rehearsal.injected


@pytest.mark.parametrize("fault", ["stale", "duplicated"])
@pytest.mark.parametrize("change", [True, False])
def test_a_frame_that_was_given_before_is_passed_over(rig: Any, fault: str, change: bool) -> None:
    """Even while the same patterns are shown: an average of n frames has to be of n exposures."""
    tiny = rig(one("camera", fault))
    starts = []
    for level in (1, 2, 3):
        tiny.show(level if change else 1, 0)
        frame = tiny.bench.capture()
        assert (frame.data == 16 * (level if change else 1)).all()
        starts.append(frame.started)
    assert np.diff(starts).min() >= 0.005
    assert tiny.done() == [("camera", 2, fault)]


def test_a_dropped_frame_costs_an_exposure(rig: Any) -> None:
    tiny = rig(one("camera", "dropped", at=[1]))
    start = tiny.clock.now()
    assert tiny.bench.capture().started - start == pytest.approx(0.006)


def test_a_torn_frame_is_old_above_and_new_below_and_no_time_tells(rig: Any) -> None:
    tiny = rig(one("camera", "torn"))
    tiny.show(1, 0)
    tiny.bench.capture()
    tiny.show(2, 0)
    torn = tiny.bench.capture()
    assert (torn.data[:4] == 16).all()
    assert (torn.data[4:] == 32).all()
    assert torn.started >= torn.shown_slm + tiny.bench.facts.slm_settle_s - 1e-9


def test_a_restamped_frame_is_old_with_new_times(rig: Any) -> None:
    tiny = rig(one("camera", "stale-restamped"))
    tiny.show(1, 0)
    tiny.bench.capture()
    tiny.show(2, 0)
    assert (tiny.bench.capture().data == 16).all()


def test_saturated_and_dark_frames(rig: Any) -> None:
    tiny = rig([*one("camera", "saturated", at=[1]), *one("camera", "dark", at=[2])])
    tiny.show(1, 0)
    assert (tiny.bench.capture().data == 4095).all()
    assert (tiny.bench.capture().data == 0).all()
    assert (tiny.bench.capture().data == 16).all()


def test_a_hang_takes_its_time_on_the_clock_and_then_answers(rig: Any) -> None:
    tiny = rig(one("camera", "hang", at=[1], for_s=30.0))
    start = tiny.clock.now()
    assert tiny.bench.capture().started - start == pytest.approx(30.0)


def test_a_disconnected_camera_comes_back_or_does_not(rig: Any) -> None:
    tiny = rig(one("camera", "disconnect", at=[1], for_s=3.0))
    tiny.show(1, 0)
    for wait in (0.0, 2.0):
        tiny.clock.sleep(wait)
        with pytest.raises(DeviceError, match=r"^camera: ConnectionError: the device is not connected"):
            tiny.bench.capture()
    tiny.clock.sleep(1.0)
    assert (tiny.bench.capture().data == 16).all()

    tiny = rig(one("camera", "disconnect", at=[1]))
    for _ in range(3):
        with pytest.raises(DeviceError, match="not connected"):
            tiny.bench.capture()
        tiny.clock.sleep(1e6)
    with pytest.raises(DeviceError, match="not connected"):
        tiny.bench.set("camera", "window", (0, 4, 0, 4))
    tiny.bench.close()
    assert [device.closed for device in (tiny.slm, tiny.input, tiny.camera, tiny.laser)] == [1, 1, 1, 1]
    assert tiny.laser.settings["enabled"] is False


def test_old_frames_without_end_are_one_line_and_not_a_hang(rig: Any) -> None:
    tiny = rig(one("camera", "stale", rate=1.0))
    tiny.bench.capture()
    with pytest.raises(DeviceError, match=r"64 frames in a row started before the patterns had settled, or were old"):
        tiny.bench.capture()


# -- panels -----------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_is_reported_and_sent_again_when_asked(rig: Any) -> None:
    tiny = rig(one("slm", "write-fails"))
    tiny.show(1, 0)
    with pytest.raises(DeviceError, match=r"^slm: OSError: the pattern could not be written"):
        tiny.show(2, 0)
    assert (tiny.slm.shown == 1).all()
    tiny.show(2, 0)
    assert (tiny.bench.capture().data == 32).all()


def test_a_write_that_is_ignored_goes_unnoticed(rig: Any) -> None:
    """This is what the proof of pairing is for: neither times nor answers can tell."""
    tiny = rig(one("input", "write-ignored"))
    tiny.show(1, 1)
    tiny.show(1, 2)
    assert (tiny.bench.capture().data == 17).all()
    assert tiny.done() == [("input", 2, "write-ignored")]


def test_a_late_swap_shows_the_old_pattern_until_its_time(rig: Any) -> None:
    tiny = rig(one("slm", "late-swap", at=[2], for_s=0.5))
    tiny.show(1, 0)
    tiny.show(2, 0)
    assert (tiny.bench.capture().data == 16).all()
    tiny.clock.sleep(0.5)
    assert (tiny.bench.capture().data == 32).all()


# -- instruments ------------------------------------------------------------------------------------------------------


def test_a_laser_that_dies_goes_off_and_no_longer_obeys(rig: Any) -> None:
    tiny = rig(one("laser", "dies", at=[2]))
    tiny.bench.set("laser", "power", 0.5)
    tiny.bench.set("laser", "power", 0.7)
    tiny.bench.set("laser", "enabled", True)
    assert tiny.laser.settings == {"power": 0.5, "enabled": False}


def test_a_laser_dies_after_a_time_though_nobody_asks_it_anything(rig: Any) -> None:
    tiny = rig(one("laser", "dies", after_s=20.0, for_s=5.0))
    tiny.bench.capture()
    assert tiny.laser.settings["enabled"] is True
    tiny.clock.sleep(20.0)
    tiny.bench.capture()
    assert tiny.laser.settings["enabled"] is False
    tiny.clock.sleep(5.0)
    tiny.bench.set("laser", "enabled", True)
    tiny.bench.capture()
    assert tiny.laser.settings["enabled"] is True
    assert tiny.done() == [("laser", 0, "dies")]


def test_garbage_is_no_reading(rig: Any) -> None:
    tiny = rig(one("laser", "garbage", at=range(2, 101, 2)))
    readings, refused = [], []
    for _ in range(100):
        try:
            readings.append(tiny.bench.read("laser", "power"))
        except DeviceError as error:
            refused.append(str(error))
    assert readings == [1.0] * len(readings)
    assert len(refused) == len(tiny.done()) == 50
    assert all(message.startswith("laser: 'power' was answered with ") for message in refused)


def test_a_setting_that_fails_or_is_ignored(rig: Any) -> None:
    tiny = rig([*one("laser", "write-fails", at=[1]), *one("laser", "write-ignored", at=[2])])
    with pytest.raises(DeviceError, match="laser: OSError: 'power' could not be set"):
        tiny.bench.set("laser", "power", 0.1)
    tiny.bench.set("laser", "power", 0.2)
    assert tiny.laser.settings["power"] == 1.0


@pytest.mark.parametrize("name", ["slm", "camera", "laser"])
def test_a_stuck_device_fails_until_it_is_opened_again(rig: Any, name: str) -> None:
    tiny = rig(one(name, "stuck", at=[1]))
    calls = {
        "slm": [lambda: tiny.show(1, 0), tiny.wrapped["slm"].blank],
        "camera": [tiny.bench.capture, lambda: tiny.wrapped["camera"].set_window(None)],
        "laser": [lambda: tiny.bench.read("laser", "power"), tiny.wrapped["laser"].make_safe],
    }[name]
    for call in (*calls, *calls):
        with pytest.raises((OSError, DeviceError), match="the device is stuck until it is opened again"):
            call()
    tiny.wrapped[name].renew(getattr(tiny, name))
    for call in calls:
        call()
    assert tiny.done() == [(name, 1, "stuck")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("camera", "window"), ("slm", "blank"), ("laser", "make-safe"), ("laser", "read"), ("laser", "set"),
     ("camera", "frame"), ("slm", "show"), ("laser", "open"), ("camera", "open"), ("slm", "open")],
)  # fmt: skip
def test_one_kind_of_call_can_be_singled_out(rig: Any, name: str, kind: str) -> None:
    tiny = rig(one(name, "timeout", call=kind, at=[2]))
    pattern = np.ones((8, 6), np.uint8)
    calls = {
        "window": lambda: tiny.wrapped["camera"].set_window(None), "frame": lambda: tiny.wrapped["camera"].grab(1e-3),
        "show": lambda: tiny.wrapped["slm"].show(pattern), "blank": tiny.wrapped["slm"].blank,
        "make-safe": tiny.wrapped["laser"].make_safe, "read": lambda: tiny.wrapped["laser"].read("power"),
        "set": lambda: tiny.wrapped["laser"].set("power", 1.0),
        "open": lambda: tiny.wrapped[name].renew(getattr(tiny, name)),
    }  # fmt: skip
    mine = {"camera": ("window", "frame"), "slm": ("show", "blank"), "laser": ("make-safe", "read", "set")}[name]
    for _ in range(3):
        for other in mine:
            if other != kind:
                calls[other]()
    calls[kind]()
    with pytest.raises(TimeoutError):
        calls[kind]()
    calls[kind]()
    assert [(device, fault) for device, _, fault in tiny.done()] == [(name, "timeout")]


# -- closing ----------------------------------------------------------------------------------------------------------


def test_a_slow_and_a_failing_close_release_the_devices_all_the_same(rig: Any) -> None:
    tiny = rig([{"device": name, "fault": "failing-close"} for name in ("camera", "slm", "laser")]
               + [{"device": "input", "fault": "slow-close", "for_s": 60.0}])  # fmt: skip
    start = tiny.clock.now()
    tiny.bench.close()
    assert [device.closed for device in (tiny.slm, tiny.input, tiny.camera, tiny.laser)] == [1, 1, 1, 1]
    assert tiny.clock.now() - start == pytest.approx(60.0)
    assert {fault for _, _, fault in tiny.done()} == {"failing-close", "slow-close"}


# -- when -------------------------------------------------------------------------------------------------------------


def test_a_rate_strikes_as_often_and_the_same_calls_for_the_same_seed(rig: Any) -> None:
    def struck(seed: int, *more: dict[str, Any]) -> list[tuple[str, int, str]]:
        tiny = rig([*one("camera", "dark", rate=0.1), *more], seed)
        for _ in range(400):
            tiny.bench.capture()
        return [item for item in tiny.done() if item[2] == "dark"]

    assert struck(1) == struck(1)
    assert struck(1) != struck(2)
    assert struck(1) == struck(1, *one("slm", "write-fails", rate=0.5))  # another device has dice of its own
    assert 20 < len(struck(1)) < 65


def test_wrapping_keeps_the_contract_and_what_else_a_device_has(rig: Any) -> None:
    tiny = rig()
    assert isinstance(tiny.wrapped["slm"], Panel)
    assert isinstance(tiny.wrapped["camera"], Sensor)
    assert isinstance(tiny.wrapped["laser"], Instrument)
    assert tiny.wrapped["camera"].serial == "C-17"
    with pytest.raises(AttributeError):
        _ = tiny.wrapped["camera"].nothing_like_this


def test_one_device_can_be_wrapped_in_a_script(rig: Any) -> None:
    plan = FaultPlan(seed=1, plan=[Fault(device="camera", fault="dark", at=[2])])
    tiny = rig()
    camera = inject(tiny.camera, plan, name="camera", clock=tiny.clock)
    tiny.slm.show(np.ones((8, 6), np.uint8))
    assert [int(camera.grab(0.01).data[0, 0]) for _ in range(3)] == [16, 0, 16]
    assert [(item.call, item.fault) for item in camera.injected] == [(2, "dark")]
    assert camera.injected[0].when == pytest.approx(50.022)
    always = inject(
        tiny.camera, FaultPlan(plan=[Fault(device="camera", fault="dark", rate=0.5)]), name="camera", clock=tiny.clock,
        rng=np.random.default_rng(5),
    )  # fmt: skip
    dice = np.random.default_rng(5)
    assert [always.grab(0.01).data[0, 0] == 0 for _ in range(20)] == [bool(dice.random() < 0.5) for _ in range(20)]


def test_what_follows_no_contract_or_cannot_have_the_fault_is_refused(rig: Any) -> None:
    with pytest.raises(ConfigError, match="follows none of labctl's device contracts"):
        inject(object(), FaultPlan(), name="camera", clock=DrivenClock())
    plan = FaultPlan(plan=[Fault(device="eye", fault="write-fails", at=[1])])
    with pytest.raises(ConfigError, match="write-fails is no fault of eye, which is a camera: it may have timeout"):
        inject(rig().camera, plan, name="eye", clock=DrivenClock())
