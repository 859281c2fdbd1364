"""The foreign bench, opened as any user's bench is: a file that names its drivers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.bench import Bench, open_bench
from labctl.config.load import load_bench

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "fourlab" / "src"), str(HERE.parents[1] / "docs" / "results")]

import fourlab  # noqa: E402 - it is found once the path says where


@pytest.fixture
def foreign() -> Iterator[Callable[..., Bench]]:
    """Opens the foreign bench anew, with other imperfections if wanted; closed after the test."""
    opened: list[Bench] = []

    def make(**changes: Any) -> Bench:
        light = fourlab.table("main", **{"seed": 1, **changes})
        opened.append(open_bench(load_bench(HERE / "bench.toml"), clock=light.time))
        return opened[-1]

    yield make
    for bench in opened:
        bench.close()
