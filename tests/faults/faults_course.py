"""A run that uses every call of a bench, and what was said during it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labctl.bench import token
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.procedures.messages import Exposure, Measure, Read, Set, Steps
from labctl.runs import events

PAIRS = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (3, 3))
WINDOWS = {"tiny": ((1, 7, 1, 5), (0, 8, 0, 6)), "faulty": ((4, 26, 6, 34), (0, 30, 0, 40))}


@dataclass(frozen=True)
class Seen:
    """What a run made of its frames: names of their pixels, of their patterns, where they lie; and its readings."""

    pixels: tuple[str, ...]
    patterns: tuple[tuple[str, str], ...]
    origins: tuple[tuple[int, int], ...]
    readings: tuple[float, ...]


@dataclass(frozen=True)
class Course:
    """Two batches, with the laser and the camera's window set before and the laser read after each."""

    windows: tuple[Any, ...]
    name: str = "course"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * len(PAIRS)

    def steps(self, facts: BenchFacts) -> Steps[Seen]:
        frames: list[Frame] = []
        readings: list[float] = []
        planes = (facts.geometry.slm.shape, facts.geometry.input.shape)
        for power, window in zip((0.5, 0.75), self.windows, strict=True):
            yield Set("laser", "power", power)
            yield Set("laser", "enabled", True)
            yield Set("camera", "window", window)
            frames += yield Measure(
                [
                    Exposure(pattern(s, planes[0], "s"), pattern(i, planes[1], "i"), tag={"pair": [s, i]})
                    for s, i in PAIRS
                ]
            )
            readings.append((yield Read("laser", "power")))
        return Seen(
            tuple(token(frame.data) for frame in frames),
            tuple((frame.slm, frame.input) for frame in frames),
            tuple(frame.origin for frame in frames),
            tuple(readings),
        )


def pattern(level: int, shape: tuple[int, int], panel: str) -> np.ndarray:
    """A level alone on the tiny bench, where pixels tell it; a picture on the simulated one."""
    if shape == (8, 6):
        return np.full(shape, level, np.uint8)
    return np.random.default_rng([level, ord(panel)]).integers(0, 256, shape).astype(np.uint8)


@dataclass
class Told:
    """What was said during a run: by the engine, and in the log of the bench."""

    lines: list[str] = field(default_factory=list)

    def watch(self, event: events.Event) -> None:
        if isinstance(event, events.Logged):
            self.lines.append(event.text)

    @contextmanager
    def listening(self) -> Iterator[None]:
        handler = logging.Handler(logging.DEBUG)
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("labctl.bench.bench")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)
