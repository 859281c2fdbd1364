"""A monitor is found by what it calls itself, or refused in one line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from labctl.devices.catalogue import construct, driver_class
from labctl.devices.display import Display, MonitorInfo, monitors
from labctl.devices.display.child import environment, why
from labctl.devices.display.driver import _fits
from labctl.devices.display.finding import choose
from labctl.errors import ConfigError, DeviceError, LabctlError

DESK = MonitorInfo("DP-1", "Dell", "U2412M", "AB12", 0, 0, 1920, 1200, 60.0, primary=True)
SLM = MonitorInfo("HDMI-1", "HOLOEYE", "PLUTO", "6010", 1920, 0, 1920, 1080, 60.0)
INPUT = MonitorInfo("HDMI-2", "HOLOEYE", "PLUTO", "6011", 3840, 0, 1920, 1080, 60.0)
BENCH = [DESK, SLM, INPUT]


@pytest.mark.parametrize("wanted", ["HDMI-1", "hdmi-1", "6010", "1920,0", "1920x1080+1920+0", " HDMI-1 "])
def test_a_monitor_answers_to_each_of_its_identities(wanted: str) -> None:
    assert choose(BENCH, wanted) is SLM


def test_model_and_maker_do_where_there_is_one_of_them() -> None:
    assert choose([DESK, SLM], "holoeye pluto") is SLM
    assert choose([DESK, SLM], "PLUTO") is SLM


@pytest.mark.parametrize(
    ("wanted", "kind", "says"),
    [
        ("HDMI-3", DeviceError, "no monitor is called 'HDMI-3': did you mean 'HDMI-"),
        ("1", DeviceError, "no monitor is called '1'"),
        ("PLUTO", ConfigError, "2 monitors are called 'PLUTO'"),
        ("DP-1", DeviceError, "is the one with the desktop"),
    ],
)
def test_a_refusal_is_one_line_with_the_monitors_that_exist(wanted: str, kind: type[LabctlError], says: str) -> None:
    with pytest.raises(kind) as refused:
        choose(BENCH, wanted)
    text = str(refused.value)
    assert says in text
    assert "\n" not in text
    assert all(monitor.name in text for monitor in BENCH)


def test_the_desktop_only_on_request_and_elsewhere_where_the_environment_says_so() -> None:
    assert choose(BENCH, "DP-1", allow_primary=True) is DESK
    assert choose(BENCH, "DP-1", desktop="HDMI-2") is DESK
    with pytest.raises(DeviceError, match="the one with the desktop"):
        choose(BENCH, "HDMI-2", desktop="6011")
    with pytest.raises(ConfigError, match="LABCTL_DESKTOP names 'TV'"):
        choose(BENCH, "HDMI-1", desktop="TV")


def test_of_two_equal_monitors_the_one_without_the_desktop_is_meant() -> None:
    desk, slm = MonitorInfo("screen", primary=True), MonitorInfo("screen")
    assert choose([desk, slm], "screen") is slm
    with pytest.raises(ConfigError, match="2 monitors"):
        choose([desk, slm], "screen", allow_primary=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"monitor": 1}, "numbers of monitors change"),
        ({"monitor": ""}, "give its name"),
        ({"monitor": "x", "resolution": [1920]}, "width, height"),
        ({"monitor": "x", "bitdepth": 10}, "takes 1 to 8"),
        ({"monitor": "x", "packing": "rgx"}, "packing = 'rgx'"),
        ({"monitor": "x", "bitdepth": 12, "packing": "g"}, "takes 1 to 8"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_opens(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        construct(driver_class("display", role="slm"), {"pitch_um": 8.0} | options, role="slm")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        (MonitorInfo("a", width=1920, height=1080, pixel_ratio=1.5), "scaled by 1.5"),
        (MonitorInfo("a", width=1920, height=1080, depth=16), "16-bit colour"),
        (MonitorInfo("a", width=1280, height=1024), r"a' \(1280x1024.* does not run at 1920x1080"),
    ],
)
def test_a_monitor_that_cannot_be_pixel_exact_is_refused(monitor: MonitorInfo, says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        _fits(monitor, [1920, 1080])


def test_the_windows_process_is_never_scaled() -> None:
    env = environment(
        {"QT_SCALE_FACTOR": "2", "QT_SCREEN_SCALE_FACTORS": "1;2", "QT_QPA_PLATFORM_PLUGIN_PATH": "/x/cv2/qt"}
    )
    assert env["QT_SCALE_FACTOR"] == "1"
    assert env["QT_ENABLE_HIGHDPI_SCALING"] == "0"
    assert not {"QT_SCREEN_SCALE_FACTORS", "QT_QPA_PLATFORM_PLUGIN_PATH"} & set(env)


def test_what_a_dead_process_said_is_cut_to_its_telling_line() -> None:
    assert (
        why(["qt.qpa.xcb: could not connect to display :9\n", "more\n", "\n"])
        == "qt.qpa.xcb: could not connect to display :9"
    )
    assert why(["Traceback (most recent call last):\n", "  File x\n", "ValueError: no\n"]) == "ValueError: no"
    assert why([]) == "it said nothing"


def test_qt_stays_out_of_this_process_and_slmsuite_out_of_the_windows() -> None:
    code = (
        "import sys\nfrom labctl.devices.display import Display, monitors\n"
        "assert not [m for m in sys.modules if m.startswith('PySide6')]"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
    code = (
        "import sys\nimport labctl.devices.display.window\n"
        "assert not {'slmsuite', 'numpy', 'torch', 'cv2'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="speaks of X11")
def test_the_monitors_of_a_computer_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    monkeypatch.setenv("DISPLAY", ":60123")
    for look in (monitors, lambda: Display("HDMI-1", pitch_um=8.0)):
        with pytest.raises(DeviceError, match="no monitor can be reached") as refused:
            look()
        assert "\n" not in str(refused.value)
        assert ":60123" in str(refused.value)


@pytest.mark.xserver
def test_the_monitors_of_an_x_server(small: Any) -> None:
    first, second = monitors()
    assert (first.name, first.geometry, first.primary) == ("screen", "640x480+0+0", True)
    assert (second.name, second.geometry, second.primary) == ("screen", "500x300+0+0", False)
    assert Display.monitors() == [first, second]


@pytest.mark.xserver
@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"monitor": "PLUTO"}, DeviceError, "no monitor is called 'PLUTO'"),
        ({"monitor": "640x480+0+0"}, DeviceError, "the one with the desktop"),
        ({"monitor": "screen", "allow_primary": True}, ConfigError, "2 monitors are called 'screen'"),
        ({"monitor": "screen", "resolution": [1920, 1080]}, DeviceError, "does not run at 1920x1080"),
    ],
)
def test_the_wrong_monitor_is_refused(small: Any, options: dict[str, Any], kind: type[LabctlError], says: str) -> None:
    with pytest.raises(kind, match=says) as refused:
        Display(pitch_um=8.0, **options)
    assert "500x300+0+0" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.xserver
def test_the_desktop_may_be_named_by_the_environment(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_DESKTOP", "500x300+0+0")
    with pytest.raises(DeviceError, match="the one with the desktop"):
        Display("500x300+0+0", pitch_um=8.0)


@pytest.mark.xserver
def test_one_monitor_is_not_two_devices(small: Any) -> None:
    first = Display("screen", pitch_um=8.0)
    try:
        with pytest.raises(DeviceError, match="is in use as another device of this bench"):
            Display("500x300+0+0", pitch_um=8.0)
    finally:
        first.close()
    Display("screen", pitch_um=8.0).close()
