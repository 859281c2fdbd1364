"""What a bundle asks of a bench, and the reasons for which one does not have it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from labctl.learning.bundle import load_bundle
from labctl.learning.fits import Requirements, fits, requirements, tiles_per_frame
from labctl.learning.readout import ReadoutSection
from labctl.optics.detection import Detection
from labctl.optics.geometry import Geometry, Plane

MODEL = Path(__file__).parents[2] / "models" / "fashion-mnist-sclc"
BENCH = Geometry(
    638e-9, 0.1, 0.075, Plane((1024, 1024), (8e-6,) * 2), Plane((256, 256), (8e-6,) * 2),
    Plane((1024, 1024), (5.5e-6,) * 2),
)  # fmt: skip
COLOUR = Requirements("colour", Detection.PAIRED, 3, 16, (32, 32), (7, 7), 1, ReadoutSection())


def reasons(needs: Requirements, geometry: Geometry = BENCH, bits: int = 12, well: float = 10_000) -> list[str]:
    return [misfit.text for misfit in fits(needs, geometry, bench="b", camera_bits=bits, full_well=well)]


def test_a_bundle_says_what_it_needs() -> None:
    needs = requirements(load_bundle(MODEL))
    assert (needs.detection, needs.channels, needs.maps, needs.tiles) == (Detection.PAIRED, 1, 8, 16)
    assert (needs.image, needs.kernel) == ((28, 28), (7, 7))
    assert reasons(needs) == []
    assert (
        "16 tiles of 7 x 7 kernels; captures per image: 1 if a frame holds them all, 2 if it holds 8" in needs.lines()
    )


def test_captures_per_image_follow_from_the_tiles_of_a_frame() -> None:
    assert [COLOUR.captures(tiles) for tiles in (100, 32, 31, 16, 2, 1)] == [3, 3, 6, 6, 48, 0]
    squares = dataclasses.replace(COLOUR, detection=Detection.INTENSITY)
    assert [squares.captures(tiles) for tiles in (16, 8, 1)] == [3, 6, 48]
    assert 2 <= tiles_per_frame(COLOUR, BENCH) < 32


def test_each_reason_is_named_with_what_to_do() -> None:
    incoherent = dataclasses.replace(BENCH, coherent=False)
    (text,) = reasons(COLOUR, incoherent)
    assert text.startswith("model 'colour': paired detection needs coherent light, bench 'b' has incoherent light: use")
    assert text.endswith("a model trained for incoherent detection, or another bench")
    large = dataclasses.replace(COLOUR, image=(96, 200))
    (text,) = reasons(large)
    assert "images of 192 x 400 panel pixels, the input panel of bench 'b' has 256 x 256: use a larger panel" in text
    assert tiles_per_frame(large, BENCH) == 0
    small = dataclasses.replace(BENCH, camera=Plane((200, 200), (5.5e-6,) * 2))
    (text,) = reasons(COLOUR, small)
    assert "needs 2 tiles in one frame for a single map, bench 'b' holds" in text
    (text,) = reasons(dataclasses.replace(COLOUR, spectral_pool=2))
    assert "pools its spectrum by 2" in text


def test_a_camera_poorer_than_the_one_trained_for_costs_but_does_not_prevent() -> None:
    readout = ReadoutSection(electrons=20_000, bits=12, pitch=3)
    found = fits(
        dataclasses.replace(COLOUR, readout=readout), BENCH, bench="b", camera_bits=8, full_well=10_000
    )  # fmt: skip
    assert [misfit.prevents for misfit in found] == [False] * 3
    for misfit, words in zip(
        found,
        ("of 12 bits, that of bench 'b' has 8", "20000 electrons", "3 camera pixels per image pixel"),
        strict=True,
    ):
        assert words in misfit.text
    assert (
        fits(dataclasses.replace(COLOUR, readout=ReadoutSection(electrons=5000)), BENCH, bench="b", camera_bits=8) == []
    ), "a full well that nobody measured is no reason"


@pytest.mark.parametrize("detection", list(Detection))
def test_light_must_be_of_the_kind_that_detection_needs(detection: Detection) -> None:
    needs = dataclasses.replace(COLOUR, detection=detection)
    for coherent in (True, False):
        found = reasons(needs, dataclasses.replace(BENCH, coherent=coherent))
        assert (found == []) == (coherent == (detection is not Detection.INCOHERENT))
