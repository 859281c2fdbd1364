"""Many hands for one frame: its work in stretches that stay in the cores' caches, shared between threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORKERS = min(8, os.cpu_count() or 1)
AT_ONCE = 2**16
"""Numbers that one thread works on at a time: they stay in its core's cache from step to step."""


class _AtHand(threading.local):
    pool: ThreadPoolExecutor | None = None


_at_hand = _AtHand()


def stretch(length: int) -> int:
    """How many rows (columns) of so many numbers are worked on at a time."""
    return max(4, AT_ONCE // length)


@contextmanager
def hands() -> Iterator[None]:
    """Threads for every `share` of the calling thread inside: to start them takes as long as a small piece of work.

    They end with it. NumPy, SciPy and OpenCV release Python's lock while they compute.
    """
    with ThreadPoolExecutor(max(1, WORKERS - 1), thread_name_prefix="light") as pool:
        if WORKERS > 1:
            pool.submit(int)  # starts the first thread now
        _at_hand.pool = pool
        try:
            yield
        finally:
            _at_hand.pool = None


def share(work: Callable[[int, int], None], count: int, step: int) -> None:
    """Call ``work(first, end)`` for stretches of `step` that make up ``range(count)``, on up to `WORKERS` threads."""
    starts = iter(range(0, count, step))

    def run() -> None:
        for first in starts:
            work(first, min(first + step, count))

    helpers = min(WORKERS, -(-count // step)) - 1
    if helpers < 1:
        run()
        return
    if _at_hand.pool is None:
        with hands():
            share(work, count, step)
        return
    helping = [_at_hand.pool.submit(run) for _ in range(helpers)]
    try:
        run()
    finally:
        wait(helping)
    for helper in helping:
        helper.result()


class Room:
    """Arrays that are kept from frame to frame: new memory costs as much as a transform."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, int], dtype: type) -> NDArray[Any]:
        """An array of any content; the last one of this name is no longer to be used."""
        size = shape[0] * shape[1]
        if name not in self._kept or self._kept[name].size < size:
            self._kept[name] = np.empty(size, dtype)
        return self._kept[name][:size].reshape(shape)
