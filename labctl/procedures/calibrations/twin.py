"""The twin: one joint fit of all parameters of the bench's digital model, judged on masks and inputs it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.optics.encoders import EncoderSpec
from labctl.optics.tiles import most_tiles
from labctl.procedures.calibrations.common import flat, record
from labctl.procedures.deployment import MARGIN_PX, Deployment, compile_deployment, read_points
from labctl.procedures.exposing import around, expose_well, full_scale, laser_on, signal
from labctl.procedures.messages import Exposure, Gray, Log, Measure, Publish, Set, Steps
from labctl.twin import judging
from labctl.twin.fit import LEAST_CROSSTALK, STEPS, Capture, Captured, Plan, fitting
from labctl.twin.ghost import find_ghost
from labctl.twin.model import Twin
from labctl.twin.start import to_values

KERNEL = 7
ENCODERS = (EncoderSpec("double-phase", 0.8), EncoderSpec("off-axis", 0.8))
"""Both kinds of pattern: a checkerboard that spreads between pixels, and slopes with wraps."""
GHOST = ("ghosts", "ghost_paths")
SMOOTH = tuple(name for name in STEPS if name not in ("rough", *GHOST))
TELL_EVERY = 10


@dataclass(frozen=True)
class TwinFit:
    """Shows random kernel banks with random inputs, and fits the twin to what the camera sees.

    Random signed kernels on all carriers use every gray level, every part of the SLM and the whole band of the optics,
    in patterns of both encoders. Some banks and inputs are held out: the record's quality is judged on them alone,
    beside what the camera gives when the same is shown again.

    Attributes
    ----------
    image : (y, x), pixels
        Largest size of an input; smaller where the bench has no room for two tiles of it.
    masks, inputs : int
        Kernel banks that are fitted, and inputs shown with each.
    held_out, repeats : int
        Kernel banks held out, with as many inputs each; and how often the first of these is shown.
    on_axis, levels : int
        Smooth random masks, and random patches of the top gray level and one other, that are seen around the zero
        order, where what the panel does not modulate meets what it does.
    fit_steps : int
        Of the fit; half a second each for an SLM of a million pixels.
    """

    masks: int = 36
    inputs: int = 3
    held_out: int = 6
    on_axis: int = 8
    levels: int = 8
    repeats: int = 3
    image: tuple[int, int] = (28, 28)
    block: tuple[int, int] = (2, 2)
    fit_steps: int = 320
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("dark", "registration", "fourier-centre")
    uses: ClassVar[tuple[str, ...]] = (
        "gain", "input-response", "fourier-plane", "slm-response", "crosstalk", "zero-order", "wavefront", "pupil",
        "flat-field",
    )  # fmt: skip
    max_age_h: ClassVar[float] = 72.0
    limits: ClassVar[Mapping[str, float]] = {
        "one_minus_r_mean": 0.03,
        "one_minus_r_worst": 0.1,
        "relative_rms": 0.15,
    }

    @property
    def name(self) -> str:
        return "twin"

    def exposures(self, facts: BenchFacts) -> int:
        held = self.held_out * (self.inputs + self.repeats - 1)
        return self.masks * self.inputs + held + 2 * self.on_axis + self.levels + 2 * len(ENCODERS) * 2 + 10

    def plans(self) -> tuple[Plan, Plan, Plan, Plan]:
        """The stages of the fit: what is smooth; a ghost alone; everything; and everything in smaller steps."""
        smooth, ghost, rest = self.fit_steps // 3, self.fit_steps // 10, self.fit_steps // 4
        return (
            Plan(steps=smooth, rate=1.0, free=SMOOTH, seed=self.seed),
            Plan(steps=ghost, rate=1.0, free=GHOST, seed=self.seed + 1),
            Plan(steps=rest, rate=0.6, seed=self.seed + 2),
            Plan(steps=self.fit_steps - smooth - ghost - rest, rate=0.5, seed=self.seed + 3),
        )

    def banks(self, facts: BenchFacts) -> list[Deployment]:
        """Random kernel banks, compiled with whatever the bench knows; the last `held_out` are not fitted.

        Raises
        ------
        CalibrationError
            If the bench has no room for two tiles of these images.
        """
        image, room = self._room(facts)
        if room < 2:
            raise CalibrationError(
                f"twin: no two tiles of {image[0]} x {image[1]} pixels fit on bench '{facts.name}': "
                "give a smaller `image`"
            )
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for n in range(self.masks + self.held_out):
            kernels = torch.randn(min(room // 2, 8), 1, KERNEL, KERNEL, generator=generator)
            found.append(
                compile_deployment(kernels, facts, image=image, block=self.block, encoder=ENCODERS[n % len(ENCODERS)])
            )
        return found

    def _room(self, facts: BenchFacts) -> tuple[tuple[int, int], int]:
        """Size of the images, the largest up to `image` of which two tiles fit if any does, and how many fit."""
        for part in (1.0, 0.86, 0.72, 0.58, 0.44):
            image = max(4, round(part * self.image[0])), max(4, round(part * self.image[1]))
            room = most_tiles(
                facts.geometry, image=image, kernel=(KERNEL, KERNEL), block=self.block, margin=(MARGIN_PX, MARGIN_PX)
            )
            if room >= 2:
                break
        return image, room

    def pictures(self, facts: BenchFacts, count: int) -> list[Gray]:
        """Random inputs of three kinds, in turn: noise, soft noise, and few bright pixels."""
        rng = np.random.default_rng([self.seed, 17])
        rows, columns = facts.geometry.input.shape
        top = facts.input_levels - 1
        image, _ = self._room(facts)
        size = image[0] * self.block[0], image[1] * self.block[1]
        r, c = (rows - size[0]) // 2, (columns - size[1]) // 2
        found = []
        for n in range(count):
            level = rng.random(image)
            if n % 3 == 1:
                level = gaussian_filter(level, 1.0)
                level = (level - level.min()) / (level.max() - level.min())
            elif n % 3 == 2:
                level = level * (rng.random(image) < 0.4)
            shown = np.zeros((rows, columns), np.uint8 if facts.input_levels <= 256 else np.uint16)
            blocks = np.rint(top * level / max(float(level.max()), 1e-9)).astype(shown.dtype)
            shown[r : r + size[0], c : c + size[1]] = blocks.repeat(self.block[0], 0).repeat(self.block[1], 1)
            found.append(shown)
        return found

    def without_twin(self, facts: BenchFacts) -> BenchFacts:
        """The facts without an earlier twin, so that a fit does not build on the one that it replaces."""
        return replace(facts, calibrations={k: v for k, v in facts.calibrations.items() if k != self.name})

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        facts = self.without_twin(facts)
        twin = Twin.from_facts(facts)
        yield from laser_on(facts)
        yield Set("camera", "window", None)
        lit = yield from self._lit(facts, twin)
        banks = self.banks(facts)
        window = banks[0].window
        yield Set("camera", "window", window)
        fitted, held, repeats = yield from self._captures(facts, banks)
        fitted = yield from self._around_zero_order(facts, fitted)
        yield Set("camera", "window", None)
        if lit is not None:
            twin.load_values({"lit": lit})
        with torch.no_grad():
            if float(twin.input_response[0]) <= 0:
                twin.input_response[0] = 0.03  # black that is not dark: where it really is none, it goes back
            if float(twin.crosstalk) <= LEAST_CROSSTALK:
                twin.crosstalk.fill_(0.8)  # what fringing fields make of most panels
        points = read_points(banks[0], 4)
        before = judging.score(twin, held, points)
        smooth, alone, rest, last = self.plans()
        yield from self._fit(twin, fitted, smooth)
        # before the free-form part, which would describe a ghost of small tilt in its own way
        ghost = find_ghost(twin, fitted, list(range(min(self.masks, 8))), seed=self.seed)
        yield Log(f"twin: a second image stands out {ghost:.0f} times over the rest")
        free = last.free
        if bool(twin.ghosts.any()):
            yield from self._fit(twin, fitted, alone)
        else:
            free = tuple(name for name in free if name not in GHOST)
        yield from self._fit(twin, fitted, replace(rest, free=free))
        judging.camera_response(twin, fitted, fitted.shown)
        yield from self._fit(twin, fitted, replace(last, free=free))
        judging.take_smooth_out(twin)
        self._set_gain(twin, fitted)
        return (yield from self._record(facts, twin, fitted, held, repeats, points, before, free))

    def _lit(self, facts: BenchFacts, twin: Twin) -> Steps[NDArray[np.float32] | None]:
        """Which panel pixels send light (1 or 0), from a picture of the white panel; None if it cannot be told."""
        white = np.full(
            facts.geometry.input.shape, facts.input_levels - 1, np.uint8 if facts.input_levels <= 256 else np.uint16
        )
        mirror = flat(facts)
        exposure = yield from expose_well(facts, mirror, [white], target=0.6, quantile=0.999)
        (frame,) = yield Measure([Exposure(mirror, white, exposure, {"for": "twin"})], "white panel")
        picture = gaussian_filter(signal(facts, frame), 0.7)
        rows, columns = np.meshgrid(*(np.arange(n) for n in facts.geometry.input.shape), indexing="ij")
        affine = facts.calibration("registration")["input_to_camera"]
        places = np.moveaxis(np.stack([rows, columns], -1) @ affine[:, :2].T + affine[:, 2], -1, 0)
        seen = map_coordinates(picture, places, order=1, mode="constant", cval=0.0)
        level = float(np.quantile(seen, 0.98))
        lit = seen > 0.25 * level
        if level <= 0 or lit.mean() < 1e-3:
            return None
        return np.asarray(lit, np.float32)

    def _captures(
        self, facts: BenchFacts, banks: Sequence[Deployment]
    ) -> Steps[tuple[Captured, Captured, list[list[NDArray[np.float32]]]]]:
        """Captures to fit, captures to judge by, and the windows of exposures made several times."""
        pictures = self.pictures(facts, self.inputs * len(banks))
        exposures: dict[str, float] = {}
        for bank in banks[: len(ENCODERS)]:
            exposures[bank.encoder.name] = yield from expose_well(
                facts, bank.pattern, pictures[:2], target=0.55, quantile=0.9999
            )
        shots: list[Exposure] = []
        plan: list[tuple[int, Gray]] = []
        for n, bank in enumerate(banks):
            shown = pictures[n * self.inputs : (n + 1) * self.inputs]
            if n >= self.masks:
                shown = [shown[0]] * (self.repeats - 1) + shown
            for picture in shown:
                plan.append((n, picture))
                tag = {"for": "twin", "held_out": n >= self.masks}
                shots.append(Exposure(bank.pattern, picture, exposures[bank.encoder.name], tag))
        frames = yield Measure(shots, "random masks")
        patterns = [bank.pattern for bank in banks]
        fitted: list[Capture] = []
        held: list[Capture] = []
        repeats: list[list[NDArray[np.float32]]] = []
        for (n, picture), frame in zip(plan, frames, strict=True):
            capture = self._capture(facts, n, picture, frame)
            if n < self.masks:
                fitted.append(capture)
                continue
            earlier = [c for c in held if c.pattern == n and c.gray is picture]
            if earlier:
                repeats[-1].append(capture.counts)
            else:
                held.append(capture)
                if len([c for c in held if c.pattern == n]) == 1:
                    repeats.append([capture.counts])
        windows = [bank.window for bank in banks]
        return Captured(patterns, fitted, windows), Captured(patterns, held, windows), repeats

    def _around_zero_order(self, facts: BenchFacts, captured: Captured) -> Steps[Captured]:
        """The captures, and more of patterns without a carrier, which interfere with what the panel leaves as it is."""
        rng = np.random.default_rng([self.seed, 23])
        levels, shape = facts.slm_levels, facts.geometry.slm.shape
        kind = np.uint8 if levels <= 256 else np.uint16
        patterns: list[Gray] = []
        for n, level in enumerate(np.linspace(0, levels - 1, self.levels, endpoint=False)):
            block = max(min(shape) // (64, 32)[n % 2], 1)
            top = rng.random([-(-size // block) for size in shape]) < 0.5
            patterns.append(np.where(top.repeat(block, 0).repeat(block, 1), levels - 1, round(level)).astype(kind))
            patterns[-1] = np.ascontiguousarray(patterns[-1][: shape[0], : shape[1]])
        for n in range(self.on_axis):
            rough = gaussian_filter(rng.standard_normal(shape), min(shape) / (40, 80)[n % 2], mode="wrap")
            patterns.append(((1.4 * rough / rough.std() / (2 * np.pi) + rng.random()) % 1.0 * levels).astype(kind))
        pictures = self.pictures(facts, 2 * len(patterns))
        panel = np.argwhere(pictures[0] > 0)
        affine = facts.calibration("registration")["input_to_camera"]
        seen = np.concatenate([panel.min(0)[None], panel.max(0)[None]]) @ affine[:, :2].T + affine[:, 2]
        place = around(facts, list(seen), 24)
        yield Set("camera", "window", place)
        exposure = yield from expose_well(facts, patterns[0], pictures[:2], target=0.45, quantile=0.9999)
        plan = [(n, pictures[n]) for n in range(self.levels)]
        plan += [(n, pictures[2 * n + i]) for n in range(self.levels, len(patterns)) for i in (0, 1)]
        frames = yield Measure(
            [Exposure(patterns[n], picture, exposure, {"for": "twin", "held_out": False}) for n, picture in plan],
            "around the zero order",
        )
        first = len(captured.patterns)
        more = [
            self._capture(facts, first + n, picture, frame) for (n, picture), frame in zip(plan, frames, strict=True)
        ]
        return Captured(
            [*captured.patterns, *patterns], [*captured.captures, *more], [*captured.windows, *[place] * len(patterns)]
        )

    @staticmethod
    def _capture(facts: BenchFacts, pattern: int, picture: Gray, frame: Frame) -> Capture:
        good = frame.data < 0.97 * full_scale(facts)
        if "dark" in facts.calibrations:
            r, c = frame.origin
            hot = np.asarray(facts.calibrations["dark"]["hot"], bool)
            good &= ~hot[r : r + good.shape[0], c : c + good.shape[1]]
        return Capture(pattern, picture, signal(facts, frame), good, frame.exposure_s)

    def _fit(self, twin: Twin, captured: Captured, plan: Plan) -> Steps[None]:
        best = np.inf
        recent: list[float] = []
        for step, loss in enumerate(fitting(twin, captured, plan)):
            recent.append(loss)
            if (step + 1) % TELL_EVERY:
                continue
            mean = float(np.mean(recent[-TELL_EVERY:]))
            if not np.isfinite(mean) or mean > max(30 * best, 1.0):
                raise CalibrationError(
                    "twin: the fit diverges: check registration and Fourier centre (`labctl calibrate --check`), and "
                    "that the SLM has settled when the camera exposes"
                )
            best = min(best, mean)
            yield Publish("twin: relative error of the amplitude", mean**0.5)

    @staticmethod
    @torch.no_grad()
    def _set_gain(twin: Twin, fitted: Captured) -> None:
        """Counts per second at unit intensity, from all frames: the fit knows the power of each frame only."""
        powers = []
        for pattern in fitted.shown:
            capture = fitted.of(pattern)[0]
            seen = twin.window_of(
                twin.slm_field(fitted.patterns[pattern]), twin.spectra(capture.gray), fitted.windows[pattern]
            )
            powers.append(float((capture.counts * capture.good).sum() / (seen[0].numpy() * capture.good).sum()))
            powers[-1] /= capture.exposure_s
        twin.log_gain.add_(float(np.log(np.median(powers))))

    def _record(
        self,
        facts: BenchFacts,
        twin: Twin,
        fitted: Captured,
        held: Captured,
        repeats: list[list[NDArray[np.float32]]],
        points: NDArray[np.float64],
        before: judging.Score,
        free: Sequence[str],
    ) -> Steps[CalibrationRecord]:
        after = judging.score(twin, held, points)
        with twin.without_rough():
            plain = judging.score(twin, held, points)
        window = held.windows[held.shown[0]]
        again = judging.repeatability(repeats, points, (window[0], window[2]))
        quality = {
            "one_minus_r_mean": 1 - float(after.r.mean()),
            "one_minus_r_worst": 1 - float(after.r.min()),
            "relative_rms": float(after.rms.mean()),
            "repeatability": float(again.mean()),
            "rms_over_repeatability": float(after.rms.mean() / max(float(again.mean()), 1e-9)),
            "one_minus_r_mean_before_fit": 1 - float(before.r.mean()),
            "one_minus_r_mean_without_free_form": 1 - float(plain.r.mean()),
            "relative_rms_without_free_form": float(plain.rms.mean()),
        }
        yield Publish("twin: Pearson r of held-out tiles", 1 - quality["one_minus_r_mean"])
        yield Log(
            f"twin: on masks and inputs it never saw, r {1 - quality['one_minus_r_mean']:.4f} mean, "
            f"{1 - quality['one_minus_r_worst']:.4f} worst tile; relative rms {quality['relative_rms']:.4f}, and "
            f"{quality['repeatability']:.4f} when the same is shown again; without the free-form part r "
            f"{1 - quality['one_minus_r_mean_without_free_form']:.4f}"
        )
        for figure, limit in self.limits.items():
            if not quality[figure] <= limit:
                raise CalibrationError(
                    f"twin: {figure} is {quality[figure]:.3g} on held-out masks (limit {limit:g}): calibrate what it "
                    "starts from again, give it more `masks` or `fit_steps`, or look for what moves between frames"
                )
        values, units = to_values(twin)
        return record(
            "twin",
            facts,
            {name: (value, units[name]) for name, value in values.items()},
            uncertainties=judging.uncertainties(twin, fitted, [n for n in free if n != "log_gain"], seed=self.seed),
            quality=quality,
        )

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """The free-form part of the wavefront (rad), node by node."""
        return np.asarray(record["rough"][0], np.float32)
