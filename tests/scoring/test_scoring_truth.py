"""The scoring itself: a perfect record scores zero, a wrong one as much as it is wrong; signs are those of light."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.bench import Bench, open_bench
from labctl.bench.records import CalibrationRecord
from labctl.config.load import parse_bench
from labctl.procedures.exposing import gray, square
from labctl.simulation.world import World

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "results"))

from scoring_truth import Known, score, truth_of

SMALL = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = {{ resolution = [256, 192], pitch_um = 16.0 }}
settle_ms = 150
[input]
driver = "simulated"
options = {{ resolution = [64, 64], pitch_um = 16.0 }}
settle_ms = 5
[camera]
driver = "simulated"
options = {{ resolution = [256, 256], pitch_um = 11.0 }}
exposure_ms = 1.0
[simulation]
preset = "typical"
seed = {seed}
effects = {{ {effects} }}
"""


@pytest.fixture
def small() -> Iterator[Any]:
    opened: list[Bench] = []

    def make(seed: int = 3, effects: str = "") -> Bench:
        opened.append(open_bench(parse_bench(SMALL.format(seed=seed, effects=effects))))
        return opened[-1]

    yield make
    for bench in opened:
        bench.close()


def record(kind: str, **values: Any) -> CalibrationRecord:
    made = {name: np.asarray(value) for name, value in values.items()}
    return CalibrationRecord(kind, "small", made, dict.fromkeys(made, "1"))


def perfect(known: Known) -> dict[str, CalibrationRecord]:
    """A record of every kind as the truth would write it."""
    axes = {axis: np.arange(n) for axis, n in zip("yx", known.geometry.slm.shape, strict=True)}
    panel = {axis: np.arange(0, n, 4) for axis, n in zip("yx", known.illumination.shape, strict=True)}
    uniformity = known.illumination[np.ix_(panel["y"], panel["x"])]
    assert known.response is not None
    made = [
        record("dark", offset=np.full((4, 4), known.offset), read_noise=known.read_noise),
        record("gain", gain=known.gain),
        record("settle", slm_rise=known.rise, slm_settle=known.settle, input_settle=known.input_settle),
        record("input-response", amplitude=known.input_amplitude, contrast=known.contrast, gamma=known.gamma,
               uniformity=uniformity / uniformity.max(), **panel),
        record("registration", input_to_camera=known.input_to_camera, carrier_to_camera=known.carrier_to_camera),
        record("fourier-centre", centre=known.centre),
        record("fourier-plane", scale=known.scale, rotation=known.rotation, defocus=known.defocus),
        record("slm-response", phase=known.phase, stroke=known.stroke, **axes),
        record("crosstalk", fwhm=known.crosstalk),
        record("zero-order", amplitude=(known.zero_order.real, known.zero_order.imag)),
        record("wavefront", phase=known.wavefront, **axes),
        record("pupil", amplitude=known.pupil, **axes),
        record("flat-field", response=known.response),
        record("stability", flicker=known.flicker),
    ]  # fmt: skip
    return {one.kind: one for one in made}


def changed(one: CalibrationRecord, **values: Any) -> CalibrationRecord:
    return record(one.kind, **{**one.values, **values})


def test_a_perfect_record_of_every_kind_scores_zero(small: Any) -> None:
    known = truth_of(small())
    for kind, one in perfect(known).items():
        found = score(one, known)
        assert found, kind
        left = {name: figure for name, figure in found.items() if not name.startswith(("uncorrected", "seen"))}
        assert max(left.values()) < 1e-5, (kind, left)


def test_a_wrong_record_scores_by_as_much_as_it_is_wrong(small: Any) -> None:
    known = truth_of(small())
    made = perfect(known)

    def wrong(kind: str, **values: Any) -> dict[str, float]:
        return score(changed(made[kind], **values), known)

    shifted = known.input_to_camera + np.array([[0, 0, 0.3], [0, 0, 0.4]])
    assert wrong("registration", input_to_camera=shifted)["unsteered (px rms)"] == pytest.approx(0.5)
    assert wrong("fourier-centre", centre=known.centre + np.array([3, 4]))["centre (SLM px)"] == pytest.approx(5)
    found = wrong("fourier-plane", scale=known.scale * 1.01, rotation=known.rotation - np.deg2rad(0.2))
    assert found["scale (%)"] == pytest.approx(1)
    assert found["rotation (deg)"] == pytest.approx(0.2)
    bent = known.phase + 0.1 * np.sign(np.arange(256) - 127.5)
    assert wrong("slm-response", phase=bent)["gray to phase (rad rms)"] == pytest.approx(0.1, rel=0.02)
    assert wrong("crosstalk", fwhm=0.5)["width (SLM px)"] == pytest.approx(0.4)
    assert wrong("settle", slm_settle=1.2 * known.settle)["SLM to 1 % (%)"] == pytest.approx(20)
    turned = known.zero_order * 1j
    assert wrong("zero-order", amplitude=(turned.real, turned.imag))["amplitude (%)"] == pytest.approx(100 * 2**0.5)
    assert wrong("gain", gain=known.gain * 0.9)["gain (%)"] == pytest.approx(10)


def test_how_phase_and_stroke_are_normalised_between_them_plays_no_part(small: Any) -> None:
    known = truth_of(small())
    one = perfect(known)["slm-response"]
    found = score(changed(one, phase=known.phase * 1.25 + 0.7, stroke=known.stroke / 1.25), known)
    assert found["gray to phase (rad rms)"] < 0.02  # the 0.7 is a piston but for the stroke's few per cent


def test_a_wavefronts_piston_tilt_and_whole_turns_do_not_count(small: Any) -> None:
    known = truth_of(small(seed=4, effects="aberration_waves = 0.2"))
    one = perfect(known)["wavefront"]
    rows, columns = known.wavefront.shape
    extra = 1.3 + 0.11 * np.arange(rows)[:, None] - 0.05 * np.arange(columns)[None]
    turns = 2 * np.pi * (np.arange(columns)[None] > 200)
    assert score(changed(one, phase=known.wavefront + extra + turns), known)["residual (waves rms)"] < 1e-4
    coma = 2 * np.pi * 0.05 * np.sin(np.arange(rows) / rows * 4 * np.pi)[:, None] * np.ones(columns)
    assert score(changed(one, phase=known.wavefront + coma), known)["residual (waves rms)"] == pytest.approx(
        0.05 / 2**0.5 * np.sqrt(1 - 6 / (4 * np.pi) ** 2 * 2), rel=0.08
    )
    nothing = score(changed(one, phase=0 * known.wavefront), known)
    assert nothing["residual (waves rms)"] == pytest.approx(nothing["uncorrected (waves rms)"])
    assert nothing["uncorrected (waves rms)"] > 0.1


def test_the_wavefronts_sign_is_that_of_light(small: Any) -> None:
    """Showing the negative of the true wavefront makes a dot sharp; showing it makes it worse."""
    bench = small(seed=5, effects="aberration_waves = 0.25, defocus_waves = 0.2, hot_pixels = 0, full_well_e = 1e7")
    known = truth_of(bench)
    peaks = []
    for sign in (-1, 0, 1):
        pattern = gray(bench.facts, np.mod(sign * known.wavefront, 2 * np.pi).astype(np.float32))
        bench.show(slm=pattern, input=square(bench.facts, 2))
        peaks.append(int(bench.capture(0.5).data.max()))
    assert peaks[0] > 1.2 * peaks[1] > 1.2**2 * peaks[2]


def test_a_frequency_of_the_panels_own_picture_falls_where_scale_rotation_and_centre_say(small: Any) -> None:
    """Against the world's spectrum: a grating on the panel puts its light where the convention of the record says."""
    bench = small(seed=6, effects="fourier_rotation_deg = 3.0, input_rotation_deg = 4.0, fourier_scale = 0.03")
    known, world = truth_of(bench), bench.device("slm").driver._world
    assert isinstance(world, World)
    geometry = known.geometry
    y, x = np.meshgrid(*(np.arange(64) - 31.5,) * 2, indexing="ij")
    for frequency in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.12)):
        window = np.exp(-(y**2 + x**2) / 200)
        wave = window * np.exp(2j * np.pi * (frequency[0] * y + frequency[1] * x))
        spread = world._spreading
        parts = [spread.transform(*spread.spread(part.astype(np.float32), (0, 64, 0, 64))) * spread.factor
                 for part in (wave.real, wave.imag)]  # fmt: skip
        spectrum = np.abs(parts[0] + 1j * parts[1]) ** 2
        rows, columns = np.meshgrid(*(np.arange(n) for n in spectrum.shape), indexing="ij")
        seen = [float((spectrum * axis).sum() / spectrum.sum()) for axis in (rows, columns)]
        step = [geometry.slm.pitch[i] / (geometry.wavelength * geometry.f1) for i in (0, 1)]
        nominal = np.array([f / geometry.input.pitch[i] / step[i] for i, f in enumerate(frequency)])
        c, s = np.cos(known.rotation), np.sin(known.rotation)
        expected = known.centre + known.scale * np.array([[c, s], [-s, c]]) @ nominal
        assert seen == pytest.approx(expected, abs=0.35)
