"""Corrected deployment: with what calibrations know of a bench, tiles come out as the digital maps say."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labctl.bench import Bench, open_bench
from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.config.load import parse_bench
from labctl.errors import CalibrationError
from labctl.optics.detection import Detection, expected_tiles
from labctl.optics.fidelity import pearson
from labctl.procedures.deployment import Deployment, Reader, compile_deployment, show_image
from labctl.procedures.exposing import expose_well
from labctl.procedures.messages import Exposure, Measure, Steps
from labctl.runs.engine import Engine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "results"))

from scoring_truth import truth_of

BENCH = """
[bench]
name = "small"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [256, 256], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [64, 64], pitch_um = 16.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [512, 512], pitch_um = 5.5 }
exposure_ms = 1.0
[simulation]
preset = "typical"
seed = 5
[simulation.effects]
input_stop_px = 48.0
aberration_waves = 0.2
slm_lut = 0.4
input_contrast = 100.0
ghost = 0.0
fringes = 0.0
"""


def known_of(bench: Bench) -> dict[str, CalibrationRecord]:
    """What perfect calibrations would say of the bench."""
    known = truth_of(bench)
    axes = {axis: np.arange(n) for axis, n in zip("yx", known.geometry.slm.shape, strict=True)}
    panel = {axis: np.arange(n) for axis, n in zip("yx", known.illumination.shape, strict=True)}
    # aberrations tilt the wavefront over the whole panel: to a camera that is a shift, and a registration finds it so
    rows, columns = np.indices(known.wavefront.shape)
    plane = np.stack([np.ones(rows.size), rows.ravel(), columns.ravel()], axis=1)
    tilt = np.linalg.lstsq(plane, known.wavefront.ravel(), rcond=None)[0][1:]
    seen = known.input_to_camera.copy()
    seen[:, 2] += known.carrier_to_camera @ (tilt / (2 * np.pi))
    values: dict[str, dict[str, Any]] = {
        "input-response": {
            "amplitude": known.input_amplitude, "uniformity": known.illumination / known.illumination.max(), **panel,
        },
        "registration": {
            "input_to_camera": seen, "carrier_to_camera": known.carrier_to_camera,
        },
        "fourier-centre": {"centre": known.centre},
        "slm-response": {"phase": known.phase, "stroke": known.stroke, **axes},
        "crosstalk": {"fwhm": known.crosstalk},
        "zero-order": {"amplitude": (known.zero_order.real, known.zero_order.imag)},
        "wavefront": {"phase": known.wavefront, **axes},
        "pupil": {"amplitude": known.pupil, **axes},
    }  # fmt: skip
    return {
        kind: CalibrationRecord(kind, "small", {n: np.asarray(v) for n, v in one.items()}, dict.fromkeys(one, "1"))
        for kind, one in values.items()
    }


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    opened = open_bench(parse_bench(BENCH))
    opened.with_calibrations(known_of(opened))
    yield opened
    opened.close()


def compiled(bench: Bench, corrected: bool, signed: bool = True) -> Deployment:
    torch.manual_seed(1)
    kernels = torch.randn(2, 1, 3, 3) if signed else torch.rand(2, 1, 3, 3)
    return compile_deployment(
        kernels, bench.facts, image=(9, 9), detection=Detection.PAIRED, corrected=corrected, margin_px=8
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """Show some images by a deployment and read them."""

    deployment: Deployment
    images: torch.Tensor

    name = "read"

    def exposures(self, facts: BenchFacts) -> int:
        return len(self.images)

    def steps(self, facts: BenchFacts) -> Steps[tuple[torch.Tensor, torch.Tensor]]:
        """Pearson r of each tile, and relative error of the maps."""
        deployment = self.deployment
        shown = [show_image(image, facts, deployment) for image in self.images]
        exposure = yield from expose_well(facts, deployment.pattern, shown[:2], target=0.7, quantile=0.9999)
        frames = yield Measure([Exposure(deployment.pattern, one, exposure) for one in shown])
        reader = Reader(deployment, facts)
        intensity = torch.stack([reader.intensity(frame) for frame in frames])
        expected = expected_tiles(self.images[:, None], deployment.kernels, deployment.detection)
        reader = reader.fit(intensity, expected)
        maps = reader.maps_of(intensity)
        positive, negative = expected.chunk(2, dim=1)
        error = (maps - (positive - negative)).square().mean().sqrt() / (positive - negative).square().mean().sqrt()
        return pearson(intensity.clamp(min=0).sqrt(), expected).mean(0), error


def pictures() -> torch.Tensor:
    torch.manual_seed(2)
    coarse = torch.rand(4, 1, 3, 3)
    made = torch.nn.functional.interpolate(coarse, size=(9, 9), mode="bicubic").clamp(0, 1)[:, 0]
    made[:, 2:5, 3:7] *= torch.rand(4, 1, 1)
    return made


def test_tiles_of_an_imperfect_bench_come_out_as_the_digital_maps_say(bench: Bench) -> None:
    engine = Engine(bench)
    plain_r, plain_error = engine.run(Read(compiled(bench, False), pictures()))
    made = compiled(bench, True)
    r, error = engine.run(Read(made, pictures()))
    assert made.correction is not None
    assert made.correction.match[1] > 0.99 > made.correction.match[0], "the descent did what the encoder could not"
    assert r.nanmean() > 0.97 and 1 - r.nanmean() < 0.6 * (1 - plain_r.nanmean())
    assert error < 0.6 * plain_error


def test_what_black_adds_is_taken_off_again(bench: Bench) -> None:
    made = compiled(bench, True)
    assert made.correction is not None and made.correction.black > 0.05
    dark = torch.zeros(9, 9)
    shown = show_image(dark, bench.facts, made)
    corner = made.corner
    inside = shown[corner[0] : corner[0] + 18, corner[1] : corner[1] + 18]
    delivered = made.correction.amplitude[inside] * made.correction.shade.repeat(2, 0).repeat(2, 1)
    assert np.allclose(delivered, made.correction.black, atol=0.01), "black is the same all over the image"
    tiles = (made.correction.black / (made.correction.white - made.correction.black)) * made.kernels.sum((-2, -1))
    reader = Reader(made, bench.facts, gain=1.0)
    read = (tiles / made.scale).square()[:, None, None].expand(-1, 9, 9)
    assert torch.allclose(reader.maps_of(read), torch.zeros(2, 9, 9), atol=1e-5)


def test_a_deployment_is_corrected_where_the_bench_has_a_twin_and_hashes_tell_it_apart(bench: Bench) -> None:
    assert compile_deployment(
        torch.ones(1, 1, 3, 3), bench.facts, image=(9, 9), margin_px=8
    ).correction is None, "no twin record"  # fmt: skip
    plain, made = compiled(bench, False), compiled(bench, True)
    assert plain.digest != made.digest == compiled(bench, True).digest


def test_an_image_that_the_panel_hardly_lights_is_refused(bench: Bench) -> None:
    records = dict(bench.facts.calibrations)
    values = dict(records["input-response"].values)
    y, x = np.indices(values["uniformity"].shape)
    values["uniformity"] = np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 60.0)
    records["input-response"] = CalibrationRecord("input-response", "small", values, dict.fromkeys(values, "1"))
    facts = dataclasses.replace(bench.facts, calibrations=records)
    with pytest.raises(CalibrationError, match="darkest corner"):
        compile_deployment(torch.ones(1, 1, 3, 3), facts, image=(15, 15), corrected=True, margin_px=8)
