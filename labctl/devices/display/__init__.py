"""`display`: an SLM or input panel that is a monitor.

The pattern lives in a full-screen window in a process of its own (`window`), fed through shared memory (`link`), on a
monitor that is found by identity (`finding`). Names are resolved on first use: the window's process passes through
here and needs none of slmsuite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.devices.display.driver import Display
    from labctl.devices.display.finding import MonitorInfo
    from labctl.devices.display.link import Swap
    from labctl.devices.display.listing import monitors
__all__ = ["Display", "MonitorInfo", "Swap", "monitors"]
_HOME = {"Display": "driver", "Swap": "link", "MonitorInfo": "finding", "monitors": "listing"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
