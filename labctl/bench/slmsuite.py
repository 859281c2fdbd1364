"""slmsuite's calibrations on an open bench, and what keeps a poor one from being believed.

With a pinhole on the input plane, SLM, lens and camera are slmsuite's `FourierSLM`::

    bench.show(input=pinhole)
    with slmsuite_system(bench) as system:
        system.fourier_calibrate(array_shape=(8, 6), array_pitch=(14, 14), autoexpose=True)
        refuse_unsound(system, "fourier")

slmsuite fits what it is given: in low light it returns phases that are all NaN, and an overexposed spot array mirrored,
without a word. `refuse_unsound` says so instead. See docs/how-to/slmsuite-calibrations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from labctl.bench.bench import Bench
from labctl.errors import CalibrationError, DeviceError

LEAST_R2 = 0.9
"""Goodness of a fit below which it is not believed; slmsuite's own threshold for superpixels."""
LEAST_GOOD = 0.75
"""Fraction of the superpixels whose fringes must fit."""
OFF_BY_PX = 5.0
"""How far (camera pixels) light may fall from where a Fourier calibration puts it."""
NOISE_LEVELS = 8.0
"""Least height of the test spot, in standard deviations of what lies around it."""


@contextmanager
def slmsuite_system(bench: Bench) -> Iterator[Any]:
    """slmsuite's `FourierSLM` of a bench, for as long as the block lasts.

    Settling lasts what the bench file says, on the bench's clock, and exposures stay within its `max_exposure_ms`.
    Afterwards the SLM shows and the camera exposes what they did before. What slmsuite has measured of the SLM (phase
    response, wavefront) stays with its driver, where it acts on phases; labctl's gray patterns go through untouched.

    Yields
    ------
    slmsuite.hardware.cameraslms.FourierSLM

    Raises
    ------
    DeviceError
        If the SLM or the camera is not driven through slmsuite.
    """
    from labctl.devices.fourier import fourier_slm  # slmsuite takes a second to import

    slm, camera = bench.device("slm"), bench.device("camera")
    for name, device in (("slm", slm), ("camera", camera)):
        if not hasattr(device, "driver"):
            raise DeviceError(f"{name}: '{device.name}' is not driven through slmsuite", device=name)
    bench.set("camera", "window", None)
    with fourier_slm(
        slm.driver,
        camera.driver,
        clock=bench.clock,
        settle_s=bench.facts.slm_settle_s,
        longest_exposure_s=bench.facts.longest_exposure_s,
    ) as system:
        yield system


def zernike_places(system: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places on the camera (x, y; [2, point]) as `wavefront_calibrate_zernike` wants them."""
    from labctl.devices.fourier import in_zernike_units

    return in_zernike_units(system, points)


def zernike_correction(system: Any, indices: NDArray[np.int_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The correction (rad) over the SLM [row, column] that slmsuite's weights of Zernike polynomials mean."""
    from labctl.devices.fourier import zernike_phase

    return zernike_phase(system, indices, weights)


def refuse_unsound(system: Any, kind: str) -> None:
    """Refuse a calibration that slmsuite has returned and that nobody should use.

    Parameters
    ----------
    system : FourierSLM
    kind : "fourier", "wavefront_superpixel", "wavefront_zernike", "pixel" or "settle"
        Key of ``system.calibrations``. ``"fourier"`` takes two frames: it looks where the light of a blaze falls. The
        others look at the numbers only; ``"pixel"`` at those of ``pixel_calibration_process``.

    Raises
    ------
    CalibrationError
        One line that says what is wrong, and what to do.
    """
    if kind not in CHECKS:
        raise CalibrationError(f"slmsuite has no calibration '{kind}': choose from {', '.join(CHECKS)}")
    if kind not in system.calibrations:
        raise CalibrationError(f"slmsuite: there is no {kind} calibration yet: run it first")
    CHECKS[kind](system, system.calibrations[kind])


def _fourier(system: Any, calibration: Mapping[str, Any]) -> None:
    matrix, start = np.asarray(calibration["M"], float), np.asarray(calibration["b"], float)
    if not (np.isfinite(matrix).all() and np.isfinite(start).all()) or abs(np.linalg.det(matrix)) == 0:
        raise CalibrationError(
            "slmsuite's Fourier calibration is not finite: look whether the spots are in the picture"
        )
    camera, slm = system.cam, system.slm
    # to one side and not along an axis or a diagonal: no mirror image or quarter turn of it falls on the same place
    reach = 0.25 * min(camera.shape) / np.sqrt(abs(np.linalg.det(matrix)))
    blaze = np.minimum(reach, 0.35 / float(np.max(slm.pitch))) * np.array([[0.9], [0.4]])
    expected = np.ravel(system.kxyslm_to_ijcam(blaze))
    ramp = 2 * np.pi * (blaze[0, 0] * slm.grid[0] + blaze[1, 0] * slm.grid[1])
    frames = []
    for phase in (ramp, None):
        slm.set_phase(phase, phase_correct=False, settle=True)
        camera.flush()
        frames.append(np.asarray(camera.get_image(), float))
    found = _brightest(frames[0] - frames[1])
    if found is None:
        raise CalibrationError(
            "slmsuite's Fourier calibration cannot be confirmed: the light of a blaze is nowhere in the picture: "
            "expose longer, or check the pinhole on the input plane"
        )
    off = float(np.hypot(*(found - expected)))
    if not off <= OFF_BY_PX:
        raise CalibrationError(
            f"slmsuite's Fourier calibration is wrong: the light of a blaze falls {off:.0f} px from where it should, "
            "as when the spot array is taken for its mirror image or leaves the picture: calibrate again with "
            "autoexpose=True (no spot saturated), more spots, and all of them on the camera"
        )


def _brightest(picture: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Place (x, y) of the one spot that a difference of two frames shows; None if it shows none."""
    blurred = gaussian_filter(picture, 1.5)
    y, x = np.unravel_index(int(blurred.argmax()), blurred.shape)
    spread = 1.4826 * float(np.median(np.abs(blurred - np.median(blurred))))
    if blurred[y, x] <= max(NOISE_LEVELS * spread, 1.0):
        return None
    rows, columns = (slice(max(at - 8, 0), at + 9) for at in (int(y), int(x)))
    light = np.clip(blurred[rows, columns] - 0.2 * blurred[y, x], 0, None)
    place = np.mgrid[rows.start : rows.start + light.shape[0], columns.start : columns.start + light.shape[1]]
    return np.array([(place[axis] * light).sum() / light.sum() for axis in (1, 0)])


def _superpixels(_system: Any, calibration: Mapping[str, Any]) -> None:
    phase, r2 = np.asarray(calibration["phase"]), np.nan_to_num(np.asarray(calibration["r2_fit"], float))
    scheduled = np.asarray(calibration["scheduling"])
    measured = int((scheduled >= 0).sum())
    good = np.isfinite(phase) & (r2 >= LEAST_R2)
    if measured == 0 or good.sum() < LEAST_GOOD * measured:
        raise CalibrationError(
            f"slmsuite's wavefront calibration is too poor: the fringes of {int(good.sum())} of {measured} superpixels "
            f"fit (r2 of {LEAST_R2} or more) and {measured - int(np.isfinite(phase).sum())} have no phase at all: "
            "expose for a superpixel's light and not the zero order's, and take a pinhole small enough to light the "
            "whole SLM"
        )


def _zernike(_system: Any, calibration: Mapping[str, Any]) -> None:
    spots, stats = np.asarray(calibration["corrected_spots"], float), np.asarray(calibration["metric_stats"], float)
    if not (np.isfinite(spots).all() and np.isfinite(stats).all()):
        raise CalibrationError("slmsuite's Zernike calibration is not finite: expose longer, or use fewer spots")
    before, after = (float(np.mean(stats[at])) for at in (0, -1))
    if not after < before:
        raise CalibrationError(
            f"slmsuite's Zernike calibration has not made the spots better (figure of merit {before:.3g} before, "
            f"{after:.3g} after): expose longer (no spot saturated), or vary `perturbation`"
        )


def _pixel(_system: Any, calibration: Mapping[str, Any]) -> None:
    if "gamma" not in calibration:
        raise CalibrationError("slmsuite's pixel calibration has not been processed: call pixel_calibration_process")
    gamma, r2 = np.asarray(calibration["gamma"], float), float(calibration["gamma_r2"])
    if not (np.isfinite(gamma).all() and r2 >= LEAST_R2):
        raise CalibrationError(
            f"slmsuite's pixel calibration is too poor (r2 {r2:.2f} of the fit, {LEAST_R2} is the least): "
            "expose longer (no order saturated), or use longer periods, so that the orders stand on the camera"
        )


def _settle(_system: Any, calibration: Mapping[str, Any]) -> None:
    times, light = (np.asarray(calibration[key], float).ravel() for key in ("times", "data"))
    settle, relax = (float(calibration[key]) for key in ("settle_time", "relax_time"))
    order = np.argsort(times)
    late, early = np.median(light[order[-3:]]), light[order[0]]
    since = np.clip(times - calibration["communication_time"], 0, None)
    fitted = late + (early - late) * np.exp(-since / max(relax, 1e-9))
    spread = float(((light - light.mean()) ** 2).sum())
    r2 = 1 - float(((light - fitted) ** 2).sum()) / spread if spread > 0 else 0.0
    if not (np.isfinite([settle, relax]).all() and 0 < settle <= times.max() and r2 >= LEAST_R2):
        raise CalibrationError(
            f"slmsuite's settle calibration is too poor (r2 {r2:.2f} of the rise, settled after {settle:.3g} s of "
            f"{times.max():.3g} s): expose longer, or give `times` that resolve the rise and reach beyond it"
        )


CHECKS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "fourier": _fourier,
    "wavefront_superpixel": _superpixels,
    "wavefront_zernike": _zernike,
    "pixel": _pixel,
    "settle": _settle,
}
