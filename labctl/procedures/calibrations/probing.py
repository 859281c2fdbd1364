"""A few exposures that tell whether a bench still is what its records say: how they are made and what is read off them.

`labctl.procedures.calibrations.check` keeps what they gave once (`Reference`) and compares later (`Check`). What is
read is chosen so that one change of the bench moves one of them: light and camera gain, where dots are seen, how far
carriers move one, where the spectrum falls, how gray levels turn to phase, and, beyond these, what a tile looks like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.errors import CalibrationError, ModelError
from labctl.procedures.calibrations.common import black, flat
from labctl.procedures.exposing import around, blaze, centroid, expose_well, gray, laser_on, signal, square
from labctl.procedures.messages import Exposure, Gray, Measure, Set, Steps

if TYPE_CHECKING:
    from labctl.procedures.deployment import Deployment

Vector = NDArray[np.float64]
DOT_PX = 3
STEPS = (0.2, 0.3, 0.7, 0.8)
"""Of the range of gray levels: phase differences of 0.4, 0.6, 1.4 and 1.6 pi, where light tells phase well."""
PERIOD = 8
"""Of the binary gratings, SLM pixels."""
TILE_IMAGE = (16, 16)
MARGIN_PX = 12


@dataclass(frozen=True)
class Probe:
    """The patterns of the check exposures; what they are is part of what is compared.

    Attributes
    ----------
    span_px : int
        Side of the square of panel pixels that dots stand in.
    side_px : int
        Side of the white square, panel pixels.
    carrier : float
        Of the steered dots, cycles per SLM pixel.
    step_px : float
        Knife edges stand so far to both sides of the Fourier centre, SLM pixels.
    """

    span_px: int = 64
    side_px: int = 48
    carrier: float = 0.12
    step_px: float = 6.0


@dataclass(frozen=True)
class Observed:
    """What one pass of check exposures gave.

    Attributes
    ----------
    values : mapping of name to float array
        ``light`` (counts/s), ``gain`` (electrons/count, relative error), ``dots`` [n, 2] and ``carriers``
        [k, 2] (camera px), ``centre`` (SLM px off the recorded one), ``gray`` (phase steps, rad), ``tile`` (amplitudes,
        of unit norm). What could not be had is left out.
    exposures : mapping of name to s
    notes : tuple of str
        Why something is left out.
    """

    values: dict[str, Vector]
    exposures: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass
class Scene:
    """Patterns and places for one bench, as it is recorded."""

    facts: BenchFacts
    probe: Probe
    exposures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        facts, probe = self.facts, self.probe
        record = facts.calibration("registration")
        self.affine, self.steer = record["input_to_camera"], record["carrier_to_camera"]
        self.still = flat(facts)
        panel = min(facts.geometry.input.shape)
        span, self.side = min(probe.span_px, panel - 8), min(probe.side_px, panel // 2)
        places = np.linspace(-(span / 2 - DOT_PX), span / 2 - DOT_PX, 3)
        dots = [square(facts, DOT_PX, (float(y), float(x))) for y in places for x in places]
        self.grid: Gray = np.maximum.reduce(dots)
        self.spots = np.array([self.seen(dot) for dot in dots])
        self.gap = float(np.linalg.norm(self.affine[:, :2] @ (0.0, places[1] - places[0])))
        self.dot, self.white = square(facts, DOT_PX), square(facts, self.side)
        self.middle = self.seen(self.white)
        self.half = int(0.75 * self.side * np.abs(self.affine[:, :2]).max())
        c = probe.carrier
        self.carriers = [self._in_frame(carrier) for carrier in ((c, 0.0), (0.0, c))]
        self.sides = ((0.2, -0.1), (0.2, 0.1))
        self.fans = [self.middle + self.steer @ np.asarray(carrier) for carrier in self.sides]

    def seen(self, shown: Gray) -> Vector:
        place = np.argwhere(shown).mean(0)
        return np.asarray(self.affine[:, :2] @ place + self.affine[:, 2])

    def holds(self, place: Vector, reach: float) -> bool:
        shape = np.asarray(self.facts.geometry.camera.shape)
        return bool(((place >= reach) & (place < shape - reach)).all())

    def _in_frame(self, carrier: tuple[float, float]) -> tuple[float, float] | None:
        for sign in (1.0, -1.0):
            turned = carrier[0] * sign, carrier[1] * sign
            if self.holds(self.middle + self.steer @ np.asarray(turned), 10):
                return turned
        return None

    def window(self, tile: Deployment | None) -> tuple[int, int, int, int]:
        points = [*self.spots, self.middle, *self.fans]
        points += [self.middle + self.steer @ np.asarray(c) for c in self.carriers if c is not None]
        found = around(self.facts, points, self.half + MARGIN_PX)
        if tile is None:
            return found
        r0, r1, c0, c1 = zip(found, tile.window, strict=True)
        return min(r0), max(r1), min(c0), max(c1)

    def expose(self, name: str, slm: Gray, shown: Gray, target: float) -> Steps[float]:
        """The exposure time of a former pass, or one that is found now."""
        if name not in self.exposures:
            self.exposures[name] = yield from expose_well(
                self.facts, slm, [shown], target=target, quantile=0.9995 if name != "dots" else 0.99999
            )
        return self.exposures[name]


def reference_tile(facts: BenchFacts) -> tuple[Deployment, Gray] | None:
    """A small kernel bank as a deployment, and an image to show with it; None if the bench has no room for it."""
    if "fourier-centre" not in facts.calibrations or not facts.geometry.coherent:
        return None
    import torch

    from labctl.procedures.deployment import compile_deployment, show_image

    plain = {kind: facts.calibrations[kind] for kind in ("registration", "fourier-centre")}  # whatever else there is
    dice = np.random.default_rng(6)
    kernels = torch.from_numpy(dice.normal(size=(1, 1, 5, 5)).astype(np.float32))
    image = torch.from_numpy((dice.random(TILE_IMAGE) > 0.6).astype(np.float32))
    try:
        made = compile_deployment(kernels, replace(facts, calibrations=plain), image=TILE_IMAGE, margin_px=MARGIN_PX)
    except (ModelError, CalibrationError):
        return None
    return made, show_image(image, facts, made)


def tile_key(tile: Deployment) -> str:
    """A hash of the pattern and of where it is read: tiles can be compared where it is the same."""
    found = hashlib.sha256(np.ascontiguousarray(tile.pattern).tobytes())
    for array in (tile.input_to_camera, tile.carrier_to_camera):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def observe(
    facts: BenchFacts,
    probe: Probe,
    *,
    exposures: Mapping[str, float] | None = None,
    repeats: int = 1,
    brief: bool = False,
) -> Steps[list[Observed]]:
    """Make the check exposures, `repeats` times, and read them.

    Parameters
    ----------
    exposures : mapping of name to s, optional
        Exposure times of a former pass: then nothing is spent on finding them.
    brief : bool
        Leave out gray levels and tile, which say nothing without a former pass.

    Raises
    ------
    CalibrationError
        If the bench has no registration, or there is no light.
    """
    scene = Scene(facts, probe, dict(exposures or {}))
    tile = None if brief else reference_tile(facts)
    yield from laser_on(facts)
    yield Set("camera", "window", scene.window(None if tile is None else tile[0]))
    shots: list[tuple[str, Exposure]] = []

    def add(name: str, slm: Gray, shown: Gray, exposure: float, times: int = 1) -> None:
        tag = {"for": "check", "of": name}
        shots.extend((name, Exposure(slm, shown, exposure, tag)) for _ in range(times))

    bright = yield from scene.expose("dots", scene.still, scene.dot, 0.6)
    add("dots", scene.still, scene.grid, bright)
    add("empty", scene.still, black(facts), bright)
    for carrier in scene.carriers:
        if carrier is not None:
            add("carriers", gray(facts, blaze(facts, carrier)), scene.dot, bright)
    even = yield from scene.expose("white", scene.still, scene.white, 0.6)
    add("white", scene.still, scene.white, even, 2)
    for step in () if brief else STEPS:
        add("gray", _stripes(facts, step), scene.white, even)
    if "fourier-centre" in facts.calibrations and all(scene.holds(fan, scene.half) for fan in scene.fans):
        if brief:
            scene.exposures["knife"] = even  # a blaze is not brighter than a mirror
        fanned = yield from scene.expose("knife", gray(facts, blaze(facts, scene.sides[0])), scene.white, 0.6)
        for pattern in _edges(facts, scene):
            add("knife", pattern, scene.white, fanned)
    else:
        scene.notes.append("Fourier centre: not compared, there is no record, or its light leaves the camera's frame")
    if tile is not None:
        deployment, shown = tile
        through = yield from scene.expose("tile", deployment.pattern, shown, 0.7)
        add("tile", deployment.pattern, shown, through)
    elif not brief:
        scene.notes.append("reference tile: not compared, it does not fit on this bench or needs more records")
    found = []
    for _ in range(repeats):
        frames = yield Measure([shot for _, shot in shots], "check exposures")
        named: dict[str, list[Frame]] = {}
        for (name, _), frame in zip(shots, frames, strict=True):
            named.setdefault(name, []).append(frame)
        found.append(_read(scene, named, None if tile is None else tile[0]))
    yield Set("camera", "window", None)
    return found


def _stripes(facts: BenchFacts, step: float) -> Gray:
    """Stripes of the top gray level and one `step` of the range below: how much light stays tells the phase between."""
    top = facts.slm_levels - 1
    rows = np.arange(facts.geometry.slm.shape[0]) // (PERIOD // 2) % 2
    column = np.where(rows == 1, round(top * (1 - step)), top)
    dtype = np.uint8 if facts.slm_levels <= 256 else np.uint16
    return np.broadcast_to(column[:, None], facts.geometry.slm.shape).astype(dtype)


def _edges(facts: BenchFacts, scene: Scene) -> list[Gray]:
    low, high = (gray(facts, blaze(facts, carrier)) for carrier in scene.sides)
    centre = facts.calibration("fourier-centre")["centre"]
    made = []
    for axis in (0, 1):
        index = np.arange(facts.geometry.slm.shape[axis])
        index = index[:, None] if axis == 0 else index[None]
        made += [
            np.where(index < round(float(centre[axis]) + 0.5 + way * scene.probe.step_px), low, high) for way in (-1, 1)
        ]
    return made


def _read(scene: Scene, named: Mapping[str, list[Frame]], tile: Deployment | None) -> Observed:
    facts, values = scene.facts, dict[str, Vector]()
    empty = signal(facts, named["empty"][0])
    picture = signal(facts, named["dots"][0]) - empty
    dots = [_near(picture, named["dots"][0], spot, int(max(4, 0.4 * scene.gap))) for spot in scene.spots]
    if all(dot is None for dot in dots):
        raise CalibrationError("check: no dot is seen where the registration says: calibrate registration again")
    values["dots"] = np.array([(np.nan, np.nan) if dot is None else dot for dot in dots])
    shift = np.nanmean(values["dots"] - scene.spots, axis=0)
    start = np.asarray(values["dots"][4]) if dots[4] is not None else scene.spots[4] + shift
    moved = []
    carried = iter(named.get("carriers", ()))
    for carrier in (carrier for carrier in scene.carriers if carrier is not None):
        frame = next(carried)
        found = _near(signal(facts, frame) - empty, frame, start + scene.steer @ np.asarray(carrier), 9)
        moved.append(np.full(2, np.nan) if found is None else np.asarray(found) - start)
    if moved:
        values["carriers"] = np.array(moved)
    middle = scene.middle + shift
    white = [_light(signal(facts, frame), frame, middle, scene.half) for frame in named["white"]]
    seconds = named["white"][0].exposure_s
    values["light"] = np.array([np.mean(white) / seconds])
    if "gray" in named:
        through = np.array([_light(signal(facts, frame), frame, middle, scene.half) for frame in named["gray"]])
        # the straight light of two equal halves at phases 0 and p is (1 + cos p) / 2 of all
        share = np.clip(through / max(float(np.mean(white)), 1e-9), 0.01, 0.99)
        values["gray"] = np.arccos(2 * share - 1)
    if gain := _gain(facts, *named["white"]):
        values["gain"] = np.array(gain)
    if "knife" in named:
        values["centre"] = _centre(scene, named["knife"], shift)
    if tile is not None:
        values["tile"] = _tile(facts, tile, named["tile"][0], shift)
    return Observed(values, dict(scene.exposures), tuple(scene.notes))


def _near(picture: NDArray[np.float32], frame: Frame, place: Vector, radius: int) -> tuple[float, float] | None:
    """Centre of light near a place of the sensor; None if it is dim or out of the frame."""
    r, c = place - np.asarray(frame.origin)
    row, column = round(float(r)), round(float(c))
    if not (radius <= row < picture.shape[0] - radius and radius <= column < picture.shape[1] - radius):
        return None
    patch = picture[row - radius : row + radius + 1, column - radius : column + radius + 1]
    peak = np.unravel_index(int(patch.argmax()), patch.shape)
    near = (row - radius + float(peak[0]), column - radius + float(peak[1]))
    if patch.max() < 6 * max(float(np.median(np.abs(patch - np.median(patch)))), 1.0):
        return None
    found = centroid(picture, near, min(6, radius))
    return None if found is None else (found[0] + frame.origin[0], found[1] + frame.origin[1])


def _light(picture: NDArray[np.float32], frame: Frame, place: Vector, half: int) -> float:
    r, c = (round(float(v)) for v in place - np.asarray(frame.origin))
    return float(picture[max(r - half, 0) : r + half, max(c - half, 0) : c + half].sum())


def _gain(facts: BenchFacts, a: Frame, b: Frame) -> tuple[float, float] | None:
    """Photo-electrons per count and relative error, from two frames of the same light; None if there is too little.

    As `Gain` does, but of the difference of each pixel and its neighbour: light that wanders or flickers falls out.
    """
    first, second = signal(facts, a), signal(facts, b)
    top = 2.0**facts.camera_bitdepth - 1
    lit = (first + second > first.max()) & (a.data < 0.95 * top) & (b.data < 0.95 * top)
    both = lit[:, 1:] & lit[:, :-1]
    if both.sum() < 200:
        return None
    away = first - second * np.float32(first[lit].mean() / second[lit].mean())
    apart = (away[:, 1:] - away[:, :-1])[both]
    floor = float(facts.calibrations["gain"]["floor"]) if "gain" in facts.calibrations else 0.0
    variance = float(np.mean(apart**2) / 4) - floor
    # neighbouring differences share a pixel: they count three halves less than if they were independent
    error = float(np.sqrt(3 / both.sum())) * (1 + max(floor, 0.0) / max(variance, 1e-9))
    return (float(first[lit].mean() / variance), error) if variance > 0 else None


def _centre(scene: Scene, frames: list[Frame], shift: Vector) -> Vector:
    """How far the spectrum's middle is from the recorded centre (row, column), SLM px."""
    centre = scene.facts.calibration("fourier-centre")["centre"]
    found = []
    for axis in (0, 1):
        shares = []
        for frame in frames[2 * axis : 2 * axis + 2]:
            picture = signal(scene.facts, frame)
            low, high = (_light(picture, frame, fan + shift, scene.half) for fan in scene.fans)
            shares.append(low / max(low + high, 1e-9))
        edges = [round(float(centre[axis]) + 0.5 + way * scene.probe.step_px) - 0.5 for way in (-1, 1)]
        slope = (shares[1] - shares[0]) / (edges[1] - edges[0])
        if slope < 0.2 / (edges[1] - edges[0]):  # the spectrum is beyond both edges: only which side is known
            found.append(float(np.sign(0.5 - np.mean(shares))) * 2 * scene.probe.step_px)
        else:
            found.append(float(np.mean(edges) + (0.5 - np.mean(shares)) / slope - centre[axis]))
    return np.array(found)


def _tile(facts: BenchFacts, tile: Deployment, frame: Frame, shift: Vector) -> Vector:
    from labctl.procedures.deployment import Reader

    affine = tile.input_to_camera + np.array([[0.0, 0.0, shift[0]], [0.0, 0.0, shift[1]]])
    reader = Reader(replace(tile, input_to_camera=affine), facts)
    amplitude: Any = reader.intensity(frame).clamp(min=0).sqrt().numpy().astype(float)
    return np.asarray(amplitude / max(float(np.linalg.norm(amplitude)), 1e-12))
