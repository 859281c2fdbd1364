"""A twin from calibration records, and its record from a twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.twin import basis
from labctl.twin.model import Twin
from labctl.twin.parts import MAPS, UNITS, Fineness, low_degrees

Array = NDArray[Any]


def from_facts(facts: BenchFacts, *, fineness: Fineness | None = None) -> Twin:
    """See `Twin.from_facts`."""
    if "twin" in facts.calibrations:
        return from_record(facts, facts.calibrations["twin"])
    twin = Twin(facts.geometry, slm_levels=facts.slm_levels, input_levels=facts.input_levels, fineness=fineness)
    for kind, use in USES.items():
        if kind in facts.calibrations:
            twin.load_values(use(twin, facts.calibrations[kind].values))
    return twin


def from_record(facts: BenchFacts, record: CalibrationRecord) -> Twin:
    """The twin that a `twin` record holds, to the last bit.

    Raises
    ------
    CalibrationError
        If the record is of another geometry, or of a twin with other parameters.
    """
    values = record.values
    try:
        fineness = Fineness(*(int(n) for n in np.asarray(values["fineness"]).ravel()))
        twin = Twin(facts.geometry, slm_levels=facts.slm_levels, input_levels=facts.input_levels, fineness=fineness)
        known = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
        wrong = [name for name in known if np.shape(values[name]) != tuple(known[name].shape)]
    except (KeyError, TypeError) as error:
        raise CalibrationError(
            f"twin: the record of bench '{facts.name}' lacks {error}: run `labctl calibrate {facts.name}`"
        ) from error
    if wrong:
        raise CalibrationError(
            f"twin: the record's {wrong[0]} has another shape than this bench's: run `labctl calibrate {facts.name}`"
        )
    twin.load_values({name: values[name] for name in known})
    return twin


def to_values(twin: Twin) -> tuple[dict[str, Array], dict[str, str]]:
    """Values and units of a `twin` record."""
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    values: dict[str, Array] = {name: t.detach().numpy().copy() for name, t in tensors.items()}
    values["fineness"] = np.array(list(vars(twin.fineness).values()))
    return values, {**UNITS, **MAPS, "fineness": "1, as labctl.twin.parts.Fineness lists them"}


def _input_response(twin: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    table = np.asarray(values["amplitude"], float)
    spline, knots = twin._fixed.input_spline.numpy(), len(twin.input_response)
    away = _at(table, len(spline)) - twin._fixed.input_linear.numpy()
    found: dict[str, Array] = {"input_response": np.linalg.lstsq(spline[:, :knots], away, rcond=None)[0]}
    if {"uniformity", "y", "x"} <= set(values):
        light = over(values["uniformity"], values["y"], values["x"], twin.geometry.input.shape)
        lit = light > 0.5 * light.max()
        maps = _legendre(lit.shape, twin.fineness.uniformity)[:, lit]
        constant = np.ones((1, maps.shape[1]))
        fit = np.linalg.lstsq(np.concatenate([maps, constant]).T, np.log(light[lit]), rcond=1e-6)[0]
        found |= {"lit": lit.astype(np.float32), "uniformity": fit[:-1]}
    return found


def _registration(twin: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    affine = np.asarray(values["input_to_camera"], float)
    place = affine[:, :2] @ np.asarray(twin.geometry.input.centre) + affine[:, 2]
    return {"input_place": place, "input_linear": affine[:, :2], "carrier_to_camera": values["carrier_to_camera"]}


def _slm_response(twin: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    phase = np.asarray(values["phase"], float)
    spline, knots = twin._fixed.slm_spline.numpy(), len(twin.lut)
    away = _at(phase, len(spline)) - phase[-1] - twin._fixed.slm_linear.numpy()
    found: dict[str, Array] = {"lut": np.linalg.lstsq(spline[:, :knots], away, rcond=None)[0]}
    if {"stroke", "y", "x"} <= set(values):
        y, x = (
            2 * (np.asarray(values[a], float) + 0.5) / n - 1 for a, n in zip("yx", twin.geometry.slm.shape, strict=True)
        )
        order = twin.fineness.stroke
        maps = _products(basis.legendre_matrix(y, order).numpy(), basis.legendre_matrix(x, order).numpy(), order)
        stroke = np.asarray(values["stroke"], float)
        design = np.concatenate([maps.reshape(len(maps), -1), np.ones((1, stroke.size))]).T
        fit = np.linalg.lstsq(design, stroke.ravel(), rcond=1e-6)[0]
        found["stroke"] = fit[:-1] / fit[-1]
        found["lut"] = found["lut"] * fit[-1] + (fit[-1] - 1) * _knot_values(twin)
    return found


def _knot_values(twin: Twin) -> Array:
    """The linear response at the knots below the top gray level."""
    levels = np.linspace(0, 1, twin.fineness.lut_knots)[:-1] * (twin.slm_levels - 1)
    return np.asarray(2 * np.pi * (twin.slm_levels - 1 - levels) / twin.slm_levels)


def _wavefront(twin: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    waves = np.zeros(36)
    if "zernikes" in values:
        given = np.asarray(values["zernikes"], float)[:36]
        waves[: len(given)] = given
    waves[:3] = 0
    found["zernikes"] = waves
    if {"phase", "y", "x"} <= set(values):
        count, slm = twin.fineness.rough, twin.geometry.slm.shape
        y, x = (basis.even_knots(n, count) for n in slm)
        total = RegularGridInterpolator(
            (values["y"], values["x"]), np.asarray(values["phase"], float), bounds_error=False, fill_value=None
        )
        nodes = np.stack(
            np.meshgrid(*(np.clip(a, 0, n - 1) for a, n in zip((y, x), slm, strict=True)), indexing="ij"), -1
        )
        powers = np.einsum("j,jab->ab", waves, basis.zernike_powers().numpy())
        middles = [(n - 1) / 2 for n in slm]
        vanders = [
            np.vander((np.clip(a, 0, n - 1) - m) / (min(slm) / 2), basis.HIGHEST_POWER + 1, increasing=True)
            for a, n, m in zip((y, x), slm, middles, strict=True)
        ]
        rough = total(nodes) - 2 * np.pi * (vanders[0] @ powers @ vanders[1].T)
        # piston and tilt are no part of the wavefront: the camera's place has them
        rows, columns = np.meshgrid(y - middles[0], x - middles[1], indexing="ij")
        plane = np.stack([np.ones(rows.size), rows.ravel(), columns.ravel()], axis=1)
        rough -= (plane @ np.linalg.lstsq(plane, rough.ravel(), rcond=None)[0]).reshape(rough.shape)
        both = np.zeros((2, count, count))
        both[0] = rough
        found["rough"] = both
    return found


def _pupil(twin: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    slm, count = twin.geometry.slm.shape, twin.fineness.pupil
    y, x = values.get("y"), values.get("x")
    amplitude = np.asarray(values["amplitude"], float)
    if y is None or x is None:
        y, x = (basis.even_knots(n, m + 1)[:-1] + n / m / 2 for n, m in zip(slm, amplitude.shape, strict=True))
    inside = RegularGridInterpolator((y, x), amplitude, bounds_error=False, fill_value=None)
    knots = [basis.even_knots(n, count) for n in slm]
    nodes = np.clip(inside(np.stack(np.meshgrid(*knots, indexing="ij"), -1)), 0, None)
    return {"pupil": nodes / max(float(nodes.max()), 1e-9)}


def _flat_field(twin: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    shape = twin.geometry.camera.shape
    maps = [np.asarray(v, np.float32) for v in values.values() if np.shape(v) == shape]
    return {"flat": maps[0]} if maps else {}


def _zero_order(_: Twin, values: Mapping[str, Array]) -> dict[str, Array]:
    return {"zero_order": np.asarray(values["amplitude"], float).ravel()[:2]}


USES: dict[str, Any] = {
    "input-response": _input_response,
    "registration": _registration,
    "fourier-centre": lambda _, values: {"centre": values["centre"]},
    "slm-response": _slm_response,
    "crosstalk": lambda _, values: {"crosstalk": values["fwhm"]},
    "zero-order": _zero_order,
    "wavefront": _wavefront,
    "pupil": _pupil,
    "flat-field": _flat_field,
}
"""What each kind of record says about the twin's parameters."""


def over(grid: Array, y: Array, x: Array, shape: tuple[int, int]) -> Array:
    """A map on a coarse grid [y, x] with its axes in pixels, interpolated over all pixels and constant beyond."""
    rows, columns = (
        np.clip(np.arange(n, dtype=float), np.min(a), np.max(a)) for n, a in zip(shape, (y, x), strict=True)
    )
    inside = RegularGridInterpolator((np.asarray(y, float), np.asarray(x, float)), np.asarray(grid, float))
    return np.asarray(inside(np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)))


def _at(table: Array, levels: int) -> Array:
    """A table of gray levels, brought to as many as the device has."""
    return np.interp(np.linspace(0, 1, levels), np.linspace(0, 1, len(table)), table)


def _legendre(shape: tuple[int, int], order: int) -> Array:
    y, x = (basis.legendre_matrix(basis.unit(n), order).numpy() for n in shape)
    return _products(y, x, order)


def _products(y: Array, x: Array, order: int) -> Array:
    """Products of Legendre polynomials [coefficient, row, column], in the order of the twin's coefficients."""
    return np.stack([np.outer(y[:, a], x[:, b]) for a, b in np.argwhere(low_degrees(order))])
