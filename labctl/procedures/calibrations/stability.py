"""Stability: how the light drifts and flickers, and how well the bench repeats a tile."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord, now_iso
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.mapping import to_camera
from labctl.procedures.exposing import around, blaze, expose_well, gray, laser_on, signal
from labctl.procedures.messages import Exposure, Gray, Measure, Publish, Set, Steps

Array = NDArray[np.float64]
BLOCK_PX = 2
"""Panel pixels of one image pixel."""


@dataclass(frozen=True)
class Stability:
    """Drift and flicker of the laser's power, and repeatability of a tile: the floor below which no model can get.

    A random image is shown through two gratings in turn, so that SLM and camera do what they do in a run: change,
    settle, expose. Each frame's tile is read at the image's pixels. Light of a frame beside a straight line through all
    is flicker, the line's slope is drift; over so short a time drift is known only roughly, as its uncertainty says,
    and better from the second record on, which compares its light with the first one's.
    Repeatability is the rms difference of a tile from the mean of its repeats, over the tile's rms: of intensity, with
    flicker in it. `repeatability_scaled` has every repeat scaled to the same light.

    Attributes
    ----------
    repeats : int
        Of each of two gratings.
    image_px : int
        Side of the image, image pixels.
    """

    repeats: int = 6
    image_px: int = 28

    needs: ClassVar[tuple[str, ...]] = ("dark", "registration")
    uses: ClassVar[tuple[str, ...]] = ("gain",)
    max_age_h: ClassVar[float] = 24.0
    limits: ClassVar[Mapping[str, float]] = {"flicker": 0.05, "repeatability": 0.1}

    @property
    def name(self) -> str:
        return "stability"

    def exposures(self, facts: BenchFacts) -> int:
        return 2 * self.repeats + 3

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        if self.repeats < 3:
            raise CalibrationError("stability: fewer than 3 repeats say nothing: raise `repeats`")
        registration = facts.calibration("registration")
        yield from laser_on(facts)
        shown, points = self._image(facts)
        seen = to_camera(registration, points)
        shift = self._carrier(facts, registration, seen)
        carriers = (shift, (-shift[0], shift[1]))
        places = [seen + registration["carrier_to_camera"] @ np.asarray(c) for c in carriers]
        corners = [place.reshape(-1, 2)[n] for place in places for n in (0, self.image_px - 1, -self.image_px, -1)]
        yield Set("camera", "window", around(facts, corners, 12))
        patterns = [gray(facts, blaze(facts, c)) for c in carriers]
        exposure = yield from expose_well(facts, patterns[0], [shown], target=0.7, quantile=0.9995)
        frames: list[list[Frame]] = [[], []]
        for _ in range(self.repeats):  # in turn: within a batch the engine may reorder
            pair = yield Measure([Exposure(p, shown, exposure, {"for": "stability"}) for p in patterns], "repeats")
            for n, frame in enumerate(pair):
                frames[n].append(frame)
        yield Set("camera", "window", None)
        width = max(1, round(BLOCK_PX * float(np.sqrt(abs(np.linalg.det(registration["input_to_camera"][:, :2]))))))
        tiles = [
            np.stack([_read(signal(facts, f), places[n] - np.asarray(f.origin), width) for f in of])
            for n, of in enumerate(frames)
        ]
        if min(float(t.mean()) for t in tiles) < 5:
            raise CalibrationError("stability: the tiles are too dim: is the SLM steering light to where it should go?")
        when = np.array([[f.started for f in of] for of in frames])
        drift, drift_error, flicker, flicker_error = _wander(when, np.array([t.mean((1, 2)) for t in tiles]))
        light = float(np.mean([t.mean() for t in tiles]) / exposure)
        drift, drift_error = _since_last(facts, light, flicker, drift, drift_error)
        repeats = float(np.mean([_spread(t) for t in tiles]))
        scaled = float(np.mean([_spread(t / t.mean((1, 2), keepdims=True)) for t in tiles]))
        freedom = 2 * (self.repeats - 1)
        yield Publish("flicker (%)", 100 * flicker)
        yield Publish("repeatability of a tile (%)", 100 * repeats)
        return record(
            "stability",
            facts,
            {
                "drift": (drift, "fraction/h"),
                "light": (light, "counts/s"),
                "flicker": (flicker, "1 (rms from frame to frame)"),
                "repeatability": (repeats, "1 (rms over the tile's rms, intensity)"),
                "repeatability_scaled": (scaled, "1 (rms over the tile's rms, each repeat scaled to the same light)"),
                "floor": (_floor(facts, tiles[0], width), "1 (what photons and read noise alone give)"),
                "spread": (np.std(tiles[0], axis=0, ddof=1) / np.sqrt((tiles[0] ** 2).mean()), "1"),
            },
            uncertainties={
                "drift": np.asarray(drift_error),
                "flicker": np.asarray(flicker_error),
                # flicker moves a whole tile, so that repeats count, and not pixels
                "repeatability": np.asarray(repeats / np.sqrt(2 * freedom)),
                "repeatability_scaled": np.asarray(scaled / np.sqrt(2 * freedom)),
            },
            quality={"flicker": flicker, "repeatability": repeats},
        )

    def picture(self, made: CalibrationRecord) -> NDArray[np.float32]:
        """Spread of each pixel of a tile between repeats [y, x], over the tile's rms."""
        return np.asarray(made["spread"], np.float32)

    def _image(self, facts: BenchFacts) -> tuple[Gray, Array]:
        """A random image in the middle of the panel, and the centres of its pixels (panel px) [y, x, (row, column)]."""
        shape, side = facts.geometry.input.shape, self.image_px * BLOCK_PX
        if side > min(shape):
            raise CalibrationError(f"stability: the panel has no room for {side} pixels: lower image_px")
        levels = np.random.default_rng(3).integers(0, facts.input_levels, (self.image_px, self.image_px))
        r, c = ((n - side) // 2 for n in shape)
        shown = np.zeros(shape, np.uint8 if facts.input_levels <= 256 else np.uint16)
        shown[r : r + side, c : c + side] = np.kron(levels, np.ones((BLOCK_PX, BLOCK_PX), int))
        axis = np.arange(self.image_px) * BLOCK_PX + (BLOCK_PX - 1) / 2
        return shown, np.stack(np.meshgrid(axis + r, axis + c, indexing="ij"), -1)

    def _carrier(self, facts: BenchFacts, registration: CalibrationRecord, seen: Array) -> tuple[float, float]:
        """A carrier whose tile, and its mirror image's, are on the camera and beside the zero order."""
        limit = np.asarray(facts.geometry.camera.shape) - 1
        flat = seen.reshape(-1, 2)
        size = float(np.ptp(flat, axis=0).max())
        for c in (0.2, 0.25, 0.3, 0.15, 0.35):
            moves = [registration["carrier_to_camera"] @ np.array((s * c, c)) for s in (1, -1)]
            inside = all(((flat + m > 2) & (flat + m < limit - 2)).all() for m in moves)
            if inside and np.abs(moves[0]).max() > 1.1 * size:
                return c, c
        raise CalibrationError(
            "stability: no place on the camera for a tile beside the zero order: centre the camera, or lower image_px"
        )


def _read(picture: NDArray[np.float32], places: Array, width: int) -> Array:
    """Mean counts of each image pixel [y, x]."""
    smooth = uniform_filter(picture, width)
    r, c = (np.clip(np.rint(places[..., i]).astype(int), 0, picture.shape[i] - 1) for i in (0, 1))
    return np.asarray(smooth[r, c], np.float64)


def _spread(tiles: Array) -> float:
    """Rms of what differs from the mean of the repeats, over the tile's rms [repeat, y, x]."""
    mean = tiles.mean(0)
    return float(np.sqrt(((tiles - mean) ** 2).sum(0).mean() / (len(tiles) - 1) / (mean**2).mean()))


def _wander(when: Array, light: Array) -> tuple[float, float, float, float]:
    """Slope per hour, its error, scatter beside it, and its error, of light [pattern, repeat], relative."""
    relative = light / light.mean(1, keepdims=True) - 1
    since = (when - when.mean(1, keepdims=True)) / 3600
    slope = float((since * relative).sum() / max(float((since**2).sum()), 1e-15))
    left = relative - slope * since
    freedom = relative.size - len(relative) - 1
    flicker = float(np.sqrt((left**2).sum() / freedom))
    error = flicker / float(np.sqrt(max(float((since**2).sum()), 1e-15)))
    return slope, error, flicker, flicker / float(np.sqrt(2 * freedom))


def _since_last(facts: BenchFacts, light: float, flicker: float, drift: float, error: float) -> tuple[float, float]:
    """Drift per hour and its error, with what the last record of this bench says: hours weigh more than seconds.

    A simulated bench's clock is not the one that records are dated by.
    """
    last = facts.calibrations.get("stability")
    if last is None or facts.simulated or "light" not in last.values or last.bench_digest != facts.digest:
        return drift, error
    hours = (dt.datetime.fromisoformat(now_iso()) - dt.datetime.fromisoformat(last.taken)).total_seconds() / 3600
    change = light / max(float(last["light"]), 1e-9) - 1
    if hours < 1 / 60 or abs(change) > 0.5:  # something else has changed
        return drift, error
    other, other_error = change / hours, 2**0.5 * flicker / hours
    weight = error**-2 + other_error**-2
    return float((drift / error**2 + other / other_error**2) / weight), float(weight**-0.5)


def _floor(facts: BenchFacts, tiles: Array, width: int) -> float:
    """Relative rms that photons and read noise alone give a tile; not a number without a gain calibration."""
    if "gain" not in facts.calibrations:
        return float("nan")
    gain = float(facts.calibrations["gain"]["gain"])
    read = float(facts.calibrations["dark"]["read_noise"]) if "dark" in facts.calibrations else 0.0
    variance = (np.clip(tiles.mean(0), 0, None) / gain + read**2) / width**2
    return float(np.sqrt(variance.mean() / (tiles.mean(0) ** 2).mean()))
