"""Setting up a proof of pairing: which dots to draw for a bench, and where its camera sees each of them.

Nothing is assumed of how the light gets from the panels to the camera: each dot is switched on alone, and where the
picture changes, that is its spot. So the same steps serve a 4f bench and a camera that looks at a monitor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.bench.proof import OFF, SIGMAS, Spots
from labctl.errors import CalibrationError
from labctl.optics.marks import Box, Marks, code_words, marks_beside_tiles
from labctl.procedures.deployment import Deployment, show_image
from labctl.procedures.evaluate import UNRECORDED
from labctl.procedures.exposing import dark_level, expose_well, full_scale, laser_on
from labctl.procedures.messages import Exposure, Gray, Measure, Set, Steps

APART_PX = 12
"""Camera pixels around one copy of a dot in which no other copy of it is looked for."""
EDGE = 0.5
"""A spot's pixels are those at least this bright, over its brightest."""
FAINTEST_COPY = 0.1
"""Light of a dot's faintest copy over that of its brightest."""
WORDS = 6
"""Code words tried, each with a probe image, at every site."""


def marks_for(deployment: Deployment, facts: BenchFacts, *, dots: int = 8, sites: int = 4) -> Marks:
    """Marks beside the tiles of a deployment: see `labctl.optics.marks.marks_beside_tiles`.

    Raises
    ------
    ModelError
        If there is no room for them.
    """
    return marks_beside_tiles(
        deployment.layout, facts.geometry,
        kernel=(deployment.kernels.shape[-2], deployment.kernels.shape[-1]), corner=deployment.corner,
        centre=deployment.centre, slm_levels=facts.slm_levels, input_levels=facts.input_levels, dots=dots, sites=sites,
    )  # fmt: skip


def marks_at_edges(facts: BenchFacts, *, dots: int = 8, size_px: int = 12, margin_px: int = 4) -> Marks:
    """Marks for a camera that sees the input panel itself, a monitor say: dots along its upper edge, and its lower.

    Parameters
    ----------
    dots : int
    size_px, margin_px : int
        Side of a dot, and its distance from the edge, panel pixels.
    """
    rows, columns = facts.geometry.input.shape
    left = [round((n + 0.5) * columns / dots - size_px / 2) for n in range(dots)]
    tops = (margin_px, rows - margin_px - size_px)
    places: tuple[tuple[Box, ...], ...] = tuple(
        tuple((top, top + size_px, c, c + size_px) for top in tops) for c in left
    )
    kind = np.uint8 if facts.input_levels <= 256 else np.uint16
    return Marks(places, np.full((size_px, size_px), facts.input_levels - 1, kind), code_words(dots, dots // 2))


def probes_for(deployment: Deployment, facts: BenchFacts, images: NDArray[np.float32]) -> tuple[Gray, ...]:
    """Input patterns that light the image area as a run would, and as strongly as can be: images, and white.

    Parameters
    ----------
    images : float array [n, y, x]
        Amplitudes from 0 to 1.
    """
    import torch

    white = torch.ones(deployment.layout.image)
    return tuple(
        show_image(torch.as_tensor(image), facts, deployment)
        for image in [white, *(torch.as_tensor(i) for i in images)]
    )


@dataclass(frozen=True, eq=False)
class LearnProof:
    """Measure where each dot of a proof of pairing lights the camera.

    Attributes
    ----------
    marks : Marks
    slm : gray pattern
        What the SLM shows meanwhile, without marks: the deployment that the proof is for.
    probes : tuple of gray patterns
        Inputs such as the run will show, without dots: spots that they light too much are no proof.
    exposure_s : float or None
        Exposure time, s; None finds one.
    """

    marks: Marks = field(metadata=UNRECORDED)
    slm: Gray = field(metadata=UNRECORDED)
    probes: tuple[Gray, ...] = field(metadata=UNRECORDED)
    exposure_s: float | None = None

    @property
    def name(self) -> str:
        return "proof"

    def exposures(self, facts: BenchFacts) -> int:
        sites, dots = max(1, len(self.marks.sites)), len(self.marks.dots)
        return 1 + sites * (2 + dots + WORDS) + (2 if self.exposure_s is None else 0)

    def steps(self, facts: BenchFacts) -> Steps[Spots]:
        """
        Raises
        ------
        CalibrationError
            If dots cannot be seen, or cannot be told from what else there is.
        """
        marks, dark_input = self.marks, np.zeros_like(self.probes[0])
        dots = len(marks.dots)
        copies = len(marks.dots[0]) * max(1, len(marks.patches))
        shown = [marks.on_slm(self.slm, k) for k in range(len(marks.sites))] or [self.slm]
        none, every = (marks.on_input(dark_input, np.full(dots, lit)) for lit in (False, True))
        yield from laser_on(facts)
        yield Set("camera", "window", None)
        t = self.exposure_s
        if t is None:
            bright = marks.on_input(self.probes[0], np.ones(dots, bool))
            t = yield from expose_well(facts, shown[0], [bright], target=0.5, quantile=0.9999)
        frames = yield Measure(
            [Exposure(slm, picture, t, {"for": "proof"}) for slm in shown for picture in (none, every)],
            "proof of pairing: places",
        )
        gains = [_gain(frames[2 * k], frames[2 * k + 1]) for k in range(len(shown))]
        pixels: list[NDArray[np.intp]] = []
        empty: list[Frame] = []
        for k, slm in enumerate(shown):
            single = [marks.on_input(dark_input, np.arange(dots) == j) for j in range(dots)]
            answers = yield Measure(
                [Exposure(slm, picture, t, {"for": "proof"}) for picture in [none, *single]], "proof of pairing: dots"
            )
            others = [gain for n, gain in enumerate(gains) if n != k]
            own = gains[k] if not others else gains[k] - np.max(others, axis=0)
            empty.append(answers[0])
            for answer in answers[1:]:
                pixels += _places(_gain(answers[0], answer), own, copies)
        spots = _spots(facts, pixels, (len(shown), dots, copies), frames, empty, t)
        return (yield from self._tried(facts, shown, spots, t))

    def _tried(self, facts: BenchFacts, shown: list[Gray], spots: Spots, exposure_s: float) -> Steps[Spots]:
        """Levels and crosstalk as words and images give them; refuses what could not be read."""
        words = self.marks.words
        tried = [words[n % len(words)] for n in range(WORDS * len(shown))]
        frames = yield Measure(
            [
                Exposure(shown[n // WORDS], self.marks.on_input(self.probes[n % len(self.probes)], word), exposure_s,
                         {"for": "proof"})
                for n, word in enumerate(tried)
            ],
            "proof of pairing: trial",
        )  # fmt: skip
        crosstalk = np.full(spots.on.shape, -np.inf)
        for n, (word, frame) in enumerate(zip(tried, frames, strict=True)):
            light, site = spots.light(frame), n // WORDS
            lit = np.zeros(spots.on.shape, bool)
            lit[site, word] = True
            crosstalk = np.where(lit, crosstalk, np.maximum(crosstalk, light))
        worst = float(crosstalk.max())
        if not worst < OFF:
            raise CalibrationError(
                f"proof of pairing: a dot that is off shows {worst:.2f} of the light that it has when on (limit "
                f"{OFF}): light from the image or from other dots falls on its spot; move the marks to a darker place"
            )
        return Spots(
            spots.pixels, spots.starts, spots.off, spots.on, spots.dark, spots.noise, full_scale(facts), crosstalk
        )


def _gain(without: Frame, lit: Frame) -> NDArray[np.float32]:
    """What light came where [row, column], counts."""
    return lit.data.astype(np.float32) - without.data.astype(np.float32)


def _places(gain: NDArray[np.float32], own: NDArray[np.float32], copies: int) -> list[NDArray[np.intp]]:
    """Pixels (row, column) of each copy of one dot, brightest place first by row.

    Parameters
    ----------
    gain : float array [row, column]
        What this dot adds.
    own : float array [row, column]
        What all dots add at this site alone: the copies that every site has are no news.
    """
    smooth = uniform_filter(np.where(own > 0.25 * gain, gain, 0), 3, mode="constant")
    found: list[tuple[float, NDArray[np.intp]]] = []
    for _ in range(copies):
        row, column = (int(v) for v in np.unravel_index(int(smooth.argmax()), smooth.shape))
        peak = float(smooth[row, column])
        if peak <= 0 or (found and peak < FAINTEST_COPY * found[0][0]):
            raise CalibrationError(
                f"proof of pairing: {len(found)} of {copies} copies of a dot can be seen: is the place where it should "
                "show in the camera's frame and in focus?"
            )
        r0, c0 = max(row - APART_PX, 0), max(column - APART_PX, 0)
        part = smooth[r0 : row + APART_PX + 1, c0 : column + APART_PX + 1]
        found.append((peak, np.argwhere(part >= EDGE * peak) + np.asarray([r0, c0])))
        part[...] = 0
    return sorted((pixels for _, pixels in found), key=lambda pixels: float(pixels[:, 0].mean()))


def _spots(
    facts: BenchFacts,
    pixels: list[NDArray[np.intp]],
    shape: tuple[int, int, int],
    frames: list[Frame],
    empty: list[Frame],
    exposure_s: float,
) -> Spots:
    """Levels of the spots, off and on, and their noise."""
    starts = np.cumsum([0, *(len(part) for part in pixels[:-1])])
    dark = dark_level(facts, empty[0])
    blank = np.zeros(shape)
    bare = Spots(np.concatenate(pixels), starts, blank, blank, dark, 0.0, full_scale(facts), blank)
    sites = range(shape[0])
    off = np.stack([(bare.mean(frames[2 * k])[k] + bare.mean(empty[k])[k]) / 2 for k in sites])
    on = np.stack([bare.mean(frames[2 * k + 1])[k] for k in sites])
    noise = float(np.sqrt(np.mean([((bare.mean(frames[2 * k]) - bare.mean(empty[k])) ** 2).mean() / 2 for k in sites])))
    noise = max(noise, 0.05)
    if (on - off).min() < SIGMAS * noise:
        raise CalibrationError(
            f"proof of pairing: its faintest dot brings {(on - off).min():.2f} counts where the noise is {noise:.2f}: "
            "expose longer, or give it more light"
        )
    if on.max() >= 0.98 * full_scale(facts):
        raise CalibrationError("proof of pairing: its dots saturate the camera: expose less")
    return Spots(
        bare.pixels, starts, (off - dark) / exposure_s, (on - off) / exposure_s, dark, noise,
        full_scale(facts), blank,
    )  # fmt: skip
