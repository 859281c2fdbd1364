"""Proof of pairing: codes that differ, stamps that write to copies, and frames of other patterns than they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from labctl.bench import Bench, BenchFacts, Frame, open_bench, opening, token
from labctl.bench.proof import DotProof, Proof, Spots
from labctl.config.load import parse_bench
from labctl.devices.faults import Fault, FaultPlan
from labctl.errors import CalibrationError, ModelError
from labctl.optics.marks import Marks, code_words, marks_beside_tiles
from labctl.procedures.deployment import Deployment, Reader, compile_deployment, show_image
from labctl.procedures.messages import Exposure, Measure, Set, Steps
from labctl.procedures.proof import LearnProof, marks_at_edges, marks_for, probes_for
from labctl.runs.engine import Engine
from labctl.simulation.world import World

BENCH = """
[bench]
name = "proving"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [512, 512], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [128, 128], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [512, 512], pitch_um = 5.5, readout_ms = 5.0 }
exposure_ms = 4.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "mild"
seed = 3
"""


# codes and stamps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dots", "on", "size"), [(8, 4, 70), (6, 3, 20), (5, 2, 10)])
def test_codes_have_equal_weight_and_neighbours_differ_much(dots: int, on: int, size: int) -> None:
    words = code_words(dots, on)
    assert words.shape == (size, dots)
    assert (words.sum(1) == on).all()
    assert len({tuple(word) for word in words}) == size
    apart = (words != np.roll(words, 1, axis=0)).sum(1)
    assert apart.min() >= (4 if dots == 8 else 2)
    assert apart.mean() > on


def marks(sites: int = 3) -> Marks:
    """Four dots on a 20x20 panel, two patches on a 16x16 SLM."""
    dots = tuple(((16, 18, 4 * n, 4 * n + 2),) for n in range(4))
    patches = ((0, 2, 4, 12), (14, 16, 4, 12))
    levels = tuple(tuple(np.full((2, 8), 50 * k + 10 * p, np.uint8) for p in range(2)) for k in range(sites))
    return Marks(dots, np.full((2, 2), 255, np.uint8), code_words(4, 2), patches, levels)


def spots(sites: int = 3) -> Spots:
    """One camera pixel for each: site k on row k and row 20 + k, dot j in column 3 j."""
    pixels = np.array([(20 * copy + k, 3 * j) for k in range(sites) for j in range(4) for copy in range(2)])
    on = np.full((sites, 4, 2), 50_000.0)
    return Spots(pixels, np.arange(len(pixels)), 0 * on + 500, on, 64.0, 0.5, 4095, 0 * on)


def frame_of(word: Any, site: int, *, slm: str, light: float = 1.0, exposure_s: float = 0.01, **more: Any) -> Frame:
    data = np.full((40, 20), 64 + round(500 * exposure_s), np.uint16)
    for j in np.flatnonzero(word):
        data[[site, 20 + site], 3 * j] += round(50_000 * exposure_s * light)
    return Frame(np.minimum(data, 4095), 0, 0.0, exposure_s, exposure_s, slm, "", **more)


def test_a_stamp_writes_to_copies_and_is_the_same_for_the_same_pattern() -> None:
    proof = DotProof(marks(), spots())
    assert isinstance(proof, Proof)
    slm, image = np.full((16, 16), 7, np.uint8), np.full((20, 20), 9, np.uint8)
    first, drawn = proof.stamp(slm, image, 2)
    assert (slm == 7).all()
    assert (image == 9).all()
    assert drawn is not None
    lit = [bool((drawn[16:18, 4 * n : 4 * n + 2] == 255).all()) for n in range(4)]
    assert lit == list(proof.marks.words[2])
    untouched = np.ones((20, 20), bool)
    untouched[16:18] = False
    assert (drawn[untouched] == 9).all()
    again, other = proof.stamp(slm.copy(), image, 3)
    assert again is first
    assert not np.array_equal(drawn, other)
    assert proof.stamp(None, None, 0) == (None, None)


def test_an_slm_pattern_never_has_the_mark_of_the_one_before_it() -> None:
    proof = DotProof(marks(), spots())
    rng = np.random.default_rng(0)
    patterns = [np.full((16, 16), n, np.uint8) for n in range(6)]
    before, shown = -1, None
    for n in rng.integers(6, size=500):
        drawn, _ = proof.stamp(patterns[n], None, 0)
        assert drawn is not None
        site = int(drawn[0, 4]) // 50
        assert (site == before) == (shown == n)
        assert (drawn[2:14] == n).all()
        before, shown = site, n


def test_a_frame_agrees_with_its_own_code_and_mark_alone() -> None:
    proof = DotProof(marks(), spots())
    words = proof.marks.words
    stamped = [proof.stamp(np.full((16, 16), n, np.uint8), None, 0)[0] for n in range(3)]
    names = [token(pattern) for pattern in stamped]
    for site in range(3):
        for code, word in enumerate(words):
            for claimed_site in range(3):
                for claimed in range(len(words)):
                    frame = frame_of(word, site, slm=names[claimed_site])
                    assert proof.agrees(frame, claimed) == (site == claimed_site and code == claimed)


def test_laser_power_and_exposure_may_vary_but_there_must_be_light() -> None:
    proof = DotProof(marks(), spots())
    name = token(proof.stamp(np.zeros((16, 16), np.uint8), None, 0)[0])
    word = proof.marks.words[0]
    assert all(proof.agrees(frame_of(word, 0, slm=name, light=light), 0) for light in (0.4, 1.0, 2.0))
    assert proof.agrees(frame_of(word, 0, slm=name, exposure_s=0.5), 0)  # saturated
    assert not proof.agrees(frame_of(word, 0, slm=name, light=0.0), 0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_frame_of_two_exposures_is_caught(share: float) -> None:
    """Upper and lower part, or earlier and later part, of different codes or marks."""
    proof = DotProof(marks(), spots())
    names = [token(proof.stamp(np.full((16, 16), n, np.uint8), None, 0)[0]) for n in range(2)]
    words = proof.marks.words
    new, old, late = frame_of(words[1], 1, slm=names[1]), frame_of(words[0], 1, slm=""), frame_of(words[1], 0, slm="")
    for other in (old, late):
        torn, mixed = new.data.copy(), (1 - share) * new.data + share * other.data
        torn[:20] = other.data[:20]
        for data in (torn, mixed.astype(np.uint16)):
            assert not proof.agrees(Frame(data, 0, 0.0, 0.01, 0.01, names[1], ""), 1)


def test_a_frame_that_cannot_show_the_proof_is_an_error_and_no_mismatch() -> None:
    proof = DotProof(marks(), spots())
    name = token(proof.stamp(np.zeros((16, 16), np.uint8), None, 0)[0])
    frame = frame_of(proof.marks.words[0], 0, slm=name)
    cut = Frame(frame.data[:18], 0, 0.0, 0.01, 0.01, name, "", origin=(2, 0))
    with pytest.raises(CalibrationError, match=r"window leaves out its dots, in rows 0 to 23 and columns 0 to 10"):
        proof.agrees(cut, 0)
    with pytest.raises(CalibrationError, match=r"0\.1 ms is too short to see its dots, which need 0\.4 ms"):
        proof.agrees(frame_of(proof.marks.words[0], 0, slm=name, exposure_s=1e-4), 0)
    with pytest.raises(CalibrationError, match="shown without its patches"):
        proof.agrees(frame_of(proof.marks.words[0], 0, slm="unknown"), 0)
    shifted = Frame(np.pad(frame.data, ((3, 0), (4, 0))), 0, 0.0, 0.01, 0.01, name, "", origin=(-3, -4))
    assert proof.agrees(shifted, 0)
    assert proof.window == (0, 23, 0, 10)


# on a simulated bench -------------------------------------------------------------------------------------------------


@dataclass
class Proving:
    bench: Bench
    world: World
    deployment: Deployment

    def take(self, proof: Proof, slm: np.ndarray, image: np.ndarray, code: int) -> tuple[Frame, bool]:
        """A frame, and whether its light came by way of these patterns."""
        drawn = proof.stamp(slm, image, code)
        self.bench.show(slm=drawn[0], input=drawn[1])
        frame = self.bench.capture()
        shown = (self.world._slm.at(frame.started).state, self.world._input.at(frame.started).state)
        return frame, all(np.array_equal(a, b) for a, b in zip(shown, drawn, strict=True))


@pytest.fixture
def proving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Proving]]:
    opened: list[Bench] = []
    worlds: list[World] = []
    make_world = opening._world

    def remember(*args: Any) -> World:
        worlds.append(make_world(*args))
        return worlds[-1]

    monkeypatch.setattr(opening, "_world", remember)

    def make(*faults: Fault) -> Proving:
        config = parse_bench(BENCH)
        plan = FaultPlan(seed=5, plan=faults) if faults else None
        opened.append(open_bench(config.model_copy(update={"faults": plan})))
        return Proving(opened[-1], worlds[-1], deployed(opened[-1]))

    yield make
    for bench in opened:
        bench.close()


def deployed(bench: Bench) -> Deployment:
    kernels = torch.from_numpy(np.random.default_rng(2).normal(size=(8, 1, 3, 3)).astype(np.float32))
    return compile_deployment(kernels, bench.facts, image=(14, 14), calibrated=False)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 14, 14)).astype(np.float32)


@pytest.fixture(scope="module")
def learnt() -> tuple[Marks, Spots]:
    with closing(open_bench(parse_bench(BENCH))) as bench:
        deployment = deployed(bench)
        found = marks_for(deployment, bench.facts)
        learn = LearnProof(found, deployment.pattern, probes_for(deployment, bench.facts, images(3)))
        return found, Engine(bench).run(learn)


def test_what_is_learnt_stands_out_of_noise_and_images(learnt: tuple[Marks, Spots]) -> None:
    _, where = learnt
    assert where.on.shape == (4, 5, 2)
    assert where.crosstalk.max() < 0.1
    assert where.shortest_s < 0.5e-3
    rows = np.split(where.pixels[:, 0], where.starts[1:])
    middle = [row.mean() for row in rows]
    assert np.ptp(middle[0::2]) < 30  # the copies of all dots lie in two bands, with the tiles between them
    assert min(np.array(middle[1::2]) - np.array(middle[0::2])) > 50


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault(device="input", fault="write-ignored", rate=0.2),
        Fault(device="slm", fault="write-ignored", rate=0.5),
        Fault(device="input", fault="late-swap", rate=0.2, for_s=0.05),
        Fault(device="slm", fault="late-swap", rate=0.5, for_s=0.4),
        Fault(device="camera", fault="stale-restamped", rate=0.2),
        Fault(device="camera", fault="torn", rate=0.2),
    ],
    ids=str,
)
def test_every_wrong_pair_is_caught_and_no_right_one_refused(
    proving: Callable[..., Proving], learnt: tuple[Marks, Spots], fault: Fault | None
) -> None:
    it = proving(*([fault] if fault else []))
    proof = DotProof(*learnt)
    it.bench.set("laser", "enabled", True)
    edges = np.array([proof.window, it.deployment.window])
    it.bench.set("camera", "window", tuple(int(v) for v in np.where([1, 0, 1, 0], edges.min(0), edges.max(0))))
    patterns = [(it.deployment.pattern + np.uint8(40 * k)).astype(np.uint8) for k in range(3)]
    pictures = [show_image(torch.from_numpy(image), it.bench.facts, it.deployment) for image in images(5)]
    caught = 0
    before = ("", "")
    for n in range(36):
        struck = len(it.bench.injected)
        frame, right = it.take(proof, patterns[n // 3 % 3], pictures[n % 5], n % proof.size)
        spoilt = any(item.device == "camera" for item in it.bench.injected[struck:])
        wrong = not right or (spoilt and (frame.slm, frame.input) != before)
        assert proof.agrees(frame, n % proof.size) == (not wrong), f"exposure {n}"
        caught += wrong
        before = (frame.slm, frame.input)
    assert (caught >= 3) == (fault is not None)


@dataclass(frozen=True)
class Show:
    """Shows pictures under changing SLM patterns, with the tiles' window."""

    deployment: Deployment
    pictures: Sequence[np.ndarray]
    count: int
    name: str = "show"

    def exposures(self, facts: BenchFacts) -> int:
        return self.count

    def steps(self, facts: BenchFacts) -> Steps[list[Frame]]:
        patterns = [(self.deployment.pattern + np.uint8(40 * k)).astype(np.uint8) for k in range(3)]
        yield Set("laser", "enabled", True)
        yield Set("camera", "window", self.deployment.window)
        frames: list[Frame] = []
        for start in range(0, self.count, 6):
            frames += yield Measure(
                [
                    Exposure(patterns[n // 3 % 3], self.pictures[n % len(self.pictures)], tag={"n": n})
                    for n in range(start, start + 6)
                ]
            )
        return frames


def test_a_run_repeats_what_did_not_show_its_code(proving: Callable[..., Proving], learnt: tuple[Marks, Spots]) -> None:
    """Frames of a run with faults come from the same patterns as those of a run without, and the window grew."""
    rates = {"write-ignored": ("input", 0.15), "late-swap": ("slm", 0.3), "stale-restamped": ("camera", 0.15)}
    faults = [
        Fault(device=device, fault=fault, rate=rate, for_s=0.4 if fault == "late-swap" else None)  # type: ignore[arg-type]
        for fault, (device, rate) in rates.items()
    ]
    runs = []
    for plan in ([], faults):
        it = proving(*plan)
        pictures = [show_image(torch.from_numpy(image), it.bench.facts, it.deployment) for image in images(5)]
        engine = Engine(it.bench, proof=DotProof(*learnt))
        runs.append((engine.run(Show(it.deployment, pictures, 36)), engine.snapshot()))
    (clean, calm), (frames, seen) = runs
    assert calm.mismatches == 0
    assert seen.mismatches >= 5
    assert all(frame.repeats == 0 for frame in clean)
    assert sum(frame.repeats for frame in frames) >= 5
    r0, r1, *_ = learnt[1].window
    assert clean[0].origin[0] <= r0
    assert clean[0].origin[0] + clean[0].data.shape[0] >= r1
    reader = Reader(it.deployment, it.bench.facts)
    for good, frame in zip(clean, frames, strict=True):
        assert (good.slm, good.input, good.tag) == (frame.slm, frame.input, frame.tag)
        tiles = [reader.intensity(each).numpy().ravel() for each in (good, frame)]
        assert np.corrcoef(tiles)[0, 1] > 0.99


def test_dots_that_cannot_be_seen_are_no_proof(proving: Callable[..., Proving]) -> None:
    it = proving()
    found = marks_for(it.deployment, it.bench.facts)
    dark = replace(found, mark=found.mark * 0, sites=found.sites[:1])
    learn = LearnProof(dark, it.deployment.pattern, probes_for(it.deployment, it.bench.facts, images(1)), 4e-3)
    with pytest.raises(CalibrationError, match=r"copies of a dot can be seen|faintest dot brings"):
        Engine(it.bench).run(learn)


def test_marks_need_room(proving: Callable[..., Proving]) -> None:
    it = proving()
    facts = it.bench.facts
    layout, geometry = it.deployment.layout, facts.geometry
    with pytest.raises(ModelError, match="no room for the dots of a proof of pairing on the input panel"):
        marks_beside_tiles(layout, geometry, kernel=(3, 3), corner=(98, 50))
    with pytest.raises(ModelError, match=r"no room for the dots of a proof of pairing between tiles.*larger guard"):
        marks_beside_tiles(layout, geometry, kernel=(11, 11), corner=(50, 50))
    low = replace(layout, carriers=((0.1, 0.0), (0.1, 0.1)))
    with pytest.raises(ModelError, match="no room beside the tiles"):
        marks_beside_tiles(low, geometry, kernel=(3, 3), corner=(50, 50))
    edges = marks_at_edges(facts, dots=6)
    assert edges.sites == ()
    assert len(edges.dots) == 6
    assert all(len(places) == 2 for places in edges.dots)
