"""Models of several patterns on the simulated bench: colour, intensity detection, incoherent light, what misfits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.nn.functional import conv2d

from labctl.bench import Bench, open_bench
from labctl.bench.facts import BenchFacts
from labctl.config.load import parse_bench
from labctl.errors import ConfigError, ModelError
from labctl.learning.backend import Backend
from labctl.learning.bundle import Bundle
from labctl.learning.data import ImageSet
from labctl.learning.fits import Misfit
from labctl.learning.recipe import parse_recipe
from labctl.learning.student import SpectralCascade, Student
from labctl.optics.detection import Detection
from labctl.optics.fidelity import pearson
from labctl.procedures.demo import Demo
from labctl.procedures.evaluate import Captures, Deployed, Evaluate, Task, capture, deploy
from labctl.procedures.messages import Log, Measure, Steps
from labctl.procedures.patterns import compile_model, digest_of, fidelity_of, misfits
from labctl.runs.engine import Engine
from labctl.runs.proving import prove

ROOT = Path(__file__).resolve().parents[2]
SIZE = (12, 16)


def pictures(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Blobs and a bar with sharp edges, 0 to 1, different in every channel."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 3, 4, generator=generator)
    made = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 1)
    made[:, :, 3:8, 4:11] *= torch.rand(count, channels, 1, 1, generator=generator)
    return made


def image_set(count: int, channels: int, split: str, seed: int) -> ImageSet:
    images = pictures(count, channels, seed)
    labels = torch.arange(count) % 10
    fields = {field.name for field in dataclasses.fields(ImageSet)}
    said: dict[str, Any] = {
        "images": images, "labels": labels, "classes": tuple("abcdefghij"), "name": "blobs", "split": split,
        "source": "made", "sha256": f"{split}{seed}", "folder": ROOT,
    }  # fmt: skip
    return ImageSet(**{name: value for name, value in said.items() if name in fields})


def random_task(detection: Detection, channels: int = 3, maps: int = 4, images: int = 3) -> Task:
    """A student with random kernels, which need no training to be shown."""
    torch.manual_seed(3)
    front = SpectralCascade(maps, channels, (5,), image=SIZE, detection=detection)
    student = Student(front, Backend(maps, SIZE, 10)).eval()
    bundle = Bundle("random", ROOT, parse_recipe('name = "random"'), student, None, cast(Any, None), "0")
    return Task.of(bundle, image_set(images, channels, "test", 1), image_set(4, channels, "train", 2))


@dataclasses.dataclass(frozen=True)
class Show:
    """Deploy by the bench file alone, and capture the test images."""

    task: Task

    name = "show"

    def exposures(self, facts: BenchFacts) -> int:
        return 1

    def steps(self, facts: BenchFacts) -> Steps[tuple[Deployed, Captures]]:
        deployed = yield from deploy(self.task, facts, calibrated=False)
        captures = yield from capture(
            self.task, facts, deployed, self.task.test, label="test", backend=self.task.bundle.student.backend
        )
        return deployed, captures


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[..., Bench]]:
    """Opens the example bench with every imperfection off; each kind once."""
    opened: dict[tuple[str, int], Bench] = {}

    def make(coherence: str = "coherent", camera: int = 1024) -> Bench:
        if (coherence, camera) not in opened:
            text = (ROOT / "configs" / "benches" / "sim-4f.toml").read_text(encoding="utf-8")
            text = text.replace('preset = "typical"', 'preset = "ideal"')
            text = text.replace("f2_mm = 75", f'f2_mm = 75\ncoherence = "{coherence}"')
            text = text.replace("[1024, 1024], pitch_um = 5.5", f"[{camera}, {camera}], pitch_um = 5.5")
            opened[coherence, camera] = open_bench(parse_bench(text))
        return opened[coherence, camera]

    yield make
    for one in opened.values():
        one.close()


def fidelity(captures: Captures, want: torch.Tensor) -> torch.Tensor:
    """Pearson r of every map of every image."""
    return pearson(captures.maps, want)


def test_a_colour_student_is_shown_channel_by_channel(bench: Callable[..., Bench]) -> None:
    """Three patterns, three exposures per image; the sum of what they read is conv2d of all channels."""
    made, task = bench(), random_task(Detection.PAIRED)
    asked: list[Measure] = []

    class Listening(Show):
        def steps(self, facts: BenchFacts) -> Steps[Any]:
            steps, message = super().steps(facts), None
            try:
                while True:
                    request = steps.send(message)
                    if isinstance(request, Measure):
                        asked.append(request)
                    message = yield request
            except StopIteration as stop:
                return stop.value

    deployed, captures = Engine(made).run(Listening(task))
    assert [(part.deployment.channel, part.deployment.maps) for part in deployed.parts] == [
        (0, slice(0, 4)), (1, slice(0, 4)), (2, slice(0, 4)),
    ]  # fmt: skip
    r = fidelity(captures, conv2d(task.test.images, task.kernels, padding=2))
    assert r.mean() > 0.99
    assert r.min() > 0.98
    assert captures.tile_r.shape == (24,)
    shown = [id(exposure.slm) for exposure in asked[-1].exposures]
    assert len(shown) == 9
    assert len(set(shown)) == 1 + sum(a != b for a, b in pairwise(shown)) == 3
    assert Evaluate(task).exposures(made.facts) == 3 * Evaluate(random_task(Detection.PAIRED, 1)).exposures(made.facts)


def test_intensities_of_channels_add_up(bench: Callable[..., Bench]) -> None:
    """The square-law student: each channel's map squared, then summed, which is not the square of the sum."""
    task = random_task(Detection.INTENSITY, channels=2)
    deployed, captures = Engine(bench()).run(Show(task))
    assert len(deployed.parts[0].deployment.kernels) == 4
    want = task.bundle.student.features(task.test.images).detach()
    separate = [conv2d(task.test.images[:, c, None], task.kernels[:, c, None], padding=2) ** 2 for c in (0, 1)]
    assert torch.allclose(want, separate[0] + separate[1], atol=1e-4)
    assert fidelity(captures, want).mean() > 0.99
    gain = float((captures.maps * want).sum() / want.pow(2).sum())
    assert gain == pytest.approx(1, abs=0.05), "in the units of the squared maps"


def test_incoherent_light_reads_a_linear_map(bench: Callable[..., Bench]) -> None:
    task = random_task(Detection.INCOHERENT, channels=1)
    _, captures = Engine(bench("incoherent")).run(Show(task))
    r = fidelity(captures, conv2d(task.test.images, task.kernels, padding=2))
    assert r.mean() > 0.99
    assert r.min() > 0.98


def test_a_bank_too_large_for_one_frame_takes_several(bench: Callable[..., Bench]) -> None:
    """Shared out evenly, both tiles of a map together; what is read is what one frame would have given."""
    made = bench()
    kernels = random_task(Detection.PAIRED, channels=2, maps=5).kernels
    parts = compile_model(kernels, made.facts, image=SIZE, calibrated=False, tiles=5)
    assert [(part.channel, part.maps) for part in parts] == [
        (0, slice(0, 1)), (0, slice(1, 3)), (0, slice(3, 5)), (1, slice(0, 1)), (1, slice(1, 3)), (1, slice(3, 5)),
    ]  # fmt: skip
    assert torch.equal(parts[4].kernels[0], kernels[1, 1].clamp(min=0))
    assert torch.equal(parts[4].kernels[3], (-kernels[2, 1]).clamp(min=0))
    assert len({part.digest for part in parts}) == 6
    assert digest_of(parts) != digest_of(parts[:1]) == parts[0].digest
    found = fidelity_of(parts[:2], pictures(1, 2), made.facts)
    assert found is not None
    assert len(found.per_tile) == 2 + 4
    assert found.mean > 0.99


def test_a_small_camera_makes_it_several_patterns_by_itself(bench: Callable[..., Bench]) -> None:
    made, task = bench(camera=300), random_task(Detection.PAIRED, channels=1, maps=4, images=2)
    patterns = task.patterns(made.facts)
    assert patterns > 1
    deployed, captures = Engine(made).run(Show(task))
    assert len(deployed.parts) == patterns
    assert fidelity(captures, conv2d(task.test.images, task.kernels, padding=2)).mean() > 0.99


def test_light_of_the_wrong_kind_is_refused_before_anything_moves(bench: Callable[..., Bench]) -> None:
    made = bench()
    with pytest.raises(ModelError, match="incoherent detection needs incoherent light, bench 'sim-4f' has coherent"):
        Engine(made).run(Show(random_task(Detection.INCOHERENT)))
    with pytest.raises(ModelError, match="paired detection needs coherent light, bench 'sim-4f' has incoherent"):
        Engine(bench("incoherent")).run(Show(random_task(Detection.PAIRED)))


def test_what_merely_costs_is_said_and_goes_on(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    made, task = bench(), random_task(Detection.PAIRED)
    assert misfits(task.bundle, made.facts) == []
    poorer = Misfit("model 'random' was trained for a better camera", prevents=False)
    monkeypatch.setattr("labctl.procedures.patterns.fits", lambda *_, **__: [poorer])
    assert next(deploy(task, made.facts, calibrated=False)) == Log(poorer.text, "warning")
    monkeypatch.setattr("labctl.procedures.patterns.fits", lambda *_, **__: [poorer, Misfit("too large")])
    with pytest.raises(ModelError, match=r"^too large$"):
        next(deploy(task, made.facts, calibrated=False))


def test_a_proof_of_pairing_is_for_one_pattern(bench: Callable[..., Bench]) -> None:
    with pytest.raises(ConfigError, match="takes 3 patterns: a proof of pairing is offered for models of one so far"):
        prove(Engine(bench()), Evaluate(random_task(Detection.PAIRED), calibrated=False))


def test_the_demo_is_for_one_pattern(bench: Callable[..., Bench]) -> None:
    with pytest.raises(ModelError, match=r"takes 3 patterns under paired detection.*`labctl evaluate` runs this model"):
        Engine(bench()).run(Demo(random_task(Detection.PAIRED)))


def test_classes_of_pixels_are_refused() -> None:
    task = random_task(Detection.PAIRED)
    wrong = dataclasses.replace(task.test, labels=torch.zeros(3, *SIZE, dtype=torch.int64))
    with pytest.raises(ModelError, match="names a class for each pixel"):
        Task.of(task.bundle, wrong, task.train)
