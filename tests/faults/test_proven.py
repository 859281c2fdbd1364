"""What times and shapes cannot tell, a proof of pairing sees: no wrong frame is ever taken for a right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults_benches import FaultyRig
from faults_course import PAIRS, WINDOWS, Course
from faults_matrix import LASTING, ONCE, PROVABLE, Case, cases

from labctl.bench import token
from labctl.bench.frames import Frame
from labctl.bench.proof import Proof
from labctl.bench.taking import SPARE
from labctl.errors import DeviceError
from labctl.runs.engine import Engine
from labctl.runs.store import RunStore, open_run

CASES = [case for case in cases() if (case.column, case.fault) in PROVABLE]
CORNERS = np.ix_([1, 6], [1, 4])


class CornerProof:
    """Four corners of the input carry the code, the same of the SLM a mark that is never that of the pattern before."""

    size = 8
    window = (1, 7, 1, 5)

    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self.last = ""

    def stamp(self, slm: Any, input: Any, code: int) -> tuple[Any, Any]:
        name = token(slm)
        if name != self.last:
            self.marks[name] = self.marks.get(self.last, 0) % 4 + 1
            self.last = name
        slm, input = slm.copy(), input.copy()
        slm[CORNERS], input[CORNERS] = self.marks[name], code + 1
        self.marks[token(slm)] = self.marks[name]
        return slm, input

    def agrees(self, frame: Frame, code: int) -> bool:
        shift = np.array(frame.origin)
        seen = frame.data[np.ix_(np.array([1, 6]) - shift[0], np.array([1, 4]) - shift[1])] % 256
        return bool((seen == 16 * self.marks[frame.slm] + code + 1).all())


def check_frames(folder: Path | None) -> int:
    """Between the corners each frame shows just its patterns; how many there are."""
    frames = list(open_run(folder).frames(check=True))  # type: ignore[arg-type]
    for number, frame in enumerate(frames):
        power = 256 * round(10 * (0.5, 0.75)[number // len(PAIRS)])
        s, i = frame.tag["pair"]
        r0, c0 = frame.origin
        assert (frame.data[2 - r0 : 6 - r0, 2 - c0 : 4 - c0] == power + 16 * s + i).all()
    return len(frames)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_frame_is_wrong(case: Case, tmp_path: Path) -> None:
    proof = CornerProof()
    assert isinstance(proof, Proof)
    tries = proof.size - SPARE + 1  # fewer than the bench's recovery allows, or a code would come round
    one = FaultyRig(case.plan, overlaps=case.manner == "overlap", lit=True, reopens=True)
    engine = Engine(one.bench, store=RunStore(tmp_path), proof=proof)
    line = ""
    try:
        engine.run(Course(WINDOWS["tiny"]))
    except DeviceError as error:
        line = str(error)
    assert engine.snapshot().mismatches > 0
    frames = check_frames(engine.folder)
    if case.lasts == ONCE or not line:  # a late pattern that is sent again has come by then
        assert (line, frames) == ("", 2 * len(PAIRS))
        assert case.lasts == ONCE or case.fault == "late-swap"
    else:
        assert line.startswith("camera: frame ")
        assert line.endswith(f"or the frame is an old one (tried {tries} times)")
        assert engine.snapshot().mismatches == tries
    one.disarm()
    engine.run(Course(WINDOWS["tiny"]))
    assert engine.snapshot().mismatches == 0
    assert check_frames(engine.folder) == 2 * len(PAIRS)
    one.bench.close()


def test_the_cells_are_those_that_nothing_else_tells() -> None:
    assert {case.lasts for case in CASES} == {ONCE, LASTING}
    assert {case.becomes.value for case in CASES} == {"unseen"}
