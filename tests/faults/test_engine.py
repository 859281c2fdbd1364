"""For any plan of faults: a run ends with frames that are rightly paired, or with one line; the next is sound."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.bench import token
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.config.faults import AT_CLOSING, CALLS_OF, FAULTS_OF, MAY_HAVE_DURATION, NEED_DURATION, OF_ANY_CALL
from labctl.errors import DeviceError, LabctlError
from labctl.procedures.messages import Exposure, Measure, Read, Set, Steps
from labctl.runs.engine import Engine
from labctl.runs.store import RunStore, open_run

SHAPE = (8, 6)
KINDS = {"slm": "panel", "input": "panel", "camera": "camera", "laser": "instrument"}
UNSEEN = {"write-ignored", "late-swap", "stale-restamped", "torn", "saturated", "dark"}
"""Faults of panels and frames that neither times nor shapes betray."""


@dataclass(frozen=True)
class Levels:
    """Shows pairs of gray levels in two batches, with the laser set and read between them."""

    pairs: Sequence[tuple[int, int]] = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (3, 3))
    name: str = "levels"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * len(self.pairs)

    def steps(self, facts: BenchFacts) -> Steps[list[Frame]]:
        frames: list[Frame] = []
        for power in (0.5, 0.8):
            yield Set("laser", "power", power)
            yield Set("laser", "enabled", True)
            frames += yield Measure([Exposure(gray(s), gray(i), tag={"pair": [s, i]}) for s, i in self.pairs])
            yield Read("laser", "power")
        return frames


def gray(level: int) -> np.ndarray:
    return np.full(SHAPE, level, np.uint8)


def check(tiny: Any, frames: list[Frame], *, pixels: bool) -> None:
    """Tokens, times and order; where every fault can be seen, also what is in the pixels."""
    for frame in frames:
        s, i = frame.tag["pair"]
        assert (frame.slm, frame.input) == (token(gray(s)), token(gray(i)))
        assert frame.data.shape == SHAPE
        assert frame.data.dtype == np.uint16
        facts = tiny.bench.facts
        assert frame.started >= frame.shown_slm + facts.slm_settle_s - 1e-9
        assert frame.started >= frame.shown_input + facts.input_settle_s - 1e-9
        if pixels:
            assert (frame.data == 16 * s + i).all()
    taken = sorted(frames, key=lambda frame: frame.number)
    assert all(before.ended <= after.started for before, after in pairwise(taken))


@st.composite
def entries(draw: Any, kinds: dict[str, str] = KINDS) -> dict[str, Any]:
    device = draw(st.sampled_from(sorted(kinds)))
    fault = draw(st.sampled_from(FAULTS_OF[kinds[device]]))
    entry: dict[str, Any] = {"device": device, "fault": fault}
    if fault not in AT_CLOSING:
        entry |= draw(
            st.one_of(
                st.builds(lambda calls: {"at": calls}, st.lists(st.integers(1, 20), min_size=1, max_size=3)),
                st.builds(lambda rate: {"rate": rate}, st.floats(0.01, 1.0)),
                st.builds(lambda after: {"after_s": after}, st.floats(0.0, 3.0)),
            )
        )
    if fault in OF_ANY_CALL and draw(st.booleans()):
        entry["call"] = draw(st.sampled_from(CALLS_OF[kinds[device]]))
    if fault in NEED_DURATION or (fault in MAY_HAVE_DURATION and draw(st.booleans())):
        entry["for_s"] = draw(st.floats(0.01, 100.0))
    return entry


plans = given(
    st.lists(entries(), min_size=1, max_size=5), st.integers(0, 1000),
    st.sampled_from(["triggered", "free-running", "overlapping"]), st.booleans(),
)  # fmt: skip


@settings(max_examples=120)
@plans
def test_any_plan_ends_with_right_pairs_or_one_line(
    rig: Any, faults: list[dict[str, Any]], seed: int, manner: str, reopens: bool
) -> None:
    """Whether the camera is triggered, has a frame in flight at every call, or exposes while it reads out."""
    carry_out(rig, faults, seed, manner, reopens)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1500)
@plans
def test_many_plans_end_with_right_pairs_or_one_line(
    rig: Any, faults: list[dict[str, Any]], seed: int, manner: str, reopens: bool
) -> None:
    carry_out(rig, faults, seed, manner, reopens)


def carry_out(rig: Any, faults: list[dict[str, Any]], seed: int, manner: str, reopens: bool) -> None:
    tiny = rig(faults, seed, free_run=manner == "free-running", overlaps=manner == "overlapping", reopens=reopens)
    engine = Engine(tiny.bench)
    sighted = not {entry["fault"] for entry in faults if entry["device"] != "laser"} & UNSEEN
    for _ in range(2):
        failure: LabctlError | None = None
        try:
            frames = engine.run(Levels())
        except LabctlError as error:
            failure = error
        if failure is None:
            check(tiny, frames, pixels=sighted)
        else:
            assert isinstance(failure, DeviceError)
            assert failure.device in KINDS
            assert str(failure).startswith(f"{failure.device}: ")
            assert "\n" not in str(failure)
    tiny.disarm()
    check(tiny, engine.run(Levels()), pixels=True)
    tiny.bench.close()
    assert [device.closed for device in (tiny.slm, tiny.input, tiny.camera, tiny.laser)] == [1, 1, 1, 1]
    assert tiny.laser.settings["enabled"] is False


@settings(max_examples=100)
@given(st.lists(entries(), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_bench_closes_whatever_its_devices_do(rig: Any, faults: list[dict[str, Any]], seed: int) -> None:
    """Still armed: every device is released all the same, and once."""
    tiny = rig(faults, seed)
    with suppress(LabctlError):  # the property above is about this
        Engine(tiny.bench).run(Levels())
    tiny.bench.close()
    tiny.bench.close()
    assert [device.closed for device in (tiny.slm, tiny.input, tiny.camera, tiny.laser)] == [1, 1, 1, 1]


def test_a_run_through_a_disconnect_fails_in_one_line_is_recorded_and_the_next_is_whole(
    rig: Any, tmp_path: Path
) -> None:
    tiny = rig([{"device": "camera", "fault": "disconnect", "at": [8], "for_s": 3.0}])
    engine = Engine(tiny.bench, store=RunStore(tmp_path))
    with pytest.raises(DeviceError, match=r"^camera: ConnectionError: the device is not connected"):
        engine.run(Levels())
    failed = open_run(engine.folder)
    assert failed.outcome == "failed"
    assert tiny.laser.settings["enabled"] is False
    tiny.clock.sleep(3.0)
    frames = engine.run(Levels())
    check(tiny, frames, pixels=True)
    assert len(frames) == 12
    assert open_run(engine.folder).outcome == "done"
    tiny.bench.close()
