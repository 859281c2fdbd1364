"""A proof of pairing on a monitor: its dots are read back from the screen, by a camera that looks at it askew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from labctl.bench import Bench, BenchFacts
from labctl.bench.proof import DotProof
from labctl.clock import RealClock
from labctl.devices.adapter import SlmsuitePanel
from labctl.devices.contract import RawFrame
from labctl.devices.display import Display
from labctl.devices.faults import Fault, FaultPlan, Rehearsal
from labctl.optics.geometry import Geometry, Plane
from labctl.procedures.proof import LearnProof, marks_at_edges
from labctl.runs.engine import Engine

pytestmark = pytest.mark.xserver
EXPOSURE_S = 0.01
SHAPE = (300, 500)


class NoSlm:
    """An SLM that nobody looks at."""

    name, shape, pitch, levels = "no SLM", (4, 4), (8e-6, 8e-6), 256

    def show(self, gray: Any) -> None:
        """Nothing."""

    def blank(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LooksAtScreen:
    """A 12-bit camera in front of a screen, turned, smaller, a little out of focus; or the screen's own pixels."""

    name, shape, pitch, bitdepth, readout_s = "camera", SHAPE, (8e-6, 8e-6), 12, 0.0

    def __init__(self, screens: Any, askew: bool) -> None:
        self._screens, self._askew = screens, askew
        self._turn = cv2.getRotationMatrix2D((250, 150), 3.0, 0.8)
        self._rng = np.random.default_rng(0)

    def set_window(self, window: Any) -> Any:
        return window or (0, SHAPE[0], 0, SHAPE[1])

    def grab(self, exposure_s: float) -> RawFrame:
        start = RealClock().now()
        light = self._screens.pixels(1)[..., 1].astype(np.float32)
        if self._askew:
            light = cv2.GaussianBlur(cv2.warpAffine(light, self._turn, (SHAPE[1], SHAPE[0])), (0, 0), 1.5)
        counts = 100 + 12 * light + self._rng.normal(0, 5, SHAPE) + self._rng.normal(0, 1, SHAPE) * np.sqrt(light)
        data = np.clip(np.rint(counts), 0, 4095).astype(np.uint16)
        return RawFrame(data, start, RealClock().now())

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("askew", [False, True], ids=["screen grab", "camera"])
def test_the_code_is_read_back_from_the_screen(small: Any, opened: Callable[..., Display], askew: bool) -> None:
    """Every pattern that was not shown, or shown late, is told from those that were."""
    clock = RealClock()
    faults = FaultPlan(
        seed=2,
        plan=(
            Fault(device="input", fault="write-ignored", rate=0.1),
            Fault(device="input", fault="late-swap", rate=0.1, for_s=30.0),
            Fault(device="camera", fault="stale-restamped", rate=0.1),
            Fault(device="camera", fault="torn", rate=0.1),
        ),
    )
    panel, plane = SlmsuitePanel(opened()), Plane(SHAPE, (8e-6, 8e-6))
    facts = BenchFacts(
        "screen", Geometry(5e-7, 0.1, 0.1, Plane((4, 4), (8e-6, 8e-6)), plane, plane), 256, 256, 12, EXPOSURE_S, 0, 0, 0
    )
    rng = np.random.default_rng(1)
    pictures = tuple(np.pad(rng.integers(0, 256, (220, 460), dtype=np.uint8), ((40, 40), (20, 20))) for _ in range(4))
    marks = marks_at_edges(facts)
    bench = Bench(facts, slm=NoSlm(), input=panel, camera=LooksAtScreen(small, askew), clock=clock)
    spots = Engine(bench).run(LearnProof(marks, np.zeros((4, 4), np.uint8), pictures, EXPOSURE_S))
    assert spots.crosstalk.max() < 0.1

    proof, rehearsal = DotProof(marks, spots), Rehearsal(faults, clock)
    bench = Bench(
        facts, slm=NoSlm(), input=rehearsal.inject(panel, "input"),
        camera=rehearsal.inject(LooksAtScreen(small, askew), "camera"), clock=clock,
    )  # fmt: skip
    wrong = 0
    for n in range(120):
        _, picture = proof.stamp(None, pictures[n % 4], n % proof.size)
        struck = len(rehearsal.injected)
        bench.show(input=picture)
        frame = bench.capture()
        spoilt = any(item.device == "camera" for item in rehearsal.injected[struck:])
        right = small.shows(picture) and not spoilt
        assert proof.agrees(frame, n % proof.size) == right, f"frame {n}"
        wrong += not right
    assert wrong > 20
