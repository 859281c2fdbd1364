"""What a bundle asks of a bench, and whether a bench has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from labctl.learning.bundle import Bundle
from labctl.learning.readout import ReadoutSection
from labctl.optics.detection import Detection
from labctl.optics.geometry import Geometry, Pair
from labctl.optics.tiles import most_tiles

BLOCK = (2, 2)
"""Panel pixels per image pixel, (y, x), unless asked otherwise."""
MARGIN: Pair = (30.0, 30.0)
"""Camera pixels left free at the camera's edges, as a deployment does."""


@dataclass(frozen=True)
class Requirements:
    """What a trained student asks of a bench, whatever the bench's wavelength and lenses.

    Attributes
    ----------
    model : str
    detection : Detection
    channels, maps : int
        Of the image; that are read.
    image, kernel : (y, x), pixels
    spectral_pool : int
        Middle part of the spectrum that its masks keep, as a divisor; 1 is all of it.
    readout : ReadoutSection
        The camera and panel that it was trained to be read with.
    """

    model: str
    detection: Detection
    channels: int
    maps: int
    image: tuple[int, int]
    kernel: tuple[int, int]
    spectral_pool: int
    readout: ReadoutSection

    @property
    def tiles(self) -> int:
        """Tiles of all maps of one input channel."""
        return self.maps * self.detection.tiles_per_map

    @property
    def coherent(self) -> bool:
        """Whether it needs coherent light; else it needs incoherent light."""
        return self.detection.coherent

    def frames(self, tiles_per_frame: int) -> int:
        """Patterns for all maps of one channel, on a bench that holds so many tiles; 0 where not even a map fits."""
        whole = tiles_per_frame // self.detection.tiles_per_map
        return -(-self.maps // whole) if whole else 0

    def captures(self, tiles_per_frame: int) -> int:
        """Frames of the camera per image, on a bench that holds so many tiles in one; 0 where not even a map fits."""
        return self.channels * self.frames(tiles_per_frame)

    def lines(self) -> list[str]:
        """For people: what it needs, a line each."""
        light = "coherent" if self.coherent else "incoherent"
        (y, x), half = self.image, max(self.detection.tiles_per_map, self.tiles // 2)
        trained = [
            f"{name.replace('_', ' ')} {value:g}"
            for name in ("electrons", "read_noise", "bits", "pitch", "contrast")
            if (value := getattr(self.readout, name)) not in (None, 0)
        ]
        panel = f"{y * BLOCK[0]} x {x * BLOCK[1]} pixels of the input panel, for images of {y} x {x}"
        each = f" for each of {self.channels} input channels" if self.channels > 1 else ""
        tiles = (
            f"{self.tiles} tiles of {self.kernel[0]} x {self.kernel[1]} kernels{each}; captures per image: "
            f"{self.captures(self.tiles)} if a frame holds them all, {self.captures(half)} if it holds {half}"
        )
        camera = "trained for " + (", ".join(trained) if trained else "an ideal camera")
        return [f"{light} light, {self.detection.value} detection", panel, tiles, camera]


@dataclass(frozen=True)
class Misfit:
    """Why a bundle does not fit a bench. One that `prevents` makes deploying impossible, others cost accuracy."""

    text: str
    prevents: bool = True


def requirements(bundle: Bundle) -> Requirements:
    """What a bundle asks of a bench."""
    front = bundle.student.front
    readout = getattr(bundle.recipe, "readout", None)
    return Requirements(
        model=bundle.name,
        detection=front.detection,
        channels=front.in_channels,
        maps=front.maps,
        image=front.image,
        kernel=(front.kernel, front.kernel),
        spectral_pool=front.spectral_pool,
        readout=readout if isinstance(readout, ReadoutSection) else ReadoutSection(),
    )


def coherence_misfit(detection: Detection, bench: str, coherent: bool) -> str:
    """The refusal of a model whose detection needs another kind of light."""
    needs, has = ("coherent" if yes else "incoherent" for yes in (detection.coherent, coherent))
    wanted = "paired or intensity" if coherent else "incoherent"
    return (
        f"{detection.value} detection needs {needs} light, bench '{bench}' has {has} light: "
        f"use a model trained for {wanted} detection, or another bench"
    )


def tiles_per_frame(needs: Requirements, geometry: Geometry) -> int:
    """Tiles of this model that fit in one frame of a bench; 0 where the image does not fit its panel."""
    if any(needs.image[i] * BLOCK[i] > geometry.input.shape[i] for i in (0, 1)):
        return 0
    return most_tiles(geometry, image=needs.image, kernel=needs.kernel, block=BLOCK, margin=MARGIN)


def fits(
    needs: Requirements,
    geometry: Geometry,
    *,
    bench: str,
    camera_bits: int,
    full_well: float = math.nan,
) -> list[Misfit]:
    """Why a bundle does not fit a bench; none where it does.

    Parameters
    ----------
    needs : Requirements
    geometry : Geometry
        Of the bench, as its file and devices say.
    bench : str
        Its name, for the messages.
    camera_bits : int
    full_well : float, electrons
        That a camera pixel holds at full scale; NaN where it was not measured.
    """
    found, trained = [], needs.readout
    if needs.coherent is not geometry.coherent:
        found.append(Misfit(f"model '{needs.model}': {coherence_misfit(needs.detection, bench, geometry.coherent)}"))
    if needs.spectral_pool > 1:
        found.append(
            Misfit(
                f"model '{needs.model}' pools its spectrum by {needs.spectral_pool}: such masks are not compiled for a "
                "bench so far"
            )
        )
    wanted = [needs.image[i] * BLOCK[i] for i in (0, 1)]
    if any(wanted[i] > geometry.input.shape[i] for i in (0, 1)):
        have = geometry.input.shape
        found.append(
            Misfit(
                f"model '{needs.model}' shows images of {wanted[0]} x {wanted[1]} panel pixels, the input panel of "
                f"bench '{bench}' has {have[0]} x {have[1]}: use a larger panel, or a model trained on smaller images"
            )
        )
    elif (held := tiles_per_frame(needs, geometry)) < needs.detection.tiles_per_map:
        found.append(
            Misfit(
                f"model '{needs.model}' needs {needs.detection.tiles_per_map} tiles in one frame for a single map, "
                f"bench '{bench}' holds {held} of {needs.image[0]} x {needs.image[1]} pixels: use an SLM of finer "
                "pitch, a larger camera, or smaller images"
            )
        )
    if trained.bits is not None and camera_bits < trained.bits:
        found.append(
            Misfit(
                f"model '{needs.model}' was trained for a camera of {trained.bits} bits, that of bench '{bench}' has "
                f"{camera_bits}",
                prevents=False,
            )
        )
    if trained.electrons is not None and trained.electrons > full_well * min(trained.exposure, 1.0) * 1.1:
        found.append(
            Misfit(
                f"model '{needs.model}' was trained for {trained.electrons:.0f} electrons in the brightest pixel, the "
                f"camera of bench '{bench}' holds {full_well:.0f}",
                prevents=False,
            )
        )
    pitch = min(
        BLOCK[i] * geometry.input.pitch[i] * geometry.f2 / geometry.f1 / geometry.camera.pitch[i] for i in (0, 1)
    )
    if trained.pitch is not None and pitch < 0.9 * trained.pitch:
        found.append(
            Misfit(
                f"model '{needs.model}' was trained for {trained.pitch:g} camera pixels per image pixel, bench "
                f"'{bench}' has {pitch:.2f}",
                prevents=False,
            )
        )
    return found
