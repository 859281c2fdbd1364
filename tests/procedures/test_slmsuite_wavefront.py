"""slmsuite's wavefront calibrations as procedures: same results, and no thread left however they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.bench import Bench, opening
from labctl.bench.conversation import Conversation, Done, Wanted
from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.config.load import parse_bench
from labctl.errors import Aborted, CalibrationError
from labctl.procedures.calibrations.slmsuite_wavefront import run_slmsuite, wide_pinhole
from labctl.procedures.calibrations.wavefront import Wavefront
from labctl.procedures.messages import Measure, Set, Steps
from labctl.runs.engine import Engine
from labctl.runs.recorded import open_run
from labctl.runs.replay import replay
from labctl.runs.store import RunStore

pytestmark = pytest.mark.filterwarnings("ignore:Covariance of the parameters could not be estimated")
TEXT = """
[bench]
name = "fourier"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 100
[slm]
driver = "simulated"
options = { resolution = [256, 256], pitch_um = 16 }
settle_ms = 300
[input]
driver = "simulated"
options = { resolution = [64, 64], pitch_um = 4.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [512, 512], pitch_um = 5.5 }
exposure_ms = 1.0
[simulation]
preset = "typical"
seed = 1
[simulation.effects]
input_stop_px = 2
flux_e_per_s = 1.6e9
"""
NARROW = TEXT.replace("pitch_um = 16 }", "pitch_um = 8 }") + (
    "aberration_waves = 0.05\ndefocus_waves = 0.1\nfourier_shift_px = 0\n"
)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before and "slmsuite" in thread.name]
    assert not left


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Any]]:
    """A bench with a pinhole screwed in, and its world for scoring."""
    worlds: list[Any] = []
    make_world = opening._world

    def remember(*args: Any) -> Any:
        worlds.append(make_world(*args))
        return worlds[-1]

    monkeypatch.setattr(opening, "_world", remember)
    bench = opening.open_bench(parse_bench(getattr(request, "param", TEXT)))
    yield bench, worlds[-1]
    bench.close()


def left_waves(world: Any, record: CalibrationRecord, share: float = 1.0) -> float:
    """Wavefront left over the inscribed disk when this share of what was found is taken off, waves rms."""
    rows, columns = (np.rint(record[axis]).astype(int) for axis in ("y", "x"))
    pupil, phase = world._pupil[np.ix_(rows, columns)], share * record["phase"]
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in pupil.shape), indexing="ij")
    disk = y**2 + x**2 < 0.95
    plane = np.stack([np.ones(int(disk.sum())), y[disk], x[disk]], 1)
    field, tilt = pupil[disk] * np.exp(-1j * phase[disk]), np.zeros(3)
    for _ in range(12):
        tilt += np.linalg.lstsq(plane, np.angle(field * np.exp(-1j * plane @ tilt)), rcond=None)[0]
    return float(np.sqrt(np.mean(np.angle(field * np.exp(-1j * plane @ tilt)) ** 2)) / (2 * np.pi))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_superpixels_find_the_wavefront(lab: tuple[Bench, Any]) -> None:
    bench, world = lab
    engine = Engine(bench)
    procedure = Wavefront(method="superpixel")
    record = engine.run(procedure)
    assert bytes(record["method"]) == b"superpixel"
    assert left_waves(world, record, 0.0) > 0.08
    assert left_waves(world, record) < 0.025
    assert engine.snapshot().captured < 1.2 * procedure.exposures(bench.facts)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lab", [NARROW], indirect=True)
def test_zernikes_make_the_wavefront_better(lab: tuple[Bench, Any]) -> None:
    """0.091 to 0.048 waves, in 188 frames."""
    bench, world = lab
    procedure = Wavefront(method="zernike")
    engine = Engine(bench)
    record = engine.run(procedure)
    assert left_waves(world, record, 0.0) > 0.08
    assert left_waves(world, record) < 0.06
    assert engine.snapshot().captured < 1.2 * procedure.exposures(bench.facts)


def counting(frames: int) -> Any:
    def work(system: Any) -> float:
        total = 0.0
        for n in range(frames):
            system.slm.set_phase(np.full(system.slm.shape, 0.1 * n), settle=True)
            system.cam.flush()
            total += float(np.asarray(system.cam.get_image()).sum())
        return total

    return work


def test_exposures_become_the_procedures_own(lab: tuple[Bench, Any]) -> None:
    """Each with its pattern and its exposure; the answer goes back to slmsuite."""
    facts = lab[0].facts
    steps = run_slmsuite(facts, "wavefront", counting(3), wide_pinhole(facts), most=10)
    assert next(steps) == Set("camera", "window", None)
    message = steps.send(None)
    shown = []
    frame = lab[0].capture()
    with pytest.raises(StopIteration) as end:
        while True:
            assert isinstance(message, Measure)
            shown.append(message.exposures[0])
            message = steps.send([frame])
    assert end.value.value == pytest.approx(3.0 * frame.data.sum())
    assert [one.exposure_s for one in shown] == [1e-3] * 3
    assert len({int(one.slm[0, 0]) for one in shown if one.slm is not None}) == 3
    assert all(one.input is not None and one.input.max() == 255 for one in shown)


@dataclass(frozen=True)
class Counted:
    """A procedure around a little work of slmsuite's."""

    frames: int = 4
    name: str = "counted"

    def exposures(self, facts: BenchFacts) -> int:
        return self.frames

    def steps(self, facts: BenchFacts) -> Steps[float]:
        found: float = yield from run_slmsuite(facts, "counted", counting(self.frames), wide_pinhole(facts), most=10)
        return found


def test_a_recorded_run_gives_the_same_again_without_a_bench(lab: tuple[Bench, Any], tmp_path: Path) -> None:
    engine = Engine(lab[0], store=RunStore(tmp_path))
    first = engine.run(Counted())
    assert engine.folder is not None and engine.snapshot().captured == 4
    assert replay(open_run(engine.folder), Counted(), runs_dir=None).result == first


def test_an_abort_ends_it(lab: tuple[Bench, Any]) -> None:
    engine = Engine(lab[0])

    def stop_at_two(event: Any) -> None:
        if engine.snapshot().captured >= 2:
            engine.abort()

    engine.observer = stop_at_two
    with pytest.raises(Aborted):
        engine.run(Counted(frames=9))
    assert engine.snapshot().captured < 9


@pytest.mark.parametrize("ending", ["close", "throw", "drop"])
def test_no_thread_is_left_however_it_ends(lab: tuple[Bench, Any], ending: str) -> None:
    facts = lab[0].facts
    steps = run_slmsuite(facts, "wavefront", counting(3), wide_pinhole(facts), most=10)
    next(steps)
    steps.send(None)
    assert any("slmsuite" in thread.name for thread in threading.enumerate())
    if ending == "throw":
        with pytest.raises(CalibrationError, match="the camera fell off"):
            steps.throw(CalibrationError("the camera fell off"))
    else:
        steps.close()
    del steps


def test_what_slmsuite_fails_with_is_said(lab: tuple[Bench, Any]) -> None:
    def work(system: Any) -> None:
        system.cam.get_image()
        raise ValueError("no spots")

    facts = lab[0].facts
    steps = run_slmsuite(facts, "wavefront", work, wide_pinhole(facts), most=10)
    next(steps)
    steps.send(None)
    with pytest.raises(CalibrationError, match="wavefront: slmsuite gave up: no spots"):
        steps.send([lab[0].capture()])


def test_too_many_frames_are_refused(lab: tuple[Bench, Any]) -> None:
    facts = lab[0].facts
    steps = run_slmsuite(facts, "wavefront", counting(30), wide_pinhole(facts), most=2)
    next(steps)
    steps.send(None)
    frame = lab[0].capture()
    steps.send([frame])
    with pytest.raises(CalibrationError, match="more than 2 frames"):
        steps.send([frame])


def test_numpys_random_state_is_put_back(lab: tuple[Bench, Any]) -> None:
    def work(_: Any) -> float:
        return float(np.random.random())  # noqa: NPY002

    before = np.random.get_state()  # noqa: NPY002
    drawn = []
    for _ in range(2):
        with Conversation(lab[0].facts, work) as talk:
            said = talk.begin()
            assert isinstance(said, Done) and not isinstance(said, Wanted)
            drawn.append(said.result)
    assert drawn[0] == drawn[1]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_an_unknown_method_is_named(lab: tuple[Bench, Any]) -> None:
    with pytest.raises(CalibrationError, match="no method 'magic': choose from speckle, superpixel, zernike"):
        Engine(lab[0]).run(Wavefront(method="magic"))
