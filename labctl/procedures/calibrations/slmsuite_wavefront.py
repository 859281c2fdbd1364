"""slmsuite's own wavefront calibrations as steps of a procedure: recorded, replayed and aborted like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.conversation import Conversation, Wanted, Work
from labctl.bench.facts import BenchFacts
from labctl.bench.slmsuite import refuse_unsound, zernike_correction, zernike_places
from labctl.errors import CalibrationError, LabctlError
from labctl.procedures.calibrations.pinhole import source_edge
from labctl.procedures.calibrations.speckle import Blocks
from labctl.procedures.exposing import square
from labctl.procedures.messages import Exposure, Gray, Log, Measure, Set, Steps

ZERNIKE_TERMS = 15
TEST_SUPERPIXELS = 8
"""Superpixels along the SLM's shorter side."""


def run_slmsuite(facts: BenchFacts, kind: str, work: Work, shown: Gray, *, most: int) -> Steps[Any]:
    """Run `work` on slmsuite's `FourierSLM`; each frame that it takes is an exposure of this procedure.

    Parameters
    ----------
    work : callable
        Takes the `FourierSLM`, gives the result. It must be the same for the same frames.
    shown : gray pattern
        On the input panel.
    most : int
        Frames after which it is given up.

    Raises
    ------
    CalibrationError
        What slmsuite failed with, or that it takes too many frames.
    """
    yield Set("camera", "window", None)
    with Conversation(facts, work) as talk:
        taken = 0
        said = _hear(kind, talk.begin)
        while isinstance(said, Wanted):
            if taken >= most:
                raise CalibrationError(f"{kind}: slmsuite wants more than {most} frames: is the pinhole lit?")
            asked = Exposure(said.slm, shown, said.exposure_s, {"for": kind, "by": "slmsuite"})
            (frame,) = yield Measure([asked], f"{kind}, by slmsuite")
            taken += 1
            data = frame.data
            said = _hear(kind, lambda data=data: talk.answer(data))
    return said.result


def _hear(kind: str, call: Any) -> Any:
    try:
        return call()
    except LabctlError:
        raise
    except Exception as error:  # whatever a foreign library raises on pictures that it cannot use
        raise CalibrationError(f"{kind}: slmsuite gave up: {error}") from error


def wide_pinhole(facts: BenchFacts) -> Gray:
    """A white square small enough to light the whole SLM; it needs no registration."""
    side = 1
    while side < 64 and np.min(source_edge(facts, side + 1)) >= 0.5:
        side += 1
    return square(facts, side)


def frames_wanted(facts: BenchFacts, method: str) -> int:
    """How many frames slmsuite takes, about."""
    if method == "superpixel":
        size = _superpixel(facts)
        return 70 + 2 * int(np.prod([n // size for n in facts.geometry.slm.shape]))
    return 25 + 11 * ZERNIKE_TERMS


def wavefront_by_slmsuite(
    facts: BenchFacts, kind: str, method: str, blocks: Blocks
) -> Steps[tuple[NDArray[np.float64], dict[str, float]]]:
    """The wavefront (rad) on blocks [y, x], and quality figures, by slmsuite's super-pixels or Zernikes."""
    work = _by_superpixels if method == "superpixel" else _by_zernikes
    yield Log(f"{kind}: slmsuite's {method} method")
    phase, quality = yield from run_slmsuite(
        facts, kind, lambda system: work(facts, system), wide_pinhole(facts), most=3 * frames_wanted(facts, method)
    )
    rows, columns = (
        np.clip(np.rint(b + (n - 1) / 2).astype(int), 0, n - 1)
        for b, n in zip((blocks.y, blocks.x), facts.geometry.slm.shape, strict=True)
    )
    # what slmsuite adds to a pattern takes the wavefront off
    return -np.asarray(phase, float)[np.ix_(rows, columns)], quality


def _superpixel(facts: BenchFacts) -> int:
    return max(8, min(facts.geometry.slm.shape) // TEST_SUPERPIXELS)


def _fourier(facts: BenchFacts, system: Any) -> None:
    geometry = facts.geometry
    sight = min(n * p for n, p in zip(geometry.camera.shape, geometry.camera.pitch, strict=True))
    reach = min(1.0, sight / min(geometry.field_of_view))
    pitch = max(3, int(reach * 0.09 * min(geometry.slm.shape)))
    system.fourier_calibrate(array_shape=(8, 6), array_pitch=(pitch, pitch), autoexpose=True, plot=-1)
    refuse_unsound(system, "fourier")


def _point(facts: BenchFacts, system: Any, part: tuple[float, float]) -> NDArray[np.float64]:
    """A place (x, y) on the camera that lies so far (of the shorter sight) off the zero order."""
    room = min(system.cam.shape)
    return np.asarray(system.kxyslm_to_ijcam([0, 0]) + np.array([[part[0] * room], [part[1] * room]]))


def _by_superpixels(facts: BenchFacts, system: Any) -> tuple[Any, dict[str, float]]:
    _fourier(facts, system)
    size = _superpixel(facts)
    point = _point(facts, system, (0.215, 0.156))
    away = (-0.93 / (2 * system.slm.pitch[0]), 0.0)
    vectors = np.hstack([np.reshape(away, (2, 1)), system.ijcam_to_kxyslm(point)])
    x, y = system.slm.grid
    field, lone = (2 * np.pi * (kx * x + ky * y) for kx, ky in vectors.T)
    middle = slice(system.slm.shape[0] // 2, system.slm.shape[0] // 2 + size)
    field[middle, middle] = lone[middle, middle]
    system.slm.set_phase(field, settle=False)
    column, row = np.rint(point).astype(int).ravel()
    window = np.zeros(system.cam.shape, bool)
    window[max(row - 15, 0) : row + 16, max(column - 15, 0) : column + 16] = True
    system.cam.autoexpose(window=window, set_fraction=0.2)
    found = system.wavefront_calibrate_superpixel(
        calibration_points=point, superpixel_size=size, field_point=away, plot=-1
    )
    refuse_unsound(system, "wavefront_superpixel")
    r2 = np.nan_to_num(np.asarray(found["r2_fit"], float))[np.isfinite(np.asarray(found["power"], float))]
    system.wavefront_calibration_superpixel_process(plot=-1)
    quality = {"poor_fringes": 1 - float((r2 >= 0.9).mean())}
    return np.array(system.slm.source["phase"]), quality


def _by_zernikes(facts: BenchFacts, system: Any) -> tuple[Any, dict[str, float]]:
    _fourier(facts, system)
    around = [(0.12, 0.09), (0.27, 0.1), (0.14, 0.25), (0.29, 0.29), (-0.12, 0.19), (-0.25, 0.12), (-0.16, 0.31)]
    points = np.hstack([_point(facts, system, part) for part in around])
    points = zernike_places(system, points)
    options = {"zernike_indices": ZERNIKE_TERMS, "plot": -1}
    system.wavefront_calibrate_zernike(points, perturbation=0, **options)
    system.cam.autoexpose()
    system.wavefront_calibrate_zernike(points, perturbation=1.0, **options)
    refuse_unsound(system, "wavefront_zernike")
    found = system.calibrations["wavefront_zernike"]
    indices = np.asarray(found["zernike_indices"])
    weights = np.asarray(found["corrected_spots"])[indices > 2].mean(1)
    phase = zernike_correction(system, indices[indices > 2], weights)
    stats = np.asarray(found["metric_stats"], float)
    return phase, {"spots": float(stats[-1].mean() / stats[0].mean())}
