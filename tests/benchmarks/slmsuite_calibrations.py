"""slmsuite's own calibrations on the simulated bench, scored against what that bench hides.

    python tests/benchmarks/slmsuite_calibrations.py [fourier superpixel zernike pixel settle]

Each function is one case, takes seconds, and returns its figures; `tests/devices/test_slmsuite_calibrations.py` pins
them. Only the scoring here reads the truth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from labctl.bench import Bench, open_bench
from labctl.bench.slmsuite import refuse_unsound, slmsuite_system
from labctl.config.load import parse_bench
from labctl.errors import CalibrationError
from labctl.simulation.transforms import camera_to_metres

Array = NDArray[Any]
PINHOLE = "input_stop_px = 2\nflux_e_per_s = 1.6e9"
"""Two panel pixels of 4 um are a pinhole of 8 um in the input plane, in a strong beam: what a lab screws in there."""
TEXT = """
[bench]
name = "fourier"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 100
[slm]
driver = "simulated"
options = {{ resolution = [{slm}, {slm}], pitch_um = {pitch}, latency_ms = {latency_ms} }}
settle_ms = 300
[input]
driver = "simulated"
options = {{ resolution = [64, 64], pitch_um = 4.0 }}
settle_ms = 5
[camera]
driver = "simulated"
options = {{ resolution = [{camera}, {camera}], pitch_um = 5.5 }}
exposure_ms = 1.0
[simulation]
preset = "{preset}"
seed = {seed}
[simulation.effects]
{effects}
"""
OPTIONS: dict[str, Any] = {
    "slm": 256, "pitch": 16.0, "camera": 512, "latency_ms": 0.0, "preset": "typical", "seed": 1, "effects": PINHOLE,
}  # fmt: skip
ARRAY: dict[str, Any] = {"array_shape": (8, 6), "autoexpose": True, "plot": -1}


@contextmanager
def opened(**options: Any) -> Iterator[tuple[Bench, Any]]:
    """A bench with light through a pinhole, and slmsuite's system on it."""
    bench = open_bench(parse_bench(TEXT.format(**OPTIONS | options)))
    try:
        bench.show(input=np.full(bench.facts.geometry.input.shape, 255, np.uint8))
        bench.capture()
        np.random.seed(0)  # noqa: NPY002 - slmsuite draws from the global state
        with slmsuite_system(bench) as system:
            yield bench, system
    finally:
        bench.close()


def calibrate_fourier(system: Any, **options: Any) -> None:
    """Eight by six spots over most of the camera, or of what the SLM can reach."""
    reach = min(system.cam.shape) * 5.5e-6 / (0.1 * 638e-9) * system.slm.pitch_um[0] * 1e-6  # of the Nyquist range
    pitch = int(min(reach, 1.0) * 0.09 * min(system.slm.shape))
    system.fourier_calibrate(**{"array_pitch": (pitch, pitch), **ARRAY, **options})


def fourier(
    starts: Sequence[int] = range(20), *, exposure_s: float | None = None, options: Any = None, **bench: Any
) -> dict[str, float]:
    """How many of so many random starts are accepted, how many mirrored, and the error of those accepted.

    An exposure that is given stays; else slmsuite finds one.
    """
    with opened(**bench) as (_, system):
        truth = camera_matrix(system)
        misses: list[tuple[bool, bool]] = []
        errors: list[float] = []
        for start in starts:
            np.random.seed(start)  # noqa: NPY002
            if exposure_s is not None:
                system.cam.set_exposure(exposure_s)
            calibrate_fourier(system, **({} if exposure_s is None else {"autoexpose": False}), **(options or {}))
            matrix = np.asarray(system.calibrations["fourier"]["M"])
            error = float(np.abs(matrix - truth).max() / np.abs(truth).max())
            try:
                refuse_unsound(system, "fourier")
                refused = False
            except CalibrationError:
                refused = True
            misses.append((error > 0.02, refused))
            errors += [] if refused else [error]
        wrong, refused_ones = np.array(misses).T
        return {
            "starts": len(starts), "accepted": int((~refused_ones).sum()), "refused": int(refused_ones.sum()),
            "mirrored": int(wrong.sum()), "mirrored and accepted": int((wrong & ~refused_ones).sum()),
            "worst matrix error of those accepted": max(errors, default=np.nan),
            "exposure ms": 1e3 * system.cam.get_exposure(),
        }  # fmt: skip


def camera_matrix(system: Any) -> Array:
    """Truth: camera pixels (x, y) per angle (x, y) of the light behind the SLM."""
    world = system.slm._world
    metres = camera_to_metres(world._geometry, world._truth)[:, :2]
    rows = np.linalg.inv(metres) * world._geometry.f2
    return np.asarray(np.sign(np.trace(rows)) * rows[::-1, ::-1])


def superpixel(size: int = 32, *, low_light: bool = False, **bench: Any) -> dict[str, float]:
    """The phase of the pupil from superpixels that interfere; the field besides them is sent off the camera."""
    with opened(**bench) as (_, system):
        calibrate_fourier(system)
        refuse_unsound(system, "fourier")
        point = system.kxyslm_to_ijcam([0, 0]) + np.array([[110.0], [80.0]])
        away = (-0.93 / (2 * system.slm.pitch[0]), 0.0)
        expose_for_superpixel(system, point, size, away)
        if low_light:
            system.cam.set_exposure(system.cam.get_exposure() / 1000)
        before = time.perf_counter()
        found = system.wavefront_calibrate_superpixel(
            calibration_points=point, superpixel_size=size, field_point=away, plot=-1
        )
        seconds = time.perf_counter() - before
        r2 = found["r2_fit"][np.isfinite(found["power"])]
        figures = {
            "superpixels": r2.size, "r2 median": float(np.median(r2)), "r2 above 0.9": float((r2 > 0.9).mean()),
            "no phase": int(r2.size - np.isfinite(found["phase"]).sum()),
            "exposure ms": 1e3 * system.cam.get_exposure(), "seconds": seconds,
        }  # fmt: skip
        refuse_unsound(system, "wavefront_superpixel")
        system.wavefront_calibration_superpixel_process(plot=-1)
        return figures | wavefront_scores(system, np.asarray(system.slm.source["phase"]))


def expose_for_superpixel(system: Any, point: Array, size: int, away: tuple[float, float]) -> None:
    """Expose so that a lone superpixel's spot, which four times as much light will interfere in, is at a fifth."""
    vectors = np.hstack([np.reshape(away, (2, 1)), system.ijcam_to_kxyslm(point)])
    x, y = system.slm.grid
    field, lone = (2 * np.pi * (kx * x + ky * y) for kx, ky in vectors.T)
    middle = slice(system.slm.shape[0] // 2, system.slm.shape[0] // 2 + size)
    field[middle, middle] = lone[middle, middle]
    system.slm.set_phase(field, settle=True)
    column, row = np.rint(point).astype(int).ravel()
    window = np.zeros(system.cam.shape, bool)
    window[row - 15 : row + 16, column - 15 : column + 16] = True
    system.cam.autoexpose(window=window, set_fraction=0.2, verbose=False)


def zernike(terms: int = 15, rounds: int = 2, **bench: Any) -> dict[str, float]:
    """Nine spots, each Zernike term swept, the sharpest taken; the mean of the nine corrections is scored."""
    from slmsuite.holography.toolbox import convert_vector
    from slmsuite.holography.toolbox.phase import zernike_sum

    effects = f"{PINHOLE}\naberration_waves = 0.05\ndefocus_waves = 0.1\nfourier_shift_px = 0"
    with opened(**{"pitch": 8.0, "effects": effects} | bench) as (_, system):
        calibrate_fourier(system)
        refuse_unsound(system, "fourier")
        around = [(60, 45), (140, 50), (70, 130), (150, 150), (-60, 95), (-130, 60), (-80, 160), (20, 180), (-150, 140)]
        points = system.kxyslm_to_ijcam([0, 0]) + np.array(around, float).T
        points = convert_vector(points, from_units="ij", to_units="zernike", hardware=system)
        options = {"zernike_indices": terms, "plot": -1}
        system.wavefront_calibrate_zernike(points, perturbation=0, **options)
        system.cam.autoexpose(verbose=False)
        before = time.perf_counter()
        system.wavefront_calibrate_zernike(points, perturbation=1.0, **options)
        for _ in range(rounds - 1):
            options["zernike_indices"] = None
            system.wavefront_calibrate_zernike(None, perturbation=0.5, optimize_weights=False, **options)
        seconds = time.perf_counter() - before
        refuse_unsound(system, "wavefront_zernike")
        found = system.calibrations["wavefront_zernike"]
        indices = np.asarray(found["zernike_indices"])
        weights = found["corrected_spots"][indices > 2].mean(1).reshape(-1, 1)
        phase = zernike_sum(system.slm, indices[indices > 2], weights, use_mask=False)
        stats = np.asarray(found["metric_stats"], float)
        figures = {"spot area, after / before": float(stats[-1].mean() / stats[0].mean()), "seconds": seconds}
        return figures | wavefront_scores(system, np.reshape(np.asarray(phase), system.slm.shape))


def wavefront_scores(system: Any, correction: Array) -> dict[str, float]:
    """The pupil before and after a correction (rad): rms over the SLM's disk without tilt, and Strehl ratio."""
    pupil = system.slm._world._pupil
    pupil = pupil / np.abs(pupil)
    figures: dict[str, float] = {}
    for name, field in (("uncorrected", pupil), ("corrected", pupil * np.exp(1j * correction))):
        figures[f"rms waves, {name}"] = rms_without_tilt(field)
        figures[f"Strehl, {name}"] = float(np.abs(np.fft.fft2(field, s=[4 * n for n in field.shape])).max() ** 2)
        figures[f"Strehl, {name}"] /= field.size**2
    return figures


def rms_without_tilt(field: Array) -> float:
    """Rms (waves) of a field's phase over the inscribed disk, without piston and tilt."""
    n = field.shape[0]
    rows, columns = np.mgrid[:n, :n]
    y, x = ((axis - (n - 1) / 2) / (n / 2) for axis in (rows, columns))
    disk = x**2 + y**2 <= 0.95
    far = np.abs(np.fft.fft2(np.where(disk, field, 0), s=(4 * n, 4 * n)))
    row, column = np.unravel_index(int(far.argmax()), far.shape)
    field = field * np.exp(-2j * np.pi * (row * rows + column * columns) / (4 * n))
    basis = np.stack([np.ones(disk.sum()), y[disk], x[disk]], 1)
    for _ in range(20):
        phase = np.angle(field * np.conj(field[disk].sum()))
        piston, along_y, along_x = np.linalg.lstsq(basis, phase[disk], rcond=None)[0]
        field = field * np.exp(-1j * (piston + along_y * y + along_x * x))
    return float(phase[disk].std() / (2 * np.pi))


def pixel(period: int = 16, levels: int = 16, *, process: bool = True, **bench: Any) -> dict[str, float]:
    """The SLM's phase response from binary gratings of two gray levels each."""
    with opened(**{"slm": 128, "camera": 256} | bench) as (_, system):
        calibrate_fourier(system, array_shape=(6, 5), array_pitch=(6, 6))
        refuse_unsound(system, "fourier")
        sweep = {"levels": levels, "periods": [period], "orders": 1, "directions": "x", "plot": -1}
        system.pixel_calibrate(test_index=True, autoexpose=0.5, **sweep)
        before = time.perf_counter()
        system.pixel_calibrate(**sweep)
        seconds = time.perf_counter() - before
        errors = {"delivered phase, as it comes": delivered_error(system)}
        found = system.pixel_calibration_process()
        refuse_unsound(system, "pixel")
        table = system.slm._world._slm_tables[0][system.calibrations["pixel"]["levels"]] / (2 * np.pi)
        table = table.max() - table
        slope = float(np.polyfit(table, found, 1)[0])
        errors["delivered phase, calibrated"] = delivered_error(system)
        return {
            "r2": float(system.calibrations["pixel"]["gamma_r2"]), "response rms rad": rms(found - table),
            "response but for its scale, rms rad": rms(found - slope * table), "scale": slope, "seconds": seconds,
            **{f"{name}, rms rad": value for name, value in errors.items()},
        }  # fmt: skip


def rms(cycles: Array) -> float:
    """Rms around the mean, cycles to rad."""
    return float(2 * np.pi * np.std(cycles))


def delivered_error(system: Any) -> float:
    """Rms (rad) between phases commanded in blocks of 16 pixels and those delivered inside the blocks."""
    slm = system.slm
    blocks = np.random.default_rng(3).uniform(0.3, 2 * np.pi - 0.3, [n // 16 for n in slm.shape])
    commanded = np.kron(blocks, np.ones((16, 16)))
    slm.set_phase(commanded, phase_correct=False, settle=False)
    delivered = slm._world._delivered_phase(slm.display)
    apart = np.angle(np.exp(1j * (delivered - commanded)))[4::16, 4::16]
    return float(apart.std())


def settle(rise_s: float = 0.04, latency_s: float = 0.012, **bench: Any) -> dict[str, float]:
    """How the light of a blaze comes up. Of phases from 0 to 2 pi that relax as exp(-t / tau), the field is a sinc."""
    effects = f"{PINHOLE}\nslm_rise_s = {rise_s}\nshot_noise = true\nread_noise_e = 2.5"
    with opened(**{"preset": "ideal", "effects": effects, "latency_ms": 1e3 * latency_s} | bench) as (_, system):
        calibrate_fourier(system)
        refuse_unsound(system, "fourier")
        before = time.perf_counter()
        found = system.settle_calibrate(vector=(0.005, 0.004), times=np.linspace(0, 0.3, 61), plot=-1)
        seconds = time.perf_counter() - before
        refuse_unsound(system, "settle")
        when = found["times"] + found["exposure_s"] / 2

        def law(t: Array, start: float, tau: float, light: float, stray: float) -> Array:
            return stray + light * np.sinc(np.exp(-np.clip(t - start, 0, None) / tau)) ** 2

        (start, tau, *_), _ = curve_fit(law, when, found["data"], p0=(0.01, 0.02, found["data"].max(), 0))
        left = float(np.exp(-(found["settle_time"] - start) / tau))
        return {
            "rise ms (10-90 %)": 1e3 * tau * np.log(9), "latency ms": 1e3 * start,
            "slmsuite: communication ms": 1e3 * found["communication_time"],
            "slmsuite: relaxation ms": 1e3 * found["relax_time"], "slmsuite: settled ms": 1e3 * found["settle_time"],
            "of the phase step, left when it calls it settled": left, "seconds": seconds,
        }  # fmt: skip


def main(chosen: Sequence[str]) -> None:
    """Print every figure."""
    cases: list[tuple[str, str, Any]] = [
        ("fourier", "typical bench, exposed by slmsuite", fourier),
        ("fourier", "ideal bench, 5 x 4 spots, exposed 300 times too long", lambda: fourier(
            range(40), exposure_s=0.3, preset="ideal", options={"array_shape": (5, 4), "array_pitch": (18, 18)})),
        ("superpixel", "typical bench, superpixels of 32 px", superpixel),
        ("superpixel", "typical bench, superpixels of 64 px", lambda: superpixel(64)),
        ("superpixel", "typical bench, pinhole of 48 um", lambda: superpixel(64, effects="input_stop_px = 12")),
        ("superpixel", "typical bench, a thousandth of the light", lambda: superpixel(64, low_light=True)),
        ("zernike", "typical bench, 0.05 waves and defocus", zernike),
        ("pixel", "typical bench, period 16 px", pixel),
        ("pixel", "typical bench, period 8 px", lambda: pixel(8)),
        ("settle", "rise of 40 ms, latency of 12 ms", settle),
    ]  # fmt: skip
    for kind, what, case in cases:
        if chosen and kind not in chosen:
            continue
        sys.stdout.write(f"\n{kind}: {what}\n")
        try:
            figures = case()
        except CalibrationError as error:
            sys.stdout.write(f"  refused: {error}\n")
            continue
        for name, value in figures.items():
            sys.stdout.write(f"  {name:50} {value:.4g}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
