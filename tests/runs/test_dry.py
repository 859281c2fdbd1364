"""Dry runs: they count and time what the engine would do, render little, open no device and write nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runs_fakes import Script

from labctl.bench import open_bench
from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord, save_record
from labctl.clock import DrivenClock
from labctl.config.load import parse_bench
from labctl.config.schema import BenchConfig
from labctl.errors import CalibrationError
from labctl.procedures.calibrations import Dark, FourierCentre
from labctl.procedures.messages import Exposure, Log, Measure, Prompt, Set, Steps
from labctl.runs import dry
from labctl.runs import standin as standin_module
from labctl.runs.dry import DryRun, Estimate, free_bytes, known_facts, limits
from labctl.runs.engine import Engine
from labctl.runs.standin import RENDERED, StandIn, stand_in
from labctl.runs.store import RunStore

BENCH = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [64, 48], pitch_um = 16.0 }
settle_ms = SETTLE
[input]
driver = "simulated"
options = { resolution = [32, 24], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [40, 32], pitch_um = 5.5, readout_ms = READOUT, latency_ms = LATENCY }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "mild"
seed = 7
"""


def bench_file(settle_ms: float = 20, readout_ms: float = 8, latency_ms: float = 0, more: str = "") -> BenchConfig:
    text = BENCH.replace("SETTLE", str(settle_ms)).replace("READOUT", str(readout_ms))
    return parse_bench(text.replace("LATENCY", str(latency_ms)) + more)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Callable[..., StandIn]]:
    """Makes stand-ins; closed after the test."""
    made: list[StandIn] = []

    def make(config: BenchConfig, facts: BenchFacts | None = None) -> StandIn:
        made.append(stand_in(config, tmp_path / "calibration", facts))
        return made[-1]

    yield make
    for standin in made:
        standin.bench.close()


def slm(level: int) -> np.ndarray:
    return np.full((48, 64), level, np.uint8)


def shown(level: int) -> np.ndarray:
    return np.full((24, 32), level, np.uint8)


def busy(facts: BenchFacts) -> Steps[int]:
    """Everything that has a say in the time: both panels, the order, windows, exposure times."""
    total = 0
    for window in (None, (4, 20, 6, 30)):
        yield Set("camera", "window", window)
        pairs = [Exposure(slm(s), shown(i), t) for i in range(4) for s in (1, 2) for t in (0.001, 0.03)]
        total += len((yield Measure(pairs, "pairs")))
        total += len((yield Measure([Exposure(None, shown(i % 2)) for i in range(9)], "input")))
        total += len((yield Measure([Exposure() for _ in range(5)], "same")))
    return total


@pytest.mark.parametrize(("settle", "readout", "latency"), [(20, 8, 0), (2, 30, 0), (150, 5, 3), (0, 0, 0)])
def test_time_is_that_of_the_bench_and_its_engine(
    standing: Callable[..., StandIn], settle: float, readout: float, latency: float
) -> None:
    """To the microsecond: what a simulated bench in virtual time takes, whatever overlaps."""
    config = bench_file(settle, readout, latency)
    clock = DrivenClock()
    bench = open_bench(config, clock=clock)
    begun = clock.now()
    assert Engine(bench).run(Script(busy)) == 2 * (16 + 9 + 5)
    took = clock.now() - begun
    bench.close()
    said = DryRun(standing(config), config).follow(Script(busy, 60))
    assert said.bench_seconds == pytest.approx(took, abs=1e-6)
    assert said.exposures == 60
    assert said.problems == ()
    # Per window: the pairs are ordered by SLM pattern, of which the second half begins with what is shown.
    assert said.slm_changes == 3
    assert (said.shortest_s, said.longest_s) == (0.001, 0.03)
    assert said.settings == 2


def test_few_frames_are_rendered_however_many_are_asked_for(standing: Callable[..., StandIn]) -> None:
    def body(_: BenchFacts) -> Steps[int]:
        frames = []
        for batch in range(20):
            frames += yield Measure([Exposure(slm(1), shown(k + batch)) for k in range(10)], "images")
        return len({frame.data.tobytes() for frame in frames})

    standin = standing(bench_file())
    meant = DryRun(standin, bench_file()).follow(Script(body, 200))
    assert meant.exposures == 200
    assert 10 + 19 * 9 <= meant.input_changes <= 200
    assert sum(map(len, standin.camera._known.values())) == RENDERED
    assert standin.costs.rendering_s > standin.costs.spent_s  # those that were not rendered count all the same


def test_each_kind_of_exposure_is_rendered_for_itself(standing: Callable[..., StandIn]) -> None:
    """A frame never stands for one of another SLM pattern, exposure time, window or purpose."""

    def body(_: BenchFacts) -> Steps[list[float]]:
        light = yield Measure([Exposure(slm(0), shown(255), t) for t in (1e-4, 5e-4) for _ in range(10)], "light")
        yield Set("laser", "enabled", False)
        dark = yield Measure([Exposure(slm(0), shown(255), 5e-4) for _ in range(10)], "dark")
        return [float(np.mean([f.data.mean() for f in part])) for part in (light[:10], light[10:], dark)]

    found: list[list[float]] = []

    def keep(facts: BenchFacts) -> Steps[None]:
        found.append((yield from body(facts)))

    DryRun(standing(bench_file()), bench_file()).follow(Script(keep, 30))
    short, long, dark = found[0]
    assert dark < short < long


def test_what_one_procedure_calibrates_is_known_to_the_next(standing: Callable[..., StandIn]) -> None:
    standin = standing(bench_file())
    run = DryRun(standin, bench_file())
    said = run.follow(Dark(frames=3))
    assert (said.exposures, said.slm_changes, said.problems) == (6, 0, ())
    assert said.bytes >= 6 * 40 * 32 * 2
    assert "dark" in standin.bench.facts.calibrations
    missing = run.follow(FourierCentre())
    assert "has no 'registration' calibration" in missing.problems[0]


def test_runs_of_one_kind_are_followed_once(standing: Callable[..., StandIn]) -> None:
    followed: list[int] = []

    def body(_: BenchFacts) -> Steps[None]:
        followed.append(1)
        yield Measure([Exposure(slm(1), shown(1))])

    run = DryRun(standing(bench_file()), bench_file())
    assert run.follow(Script(body, 1), kind="a") is run.follow(Script(body, 1), kind="a")
    run.follow(Script(body, 1), kind="b")
    assert len(followed) == 2
    run.follow(Dark(frames=2))  # from here on they may take something else
    run.follow(Script(body, 1), kind="a")
    assert len(followed) == 3


def test_nothing_is_written_and_the_bench_is_not_opened_twice(standing: Callable[..., StandIn], tmp_path: Path) -> None:
    DryRun(standing(bench_file()), bench_file()).follow(Dark(frames=2))
    assert [path.name for path in tmp_path.iterdir() if path.name != "user"] == []


def test_limits_are_found_before_they_are_hit(standing: Callable[..., StandIn]) -> None:
    config = bench_file(more="[safety]\nmax_exposure_ms = 10\n")

    def body(_: BenchFacts) -> Steps[None]:
        yield Prompt("Is the cover on?")
        yield Measure([Exposure(slm(1), shown(1), 0.001)] * 4)
        yield Measure([Exposure(slm(1), shown(1), 0.5)] * 4)

    said = DryRun(standing(config), config).follow(Script(body, 8))
    assert "outside safety.max_exposure_ms = 10" in said.problems[0]
    assert said.exposures == 8  # the half that was not followed is like the other half
    lines = limits([said], config, free=1000)
    assert lines[0].startswith("script: camera: an exposure of 500 ms")
    assert lines[1].startswith("disk: ")
    assert free_bytes(Path("no", "such", "folder")) > 0


def test_questions_need_a_person_at_a_real_bench() -> None:
    said = Estimate("p", 1, 0, 0, 1.0, 1.0, 1, 0.1, 0.1, 0, 2)
    real = bench_file()
    real = real.model_copy(
        update={name: getattr(real, name).model_copy(update={"driver": "m:C"}) for name in ("slm", "input", "camera")}
        | {"instruments": {}}
    )
    assert limits([said], real, free=10**9) == ["2 questions need a person at the table"]
    assert limits([said], bench_file(), free=10**9) == []


def test_a_failing_procedure_gets_to_clean_up(standing: Callable[..., StandIn]) -> None:
    cleaned: list[str] = []

    def body(_: BenchFacts) -> Steps[None]:
        try:
            yield Measure([Exposure(np.zeros((2, 2), np.uint8), shown(1))])
        except Exception as error:
            cleaned.append(str(error))
            yield Log("caught")
            raise CalibrationError("no light") from error
        finally:
            cleaned.append("finally")

    said = DryRun(standing(bench_file()), bench_file()).follow(Script(body, 1))
    assert said.problems == ("no light",)
    assert "does not fit" in cleaned[0]
    assert cleaned[1:] == ["finally"]

    def broken(_: BenchFacts) -> Steps[None]:
        yield Measure([Exposure(slm(1), shown(1))])
        raise ZeroDivisionError("division by zero")

    said = DryRun(standing(bench_file()), bench_file()).follow(Script(broken, 1))
    assert said.problems == ("it ends with ZeroDivisionError: division by zero",)


@pytest.mark.parametrize(
    ("ahead", "waited"),
    [
        (False, 1.0 + 0.5 + 1.0 + 0.5),  # exposing and computing take turns
        # Each frame is computed on while the next ones are exposed; the last is read out at the end.
        (True, 1.0 + 1.0 + 0.05),
    ],
)
def test_who_computes_while_others_expose_waits_less(
    standing: Callable[..., StandIn], monkeypatch: pytest.MonkeyPatch, ahead: bool, waited: float
) -> None:
    config = bench_file(settle_ms=0, readout_ms=0)
    simulation = config.simulation.model_copy(update={"clock": "real"})  # type: ignore[union-attr]
    standin = standing(config.model_copy(update={"simulation": simulation}))
    standin.costs.rendering = 0.0
    wall = DrivenClock()
    monkeypatch.setattr(dry, "time", SimpleNamespace(perf_counter=wall.now))
    monkeypatch.setattr(standin_module, "time", SimpleNamespace(perf_counter=wall.now))

    def asked() -> Measure:
        return Measure([Exposure(None, None, 0.1) for _ in range(10)], "images", ahead=ahead)

    def compute(frames: Sequence[Frame]) -> None:
        for frame in frames:
            assert frame.data.shape == (32, 40)
            wall.sleep(0.05)

    def in_turns(_: BenchFacts) -> Steps[None]:
        compute((yield asked()))
        compute((yield asked()))

    def at_once(_: BenchFacts) -> Steps[None]:
        first = yield asked()
        second = yield asked()
        compute(first)
        compute(second)

    said = DryRun(standin, config).follow(Script(at_once if ahead else in_turns, 20))
    assert said.problems == ()
    assert said.bench_seconds == pytest.approx(waited, abs=1e-6)


# -- benches with real devices ----------------------------------------------------------------------------------------


def as_real(config: BenchConfig) -> BenchConfig:
    """The same bench with drivers that must never be constructed."""
    parts: dict[str, Any] = {
        name: getattr(config, name).model_copy(update={"driver": "nowhere:Device", "options": {}})
        for name in ("slm", "input", "camera")
    }
    laser = config.instruments["laser"].model_copy(update={"driver": "nowhere:Laser"})
    return config.model_copy(update={**parts, "instruments": {"laser": laser}, "simulation": None})


def test_a_real_bench_is_stood_in_for_by_its_sizes(standing: Callable[..., StandIn], tmp_path: Path) -> None:
    config = bench_file()
    bench = open_bench(config)
    facts = bench.facts
    bench.close()
    far_off = CalibrationRecord("fourier-centre", "small", {"centre": np.array([3.0, 60.0])}, {"centre": "SLM px"})
    other = CalibrationRecord("twin", "small", {"weights": np.arange(3.0)}, {"weights": "1"})
    for record in (far_off, other):
        save_record(tmp_path / "calibration" / "small", record)
    standin = standing(as_real(config), facts)
    known = standin.bench.facts
    assert known.geometry == facts.geometry
    assert (known.slm_levels, known.camera_bitdepth, known.readout_s) == (facts.slm_levels, 12, 0.008)
    assert known.calibrations["fourier-centre"]["centre"].tolist() == list(facts.geometry.slm.centre)
    assert known.calibrations["twin"]["weights"].tolist() == [0, 1, 2]
    said = DryRun(standin, as_real(config)).follow(Script(busy, 60))
    assert (said.exposures, said.problems) == (60, ())
    assert said.seconds > 60 * 0.008
    assert math.isclose(said.seconds, said.bench_seconds + dry.START_S)


def test_sizes_come_from_the_newest_run_on_the_same_bench_file(tmp_path: Path) -> None:
    config, runs = bench_file(), tmp_path / "runs"
    assert known_facts(config, runs) is None
    bench = open_bench(config)
    Engine(bench, store=RunStore(runs)).run(Script(busy, 60))
    bench.close()
    found = known_facts(config, runs)
    assert found is not None
    assert found.geometry == bench.facts.geometry
    assert known_facts(bench_file(settle_ms=21), runs) is None
