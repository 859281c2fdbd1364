"""Watching a bench during a long run: a check exposure every so many frames, corrections handed on with the frames.

`watched` runs the steps of any procedure and puts check exposures between its measurements. A check exposure is one
that the procedure makes anyway, so that no slow device changes for it; its picture is compared with that at the start:

    light   how bright it is
    moved   how far it has moved on the sensor, pixels
    loss    how much of its likeness (Pearson r of the amplitudes) is lost once both are taken into account

Under the policy ``correct`` every frame carries `Frame.moved` and `Frame.light` from then on, which
`labctl.procedures.deployment.Reader` takes into account. What that cannot mend (a loss of likeness, a picture that
has moved too far or saturates) is a warning; under ``recalibrate`` it is thrown into the procedure as `Drifted`, at its
next measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import shift
from torch import Tensor

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.errors import CalibrationError
from labctl.procedures.exposing import full_scale, signal
from labctl.procedures.messages import Exposure, Log, Measure, Publish, Steps

Policy = Literal["off", "log", "correct", "recalibrate"]
Result = TypeVar("Result")
Picture = NDArray[np.float32]
ROUNDS = 6
STEP_PX = 0.02
"""Movements are handed on in such steps, so that a reader works out its weights anew only when it must."""


@dataclass(frozen=True)
class Watch:
    """What is watched, and what is done about it.

    Attributes
    ----------
    policy : "off", "log", "correct" or "recalibrate"
    every : int
        Frames of the procedure between two check exposures.
    at_start : int
        Check exposures at the start, whose mean the later ones are compared with.
    moved_px, light : float
        Less than this (camera px; fraction) is not acted upon.
    farthest_px : float
        What reading elsewhere on the sensor makes good, camera px.
    loss : float
        Loss of Pearson r that no correction explains and that is still accepted.
    """

    policy: Policy = "off"
    every: int = 100
    at_start: int = 3
    moved_px: float = 0.05
    light: float = 0.005
    farthest_px: float = 12.0
    loss: float = 0.02

    def frames(self, exposures: int) -> int:
        """Check exposures that a procedure of so many takes."""
        return 0 if self.policy == "off" else self.at_start + exposures // self.every


@dataclass(frozen=True)
class Drift:
    """What one check exposure found, relative to the start.

    Attributes
    ----------
    seconds : float
        When, on the bench's clock.
    light : float
    moved : (row, column), camera px
    loss : float
    saturated : float
        Share of pixels at full scale.
    """

    seconds: float
    light: float
    moved: tuple[float, float]
    loss: float
    saturated: float = 0.0


@dataclass
class Gathered:
    """What has been read so far, batch by batch: it stays when a capture is broken off.

    Attributes
    ----------
    maps : list of float tensors [n, maps, y, x]
    tile_r : list of float tensors [n, tiles]
    """

    maps: list[Tensor] = field(default_factory=list)
    tile_r: list[Tensor] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Images."""
        return sum(len(part) for part in self.maps)


class Drifted(CalibrationError):
    """The bench has changed in a way that no correction of the frames mends.

    Attributes
    ----------
    drift : Drift
    """

    def __init__(self, what: str, drift: Drift) -> None:
        super().__init__(f"watch: {what}: calibrate again")
        self.drift = drift


@dataclass
class Watcher:
    """A watch at work: its check exposure, what that gave at the start, and all that has been found since.

    One watcher can go with several procedures, one after another: what it was at the start stays.

    Parameters
    ----------
    watch : Watch
    check : Exposure
        What is exposed again and again.
    facts : BenchFacts
    """

    watch: Watch
    check: Exposure
    facts: BenchFacts
    found: list[Drift] = field(default_factory=list)
    _start: list[tuple[Picture, Frame]] = field(default_factory=list)
    _mean: Picture | None = None
    _floor: float = 0.0
    since: int = 0

    @property
    def new(self) -> bool:
        """Whether it has not looked yet."""
        return self._mean is None

    @property
    def latest(self) -> Drift | None:
        """The last finding."""
        return self.found[-1] if self.found else None

    def look(self) -> Steps[Drift | None]:
        """Make a check exposure and compare it; the first time, what later ones are compared with."""
        self.since = 0
        if self._mean is None:
            frames = yield Measure([self._exposure()] * max(self.watch.at_start, 1), "watch, at the start")
            pictures = [_amplitude(self.facts, frame) for frame in frames]
            self._mean = np.mean(pictures, axis=0, dtype=np.float32)
            self._floor = float(np.mean([1 - _likeness(one, self._mean) for one in pictures]))
            return None
        (frame,) = yield Measure([self._exposure()], "watch")
        drift = self._compare(frame, self._mean)
        self.found.append(drift)
        yield Publish("light against the start (%)", 100 * drift.light)
        yield Publish("moved since the start (px)", float(np.hypot(*drift.moved)))
        yield Publish("loss of likeness (1 - r)", drift.loss)
        return drift

    def wrong(self, drift: Drift) -> str:
        """What corrections cannot mend; "" if there is nothing."""
        far = float(np.hypot(*drift.moved))
        if not np.isfinite([drift.light, drift.loss, far]).all() or drift.light < 0.05:
            return "the check exposure is dark"
        if far > self.watch.farthest_px:
            return f"the picture has moved by {far:.1f} px (limit {self.watch.farthest_px:g})"
        if drift.loss > self.watch.loss:
            return f"Pearson r of the check exposure has fallen by {drift.loss:.3f} (limit {self.watch.loss:g})"
        if drift.saturated > 0.001:
            return f"{100 * drift.saturated:.1f} % of the check exposure is saturated, the light is {drift.light:.2f}"
        return ""

    def corrected(self, frame: Frame) -> Frame:
        """A frame that says how far it has moved and how bright it is, if the policy is to correct."""
        drift = self.latest
        if drift is None or self.watch.policy not in ("correct", "recalibrate") or self.wrong(drift):
            return frame
        far = float(np.hypot(*drift.moved)) > self.watch.moved_px
        row, column = (round(v / STEP_PX) * STEP_PX for v in drift.moved) if far else (0.0, 0.0)
        light = drift.light if abs(drift.light - 1) > self.watch.light else 1.0
        return replace(frame, moved=(row, column), light=light)

    def _exposure(self) -> Exposure:
        return replace(self.check, tag={**self.check.tag, "for": "watch"})

    def _compare(self, frame: Frame, start: Picture) -> Drift:
        now = _amplitude(self.facts, frame)
        if now.shape != start.shape:
            raise CalibrationError("watch: the camera's window has changed since the start: set it back before looking")
        light, moved, there = align(start, now)
        inside = _inside(start.shape, moved)
        loss = max(1 - _likeness(now[inside], there[inside]) - self._floor, 0.0)
        saturated = float((frame.data >= full_scale(self.facts)).mean())
        return Drift(frame.started, light**2, moved, loss, saturated)


def watched(steps: Steps[Result], watcher: Watcher) -> Steps[Result]:
    """Run a procedure's steps with check exposures between its measurements.

    Parameters
    ----------
    steps : generator
        As `Procedure.steps` gives it; whatever it has set (the camera's window, exposure) must suit the check exposure.
    watcher : Watcher

    Returns
    -------
    What the steps return.

    Raises
    ------
    Drifted
        Under ``recalibrate``, unless the steps deal with it.
    """
    if watcher.watch.policy == "off":
        return (yield from steps)
    answer: Any = None
    failure: BaseException | None = None
    try:
        while True:
            try:
                message = steps.send(answer) if failure is None else steps.throw(failure)
            except StopIteration as stop:
                return cast("Result", stop.value)
            failure = None
            try:
                answer = (yield from _measured(message, watcher)) if isinstance(message, Measure) else (yield message)
            except Exception as error:  # the procedure's to deal with
                failure = error
    finally:
        steps.close()


def _measured(message: Measure, watcher: Watcher) -> Steps[Sequence[Frame]]:
    """A measurement, cut up where a check exposure is due."""
    rest, parts = list(message.exposures), list[tuple[Sequence[Frame], Watcher]]()
    while rest or not parts:
        if watcher.since >= watcher.watch.every or watcher.new:
            drift = yield from watcher.look()
            wrong = "" if drift is None else watcher.wrong(drift)
            if wrong and drift is not None and watcher.watch.policy == "recalibrate":
                raise Drifted(wrong, drift)
            if wrong:
                yield Log(f"watch: {wrong}: calibrate again", "warning")
        room = watcher.watch.every - watcher.since
        now, rest = rest[:room], rest[room:]
        frames = yield replace(message, exposures=now)
        watcher.since += len(now)
        parts.append((frames, replace(watcher, found=watcher.found[-1:])))
    return _Corrected(parts)


class _Corrected(Sequence[Frame]):
    """Frames that say what the watch had found when they were asked for; each is waited for when it is looked at."""

    def __init__(self, parts: Sequence[tuple[Sequence[Frame], Watcher]]) -> None:
        self._places = [(frames, i, watcher) for frames, watcher in parts for i in range(len(frames))]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(index, slice):
            return [watcher.corrected(frames[i]) for frames, i, watcher in self._places[index]]
        frames, i, watcher = self._places[index]
        return watcher.corrected(frames[i])


def align(start: Picture, now: Picture) -> tuple[float, tuple[float, float], Picture]:
    """How much brighter `now` is than `start`, and how far it has moved: least squares, refined from a rough search.

    Source: B. D. Lucas and T. Kanade, IJCAI 1981, for one translation of the whole picture.

    Returns
    -------
    factor : float
        Of amplitudes.
    moved : (row, column), px
    there : float32 array [row, column]
        `start`, moved and scaled: what `now` should be.
    """
    moved = _roughly(start, now)
    factor, there = 1.0, start
    for _ in range(ROUNDS):
        there = _moved(start, moved)
        inside = _inside(start.shape, (float(moved[0]), float(moved[1])))
        slopes = [np.asarray(np.gradient(there, axis=axis)) for axis in (0, 1)]
        basis = np.stack([there[inside].ravel(), *(-slope[inside].ravel() for slope in slopes)], axis=1)
        fit, *_ = np.linalg.lstsq(basis.T @ basis, basis.T @ now[inside].ravel(), rcond=None)
        if not np.isfinite(fit).all() or fit[0] <= 0:
            return float("nan"), (float("nan"), float("nan")), there
        step = np.clip(fit[1:] / fit[0], -2, 2)
        factor, moved = float(fit[0]), moved + step
        if np.abs(step).max() < 1e-3:
            break
    return factor, (float(moved[0]), float(moved[1])), np.asarray(_moved(start, moved) * np.float32(factor))


def _roughly(start: Picture, now: Picture) -> NDArray[np.float64]:
    """Whole pixels (row, column) by which `now` has moved: the peak of the cross-correlation, up to a quarter of it.

    It is not whitened, as phase correlation is, which what stays on the sensor (fringes, hot pixels) would lead astray.
    """
    size = [next_fast_len(n + n // 4) for n in start.shape]
    one, other = (rfft2(picture - picture.mean(), size) for picture in (start, now))
    found = irfft2(other * one.conj(), size)
    reach = [n // 4 for n in start.shape]
    near = np.roll(found, reach, axis=(0, 1))[: 2 * reach[0] + 1, : 2 * reach[1] + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    return np.array([float(row) - reach[0], float(column) - reach[1]])


def _moved(picture: Picture, by: NDArray[np.float64]) -> Picture:
    return np.asarray(shift(picture, by, order=3, mode="nearest"), np.float32)


def _inside(shape: tuple[int, ...], moved: tuple[float, float]) -> tuple[slice, slice]:
    """What both pictures show, and two pixels less."""
    edges = [2 + int(np.ceil(abs(v))) if np.isfinite(v) else 2 for v in moved]
    return slice(edges[0], shape[0] - edges[0]), slice(edges[1], shape[1] - edges[1])


def _amplitude(facts: BenchFacts, frame: Frame) -> Picture:
    """Amplitudes per root second [row, column]: in them, dim tiles count as much as bright ones."""
    return np.asarray(np.sqrt(np.clip(signal(facts, frame), 0, None) / np.float32(frame.exposure_s)), np.float32)


def _likeness(a: Picture, b: Picture) -> float:
    """Pearson r."""
    x, y = a.ravel() - a.mean(), b.ravel() - b.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else 0.0
