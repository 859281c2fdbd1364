"""Reading maps with a camera: nothing when all is ideal, noise as light has it, slopes that are true."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import conv2d

from labctl.errors import ModelError
from labctl.learning.photons import root
from labctl.learning.readout import ReadoutSection, exposure_levels, ideal, read
from labctl.optics.detection import Detection
from labctl.optics.sampling import blur_weights, noise_left

DETECTIONS = list(Detection)
LIGHT = ReadoutSection(electrons=4000)
TILES = ReadoutSection(electrons=4000, every_tile=True)


def images(n: int = 3, channels: int = 1, y: int = 9, x: int = 12) -> torch.Tensor:
    return torch.rand(n, channels, y, x, generator=torch.Generator().manual_seed(1))


def bank(maps: int = 4, channels: int = 1, size: int = 5) -> torch.Tensor:
    return torch.randn(maps, channels, size, size, generator=torch.Generator().manual_seed(2))


def flat(level: float, n: int = 40, side: int = 32) -> torch.Tensor:
    return torch.full((n, 1, side, side), level)


def points(*weights: float) -> torch.Tensor:
    """Kernels of one pixel: maps are images times a weight."""
    return torch.tensor(weights).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_ideal_camera_changes_nothing(detection: Detection, channels: int) -> None:
    a, k = images(channels=channels), bank(channels=channels)
    want = conv2d(a, k, padding=2)
    if detection is Detection.INTENSITY:
        want = sum((conv2d(a[:, c : c + 1], k[:, c : c + 1], padding=2) ** 2 for c in range(channels)), torch.zeros(()))
    else:
        assert torch.equal(read(a, k, detection, ReadoutSection(tiles=4, masks="passive")), want)
    assert torch.allclose(read(a, k, detection, ReadoutSection()), want, atol=1e-5)
    # tile by tile, but with nothing that disturbs
    assert torch.allclose(read(a, k, detection, ReadoutSection(every_tile=True)), want, atol=1e-4)


@pytest.mark.parametrize("detection", DETECTIONS)
def test_large_kernels_take_the_spectral_path_to_the_same_maps(detection: Detection) -> None:
    a, k = images(channels=2, y=20, x=17), bank(channels=2, size=13)
    amplitude = torch.stack([conv2d(a[:, c : c + 1], k[:, c : c + 1], padding=6) for c in range(2)])
    want = amplitude.sum(0) if detection.linear else amplitude.square().sum(0)
    assert torch.allclose(ideal(a, k, detection), want, atol=1e-3)
    assert torch.allclose(read(a, k, detection, ReadoutSection(every_tile=True)), want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("section", [LIGHT, TILES])
@pytest.mark.parametrize("level", [0.3, 1.0])
def test_noise_of_a_paired_map_is_half_an_electron_root_of_each_tile(section: ReadoutSection, level: float) -> None:
    """The same at every signal: the square root of a Poisson variable has variance 1/4."""
    a, k = flat(level), torch.tensor([[[[1.0, -1.0, 0.0]]]])
    levels = torch.ones(1, 1)
    got = read(a, k, Detection.PAIRED, section, levels=levels)[..., 2:-2]
    assert float(got.mean()) == pytest.approx(0, abs=1e-3)
    assert float(got.std()) == pytest.approx(math.sqrt(2 * 0.25 / 4000), rel=0.03)


@pytest.mark.parametrize("section", [LIGHT, TILES])
def test_shot_noise_of_intensities(section: ReadoutSection) -> None:
    """Variance is the number of electrons: of the one tile of a square, of both tiles of an incoherent difference."""
    a, levels = flat(0.5), torch.ones(1, 1)
    square = read(a, points(1.0), Detection.INTENSITY, section, levels=levels)
    assert float(square.mean()) == pytest.approx(0.25, rel=1e-3)
    assert float(square.std()) == pytest.approx(math.sqrt(0.25 / 4000), rel=0.03)
    signed = torch.tensor([[[[1.0, -1.0, 0.0]]]])
    difference = read(a, signed, Detection.INCOHERENT, section, levels=levels)[..., 2:-2]
    assert float(difference.mean()) == pytest.approx(0, abs=1e-3)
    assert float(difference.std()) == pytest.approx(math.sqrt(2 * 0.5 / 4000), rel=0.03)


@pytest.mark.parametrize("detection", DETECTIONS)
def test_noise_of_maps_agrees_with_noise_of_tiles(detection: Detection) -> None:
    """The cheap way against the way it stands for: where there is light, the same spread about the same mean."""
    a, k = (0.3 + 0.7 * images(1, 3, 12, 12)).repeat(300, 1, 1, 1), bank(2, 3)
    section = ReadoutSection(electrons=20_000, read_noise=2.5)
    levels = exposure_levels(a[:1], k, detection, section)
    cheap, tiles = (
        read(a, k, detection, chosen, levels=levels)
        for chosen in (section, section.model_copy(update={"every_tile": True}))
    )
    assert torch.allclose(cheap.mean(0), tiles.mean(0), atol=6 * float(tiles.std(0).max()) / math.sqrt(300))
    assert float((cheap.std(0) / tiles.std(0)).mean()) == pytest.approx(1, abs=0.03)
    one = ideal(a[:1], k, detection)
    assert float((tiles.mean(0) - one[0]).abs().mean() / one.abs().mean()) < 0.01


def test_read_noise_adds_to_shot_noise() -> None:
    section = ReadoutSection(electrons=100, read_noise=5)
    got = read(flat(0.5), points(1.0), Detection.INTENSITY, section, levels=torch.ones(1, 1))
    assert float(got.std()) == pytest.approx(math.sqrt(25 + 25) / 100, rel=0.03)


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize("masks", ["equal", "passive", "as-is"])
def test_stronger_kernels_are_read_no_better(detection: Detection, masks: str) -> None:
    """The exposure follows: all kernels times 3 are all maps times 3 (squares: 9), noise included; slopes agree."""
    section = ReadoutSection.model_validate({"electrons": 500, "masks": masks})
    a, k = images(channels=2), bank(channels=2)
    gain = torch.tensor(1.0, requires_grad=True)
    torch.manual_seed(5)
    one = read(a, k * gain, detection, section)
    torch.manual_seed(5)
    three = read(a, k * 3, detection, section)
    power = 2 if detection is Detection.INTENSITY else 1
    assert torch.allclose(three, one * 3**power, rtol=1e-3, atol=1e-3)
    one.sum().backward()
    assert gain.grad is not None
    assert float(gain.grad) == pytest.approx(power * float(one.detach().sum()), rel=1e-3)


def test_a_dim_tile_pays_for_a_bright_one_in_its_frame() -> None:
    """Masks as they are: a map ten times weaker is read with a hundredth of the light, unless it has its own frame."""
    k = points(1.0, 0.1)
    shared, alone = (
        ReadoutSection(electrons=4000, masks="as-is"),
        ReadoutSection(electrons=4000, masks="as-is", tiles=2),
    )
    a = flat(1.0)
    noise = [float(read(a, k, Detection.PAIRED, section)[:, 1].std()) for section in (shared, alone)]
    assert noise[0] / noise[1] == pytest.approx(10, rel=0.05)
    assert (shared.captures(2, 3, Detection.PAIRED), alone.captures(2, 3, Detection.PAIRED)) == (3, 6)


def test_masks_that_only_take_light_away_cost_a_spread_kernel_nothing() -> None:
    """A box passes all light at frequency zero; a point passes as much, spread over nothing: both reach |m| = 1."""
    k = torch.zeros(2, 1, 5, 5)
    k[0] = 0.2
    k[1, 0, 2, 2] = 4.0
    section = ReadoutSection(electrons=4000, masks="passive")
    inner = flat(1.0)
    levels = exposure_levels(inner, k, Detection.INTENSITY, section)
    assert float(levels) == pytest.approx(1.0, rel=1e-4)


def test_rounding_is_uniform_and_saturation_is_flat() -> None:
    ramp = torch.linspace(0, 1, 4096).reshape(1, 1, 64, 64)
    levels = torch.ones(1, 1)
    coarse = ReadoutSection(bits=5, exposure=1.0)
    error = read(ramp.sqrt(), points(1.0), Detection.INTENSITY, coarse, levels=levels) - ramp
    assert float(error.std()) == pytest.approx(1 / 31 / math.sqrt(12), rel=0.02)
    over = read(ramp.sqrt(), points(1.0), Detection.INTENSITY, ReadoutSection(exposure=2.0), levels=levels)
    assert float(over.max()) == pytest.approx(0.5)
    assert torch.allclose(over[ramp < 0.5], ramp[ramp < 0.5], atol=1e-5)


def test_camera_pixels_blur_and_average() -> None:
    """Many small pixels: no blur but the reader's own, and little noise; larger ones: more of both."""
    assert sum(blur_weights(3.0)) == pytest.approx(1)
    middle = [blur_weights(pitch)[len(blur_weights(pitch)) // 2] for pitch in (0.5, 1.0, 2.0, 50.0)]
    assert middle == sorted(middle)
    # the mean of 1 - 2.5 t^2 + 1.5 t^3 within a quarter of a pixel
    assert middle[-1] == pytest.approx(1 - 2.5 / 48 + 1.5 / 256, abs=0.005)
    # linear between two camera pixels, per axis: at one of them 1, half way 1/2, on average 2/3
    assert noise_left(0.01) == pytest.approx((2 / 3) ** 2, rel=0.02)
    assert noise_left(20.0) == pytest.approx(1 / 100, rel=0.1)
    section = ReadoutSection(electrons=4000, pitch=2.0)
    got = read(flat(0.5), points(1.0), Detection.INTENSITY, section, levels=torch.ones(1, 1))[..., 3:-3, 3:-3]
    assert float(got.mean()) == pytest.approx(0.25, rel=2e-3)
    assert float(got.std()) == pytest.approx(math.sqrt(noise_left(2.0) * 0.25 / 4000), rel=0.15)  # neighbours mix


@pytest.mark.parametrize("detection", DETECTIONS)
def test_a_panel_that_is_never_black_lifts_the_dark(detection: Detection) -> None:
    section = ReadoutSection(contrast=100)
    dark = read(flat(0.0, 1), points(1.0), detection, section)
    want = {Detection.PAIRED: 0.1, Detection.INTENSITY: 0.01, Detection.INCOHERENT: 0.01}[detection]
    assert torch.allclose(dark, torch.full_like(dark, want), atol=1e-6)
    assert torch.allclose(read(flat(1.0, 1), points(1.0), detection, section), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize("detection", DETECTIONS)
@pytest.mark.parametrize(
    "section",
    [
        ReadoutSection(electrons=300, read_noise=2, contrast=50),
        ReadoutSection(electrons=300, pitch=1.5),
        ReadoutSection(electrons=3000, read_noise=2, every_tile=True, pitch=2.0),
        ReadoutSection(electrons=3000, masks="passive", efficiency=0.1),
    ],
)
def test_slopes_are_those_of_the_function(detection: Detection, section: ReadoutSection) -> None:
    """Against differences, with the same draw of noise on both sides, through the mask's scale as well."""
    a, start = 0.3 + 0.7 * images(1, 2).double(), bank(2, 2, 3).double()
    towards = bank(2, 2, 3).double().roll(1, 0)
    levels = exposure_levels(a, start, detection, section)
    weights = torch.randn(1, 2, 9, 12, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def value(step: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return (read(a, start + step * towards, detection, section, levels=levels) * weights).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(step), step)
    d = torch.tensor(1e-5, dtype=torch.float64)
    assert float(slope) == pytest.approx(float((value(d) - value(-d)) / (2 * d)), rel=0.02, abs=1e-3)


def test_rounding_lets_slopes_through_and_dark_tiles_give_finite_ones() -> None:
    k = bank().requires_grad_()
    everything = ReadoutSection(electrons=50, read_noise=3, bits=6, pitch=0.8, efficiency=0.05, contrast=200, tiles=4)
    for detection in DETECTIONS:
        for a in (images(), torch.zeros(2, 1, 9, 12)):
            k.grad = None
            read(a, k, detection, everything).sum().backward()
            assert k.grad is not None
            assert bool(torch.isfinite(k.grad).all())
            assert a.sum() == 0 or float(k.grad.abs().sum()) > 0


def test_the_square_root_is_exact_and_its_slope_bounded() -> None:
    x = torch.tensor([-1.0, 0.0, 0.01, 4.0], requires_grad=True)
    y = root(x, 0.25)
    y.sum().backward()
    assert y.tolist() == pytest.approx([0, 0, 0.1, 2])
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0, 0, 1, 0.25])


def test_noise_comes_from_the_global_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return read(images(), bank(), Detection.PAIRED, LIGHT)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"readout\.read_noise needs readout\.electrons"):
        ReadoutSection(read_noise=2)
    with pytest.raises(ModelError, match=r"readout\.tiles is 1, a map under paired detection takes 2"):
        ReadoutSection(tiles=1).captures(8, 1, Detection.PAIRED)
    assert ReadoutSection(tiles=1).captures(8, 1, Detection.INTENSITY) == 8
