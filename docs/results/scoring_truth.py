"""Calibration records against what is known of a bench: the only place, besides tests, that looks behind the devices.

`truth_of(bench)` reads the simulated world; a bench with physics of its own (``tests/foreign``) fills in a `Known`.
`score(record, known)` compares any kind of record with it. Import it from a test or a script with

    sys.path.insert(0, str(ROOT / "docs" / "results"))
    from scoring_truth import score, truth_of

Conventions, where a comparison would be ambiguous
--------------------------------------------------
registration
    Truth is the geometric map (the chief ray of each panel pixel), not the centroid of an aberrated dot: once the
    wavefront is corrected, that is where light goes. Errors are distances on the camera (px), rms over all lit panel
    pixels; in the tiles the carrier map's error at each tile's carrier is added. A tilt of the wavefront (Noll 2 and 3
    over the SLM's inscribed disk) moves the image, and is part of this map.
Fourier plane
    The panel's rotation and scale and the Fourier plane's act only together. A frequency (y, x) of the *panel's own*
    picture falls on the SLM at ``centre + scale * turn(rotation) @ nominal offset`` with ``turn(a) = [[cos a, sin a],
    [-sin a, cos a]]`` on (y, x). Defocus is Noll's j = 4 over the SLM's inscribed disk, waves rms.
gray to phase
    What counts is ``phase[level] * stroke[y, x]``, relative to the top gray level in both: how phase and stroke are
    normalised between them plays no part. One piston, common to all levels and places, is taken off.
wavefront
    The phase that optics add to what the SLM shows; a correction shows its negative. Piston and tilt are taken off
    (tilt moves the image, and is registration's), whole turns do not count. Rms over the SLM's whole area, weighted
    by the light that passes (pupil amplitude squared); over the inscribed disk beside it.
zero order
    ``unmodulated / modulated`` amplitude of a flat SLM at its top gray level.
settle
    ``slm_settle`` is how long the largest step (2 pi) takes to come within 1 % of its end; ``slm_rise`` the 10-90 %
    time of the phase, which depends on the step: its truth is the span from a small step to 2 pi.
crosstalk
    Full width at half maximum of the Gaussian whose samples at whole pixels, normalised, blur the phase.
flat field, uniformity, pupil
    Relative, each scaled to the other by least squares.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from labctl.bench.records import CalibrationRecord
from labctl.errors import ModelError
from labctl.optics.geometry import Geometry
from labctl.optics.tiles import arrange

Array = NDArray[np.float64]
Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a bench by whoever made it, in the terms of calibration records.

    Attributes
    ----------
    geometry : Geometry
        Nominal.
    input_to_camera : float array [2, 3]; carrier_to_camera : float array [2, 2]
        As in the ``registration`` record.
    centre : float array (row, column), SLM px
    scale, rotation, defocus : float
        Of the Fourier plane, see above; 1, rad, waves rms.
    phase : float array [levels], rad
        Of each gray level, relative to the top one.
    stroke : float array [row, column]
        Of each SLM pixel.
    wavefront : float array [row, column], rad
    pupil : float array [row, column]
        Amplitude.
    zero_order : complex
    crosstalk : float, SLM px
    rise, settle : float, s
        10-90 % of a small step; to 1 % of a step of 2 pi.
    rise_slowest : float, s
        10-90 % of a step of 2 pi.
    input_settle : float, s
    input_amplitude : float array [levels]
        White is 1.
    illumination : float array [row, column]
        Amplitude over the input panel.
    contrast, gamma : float
        Intensity ratio of white to black; exponent of the amplitude (NaN where there is none).
    gain : float
        Photo-electrons per count.
    offset, read_noise : float, counts
    flicker : float
        Rms fraction of the light's power from exposure to exposure.
    response : float array [row, column], optional
        Of the camera's pixels to the light of an unpatterned field.
    """

    geometry: Geometry
    input_to_camera: Array
    carrier_to_camera: Array
    centre: Array
    scale: float
    rotation: float
    defocus: float
    phase: Array
    stroke: Array
    wavefront: Array
    pupil: Array
    zero_order: complex
    crosstalk: float
    rise: float
    rise_slowest: float
    settle: float
    input_settle: float
    input_amplitude: Array
    illumination: Array
    contrast: float
    gamma: float
    gain: float
    offset: float
    read_noise: float
    flicker: float
    response: Array | None = None


def world_of(bench: Any) -> Any:
    """The world behind a bench whose SLM is simulated."""
    return bench.device("slm").driver._world


def truth_of(bench: Any) -> Known:
    """What the dice gave the simulated world behind an open bench (or behind a `World` itself)."""
    from labctl.simulation.transforms import camera_to_metres, rotation
    from labctl.simulation.world import LN9, World

    world = bench if isinstance(bench, World) else world_of(bench)
    geometry, truth, effects = world._geometry, world._truth, world._effects
    to_metres = camera_to_metres(geometry, truth)
    back = np.linalg.inv(to_metres[:, :2])
    turn, scale = truth.input_rotation - truth.fourier_rotation, truth.input_scale / truth.fourier_scale
    linear = -geometry.f2 / geometry.f1 * scale * rotation(turn) @ np.diag(geometry.input.pitch)
    start = linear @ (np.asarray(truth.input_shift) - geometry.input.centre)
    table, stroke = (np.asarray(a, float) for a in world._slm_tables)
    amplitude, illumination = (np.asarray(a, float) for a in world._input_tables)
    waves, pupil = _world_wavefront(world)
    waves, tilt = untilted(waves)
    steer = back @ np.diag(geometry.field_of_view)
    zero = effects.slm_zero_order
    slowest = effects.slm_rise_s * (1 + effects.slm_rise_slowing)
    return Known(
        geometry=geometry,
        input_to_camera=np.column_stack([back @ linear, back @ (start - to_metres[:, 2]) + steer @ tilt]),
        carrier_to_camera=steer,
        centre=np.asarray(geometry.slm.centre) + truth.fourier_shift,
        scale=1 / scale,
        rotation=float(turn),
        defocus=defocus_of(waves),
        phase=table - table[-1],
        stroke=stroke,
        wavefront=2 * np.pi * waves,
        pupil=pupil,
        zero_order=complex((zero / (1 - zero)) ** 0.5 * np.exp(-1j * table[-1])),
        crosstalk=effects.slm_crosstalk_px,
        rise=effects.slm_rise_s,
        rise_slowest=slowest,
        settle=float(slowest / LN9 * np.log(100)),
        input_settle=0.0,
        input_amplitude=amplitude / amplitude[-1],
        illumination=illumination,
        contrast=float(effects.input_contrast),
        gamma=float(truth.input_gamma),
        gain=effects.full_well_e / (world._sensor.full_scale - effects.offset_counts),
        offset=effects.offset_counts,
        read_noise=effects.read_noise_e * (world._sensor.full_scale - effects.offset_counts) / effects.full_well_e,
        flicker=effects.laser_flicker,
        response=np.asarray(world._sensor.maps[0], float),
    )


def _world_wavefront(world: Any) -> tuple[Array, Array]:
    """Waves and amplitude over the SLM [row, column], the ghost (a second system, not a wavefront) left out."""
    from labctl.optics.zernike import zernike

    plain = copy.copy(world)
    plain.__dict__.pop("_pupil", None)
    plain._effects = replace(world._effects, ghost=0.0)
    waves = np.zeros(world._geometry.slm.shape)
    # the pupil's argument is wrapped: the polynomials know the whole turns, the field the rest
    radius = min(waves.shape) / 2
    y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / radius for n in waves.shape), indexing="ij")
    for j, size in enumerate(world._truth.zernikes):
        if size:
            waves += size * zernike(j, y, x)
    optics, height2 = world._geometry, (y**2 + x**2) * (radius * world._geometry.slm.pitch[0]) ** 2
    waves -= world._truth.camera_focus * height2 / (2 * optics.f2**2 * optics.wavelength)
    field = plain._pupil
    rest = np.angle(field * np.exp(-2j * np.pi * waves)) / (2 * np.pi)
    return waves + rest, np.abs(field)


def untilted(waves: Array) -> tuple[Array, Array]:
    """A wavefront [row, column] without Noll 2 and 3 over the inscribed disk, and the carrier (y, x) that they are."""
    y, x, disk, radius = _on_disk(waves.shape)
    found = np.array([(waves * axis)[disk].mean() / (axis**2)[disk].mean() for axis in (y, x)])
    return waves - found[0] * y - found[1] * x, found / radius


def defocus_of(waves: Array) -> float:
    """Share of Noll's j = 4 in a wavefront [row, column] over the SLM, waves rms over the inscribed disk."""
    y, x, disk, _ = _on_disk(waves.shape)
    return float((waves * np.sqrt(3) * (2 * (y**2 + x**2) - 1))[disk].mean())


def _on_disk(shape: tuple[int, ...]) -> tuple[Array, Array, NDArray[np.bool_], float]:
    radius = min(shape) / 2
    y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / radius for n in shape), indexing="ij")
    return y, x, y**2 + x**2 <= 1, radius


# records against truth, one function per kind


def tile_carriers(geometry: Geometry, count: int = 16) -> Array:
    """Carriers [tile, (y, x)] of a bank of `count` tiles of 28 x 28 images with kernels of 7 x 7; fewer if need be."""
    for n in range(count, 0, -1):
        try:
            return np.asarray(arrange(n, geometry, image=(28, 28), kernel=(7, 7), margin=(30, 30)).carriers)
        except ModelError:  # this bench holds fewer tiles
            continue
    return np.array([[0.2, 0.0]])


def registration_error(record: CalibrationRecord, known: Known, carriers: Array | None = None) -> Figures:
    """Distances on the camera, px rms over the lit panel: unsteered, and at the tiles' carriers."""
    lit = np.argwhere(known.illumination > 0)
    lit = lit[:: max(1, len(lit) // 4000)]
    affine = np.asarray(record["input_to_camera"], float) - known.input_to_camera
    away = lit @ affine[:, :2].T + affine[:, 2]
    carriers = tile_carriers(known.geometry) if carriers is None else carriers
    steered = away[None] + (carriers @ (np.asarray(record["carrier_to_camera"]) - known.carrier_to_camera).T)[:, None]
    return {"unsteered (px rms)": _rms(away, 1), "in the tiles (px rms)": _rms(steered, -1)}


def centre_error(record: CalibrationRecord, known: Known) -> Figures:
    """Distance on the SLM, px."""
    return {"centre (SLM px)": float(np.linalg.norm(np.asarray(record["centre"]) - known.centre))}


def fourier_plane_error(record: CalibrationRecord, known: Known) -> Figures:
    """Scale, rotation and defocus."""
    found = record.values
    figures = {}
    if "scale" in found:
        figures["scale (%)"] = 100 * abs(float(record["scale"]) / known.scale - 1)
    if "rotation" in found:
        figures["rotation (deg)"] = abs(float(np.rad2deg(float(record["rotation"]) - known.rotation)))
    if "defocus" in found:
        figures["defocus (waves rms)"] = abs(float(record["defocus"]) - known.defocus)
    return figures


def phase_error(record: CalibrationRecord, known: Known) -> Figures:
    """Gray to phase, rad rms over levels and panel; and of the two factors on their own."""
    phase = np.asarray(record["phase"], float)
    shape = known.geometry.slm.shape
    places = _spread_out(shape)
    true = known.stroke[np.ix_(*places)]
    stroke = over(record, "stroke", places) if "stroke" in record.values else np.ones_like(true)
    wrong = phase[:, None, None] * stroke - known.phase[:, None, None] * true
    return {
        "gray to phase (rad rms)": float(np.std(wrong)),
        "stroke (rms)": float(np.std(stroke / stroke.mean() - true / true.mean())),
        "panel's mean curve (rad rms)": float(np.std(phase * stroke.mean() - known.phase * true.mean())),
    }


def wavefront_error(record: CalibrationRecord, known: Known) -> Figures:
    """What is left of the wavefront after subtracting the record's, waves rms; and what there was."""
    rows, columns = (np.arange(0, n, max(1, n // 256)) for n in known.geometry.slm.shape)
    true, light = (a[np.ix_(rows, columns)] for a in (known.wavefront, known.pupil**2))
    left = true - over(record, "phase", [rows, columns])
    radius = min(known.geometry.slm.shape) / 2
    y, x = ((axis - (n - 1) / 2) / radius for axis, n in zip((rows, columns), known.geometry.slm.shape, strict=True))
    disk = (y[:, None] ** 2 + x[None] ** 2) <= 1
    return {
        "residual (waves rms)": flattened(left, light, y, x),
        "residual over the disk (waves rms)": flattened(left, light * disk, y, x),
        "uncorrected (waves rms)": flattened(true, light, y, x),
    }


def flattened(phase: Array, light: Array, y: Array, x: Array) -> float:
    """Rms (waves) of a phase (rad) [row, column] modulo whole turns, weighted, after the best piston and tilt."""
    weight = light / light.sum()
    field = weight * np.exp(1j * phase)
    size = [4 * n for n in phase.shape]
    focus = np.abs(np.fft.fft2(field, size))
    peak = np.unravel_index(int(focus.argmax()), focus.shape)
    turns = [2 * np.pi * np.fft.fftfreq(n)[k] for n, k in zip(size, peak, strict=True)]
    index = np.meshgrid(*(np.arange(n) for n in phase.shape), indexing="ij")
    field = field * np.exp(-1j * (turns[0] * index[0] + turns[1] * index[1]))
    field *= np.exp(-1j * np.angle(field.sum()))
    basis = np.stack([np.ones_like(phase), *np.broadcast_arrays(y[:, None], x[None])])
    normal = np.einsum("aij,bij,ij->ab", basis, basis, weight)
    for _ in range(8):
        angle = np.angle(field)
        angle[weight == 0] = 0
        fit = np.linalg.solve(normal, np.einsum("aij,ij,ij->a", basis, angle, weight))
        field = field * np.exp(-1j * np.tensordot(fit, basis, 1))
    angle = np.where(weight > 0, np.angle(field), 0)
    return float(np.sqrt((weight * angle**2).sum()) / (2 * np.pi))


def settle_error(record: CalibrationRecord, known: Known) -> Figures:
    """Relative, per cent; of the rise, how far outside the span from small to 2 pi steps."""
    figures = {}
    if known.settle > 0:
        figures["SLM to 1 % (%)"] = 100 * abs(float(record["slm_settle"]) / known.settle - 1)
        if "slm_rise" in record.values:
            rise = float(record["slm_rise"])
            outside = max(known.rise - rise, rise - known.rise_slowest, 0.0)
            figures["SLM rise, outside its span (%)"] = 100 * outside / known.rise
    if "input_settle" in record.values:
        figures["input (ms)"] = 1e3 * abs(float(record["input_settle"]) - known.input_settle)
    return figures


def crosstalk_error(record: CalibrationRecord, known: Known) -> Figures:
    """Width, SLM px."""
    return {"width (SLM px)": abs(float(record["fwhm"]) - known.crosstalk)}


def zero_order_error(record: CalibrationRecord, known: Known) -> Figures:
    """Modulus of the complex difference, and the modulus's own, both relative to the truth's modulus."""
    re, im = np.asarray(record["amplitude"], float).ravel()[:2]
    true = known.zero_order
    scale = max(abs(true), 1e-3)
    return {
        "amplitude (%)": 100 * abs(complex(re, im) - true) / scale,
        "modulus (%)": 100 * abs(abs(complex(re, im)) - abs(true)) / scale,
    }


def input_error(record: CalibrationRecord, known: Known) -> Figures:
    """Amplitude over the gray levels (rms), contrast (% of the dark amplitude's), gamma, uniformity (rms)."""
    figures = {"amplitude (rms)": _rms(np.asarray(record["amplitude"], float) - known.input_amplitude)}
    if "gamma" in record.values and np.isfinite(known.gamma):
        figures["gamma"] = abs(float(record["gamma"]) - known.gamma)
    if "contrast" in record.values and np.isfinite(known.contrast):
        figures["contrast (%)"] = 100 * abs(float(record["contrast"]) / known.contrast - 1)
    if "uniformity" in record.values:
        axes = [np.asarray(record[name], float) for name in ("y", "x")]
        steps = [float(np.abs(np.diff(a)).min()) if len(a) > 1 else 1.0 for a in axes]
        index = [np.clip(np.rint(a).astype(int), 0, n - 1) for a, n in zip(axes, known.illumination.shape, strict=True)]
        true, found = known.illumination[np.ix_(*index)], np.asarray(record["uniformity"], float)
        lit = np.ones_like(true, bool)
        for dy in (-1, 0, 1):  # a grid point whose cell the stop's edge cuts tells nothing of uniformity
            for dx in (-1, 0, 1):
                near = [np.clip(np.rint(a + d * s).astype(int), 0, n - 1) for a, d, s, n in
                        zip(axes, (dy, dx), steps, known.illumination.shape, strict=True)]  # fmt: skip
                lit &= known.illumination[np.ix_(*near)] > 0
        if lit.sum() > 3:
            figures["uniformity (rms)"] = _relative(found[lit], true[lit])
    return figures


def pupil_error(record: CalibrationRecord, known: Known) -> Figures:
    """Amplitude over the SLM, rms of its mean."""
    places = _spread_out(known.geometry.slm.shape)
    found = over(record, "amplitude", places)
    true = known.pupil[np.ix_(*places)]
    return {"amplitude (rms)": _relative(found, true)}


def flat_error(record: CalibrationRecord, known: Known) -> Figures:
    """Of the camera's response where the record has one (finite, above 0): rms."""
    if known.response is None:
        return {}
    name = next(n for n, v in record.values.items() if np.shape(v) == known.response.shape)
    found = np.asarray(record[name], float)
    seen = np.isfinite(found) & (found > 0) & (found != 1)
    return {"response (rms)": _relative(found[seen], known.response[seen]), "seen (%)": 100 * float(seen.mean())}


def dark_error(record: CalibrationRecord, known: Known) -> Figures:
    """Median offset (counts) and read noise (%)."""
    return {
        "offset (counts)": abs(float(np.median(record["offset"])) - known.offset),
        "read noise (%)": 100 * abs(float(record["read_noise"]) / known.read_noise - 1) if known.read_noise else 0.0,
    }


def gain_error(record: CalibrationRecord, known: Known) -> Figures:
    """Per cent."""
    return {"gain (%)": 100 * abs(float(record["gain"]) / known.gain - 1)}


def stability_error(record: CalibrationRecord, known: Known) -> Figures:
    """Flicker, in units of its truth."""
    return {"flicker (%)": 100 * abs(float(record["flicker"]) / known.flicker - 1)} if known.flicker else {}


SCORES: dict[str, Callable[[CalibrationRecord, Known], Figures]] = {
    "dark": dark_error,
    "gain": gain_error,
    "settle": settle_error,
    "input-response": input_error,
    "registration": registration_error,
    "fourier-centre": centre_error,
    "fourier-plane": fourier_plane_error,
    "slm-response": phase_error,
    "crosstalk": crosstalk_error,
    "zero-order": zero_order_error,
    "wavefront": wavefront_error,
    "pupil": pupil_error,
    "flat-field": flat_error,
    "stability": stability_error,
}
"""By kind of record."""


def score(record: CalibrationRecord, known: Known) -> Figures:
    """How far a record is from what is known, by named figures with their units; smaller is better.

    A kind that has no truth to compare with gives none.
    """
    return SCORES[record.kind](record, known) if record.kind in SCORES else {}


def over(record: CalibrationRecord, name: str, places: list[Any]) -> Array:
    """A map of a record, given on the coarse grid of its axes ``y`` and ``x`` (pixels), at other rows and columns."""
    values = np.asarray(record[name], float)
    axes = [np.asarray(record[axis], float) for axis in ("y", "x")]
    if values.ndim != 2:
        return np.full([len(p) for p in places], float(values))
    look = RegularGridInterpolator(axes, values, method="linear", bounds_error=False, fill_value=None)
    grid = np.stack(np.meshgrid(*places, indexing="ij"), -1)
    return np.asarray(look(grid), float)


def _spread_out(shape: tuple[int, int]) -> list[Any]:
    """Some rows and columns, evenly over a panel."""
    return [np.rint(np.linspace(0, n - 1, 33)).astype(int) for n in shape]


def _rms(values: Array, axis: int | None = None) -> float:
    square = np.square(values) if axis is None else np.square(values).sum(axis)
    return float(np.sqrt(square.mean()))


def _relative(found: Array, true: Array) -> float:
    """Rms of the difference relative to the truth's mean, after scaling `found` by least squares."""
    scale = float((found * true).sum() / (found * found).sum())
    return float(np.sqrt(np.mean((scale * found - true) ** 2)) / true.mean())
