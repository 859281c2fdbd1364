"""From places on the panel to places on the camera: an affine map, and distortion where it is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as fisher

from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.optics.geometry import Geometry

Array = NDArray[np.float64]
CHANCE = 1e-4
"""Distortion is taken as there if chance alone would lower the residual as far with less than this probability,"""
LESS = 0.25
"""and if it lowers the misses' squares to this part: neighbouring dots disturb each other a little, which bends too."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """A map from panel to camera fitted to dots.

    Attributes
    ----------
    affine : float array [2, 3]
    errors : float array [2, 3]
        Standard errors of `affine`; of its last column, where the panel's middle falls.
    residual : float
        Rms distance of the dots from the map, camera px.
    distortion : float array [3] or None
        Tilt along rows and columns, and radial; see `to_camera`.
    span : float
        Panel px that count as 1 in `distortion`.
    centre : float array [2]
        Panel px.
    points : float array [dot, 4]
        Panel (row, column), camera (row, column).
    misses : float array [dot, 2], camera px
    """

    affine: Array
    errors: Array
    residual: float
    distortion: Array | None
    span: float
    centre: Array
    points: Array
    misses: Array


@dataclass(frozen=True)
class Orientation:
    """How the camera sees the panel: turned by `angle` (rad) from the nominal, inverted view; mirrored or not."""

    angle: float
    mirrored: bool


def fit_mapping(inputs: Array, outputs: Array, centre: Array, span: float) -> Mapped:
    """Fit an affine map, and distortion if an F-test says that it is there.

    Parameters
    ----------
    inputs, outputs : float arrays [dot, (row, column)]
        Panel px and camera px.
    centre : float array [2]
        Centre of distortion, panel px.
    span : float
        Panel px that count as 1.
    """
    unit = (inputs - centre) / span
    design = np.column_stack([unit, np.ones(len(unit))])
    solved, *_ = np.linalg.lstsq(design, outputs, rcond=None)
    away = outputs - design @ solved
    count = outputs.size
    distortion: Array | None = None
    freedom = count - 6
    bent = _bending(unit, np.asarray(solved[:2].T, np.float64))
    full = np.zeros((count, 9))
    for axis in (0, 1):
        full[axis::2, 3 * axis : 3 * axis + 3] = design
    full[:, 6:] = bent.reshape(count, 3)
    more, *_ = np.linalg.lstsq(full, outputs.ravel(), rcond=None)
    less = outputs.ravel() - full @ more
    ratio = ((away**2).sum() - (less**2).sum()) / 3 / max(float((less**2).sum()) / (count - 9), 1e-12)
    if fisher.sf(ratio, 3, count - 9) < CHANCE and (less**2).sum() < LESS * (away**2).sum():
        distortion, away, freedom = np.asarray(more[6:], np.float64), less.reshape(-1, 2), count - 9
        solved = more[:6].reshape(2, 3).T
    scatter = float((away**2).sum()) / max(freedom, 1)
    each = np.sqrt(scatter * np.diag(np.linalg.inv(design.T @ design)))
    affine = np.column_stack([solved[:2].T / span, solved[2] - solved[:2].T @ centre / span])
    errors = np.tile(np.array([each[0] / span, each[1] / span, each[2]]), (2, 1))
    residual = float(np.sqrt((away**2).sum(1).mean()))
    return Mapped(affine, errors, residual, distortion, span, centre, np.column_stack([inputs, outputs]), away)


def _bending(unit: Array, linear: Array) -> Array:
    """What each coefficient of distortion adds [dot, (row, column), coefficient], camera px."""
    radius2 = (unit**2).sum(1)
    stretched = np.stack([unit * unit[:, :1], unit * unit[:, 1:], unit * radius2[:, None]], axis=-1)
    return np.einsum("ab,nbk->nak", linear, stretched)


def to_camera(registration: CalibrationRecord, points: Array) -> Array:
    """Where points of the panel are seen through a flat SLM.

    The model. With ``u = (point - centre) / span``, a point is seen where the affine map puts
    ``centre + span * u * (1 + t . u + k u . u)``: t (tilt row, tilt column) is a homography's to first order, k is
    radial distortion. Without a ``distortion`` in the record both are zero.

    Parameters
    ----------
    registration : CalibrationRecord
    points : float array [..., (row, column)]
        Panel px.

    Returns
    -------
    float array [..., (row, column)], camera px
    """
    affine = registration["input_to_camera"]
    if "distortion" in registration.values:
        tilt, radial = registration["distortion"][:2], float(registration["distortion"][2])
        centre, span = registration["distortion_centre"], float(registration["distortion_span"])
        unit = (points - centre) / span
        points = centre + span * unit * (1 + unit @ tilt + radial * (unit**2).sum(-1))[..., None]
    return np.asarray(points @ affine[:, :2].T + affine[:, 2])


def orientation(linear: Array, geometry: Geometry) -> Orientation:
    """How the camera sees the panel, from the map's linear part.

    Raises
    ------
    CalibrationError
        If no turned or mirrored view of this panel through these lenses looks like that.
    """
    nominal = geometry.nominal_input_to_camera()[:, :2]
    seen = linear @ np.diag(1 / np.diag(nominal))
    # rows and columns of the camera may have different pitches: compare in metres
    pitch = np.diag(geometry.camera.pitch)
    seen = pitch @ seen @ np.linalg.inv(pitch)
    left, sizes, right = np.linalg.svd(seen)
    if sizes[0] > 1.5 or sizes[1] < 0.6 or sizes[0] / sizes[1] > 1.25:
        raise CalibrationError(
            f"registration: the panel looks {sizes[0]:.2f} by {sizes[1]:.2f} times as large as the bench file's focal "
            "lengths and pitches say: check f1_mm, f2_mm and the pitches, or stray light was taken for a dot"
        )
    turn = left @ right
    mirrored = bool(np.linalg.det(turn) < 0)
    if mirrored:
        turn = turn @ np.diag([1.0, -1.0])
    return Orientation(float(np.arctan2(turn[0, 1], turn[0, 0])), mirrored)
