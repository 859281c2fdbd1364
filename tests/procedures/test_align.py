"""The alignment at the table: a simulated hand, or a person, turns the screws. Scored against the world's truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.bench import Bench, opening
from labctl.config.load import load_bench
from labctl.config.schema import BenchConfig
from labctl.errors import Aborted, CalibrationError, Stopped
from labctl.procedures.align import Align, Alignment
from labctl.procedures.messages import AT_ITS_END, MEANWHILE, Prompt
from labctl.runs.again import resume
from labctl.runs.engine import Engine
from labctl.runs.events import Captured, Event, Logged, Prompted, Published
from labctl.runs.offers import Prepared
from labctl.runs.recorded import open_run
from labctl.runs.replay import replay
from labctl.runs.session import make_engine
from labctl.simulation.effects import Truth
from labctl.simulation.screws import Screws

SMALL = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [256, 256], pitch_um = 8.0 }
settle_ms = 250
[input]
driver = "simulated"
options = { resolution = [128, 128], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [576, 576], pitch_um = 5.5 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "ideal"
"""
QUIET = {"slm_zero_order": 0.03, "shot_noise": True, "read_noise_e": 2.5, "offset_counts": 64, "input_stop_px": 96}
"""Next to nothing but what is out of line."""


@dataclass
class Table:
    """An open bench, its hand, and what was seen and said on the way."""

    bench: Bench
    hand: Screws
    events: list[Event] = field(default_factory=list)

    @property
    def truth(self) -> Truth:
        return self.hand._world._truth

    def align(self, *only: str, answer: Callable[[Prompt], str] | None = None) -> Alignment:
        return Engine(self.bench, observer=self.events.append, answer=answer).run(Align(only))

    def said(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Logged))

    def asked(self) -> list[Prompt]:
        """Of a person."""
        return [event.prompt for event in self.events if isinstance(event, Prompted)]

    def turned(self) -> list[str]:
        """What the hand was told."""
        end = " (the bench's own hand)"
        return [e.text.removesuffix(end) for e in self.events if isinstance(e, Logged) and e.text.endswith(end)]

    def frames(self) -> int:
        return sum(isinstance(event, Captured) for event in self.events)


def small(tmp_path: Path, preset: str, seed: int, effects: dict[str, Any]) -> BenchConfig:
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    config = load_bench(str(tmp_path / "small.toml"))
    simulation = config.simulation.model_copy(update={"preset": preset, "seed": seed, "effects": effects})  # type: ignore[union-attr]
    return config.model_copy(update={"simulation": simulation})


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Callable[..., Table]]:
    """Opens a small bench; its screws do what they are told unless `clumsy`. Closed after the test."""
    opened: list[Bench] = []

    def make(preset: str = "ideal", seed: int = 3, *, clumsy: bool = False, **effects: Any) -> Table:
        effects = effects if preset != "ideal" else QUIET | effects
        bench = opening.open_bench(small(tmp_path, preset, seed, effects))
        opened.append(bench)
        if not clumsy:
            assert bench.hand is not None
            bench.hand = Screws(bench.hand._world, steady=True)  # type: ignore[attr-defined]
        assert isinstance(bench.hand, Screws)
        return Table(bench, bench.hand)

    yield make
    for bench in opened:
        bench.close()


def rows(found: Alignment) -> dict[str, Any]:
    return {f"{row.step}: {row.merit}": row for row in found.rows}


@pytest.mark.parametrize(
    ("preset", "seed"), [("nasty", 3), pytest.param("nasty", 1, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_from_nasty_and_far_off_into_line(table: Callable[..., Table], preset: str, seed: int) -> None:
    """Screws with slack that go the other way, a mirrored or turned camera: every target is met, and truly so."""
    made = table(
        preset, seed, clumsy=True, fourier_shift_px=80, beam_offset_px=50, pupil_apodisation=0.6, camera_focus_mm=6
    )
    before = made.truth
    found = made.align()
    assert found.ok, found.rows
    assert made.frames() <= 180  # this far off; about 100 from the preset as it is
    truth = made.truth
    assert np.abs(before.fourier_shift).max() > 20
    assert np.abs(truth.fourier_shift).max() < 4
    assert np.abs(truth.beam_offset).max() < 25  # of 128 from the middle to the edge: 3 % of the light
    assert (
        abs(np.rad2deg(truth.input_rotation - truth.fourier_rotation)) < 0.8
    )  # so much an aberrated small SLM moves dots
    assert abs(np.rad2deg(truth.camera_rotation)) < 0.15
    # the panel's middle in the camera's: what shifts the one is made good by the other
    turn = np.linalg.inv(_camera(truth))
    seen = turn @ (-0.75 * 8 / 5.5 * np.asarray(truth.input_shift)) + np.asarray(truth.camera_shift)
    assert np.abs(seen).max() < 6
    # a focus within the depth of field (1.7 mm here), whatever optics and camera add to it
    optics_mm = 4 * 3**0.5 * 638e-9 * 0.075**2 / 1.024e-3**2 * truth.zernikes[4] * 1e3
    assert abs(truth.camera_focus * 1e3 - optics_mm) < 2.2


def _camera(truth: Truth) -> np.ndarray:
    angle = truth.camera_rotation + truth.camera_turns * np.pi / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([1.0, -1.0 if truth.camera_mirror else 1.0])


def test_a_bench_in_line_is_told_so_in_a_few_frames(table: Callable[..., Table]) -> None:
    made = table()
    found = made.align()
    assert found.ok
    assert (found.turns, made.turned()) == (0, [])
    assert made.frames() <= 40
    assert {row.step for row in found.rows} == {"light", "slm", "input", "camera", "focus", "beam"}


def test_one_step_alone(table: Callable[..., Table]) -> None:
    """The zero frequency is found wherever it is on the SLM, not only near its middle."""
    made = table(fourier_shift_px=110)
    assert np.abs(made.truth.fourier_shift).max() > 60
    found = made.align("slm")
    assert found.ok
    assert {row.step for row in found.rows} == {"light", "slm"}
    assert np.abs(made.truth.fourier_shift).max() < 3
    assert len(made.turned()) == found.turns
    assert all(text.startswith("Move the SLM towards its ") for text in made.turned())


def test_a_screw_that_goes_the_other_way_is_found_out(table: Callable[..., Table]) -> None:
    made = table(fourier_shift_px=50)
    for axis in ("x", "y"):
        made.hand.screws["slm", axis].direction = -1
    found = made.align("slm")
    assert found.ok
    assert "that was the wrong way. From now on this screw is taken to go the other way" in made.said()
    assert any(", the other way than the last time" in text for text in made.turned())
    assert np.abs(made.truth.fourier_shift).max() < 3


def test_a_screw_at_its_end_is_said_and_the_rest_goes_on(table: Callable[..., Table]) -> None:
    made = table(fourier_shift_px=60, camera_rotation_deg=2)
    made.hand.screws["slm", "y"].travel = 0.02
    found = made.align("slm", "camera")
    assert not found.ok
    row = rows(found)["slm: zero frequency off the SLM's middle, y"]
    assert "the screw is at the end of its travel" in row.note
    assert f"{row.after:.3g} mm short" in row.note
    assert all(row.ok for name, row in rows(found).items() if not name.endswith("SLM's middle, y"))


def test_a_screw_that_moves_nothing_is_given_up(table: Callable[..., Table]) -> None:
    made = table(fourier_shift_px=30)
    made.hand.screws["slm", "y"].scale = 0.0
    found = made.align("slm")
    row = rows(found)["slm: zero frequency off the SLM's middle, y"]
    assert not row.ok
    assert row.turns == 3
    assert "three turns moved nothing" in row.note
    assert "is it the right screw" in row.note


def test_light_that_is_lost_is_brought_back(table: Callable[..., Table]) -> None:
    """A screw six times as coarse as thought throws the spectrum off the SLM."""
    made = table(fourier_shift_px=90)
    made.hand.screws["slm", "y"].scale = 6.0
    assert abs(made.truth.fourier_shift[0]) > 30
    found = made.align("slm")
    assert "the zero frequency has left the SLM" in made.said()
    assert any(text.startswith("The light is lost since that turn. Turn the same screw back") for text in made.turned())
    assert found.ok


@pytest.mark.parametrize(
    ("effects", "why"),
    [
        ({"flux_e_per_s": 10.0}, "too little light|no light"),
        ({"flux_e_per_s": 1e11}, "too much light: the camera saturates"),
    ],
)
def test_no_light_and_too_much_are_refused(table: Callable[..., Table], effects: dict[str, Any], why: str) -> None:
    with pytest.raises(CalibrationError, match=why):
        table(**effects).align("light")


def test_incoherent_light_and_unknown_steps_are_refused(table: Callable[..., Table]) -> None:
    with pytest.raises(CalibrationError, match="align has no step 'lens': there are light, slm, focus"):
        Align(("lens",))
    facts = table().bench.facts
    dim = replace(facts, geometry=replace(facts.geometry, coherent=False))
    with pytest.raises(CalibrationError, match="align in coherent light"):
        next(Align().steps(dim))


class Person:
    """Someone who turns a screw little by little, watching, and says when it is good."""

    def __init__(self, made: Table, *answers: str) -> None:
        self.made, self.answers, self.asked = made, list(answers), list[Prompt]()
        made.bench.hand = None  # whose answers would be in the way

    def __call__(self, prompt: Prompt) -> str:
        self.asked.append(prompt)
        if self.answers:
            return self.answers.pop(0)
        assert prompt.adjust is not None
        shown = [e.value for e in self.made.events if isinstance(e, Published) and e.name == prompt.merit]
        if shown[-1] <= (prompt.target or 0):
            return prompt.options[0]
        self.made.hand.turn(prompt.adjust.part, prompt.adjust.axis, 0.4 * prompt.adjust.by)
        return MEANWHILE


def test_while_a_person_turns_the_figure_is_live(table: Callable[..., Table]) -> None:
    made = table(seed=5, camera_shift_px=25)
    person = Person(made)
    found = made.align("camera", answer=person)
    assert found.ok
    first = [prompt for prompt in person.asked if prompt == person.asked[0]]
    assert len(first) >= 3  # it stood while there were measurements
    assert made.asked().count(first[0]) == 1  # and was told once
    values = [e.value for e in made.events if isinstance(e, Published) and e.name == first[0].merit]
    assert values[0] > values[1] > values[2]


def test_a_person_may_skip_give_up_or_end_it(table: Callable[..., Table]) -> None:
    made = table(seed=5, camera_shift_px=25)
    found = made.align("camera", answer=Person(made, "skip", AT_ITS_END))
    notes = [row.note for row in found.rows if row.step == "camera" and not row.ok]
    assert "skipped" in notes
    assert any("end of its travel" in note for note in notes)
    assert made.truth.camera_shift == table(seed=5, camera_shift_px=25).truth.camera_shift
    with pytest.raises(Aborted, match="aborted at the prompt: Move the camera"):
        made.align("camera", answer=Person(made, "abort"))


def test_a_recorded_alignment_is_replayed_to_the_same_table(table: Callable[..., Table], tmp_path: Path) -> None:
    made = table(seed=5, camera_shift_px=25, camera_rotation_deg=1)
    engine = make_engine(made.bench, runs_dir=tmp_path / "runs")
    found = engine.run(Align(("camera",)))
    assert found.turns >= 2
    assert engine.folder is not None
    again = replay(open_run(engine.folder), Align(("camera",)), runs_dir=None).result
    assert again == found or str(again) == str(found)  # the light's row has a nan


def test_an_alignment_that_was_cut_off_goes_on_with_the_screws_as_they_stood(
    table: Callable[..., Table], tmp_path: Path
) -> None:
    """The hand of a bench that is opened anew turns again what it had turned; the end is that of a run in one go."""
    start: dict[str, Any] = {"seed": 5, "clumsy": True, "camera_shift_px": 25, "camera_rotation_deg": 1}
    whole = table(**start).align("camera")
    made = table(**start)
    engine = make_engine(made.bench, runs_dir=tmp_path / "runs")

    def cut(event: Event) -> None:
        made.events.append(event)
        if len(made.turned()) == 2:
            engine.stop()

    engine.observer = cut
    with pytest.raises(Stopped):
        engine.run(Align(("camera",)))
    assert engine.folder is not None
    fresh = table(**start)
    again = make_engine(fresh.bench, runs_dir=tmp_path / "runs")
    done = resume(open_run(engine.folder), Prepared(Align(("camera",))), again, calibration_dir=tmp_path / "kept")
    assert str(done.result) == str(whole)
    assert fresh.hand.turns == whole.turns
