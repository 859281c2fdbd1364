"""`labctl models cost`: figures of a shipped model on stated devices, on a bench file, and at a run's rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from labctl.bench.facts import BenchFacts
from labctl.cli import models, models_cost
from labctl.errors import ModelError, RunError
from labctl.learning.figures import DEVICE_PRESETS, DIGITAL_PRESETS, LCOS

MODELS = Path(__file__).parents[2] / "models"
app = typer.Typer()
app.add_typer(models.app, name="models")
run = CliRunner()


@pytest.fixture(autouse=True)
def example_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository is a workspace; its bench files are the ones named here."""
    monkeypatch.setenv("LABCTL_WORKSPACE", str(MODELS.parent))


def asked(*options: str) -> dict[str, dict]:
    result = run.invoke(app, ["models", "cost", "fashion-mnist-sclc", "--models-dir", str(MODELS), "--json", *options])
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_every_preset_can_be_asked_for() -> None:
    assert [choice.value for choice in models_cost.Devices] == list(DEVICE_PRESETS)
    assert [choice.value for choice in models_cost.Digital] == list(DIGITAL_PRESETS)


def test_it_says_what_an_image_takes_and_where_the_figures_come_from() -> None:
    found = asked()
    assert found["plan"]["captures"] == 1 and found["plan"]["tiles"] == 16
    assert found["costs"]["student, on the bench"]["macs"] == 201_984
    assert found["costs"]["teacher, digital"]["energy_j"] == pytest.approx(7_462_656e-12)
    assert found["break_even"]["student"]["energy_fps"] is None, "more MACs are left than the folded student has"
    assert found["break_even"]["teacher"]["energy_fps"] > 1e6
    assert "Genie Nano" in found["sources"]["devices"]["row_s"]
    shown = run.invoke(app, ["models", "cost", "fashion-mnist-sclc", "--models-dir", str(MODELS)]).stdout
    assert "against the teacher in electronics: saves energy at the plug from 2.34e+06 captures/s on" in shown
    assert "against the student in electronics: at no rate saves energy" in shown


def test_a_faster_bench_takes_less_and_a_rate_is_taken_at_its_word() -> None:
    slow, fast, told = asked(), asked("--figures", "dmd"), asked("--rate", "500")
    bench = "student, on the bench"
    assert fast["costs"][bench]["energy_j"] < slow["costs"][bench]["energy_j"]
    assert told["costs"][bench]["period_s"] == pytest.approx(2e-3)
    refused = run.invoke(app, ["models", "cost", "fashion-mnist-sclc", "--models-dir", str(MODELS), "--rate", "0"])
    assert isinstance(refused.exception, ModelError)


@pytest.mark.slow
def test_a_bench_file_gives_geometry_and_times() -> None:
    found = asked("--bench", "sim-4f")
    assert found["devices"] == "bench 'sim-4f' as its file states it"
    assert found["costs"]["student, on the bench"]["period_s"] == pytest.approx(5e-3 + 1e-3 + 5e-3)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray, list[bytes]], None]:
    """A run of which no more is known than these times and SLM patterns."""
    facts = BenchFacts("table", LCOS.geometry, 256, 256, 12, 1e-3, 0.1, 5e-3, 5e-3)

    def record(started: np.ndarray, slm: list[bytes]) -> None:
        table = np.array(list(zip(started, slm, strict=True)), dtype=[("started", "f8"), ("slm", "S8")])
        monkeypatch.setattr("labctl.runs.catalogue.find_run", lambda *_: Path("the-run"))
        monkeypatch.setattr("labctl.runs.recorded.open_run", lambda _: SimpleNamespace(id="the-run", frame_table=table))
        monkeypatch.setattr("labctl.runs.facts.facts_of", lambda _: facts)

    return record


def test_a_run_gives_the_rate_it_reached_while_one_pattern_stood(recorded: Callable[..., None]) -> None:
    calibrating, showing = np.arange(5) * 0.2, 10 + np.arange(40) * 0.02
    showing[20:] += 3.0  # a pause is no rate
    recorded(np.concatenate([calibrating, showing]), [b"a"] * 5 + [b"b"] * 40)
    found = asked("--run", "last")
    assert found["costs"]["student, on the bench"]["period_s"] == pytest.approx(0.02)
    assert found["sources"]["devices"]["frames_per_s"] == "measured"


def test_a_run_of_few_frames_tells_no_rate(recorded: Callable[..., None]) -> None:
    recorded(np.arange(3.0), [b"a"] * 3)
    result = run.invoke(app, ["models", "cost", "fashion-mnist-sclc", "--models-dir", str(MODELS), "--run", "last"])
    assert isinstance(result.exception, RunError) and "too few" in str(result.exception)
