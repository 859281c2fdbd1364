"""Registration and Fourier plane on a small bench: near the truth, honest about it, and refused where they must be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from labctl.bench import Bench, opening
from labctl.bench.records import CalibrationRecord
from labctl.config.load import load_bench
from labctl.errors import CalibrationError
from labctl.optics.zernike import zernike
from labctl.procedures.calibrations import Dark, FourierCentre, Registration, charuco
from labctl.procedures.calibrations.fourier_plane import FourierPlane, nominal_spectrum, spectrum_by_registration
from labctl.procedures.calibrations.hartmann import Patches, lattices
from labctl.procedures.calibrations.mapping import fit_mapping, orientation, to_camera
from labctl.runs.engine import Engine
from labctl.simulation.transforms import camera_to_metres, rotation
from labctl.simulation.world import World

BENCH = Path(__file__).resolve().parents[2] / "configs" / "benches" / "sim-4f.toml"


class Lab:
    """A bench whose SLM has 256 coarse pixels, and the world behind it, at which only scoring looks."""

    def __init__(self, bench: Bench, world: World) -> None:
        self.bench, self.world, self.engine = bench, world, Engine(bench)
        self.records: dict[str, CalibrationRecord] = {}

    def run(self, *procedures: Any) -> CalibrationRecord:
        for procedure in procedures:
            record = self.engine.run(procedure)
            self.records[record.kind] = record
            self.bench.with_calibrations({record.kind: record})
        return record

    @property
    def turn(self) -> NDArray[np.float64]:
        """Panel to SLM."""
        truth = self.world._truth
        return np.asarray(
            truth.input_scale / truth.fourier_scale * rotation(truth.input_rotation - truth.fourier_rotation)
        )

    @property
    def input_to_camera(self) -> NDArray[np.float64]:
        geometry, truth = self.bench.facts.geometry, self.world._truth
        metres = camera_to_metres(geometry, truth)
        back = np.linalg.inv(metres[:, :2])
        linear = -geometry.f2 / geometry.f1 * self.turn @ np.diag(geometry.input.pitch)
        start = linear @ (np.asarray(truth.input_shift) - geometry.input.centre)
        return np.column_stack([back @ linear, back @ (start - metres[:, 2])])

    @property
    def carrier_to_camera(self) -> NDArray[np.float64]:
        geometry = self.bench.facts.geometry
        back = np.linalg.inv(camera_to_metres(geometry, self.world._truth)[:, :2])
        return np.asarray(back @ np.diag(geometry.field_of_view))

    @property
    def fourier_centre(self) -> NDArray[np.float64]:
        return np.asarray(self.bench.facts.geometry.slm.centre) + self.world._truth.fourier_shift

    def misses(self, registration: CalibrationRecord, carrier: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
        """Where an image's pixels are said to be, less where they are [pixel, (row, column)], camera px."""
        middle = np.asarray(self.bench.facts.geometry.input.centre)
        axis = np.linspace(-28, 28, 5)
        points = middle + np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        wrong = registration["input_to_camera"] - self.input_to_camera
        steer = registration["carrier_to_camera"] - self.carrier_to_camera
        return np.asarray(points @ wrong[:, :2].T + wrong[:, 2] + steer @ np.asarray(carrier))


Open = Callable[..., Lab]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    opened: list[Bench] = []
    worlds: list[World] = []
    make_world = opening._world

    def remember(*args: Any) -> Any:
        worlds.append(make_world(*args))
        return worlds[-1]

    monkeypatch.setattr(opening, "_world", remember)

    def make(preset: str = "typical", seed: int = 1, **effects: Any) -> Lab:
        config = load_bench(BENCH)
        simulation = config.simulation.model_copy(update={"preset": preset, "seed": seed, "effects": effects})  # type: ignore[union-attr]
        slm = config.slm.model_copy(update={"options": {"resolution": [256, 256], "pitch_um": 16.0}})
        sensor = config.camera.model_copy(update={"options": {**config.camera.options, "resolution": [512, 512]}})
        opened.append(
            opening.open_bench(config.model_copy(update={"simulation": simulation, "slm": slm, "camera": sensor}))
        )
        return Lab(opened[-1], worlds[-1])

    yield make
    for bench in opened:
        bench.close()


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((np.asarray(values) ** 2).sum(-1).mean()))


def test_registration_and_fourier_plane_are_near_the_truth_and_honest(lab: Open) -> None:
    """Over seeds, errors divided by stated uncertainties are of the order of 1."""
    ratios: dict[str, list[float]] = {"place": [], "spectrum": [], "centre": [], "defocus": []}
    for seed in (1, 2):
        made = lab("typical", seed)
        found = made.run(Dark(), Registration())
        place, tile = made.misses(found), made.misses(found, (0.3, 0.3))
        assert rms(place) < 0.25  # twice as coarse a spot as on the bench that the bar is for
        assert rms(tile) < 0.3
        sigma = found.uncertainties["input_to_camera"][:, 2]
        ratios["place"] += list(place.mean(0) / sigma)
        plane = made.run(FourierCentre(), FourierPlane())
        true = np.linalg.inv(made.turn).T
        assert float(plane["scale"]) == pytest.approx(np.sqrt(np.linalg.det(true)), abs=1e-3)
        assert float(plane["rotation"]) == pytest.approx(np.arctan2(true[0, 1], true[0, 0]), abs=1e-3)
        assert not bool(plane["mirrored"])
        assert plane["centre"] == pytest.approx(made.fourier_centre, abs=0.4)
        assert float(plane["defocus"]) == pytest.approx(float(made.world._truth.zernikes[4]), abs=0.02)
        wrong = plane["matrix"] - true @ nominal_spectrum(made.bench.facts)
        ratios["spectrum"] += list((wrong / plane.uncertainties["matrix"]).ravel())
        ratios["centre"] += list((plane["centre"] - made.fourier_centre) / plane.uncertainties["centre"])
        ratios["defocus"].append(
            float((plane["defocus"] - made.world._truth.zernikes[4]) / plane.uncertainties["defocus"])
        )
        for calibration, record in ((Registration(), found), (FourierPlane(), plane)):
            assert np.isfinite(calibration.picture(record)).all()
            assert all(record.quality[name] <= limit for name, limit in calibration.limits.items())
    for name, values in ratios.items():
        assert 0.3 < np.sqrt(np.mean(np.square(values))) < 3, (name, values)


@pytest.mark.parametrize(("turn", "mirror"), [(90, False), (0, True), (270, True)])
def test_any_turn_or_mirror_of_the_camera_is_found(lab: Open, turn: int, mirror: bool) -> None:
    made = lab("typical", 4, camera_turn_deg=turn, camera_mirror=mirror)
    found = made.run(Registration())
    assert rms(made.misses(found, (0.2, -0.3))) < 0.3
    seen = orientation(found["input_to_camera"][:, :2], made.bench.facts.geometry)
    assert seen.mirrored == mirror
    # only the camera is mirrored: the panel's spectrum lies on the SLM as ever
    assert np.linalg.det(spectrum_by_registration(found)) > 0


def test_aberrations_do_not_pull_the_registration(lab: Open) -> None:
    """Coma moves where dots are seen by more than the registration is wrong."""
    made = lab("ideal", 1, aberration_waves=0.1)
    found = made.run(Registration())
    assert np.hypot(*found["pulled"]) > 0.15
    assert rms(made.misses(found)) < 0.1 < np.hypot(*found["pulled"])


def test_a_board_of_codes_settles_orientation_on_a_large_panel(lab: Open) -> None:
    made = lab("ideal", 1, camera_turn_deg=90)
    found = made.run(Registration(span_px=200))
    assert rms(made.misses(found)) < 0.15
    with pytest.raises(CalibrationError, match=r"a ChArUco board needs 120 lit panel pixels, and span_px is 80"):
        made.run(Registration(target="charuco"))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_board_is_read_whichever_way_the_camera_sees_it(lab: Open, mirrored: bool) -> None:
    facts = lab("ideal").bench.facts
    shown, corners = charuco.board(facts, 160)
    turn = np.deg2rad(35)
    linear = 1.3 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirrored:
        linear = linear @ np.diag([1.0, -1.0])
    start = np.array([256, 256]) - linear @ facts.geometry.input.centre
    affine = np.column_stack([linear, start])[::-1][:, [1, 0, 2]]
    picture = cv2.warpAffine(shown.astype(np.float32), affine, (512, 512), flags=cv2.INTER_AREA)
    numbers, seen = charuco.find(cv2.GaussianBlur(picture, (0, 0), 0.8), 160)
    assert len(numbers) >= 12
    assert np.hypot(*(seen - corners[numbers] @ linear.T - start).T).max() < 0.3


def test_no_dot_or_a_wrong_size_is_refused(lab: Open) -> None:
    made = lab("typical", 2, flux_e_per_s=1.0)
    made.run(Dark())
    with pytest.raises(CalibrationError, match=r"too little light.*laser is on"):
        made.run(Registration())
    nominal = made.bench.facts.geometry.nominal_input_to_camera()[:, :2]
    with pytest.raises(CalibrationError, match=r"2\.00 by 2\.00 times as large as the bench file's"):
        orientation(2 * nominal, made.bench.facts.geometry)
    picture = np.zeros((200, 200), np.float32)
    picture[50:53, 50:53], picture[150:153, 150:153] = 100, 90
    with pytest.raises(CalibrationError, match="which way the camera is turned would be a guess"):
        Registration()._alone(picture, (51, 51))


def test_distortion_is_fitted_where_it_is_and_left_out_where_it_is_not() -> None:
    axis = np.linspace(-30, 30, 7)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) + 100.0
    centre, affine = np.array([100.0, 100.0]), np.array([[-1.1, 0.02, 300.0], [0.01, -1.1, 310.0]])
    noise = 0.02 * np.random.default_rng(0).standard_normal(points.shape)
    plain = points @ affine[:, :2].T + affine[:, 2]
    assert fit_mapping(points, plain + noise, centre, 30.0).distortion is None
    unit = (points - centre) / 30
    bent = centre + 30 * unit * (1 + unit @ np.array([0.01, -0.004]) + 0.006 * (unit**2).sum(1))[:, None]
    seen = bent @ affine[:, :2].T + affine[:, 2]
    found = fit_mapping(points, seen + noise, centre, 30.0)
    assert found.distortion == pytest.approx([0.01, -0.004, 0.006], abs=1e-3)
    record = CalibrationRecord(
        "registration", "b",
        {"input_to_camera": found.affine, "distortion": found.distortion, "distortion_span": np.asarray(found.span),
         "distortion_centre": found.centre}, {},
    )  # fmt: skip
    assert np.abs(to_camera(record, points) - seen).max() < 0.03


def test_mean_slopes_of_patches_are_those_of_the_polynomials() -> None:
    patches = Patches.tiling((64, 64), 4)
    found = patches.slopes([4, 8], (64, 64))
    y, x = ((np.arange(64) - 31.5)[:, None] / 32 * np.ones((1, 64)), np.ones((64, 1)) * (np.arange(64) - 31.5) / 32)
    for k, j in enumerate((4, 8)):
        surface = zernike(j, y, x)
        for n, (r0, r1, c0, c1) in enumerate(patches.boxes):
            inner = surface[r0:r1, c0:c1]
            assert found[n, 0, k] == pytest.approx(np.diff(inner, axis=0).mean(), abs=5e-3)
            assert found[n, 1, k] == pytest.approx(np.diff(inner, axis=1).mean(), abs=5e-3)


def test_spots_keep_apart_from_other_orders_or_are_refused(lab: Open) -> None:
    facts = lab("ideal").bench.facts
    steer, origin = facts.geometry.nominal_carrier_to_camera(), np.asarray(facts.geometry.camera.centre)
    (carriers,) = lattices(facts, steer, origin, 25, 12.0, sets=1)
    for order in (0, -1, 2):
        others = (carriers * order)[:, None] - carriers[None]
        assert (np.hypot(*np.moveaxis(others, -1, 0)) * 543).min() > 12
    with pytest.raises(CalibrationError, match="too small for the spots"):
        lattices(facts, steer, origin, 400, 12.0)


def test_a_fourier_plane_that_contradicts_the_registration_is_refused(lab: Open) -> None:
    made = lab("typical", 1)
    registration = made.run(Dark(), Registration())
    made.run(FourierCentre())
    wrong = registration["carrier_to_camera"] * 1.05  # as a wrong pitch would have it
    made.bench.with_calibrations(
        {"registration": replace(registration, values={**registration.values, "carrier_to_camera": wrong})}
    )
    with pytest.raises(CalibrationError, match=r"Fourier plane: .*"):
        made.run(FourierPlane())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("preset", "mean", "worst"), [("typical", 0.15, 0.3), ("nasty", 0.3, 0.6)])
def test_the_bar_on_the_bench_of_the_example(scored: Any, preset: str, mean: float, worst: float) -> None:
    """Five seeds of the full-size bench."""
    unsteered, tiles = [], []
    for seed in range(1, 6):
        made = scored(preset, seed)
        view = Lab(made.bench, made.world)
        found = view.run(Dark(), Registration())
        unsteered.append(rms(view.misses(found)))
        places = [(y, x) for y in (-0.35, -0.1, 0.1, 0.35) for x in (0.1, 0.25, 0.4)]
        tiles.append(float(np.sqrt(np.mean([rms(view.misses(found, c)) ** 2 for c in places]))))
        made.bench.close()
    for name, values in (("unsteered", unsteered), ("in the tiles", tiles)):
        assert np.mean(values) < mean, (preset, name, values)
        assert max(values) < worst, (preset, name, values)
