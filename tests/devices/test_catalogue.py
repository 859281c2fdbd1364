"""Options of a driver: what its constructor names, and through ``**kwargs`` what its base classes name."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.devices.catalogue import construct, driver_class, options_of
from labctl.errors import ConfigError


class Base:
    def __init__(self, resolution: Any, depth: int = 8, name: str = "") -> None:
        self.got = (resolution, depth, name)


class Passes(Base):
    def __init__(self, serial: str, pitch_um: float = 5.0, **kwargs: Any) -> None:
        super().__init__((4, 4), name="fixed", **kwargs)


class Inherits(Passes):
    """No constructor of its own."""


class Anything:
    def __init__(self, **kwargs: Any) -> None:
        self.got = kwargs


class Nothing:
    """No constructor at all."""


def test_options_reach_up_to_the_base_class_that_takes_no_others() -> None:
    assert options_of(Passes) == (
        {"serial": True, "pitch_um": False, "resolution": False, "depth": False, "name": False}, False,
    )  # fmt: skip
    assert options_of(Inherits) == options_of(Passes)
    assert options_of(Base) == ({"resolution": True, "depth": False, "name": False}, False)
    assert options_of(Anything)[1]
    assert options_of(Nothing) == ({}, False)


def test_slmsuites_own_drivers_take_what_camera_takes() -> None:
    taken, anything = options_of(driver_class("slmsuite:basler.Basler", role="camera"))
    assert {"serial", "pitch_um", "rot", "fliplr", "exposure_bounds_s", "capture_attempts"} <= set(taken)
    assert not anything


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Passes, {"serial": "1", "dept": 8}, r"camera.options.dept is not an option of Passes: did you mean depth\?"),
        (Passes, {"serial": "1", "zoom": 8}, "it takes serial, pitch_um, resolution, depth, name"),
        (Passes, {}, "camera.options lacks serial: Passes cannot be opened without"),
        (Passes, {"serial": "1", "name": "x"}, "camera.options.name: Passes finds this out by itself: remove it"),
        (Nothing, {"a": 1}, "camera.options.a is not an option of Nothing: it takes none"),
    ],
)
def test_what_is_wrong_with_options_is_said_before_the_device_is_touched(
    cls: type, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        construct(cls, options, role="camera")


def test_options_arrive() -> None:
    assert construct(Passes, {"serial": "1", "depth": 12}, role="camera").got == ((4, 4), 12, "fixed")
    assert construct(Anything, {"x": 1}, role="camera").got == {"x": 1}
    assert construct(Passes, {"serial": "1"}, role="camera", offered={"depth": 3, "slm": 1}).got[1] == 8, (
        "what the bench offers goes to constructors that name it themselves"
    )
