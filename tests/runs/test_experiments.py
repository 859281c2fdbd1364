"""Experiments and queues: what is checked before, what runs, what survives what, and where it can be found again."""

# ruff: noqa: E501 - a table of messages, one a line, reads best unwrapped

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from runs_fakes import Pairs, Rig, Script, gray

from labctl.bench.bench import Bench
from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.config.experiment import load_experiment
from labctl.config.schema import BenchConfig
from labctl.errors import CalibrationError, ConfigError, DeviceError
from labctl.procedures.messages import Exposure, Measure, Publish, Steps
from labctl.runs import experiments, offers
from labctl.runs.catalogue import list_runs
from labctl.runs.engine import Engine
from labctl.runs.experiments import Kitchen, Result, check, run_queue
from labctl.runs.interrupt import interruptible
from labctl.runs.offers import Offer, Prepared
from labctl.runs.recorded import open_run
from labctl.runs.session import make_engine
from labctl.workspace import Workspace


class FakeParameters(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    level: int = 1
    seed: int = 0
    fail: bool = False


class NoParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass
class Stage:
    """A workspace, fake procedures, and a count of what was opened."""

    workspace: Workspace
    opened: list[str] = field(default_factory=list)
    closed: int = 0
    prepared: int = 0
    rigs: list[Rig] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def file(self, name: str, steps: str, **more: str) -> Path:
        path = self.workspace.root / f"{name}.toml"
        about = "".join(f'{key} = "{value}"\n' for key, value in more.items())
        path.write_text(f'[experiment]\nname = "{name}"\nbench = "sim-4f"\n{about}\n{steps}', encoding="utf-8")
        return path

    def run(self, *paths: Path) -> list[Result]:
        kitchen = Kitchen(self.workspace)
        checked = [check(load_experiment(path), self.workspace, kitchen) for path in paths]
        return run_queue(checked, self.workspace, kitchen, open_bench=self._open, watch=self._watch)

    @contextmanager
    def _open(self, config: BenchConfig) -> Iterator[Bench]:
        self.opened.append(config.bench.name)
        self.rigs.append(Rig())
        yield self.rigs[-1].bench
        self.rigs[-1].bench.close()
        self.closed += 1

    @contextmanager
    def _watch(self, bench: Bench) -> Iterator[Engine]:
        engine = make_engine(bench, runs_dir=self.workspace.runs)
        with interruptible(engine):
            yield engine

    # the procedures

    def measure(self, parameters: FakeParameters, _workspace: Workspace, _config: BenchConfig) -> Prepared:
        self.prepared += 1

        def body(_: BenchFacts) -> Steps[int]:
            frames = yield Measure([Exposure(gray(parameters.level), gray(1))])
            self.during()
            if parameters.fail:
                raise CalibrationError("too little light")
            yield Publish("level (counts)", int(frames[0].data[0, 0]))
            yield Publish("level (counts)", int(frames[0].data[0, 0]) + 1)
            return int(frames[0].data[0, 0])

        return Prepared(Script(body, 1, "measure"), {"models": {"fake": "ab"}, "seeds": {"a": parameters.seed}})

    def learn(self, _parameters: Any, _workspace: Workspace, _config: BenchConfig) -> Prepared:
        return Prepared(Pairs(name="learn"))

    def use(self, _parameters: Any, _workspace: Workspace, _config: BenchConfig) -> Prepared:
        def body(facts: BenchFacts) -> Steps[CalibrationRecord]:
            record = facts.calibration("pairing")  # an error unless the step before has made it
            yield Publish("gain", float(record["gain"]))
            return record

        return Prepared(Script(body, 0, "use"))

    def disconnect(self, _parameters: Any, _workspace: Workspace, _config: BenchConfig) -> Prepared:
        def body(_: BenchFacts) -> Steps[None]:
            yield Measure([Exposure(gray(1), gray(1))])
            raise DeviceError("camera: unplugged", device="camera")

        return Prepared(Script(body, 1, "disconnect"))


@pytest.fixture
def stage(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(workspace)
    fakes = (
        Offer("measure", "", FakeParameters, made.measure),
        Offer("learn", "", NoParameters, made.learn),
        Offer("use", "", NoParameters, made.use),
        Offer("disconnect", "", NoParameters, made.disconnect),
    )
    monkeypatch.setattr(offers, "BUILT_IN", (*fakes, *offers.BUILT_IN))
    return made


def test_a_sweep_runs_and_the_catalogue_finds_it(stage: Stage) -> None:
    (result,) = stage.run(
        stage.file("night", '[[step]]\nprocedure = "measure"\nseeds = [3]\n[step.sweep]\nlevel = [1, 2]\n')
    )
    assert (result.outcome, [made.outcome for made in result.made]) == ("done", ["done", "done"])
    assert [dict(made.figures) for made in result.made] == [{"level (counts)": 18.0}, {"level (counts)": 34.0}]
    assert stage.prepared == 2  # once each, from the check on
    assert (stage.opened, stage.closed) == (["sim-4f"], 1)
    runs = stage.workspace.runs
    assert [run.id for run in list_runs(runs, tags=["experiment:night", "level=2"])] == [result.made[1].run]
    assert len(list_runs(runs, tags=["step:measure", "seed=3"], model="fake", outcome="done")) == 2
    about = open_run(result.made[1].folder).intent["provenance"]  # type: ignore[arg-type]
    assert about["recipe"]["parameters"] == {"level": 2, "seed": 3, "fail": False}
    said = about["experiment"]
    assert (said["name"], said["step"], said["sweep"]) == ("night", 1, {"seed": 3, "level": 2})
    assert (said["number"], said["of"], said["file"]) == (2, 2, str(stage.workspace.root / "night.toml"))
    told = result.as_json()
    assert told["runs"][1]["parameters"] == {"level": 2, "seed": 3}
    assert told["runs"][1]["run"] == result.made[1].run


def test_what_one_step_calibrates_is_in_force_in_the_next(stage: Stage) -> None:
    both = '[[step]]\nprocedure = "learn"\n[[step]]\nprocedure = "use"\n'
    (result,) = stage.run(stage.file("two", both))
    assert [made.outcome for made in result.made] == ["done", "done"]
    assert result.made[1].figures == {"gain": 2.5}
    (alone,) = stage.run(stage.file("one", '[[step]]\nprocedure = "use"\n'))
    assert alone.outcome == "failed"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ('[[step]]\nprocedure = "measure"\n[[step]]\nprocedure = "mesure"\n', "line 7: step 2: no procedure is called 'mesure': did you mean 'measure'?"),
        ('[[step]]\nprocedure = "measure"\nparameters = { levl = 2 }\n', "line 5: step 1: levl is not a key of the procedure 'measure': did you mean level?"),
        ('[[step]]\nprocedure = "measure"\n[step.sweep]\nlevel = [1, "two"]\n', "step 1: measure: level = 'two': must be a valid integer (with level = 'two')"),
        ('[[step]]\nprocedure = "learn"\nseeds = [1]\n', "step 1: seed is not a key of the procedure 'learn'"),
        ('[[step]]\nprocedure = "evaluate"\nparameters = { model = "nobody" }\n', "step 1: "),
    ],
)  # fmt: skip
def test_everything_is_checked_before_the_first_exposure(stage: Stage, steps: str, said: str) -> None:
    good = stage.file("good", '[[step]]\nprocedure = "measure"\n')
    with pytest.raises(ConfigError) as caught:
        stage.run(good, stage.file("bad", steps))
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{stage.workspace.root / 'bad.toml'}, line ")
    assert "\n" not in str(caught.value)
    assert stage.opened == []
    assert not stage.workspace.runs.exists() or list_runs(stage.workspace.runs) == []


FAILING = '[[step]]\nprocedure = "measure"\n[step.sweep]\nfail = [false, true]\nlevel = [1, 2]\n'


def test_a_failure_stops_the_experiment_and_not_the_queue(stage: Stage) -> None:
    first, second = stage.run(stage.file("first", FAILING), stage.file("second", '[[step]]\nprocedure = "measure"\n'))
    assert [made.outcome for made in first.made] == ["done", "done", "failed", "not run"]
    assert (first.outcome, second.outcome) == ("failed", "done")
    assert "too little light" in first.message
    assert first.made[2].run  # what there is of it can be looked at
    assert open_run(first.made[2].folder).outcome == "failed"  # type: ignore[arg-type]
    assert all(rig.is_safe for rig in stage.rigs)


def test_on_failure_continue_goes_on_with_a_bench_opened_afresh(stage: Stage) -> None:
    (result,) = stage.run(stage.file("night", FAILING, on_failure="continue"))
    assert [made.outcome for made in result.made] == ["done", "done", "failed", "failed"]
    assert (result.outcome, result.message) == ("failed", "2 of 4 runs failed")
    assert len(stage.opened) == stage.closed == 2


def test_a_step_may_differ_from_its_experiment(stage: Stage) -> None:
    steps = '[[step]]\nprocedure = "disconnect"\non_failure = "continue"\n[[step]]\nprocedure = "measure"\n'
    (result,) = stage.run(stage.file("night", steps))
    assert [made.outcome for made in result.made] == ["failed", "done"]
    assert result.made[0].message == "camera: unplugged"
    assert len(stage.opened) == 2


def test_a_defect_of_a_procedure_is_a_failure_like_another(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def break_down() -> None:
        raise ZeroDivisionError("division by zero")

    stage.during = break_down
    first, second = stage.run(*(stage.file(name, '[[step]]\nprocedure = "measure"\n') for name in ("a", "b")))
    assert first.made[0].message == "ZeroDivisionError: division by zero"
    assert (first.outcome, second.outcome) == ("failed", "failed")
    assert "Traceback" in caplog.text


def test_ctrl_c_ends_the_run_and_the_queue(stage: Stage) -> None:
    stage.during = lambda: signal.raise_signal(signal.SIGINT)
    steps = '[[step]]\nprocedure = "measure"\n[step.sweep]\nlevel = [1, 2]\n'
    first, second = stage.run(stage.file("first", steps, on_failure="continue"), stage.file("second", steps))
    assert [made.outcome for made in first.made] == ["aborted", "not run"]
    assert (first.outcome, second.outcome) == ("aborted", "not run")
    assert [made.outcome for made in second.made] == ["not run", "not run"]
    assert open_run(first.made[0].folder).outcome == "aborted"  # type: ignore[arg-type]
    assert stage.rigs[0].is_safe
    assert len(stage.opened) == stage.closed == 1


def test_more_runs_than_are_kept_are_prepared_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "KEPT", 1)
    (result,) = stage.run(stage.file("night", '[[step]]\nprocedure = "measure"\n[step.sweep]\nlevel = [1, 2, 3]\n'))
    assert result.outcome == "done"
    assert stage.prepared == 3 + 2
