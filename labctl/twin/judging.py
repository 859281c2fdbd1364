"""How well a twin predicts captures, how certain its parameters are, and what is left to the camera's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from labctl.optics.zernike import zernike
from labctl.twin import basis
from labctl.twin.fit import FLOOR_COUNTS, Captured, choose, power_of
from labctl.twin.model import Twin

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """Predicted against captured tiles.

    Attributes
    ----------
    r : float array [tiles]
        Pearson r of the intensity, mean over captures.
    rms : float array [tiles]
        Residual over the captured intensity, rms, mean over captures; each frame's power solved for.
    """

    r: Array
    rms: Array


def sampled(picture: NDArray[np.float32], points: Array, corner: tuple[int, int]) -> Array:
    """Tiles [tile, y, x] as a reader reads them: bilinear, averaged over the points of each image pixel.

    Parameters
    ----------
    picture : float32 array [row, column]
        A camera window.
    points : float array [tiles, y, x, samples, 2], camera pixels
    corner : (row, column)
        First pixel of the window.
    """
    places = np.moveaxis(points - np.asarray(corner), -1, 0)
    return np.asarray(map_coordinates(picture, places, order=1, mode="nearest").mean(-1), np.float64)


@torch.no_grad()
def score(twin: Twin, captured: Captured, points: Array) -> Score:
    """How well the captures of tiles are predicted; `points` as for `sampled`."""
    rs, errors = [], []
    for pattern in captured.shown:
        place = captured.windows[pattern]
        corner = place[0], place[2]
        captures = captured.of(pattern)
        spectra = twin.spectra(np.stack([capture.gray for capture in captures]))
        windows = twin.window_of(twin.slm_field(captured.patterns[pattern]), spectra, place)
        for capture, window in zip(captures, windows, strict=True):
            seen = sampled(capture.counts, points, corner)
            predicted = sampled(window.numpy() * np.float32(capture.exposure_s), points, corner)
            predicted *= (predicted * seen).sum() / max(float((predicted**2).sum()), 1e-12)
            rs.append([_pearson(a, b) for a, b in zip(seen, predicted, strict=True)])
            errors.append(np.sqrt(((seen - predicted) ** 2).mean((1, 2)) / (seen**2).mean((1, 2)).clip(1e-12)))
    return Score(np.mean(rs, axis=0), np.mean(errors, axis=0))


def repeatability(repeats: Sequence[Sequence[NDArray[np.float32]]], points: Array, corner: tuple[int, int]) -> Array:
    """What the same exposure gives again: scatter of a tile's pixels over their rms [tiles], each frame's power solved.

    Parameters
    ----------
    repeats : for each exposure, its windows
    """
    found = []
    for windows in repeats:
        tiles = np.stack([sampled(window, points, corner) for window in windows])
        mean = tiles.mean(0)
        power = (tiles * mean).sum((1, 2, 3)) / (mean**2).sum()
        tiles = tiles / power[:, None, None, None]
        found.append(np.sqrt(tiles.var(0, ddof=1).mean((1, 2)) / (mean**2).mean((1, 2)).clip(1e-12)))
    return np.asarray(np.mean(found, axis=0), np.float64)


@torch.no_grad()
def camera_response(twin: Twin, captured: Captured, patterns: Sequence[int], *, scatter: float = 0.02) -> float:
    """Set the response of the window's pixels to captured over predicted light, as far as that is certain.

    Parameters
    ----------
    patterns : sequence of int
        Whose captures count.
    scatter : float
        How much pixels may be expected to differ, rms: what is less certain than that is drawn towards no difference.

    Returns
    -------
    float
        Rms of what was found, fraction.
    """
    seen = np.zeros(twin.geometry.camera.shape)
    light, away = np.zeros_like(seen), np.zeros_like(seen)
    for pattern in patterns:
        captures = captured.of(pattern)
        r0, r1, c0, c1 = place = captured.windows[pattern]
        part = np.s_[r0:r1, c0:c1]
        spectra = twin.spectra(np.stack([capture.gray for capture in captures]))
        windows = twin.window_of(twin.slm_field(captured.patterns[pattern]), spectra, place)
        for capture, window in zip(captures, windows, strict=True):
            predicted = window * capture.exposure_s
            power = float(power_of(predicted, torch.from_numpy(capture.counts)))
            want = np.where(capture.good, power * predicted.numpy(), 0.0)
            got = np.where(capture.good, capture.counts, 0.0)
            seen[part] += got
            light[part] += want
            away[part] += (got - want) ** 2
    ratio = seen / np.maximum(light, 1e-9) - 1
    noise = away / np.maximum(light, 1e-9) ** 2
    trust = scatter**2 / (scatter**2 + noise)
    change = np.where(light > 0, np.clip(ratio * trust, -0.2, 0.2), 0.0)
    twin.flat.mul_(torch.from_numpy((1 + change).astype(np.float32)))
    return float(np.sqrt((change[light > 0] ** 2).mean()))


@torch.no_grad()
def take_smooth_out(twin: Twin) -> None:
    """Give the free-form part's piston, tilt and Zernikes to the parameters they belong to; predictions stay."""
    count, slm = twin.fineness.rough, twin.geometry.slm.shape
    places = [basis.even_knots(n, count) - (n - 1) / 2 for n in slm]
    rows, columns = np.meshgrid(*places, indexing="ij")
    radius = min(slm) / 2
    highest = min(36, count**2 // 4)  # no more than the nodes can tell apart
    maps = np.stack([zernike(j, rows / radius, columns / radius) for j in range(1, highest + 1)])
    nodes = twin.rough[0].double().numpy()
    # over the whole panel: what fits the inscribed disk alone grows without measure in the corners
    smooth = np.linalg.lstsq(maps.reshape(highest, -1).T, nodes.ravel(), rcond=None)[0]
    twin.rough[0] -= torch.from_numpy(np.tensordot(smooth, maps, 1)).float()
    waves = np.zeros(36)
    waves[:highest] = smooth / (2 * np.pi)
    # Noll's 2 and 3 are x and y, times two: cycles per SLM pixel of a tilt
    tilt = torch.tensor([waves[2], waves[1]]) * 2 / radius
    twin.input_place.add_(twin.carrier_to_camera @ tilt.double())
    waves[:3] = 0
    twin.zernikes.add_(torch.from_numpy(waves).float())


def uncertainties(
    twin: Twin, captured: Captured, free: Sequence[str], *, count: int = 12, pixels: int = 24_000, seed: int = 0
) -> dict[str, Array]:
    """One standard deviation of each parameter, the others held: what the residuals, frame by frame, can have moved it.

    With J the derivative of a capture's amplitudes and r its residual: the sum of squares of ``J^T r`` over captures,
    over the square of the diagonal of ``J^T J`` (a sandwich estimate, which allows for residuals that are correlated
    within a frame); the diagonal comes from products with random signs (Bekas et al., Appl. Numer. Math. 57, 1214
    (2007)). 0 for what is held, and for what makes no difference to any capture.
    """
    rng = np.random.default_rng(seed)
    named = dict(twin.named_parameters())
    parameters = [named[name] for name in free]
    square = {name: torch.zeros_like(named[name], dtype=torch.float64) for name in free}
    moved = {name: torch.zeros_like(named[name], dtype=torch.float64) for name in free}
    chosen = [captured.captures[i] for i in rng.permutation(len(captured.captures))[:count]]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for capture in chosen:
            r0, r1, c0, c1 = captured.windows[capture.pattern]
            whole = max((r1 - r0) * (c1 - c0) / pixels, 1.0)
            places = choose(captured.windows[capture.pattern], pixels, rng)
            at = torch.from_numpy(places + np.asarray([r0, c0])).double()
            spectra = twin.spectra(capture.gray)
            predicted = twin.pixels_of(twin.slm_field(captured.patterns[capture.pattern]), spectra, at)[0]
            predicted = (predicted * capture.exposure_s).clamp(min=0.0)
            seen = torch.from_numpy(capture.counts[places[:, 0], places[:, 1]]).clamp(min=0)
            good = torch.from_numpy(capture.good[places[:, 0], places[:, 1]]).float()
            power = power_of(predicted.detach(), seen)
            amplitude = (power * predicted + FLOOR_COUNTS).sqrt() * good
            residual = (seen + FLOOR_COUNTS).sqrt() * good - amplitude.detach()
            signs = torch.from_numpy(rng.choice(np.array([-1.0, 1.0], np.float32), len(places)))
            for total, weight, keep in ((square, signs * whole**0.5, True), (moved, residual * whole, False)):
                grads = torch.autograd.grad(amplitude, parameters, weight, retain_graph=keep, allow_unused=True)
                for name, grad in zip(free, grads, strict=True):
                    if grad is not None:
                        total[name] += grad.double().square()
    finally:
        twin.requires_grad_(False)
    more = len(captured.captures) / max(len(chosen), 1)
    found = {}
    for name in free:
        bend = (square[name] * more).numpy()
        spread = np.sqrt((moved[name] * more).numpy())
        found[name] = np.where(bend > 0, spread / np.maximum(bend, 1e-30), 0.0)
    return found


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(float(np.sqrt((a**2).sum() * (b**2).sum())), 1e-12))
