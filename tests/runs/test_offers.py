"""Procedures by name: what there is, what is refused, and that a recorded run's recipe makes the same once more."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field
from runs_fakes import Pairs

from labctl.config.load import load_bench
from labctl.errors import ConfigError, ModelError, RunError
from labctl.optics.encoders import ENCODERS
from labctl.procedures.calibrations import Calibrate, Dark, FourierCentre, Gain, Registration
from labctl.procedures.calibrations.graph import registry
from labctl.procedures.demo import Demo
from labctl.procedures.evaluate import Evaluate
from labctl.runs import offers
from labctl.runs.offers import Offer, Parameters, Prepared, offered, prepare, prepare_again
from labctl.runs.recorded import RecordedRun
from labctl.runs.values import from_json, to_json
from labctl.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
HERE = Workspace(ROOT)
CONFIG = load_bench(ROOT / "configs" / "benches" / "sim-4f.toml")


class PairsParameters(Parameters):
    batches: Annotated[int, Field(ge=1, description="How often.")]


PAIRS = Offer("pairs", "Pairs of levels.", PairsParameters, lambda p, w, c: Prepared(Pairs(batches=p.batches)))


class Point:
    """An entry point of a package that is installed, or half installed."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.value, self._found = name, f"their_lab.procedures:{name}", found

    def load(self) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    points: list[Point] = []
    monkeypatch.setattr(offers, "entry_points", lambda group, name=None: [p for p in points if name in (None, p.name)])
    return points


def recorded(made: Prepared) -> RecordedRun:
    return RecordedRun(Path("runs/20260101T000000Z-it-0000"), {"provenance": to_json(made.provenance)})


def test_what_labctl_offers() -> None:
    first = ["calibrate", "check", "evaluate", "align", "demo", "dark", "registration", "gain", "fourier-centre"]
    assert list(offered())[: len(first)] == first
    assert set(registry()) <= set(offered())
    for offer in offered().values():
        assert offer.summary.endswith(".")
        assert all(field.description for field in offer.parameters.model_fields.values())
        assert offer.parameters()  # every parameter of labctl's own has a default


@pytest.mark.parametrize(
    ("name", "kind"),
    [("calibrate", Calibrate), ("dark", Dark), ("gain", Gain), ("registration", Registration),
     ("fourier-centre", FourierCentre)],
)  # fmt: skip
def test_a_calibration_is_made_as_its_class_makes_it(name: str, kind: Any) -> None:
    made = prepare(name, {}, HERE, CONFIG)
    assert made.procedure == kind()
    assert made.provenance["recipe"]["procedure"] == name
    assert made.provenance["config"] == CONFIG.model_dump(mode="json")
    assert made.provenance["seeds"] == {"world": 7}
    assert is_dataclass(made.procedure)


def test_parameters_reach_the_procedure() -> None:
    assert prepare("dark", {"frames": 3, "ratio": 5}, HERE, CONFIG).procedure == Dark(3, 5.0)
    wanted = {"images": 3, "train": 4, "seed": 2, "encoder": "off-axis", "ceiling": 0.5, "calibrated": False}
    made = prepare("evaluate", wanted, HERE, CONFIG)
    assert isinstance(made.procedure, Evaluate)
    assert (len(made.procedure.task.test), len(made.procedure.task.train)) == (3, 4)
    assert (made.procedure.encoder.name, made.procedure.encoder.ceiling) == ("off-axis", 0.5)
    assert not made.procedure.calibrated
    found = made.provenance["recipe"]["parameters"]
    assert {name: found[name] for name in ("model", *wanted)} == {"model": "fashion-mnist-sclc", **wanted}
    watching = prepare("evaluate", {"images": 3, "train": 4, "watch": "correct", "watch_every": 7}, HERE, CONFIG)
    assert (watching.procedure.watch.policy, watching.procedure.watch.every) == ("correct", 7)  # type: ignore[attr-defined]
    assert made.provenance["seeds"] == {"world": 7, "images and refit": 2}
    assert set(made.provenance["models"]) == {"fashion-mnist-sclc"}
    assert len(set(made.provenance["data"].values())) == 2
    demo = prepare("demo", {"images": 2, "train": 4, "seed": 5}, HERE, CONFIG)
    assert isinstance(demo.procedure, Demo)
    assert demo.procedure.seed == 5


def test_every_encoder_can_be_asked_for() -> None:
    assert set(get_args(offers.EncoderName)) == set(ENCODERS)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("evaluat", {}, "no procedure is called 'evaluat': did you mean 'evaluate'?"),
        ("xyz", {}, "no procedure is called 'xyz': there are calibrate, check, evaluate, align, demo,"),
        ("evaluate", {"imags": 3}, "imags is not a key of the procedure 'evaluate': did you mean images?"),
        ("evaluate", {"images": 0}, "evaluate: images = 0: must be greater than or equal to 1"),
        ("evaluate", {"images": "3"}, "evaluate: images = '3': must be a valid integer"),
        ("evaluate", {"encoder": "doublephase"}, 'did you mean "double-phase"?'),
        ("dark", {"frames": 1, "ratio": 0.5}, "dark: frames = 1: must be greater than or equal to 2 (and 1 more)"),
        ("calibrate", {"frames": 3}, "frames is not a key of the procedure 'calibrate'"),
    ],
)
def test_what_is_wrong_is_one_line(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(name, parameters, HERE, CONFIG)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"fashion-mnist-scl'.*did you mean"):
        prepare("evaluate", {"model": "fashion-mnist-scl"}, HERE, CONFIG)


def test_installed_packages_add_theirs(installed: list[Point], caplog: pytest.LogCaptureFixture) -> None:
    installed += [
        Point("pairs", PAIRS), Point("broken", ImportError("no module named their_sdk")), Point("odd", Pairs),
        Point("dark", SimpleNamespace()),
    ]  # fmt: skip
    assert "pairs" in offered()
    assert "broken" not in offered()
    assert "no module named their_sdk" in caplog.text
    assert prepare("pairs", {"batches": 2}, HERE, CONFIG).procedure == Pairs(batches=2)
    for name, said in (("broken", "no module named their_sdk"), ("odd", "no labctl.runs.offers.Offer")):
        with pytest.raises(ConfigError, match=said):
            prepare(name, {}, HERE, CONFIG)
    with pytest.raises(ConfigError, match=r"^pairs: batches is missing: add batches = \.\.\.$"):
        prepare("pairs", {}, HERE, CONFIG)


def test_the_recipe_of_a_run_makes_the_same_again_and_takes_changes() -> None:
    first = prepare("evaluate", {"images": 3, "train": 4, "seed": 1}, HERE, CONFIG)
    again = prepare_again(recorded(first), HERE, CONFIG)
    assert again.provenance == first.provenance
    assert from_json(recorded(first).intent["provenance"]) == first.provenance
    fewer = prepare_again(recorded(first), HERE, CONFIG, images=2)
    assert fewer.provenance["recipe"]["parameters"]["images"] == 2
    assert fewer.provenance["recipe"]["parameters"]["seed"] == 1
    with pytest.raises(ConfigError, match="imgs is not a key"):
        prepare_again(recorded(first), HERE, CONFIG, imgs=2)


def test_a_run_without_a_recipe_says_so() -> None:
    with pytest.raises(RunError, match="was recorded without a recipe"):
        prepare_again(RecordedRun(Path("runs/x"), {"provenance": {}}), HERE, CONFIG)


@pytest.mark.parametrize("kind", ["models", "data"])
def test_a_model_or_images_that_have_changed_are_refused_unless_allowed(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare("evaluate", {"images": 3, "train": 4}, HERE, CONFIG)
    name = next(iter(first.provenance[kind]))
    first.provenance[kind][name] = "0" * 64
    with pytest.raises(ModelError, match=f"'{name}' changed since run .* \\(000000000000 then"):
        prepare_again(recorded(first), HERE, CONFIG)
    prepare_again(recorded(first), HERE, CONFIG, allow_changed=True)
    assert "changed since run" in caplog.text
