"""Shared memory from the side that did not make it."""

from __future__ import annotations

import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory


def attached(name: str) -> SharedMemory:
    """Shared memory that stays its maker's: without this, Python would remove it when this process ends."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    register = resource_tracker.register
    try:
        resource_tracker.register = lambda *_: None
        return SharedMemory(name)
    finally:
        resource_tracker.register = register
