"""Reading maps with a camera, differentiably: what stands between ideal tiles and what software makes of them.

A student that is trained through `read` knows the price of light: shot and read noise, one exposure for all tiles of a
frame, the converter's steps, camera pixels of finite size, a panel that is never quite black. All of it acts on tiles
of the size of the image, not on frames of the camera, so a training step stays cheap; what the optics do besides
(aberrations, misalignment, zero order) is the twin's and the bench's business.

In units of the brightest place of a frame, ``x = I / level``, a tile of intensity I is read as::

    x' = round(clip(blur(x) + noise)),  noise variance = g (x / electrons + (read_noise / electrons)^2)

where g is the part of a camera pixel's noise that is left in an image pixel. Software undoes the level and the mask's
scale, which it knows, and makes maps of the tiles as `labctl.optics.detection.maps_from_intensity` does.

Two consequences are worth knowing. Under `paired` detection the noise of a map is the same wherever both tiles have
more than a few electrons: half an electron^0.5 of each tile (the square root of a Poisson variable has variance 1/4).
And a dim tile that shares its frame with a bright one is read with the bright one's exposure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn.functional import conv2d, pad

from labctl.errors import ModelError
from labctl.learning.photons import noisy, root
from labctl.learning.student import DIRECT_UP_TO
from labctl.optics.detection import Detection
from labctl.optics.sampling import blur_weights, noise_left

FOR_EXPOSURE = 12
"""Images on which the exposure is found, as on the bench."""
CHUNK = 16
"""Images whose tiles are read at a time: more would leave the processor's cache."""
FLOOR = 0.25
"""Electrons below which the slope of the square root grows no further: it is infinite at zero."""


class ReadoutSection(BaseModel):
    """[readout]: the camera and panel that the student is trained to be read with. By default all is ideal.

    electrons : photo-electrons in a camera pixel at the brightest place of a frame; absent: light without noise.
    read_noise : electrons rms. bits : of the converter; absent: no rounding. exposure : brightest place of a frame over
    the camera's full scale; above 1 it saturates. pitch : camera pixels per image pixel, along one axis; absent: a
    camera pixel that sees the centre of an image pixel alone. tiles : in one frame; absent: all of an input channel;
    with fewer, an image takes more captures. masks : how strong a tile's mask is shown. "equal": all with the same rms,
    as a deployment does; "passive": each as strong as a mask can be that only takes light away, ``max |m| = 1``;
    "as-is": in proportion to the kernels, so that weak ones get little light. efficiency : relative standard deviation
    of the light of each tile of each image, which software does not know of. contrast : intensity of the panel's white
    over its black; absent: black is dark. every_tile : noise in each tile even where a map's noise alone would do, see
    `read`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    electrons: Annotated[float, Field(gt=0)] | None = None
    read_noise: Annotated[float, Field(ge=0)] = 0.0
    bits: Annotated[int, Field(ge=1, le=16)] | None = None
    exposure: Annotated[float, Field(gt=0, le=100)] = 0.75
    pitch: Annotated[float, Field(ge=0.1, le=100)] | None = None
    tiles: Annotated[int, Field(ge=1)] | None = None
    masks: Literal["equal", "passive", "as-is"] = "equal"
    efficiency: Annotated[float, Field(ge=0, le=1)] = 0.0
    contrast: Annotated[float, Field(gt=1)] | None = None
    every_tile: bool = False

    @model_validator(mode="after")
    def _noise_needs_light(self) -> ReadoutSection:
        if self.read_noise and self.electrons is None:
            raise ValueError("readout.read_noise needs readout.electrons, the light that it is compared with")
        return self

    @property
    def active(self) -> bool:
        """Whether anything is less than ideal; `tiles` and `masks` alone share out light that has no noise."""
        maps = self.electrons is not None or self.pitch is not None or self.contrast is not None
        return maps or self.by_tile

    @property
    def by_tile(self) -> bool:
        """Whether tiles are read one by one."""
        return self.bits is not None or self.exposure > 1 or self.efficiency > 0 or self.every_tile

    def maps_per_frame(self, maps: int, detection: Detection) -> int:
        """Maps whose tiles are in one frame; both tiles of a signed map always share one.

        Raises
        ------
        ModelError
            If not even one map fits.
        """
        if self.tiles is None:
            return maps
        if self.tiles < detection.tiles_per_map:
            raise ModelError(
                f"readout.tiles is {self.tiles}, a map under {detection.value} detection takes "
                f"{detection.tiles_per_map}"
            )
        return min(maps, self.tiles // detection.tiles_per_map)

    def captures(self, maps: int, channels: int, detection: Detection) -> int:
        """Frames per image."""
        return channels * -(-maps // self.maps_per_frame(maps, detection))


def ideal(
    images: Float[Tensor, "n channels y x"], kernels: Float[Tensor, "maps channels ky kx"], detection: Detection
) -> Float[Tensor, "n maps y x"]:
    """What an ideal camera reads: ``conv2d`` summed over channels, or under `intensity` the sum of the squares."""
    if detection.linear:
        return _summed(_same(images, kernels), kernels)
    amplitude = _convolved(_same(images, kernels), kernels.transpose(0, 1))
    return amplitude.square().sum(1)


def exposure_levels(
    images: Float[Tensor, "n channels y x"],
    kernels: Float[Tensor, "maps channels ky kx"],
    detection: Detection,
    section: ReadoutSection,
) -> Float[Tensor, "channels frames"]:
    """Intensity at the brightest place of each frame over these images, which sets its exposure; for `read`.

    An exposure is found, not trained: no gradient flows, except that stronger kernels as a whole are no brighter.
    """
    bank = _bank(kernels, detection)
    scale = _scale(bank, detection, section)
    with torch.no_grad():
        brightest = _intensity(images, kernels, bank, scale, detection, section).amax((0, -2, -1))
        frames = _frame_of(len(kernels), detection, section)
        own = [[tile for tile, frame in enumerate(frames) if frame == wanted] for wanted in range(max(frames) + 1)]
        levels = torch.stack([brightest[:, tiles].amax(1) for tiles in own], dim=1).clamp(min=1e-12)
    if section.masks == "as-is":
        power = kernels.abs().sum() if detection is Detection.INCOHERENT else kernels.square().sum()
        levels = levels * (power / power.detach().clamp(min=1e-30))
    return levels


def read(
    images: Float[Tensor, "n channels y x"],
    kernels: Float[Tensor, "maps channels ky kx"],
    detection: Detection,
    section: ReadoutSection,
    *,
    levels: Float[Tensor, "channels frames"] | None = None,
) -> Float[Tensor, "n maps y x"]:
    """Maps as software reads them from a camera; differentiable in images and kernels, rounding straight through.

    With light, read noise, pitch and contrast alone, the noise of all tiles that make a map is drawn as one: exact for
    `intensity` and `incoherent` detection; for `paired`, where a tile has a few electrons or fewer, its noise is taken
    as that of more, and the blur as one of amplitudes. Anything else in the section (`by_tile`) reads every tile,
    which takes several times as long.

    Parameters
    ----------
    images : float tensor [n, channels, y, x]
        From 0 to 1.
    kernels : float tensor [maps, channels, ky, kx]
        Signed, in ``conv2d``'s convention.
    detection : Detection
    section : ReadoutSection
    levels : float tensor [channels, frames], optional
        Of `exposure_levels`, for exposures that do not depend on which images are read together; default: those of
        the first `FOR_EXPOSURE` of these images.

    Returns
    -------
    float tensor [n, maps, y, x]
        In the units of `ideal`, and equal to it when nothing in the section is less than ideal. Noise is drawn from
        torch's global generator.
    """
    if not section.active:
        return ideal(images, kernels, detection)
    if levels is None:
        levels = exposure_levels(images[:FOR_EXPOSURE], kernels, detection, section)
    level = levels[:, _frame_of(len(kernels), detection, section)]
    bank = _bank(kernels, detection)
    scale = _scale(bank, detection, section)
    if not section.by_tile:
        return _by_map(images, kernels, bank, level * scale.square(), detection, section)
    chunks = []
    for some in images.split(CHUNK):
        x = _intensity(some, kernels, bank, scale * level.sqrt(), detection, section)
        chunks.append(_maps(_measured(x, section), level.sqrt() * scale, detection, section))
    return torch.cat(chunks)


def _by_map(
    images: Tensor,
    kernels: Tensor,
    bank: Tensor,
    power: Float[Tensor, "channels tiles"],
    detection: Detection,
    section: ReadoutSection,
) -> Tensor:
    """Maps with the noise of all their tiles drawn as one; `power` is a tile's digital intensity at its brightest."""
    maps, padded = len(kernels), _shown(images, kernels, detection, section)
    left = 1.0 if section.pitch is None else noise_left(section.pitch)
    light = left / section.electrons if section.electrons is not None else 0.0
    dark = light * section.read_noise**2 / section.electrons if section.electrons is not None else 0.0
    floor = FLOOR * light / section.electrons if section.electrons is not None else 1e-12
    lit = power * (bank.detach().abs().amax((-2, -1)) > 0)

    def of_maps(tiles: Tensor) -> Tensor:
        """Sum of [channels, tiles, ...] over channels and the two tiles of a map."""
        return tiles.sum(0).unflatten(0, (detection.tiles_per_map, maps)).sum(0)

    if detection is Detection.PAIRED:
        found = _blurred(_summed(padded, kernels), section)
        if not light:
            return found
        return found + torch.randn_like(found) * (light / 4 * of_maps(lit)).sqrt()[:, None, None]
    if detection is Detection.INTENSITY:
        squares = _convolved(padded, bank).square()
        found = _blurred(squares.sum(1), section)
        if not light:
            return found
        shot = _blurred((squares * (light * power)[..., None, None]).sum(1), section)
    else:
        weighted = _summed_tiles(bank * (light * power)[..., None, None], maps)
        both = _blurred(_summed(padded, torch.cat([kernels, weighted])), section)
        found, shot = both.chunk(2, dim=1)
        if not light:
            return found
    variance = shot + dark * of_maps(lit.square())[:, None, None]
    drawn = found + torch.randn_like(found) * root(variance, floor * float(power.detach().square().mean()))
    return drawn if detection.linear else drawn.clamp(min=0)


def _summed_tiles(bank: Float[Tensor, "channels tiles ky kx"], maps: int) -> Float[Tensor, "maps channels ky kx"]:
    """Kernels of both tiles of each map, summed, in ``conv2d``'s order."""
    return bank.unflatten(1, (2, maps)).sum(1).transpose(0, 1)


def _measured(x: Tensor, section: ReadoutSection) -> Tensor:
    """Relative intensities [n, channels, tiles, y, x], with a rim for the blur, as the camera gives them."""
    if section.efficiency:
        x = x * (1 + section.efficiency * torch.randn_like(x[..., :1, :1])).clamp(min=0)
    x = _blurred(x, section)
    left = 1.0 if section.pitch is None else noise_left(section.pitch)
    if section.electrons is not None:
        light = left / section.electrons
        dark = light * section.read_noise**2 / section.electrons
        x = noisy(x, light, dark, FLOOR * light / section.electrons)
    x = x.clamp(max=1 / section.exposure)
    if section.bits is not None:
        # the mean of several camera pixels has finer steps than each of them
        step = left**0.5 / (section.exposure * (2**section.bits - 1))
        x = x + ((x / step).round_().mul_(step) - x).detach()
    return x


def _maps(
    x: Tensor, scale: Float[Tensor, "channels tiles"], detection: Detection, section: ReadoutSection
) -> Float[Tensor, "n maps y x"]:
    """Maps of relative intensities, summed over channels; `scale` is digital amplitude at the brightest place."""
    if detection is Detection.INTENSITY:
        return (x.clamp(min=0) * scale.square()[..., None, None]).sum(1)
    if detection is Detection.PAIRED:
        x = root(x, FLOOR / section.electrons if section.electrons is not None else 1e-8)
        tiles = x * scale[..., None, None]
    else:
        tiles = x * scale.square()[..., None, None]
    positive, negative = tiles.sum(1).chunk(2, dim=1)
    return positive - negative


def _bank(kernels: Tensor, detection: Detection) -> Float[Tensor, "channels tiles ky kx"]:
    """What tiles convolve with: kernels, or their positive and negative parts."""
    bank = kernels.transpose(0, 1)
    if detection is Detection.INTENSITY:
        return bank
    return torch.cat([bank.clamp(min=0), (-bank).clamp(min=0)], dim=1)


def _scale(
    bank: Float[Tensor, "channels tiles ky kx"], detection: Detection, section: ReadoutSection
) -> Float[Tensor, "channels tiles"]:
    """What each tile's mask is divided by; 1 for a tile that is dark because its kernel is zero."""
    if section.masks == "as-is":
        return bank.new_ones(bank.shape[:2])
    incoherent = detection is Detection.INCOHERENT
    if section.masks == "equal":  # Parseval: the mask's rms is the norm of the amplitude kernel
        power = bank.sum((-2, -1)) if incoherent else bank.square().sum((-2, -1))
        return torch.where(power > 0, power, 1.0).sqrt()
    if detection is Detection.INTENSITY:  # a signed kernel's mask is not largest at frequency zero
        peak = torch.fft.rfft2(bank, s=[4 * max(bank.shape[-2:])] * 2).abs().amax((-2, -1))
    else:
        peak = (root(bank, 1e-4) if incoherent else bank).sum((-2, -1))
    return torch.where(peak > 0, peak, 1.0)


def _shown(images: Tensor, kernels: Tensor, detection: Detection, section: ReadoutSection) -> Tensor:
    """What the panel shows (amplitude; intensity if incoherent), padded for "same" convolution and blur."""
    rim = 0 if section.pitch is None else len(blur_weights(section.pitch)) // 2
    if section.contrast is None:
        return _same(images, kernels, rim)
    black = 1 / section.contrast
    if detection.coherent:
        return _same((black + (1 - black) * images.square()).sqrt(), kernels, rim, black**0.5)
    return _same(black + (1 - black) * images, kernels, rim, black)


def _intensity(
    images: Tensor, kernels: Tensor, bank: Tensor, scale: Tensor, detection: Detection, section: ReadoutSection
) -> Float[Tensor, "n channels tiles y x"]:
    """Intensity of the tiles over `scale` squared, with a rim for the blur."""
    padded = _shown(images, kernels, detection, section)
    if detection.coherent:
        return _convolved(padded, bank / scale[..., None, None]).square()
    return _convolved(padded, bank / scale.square()[..., None, None])


def _same(images: Tensor, kernels: Tensor, rim: int = 0, value: float = 0.0) -> Tensor:
    """Images padded for a "same" convolution that is `rim` pixels larger on each side."""
    ky, kx = kernels.shape[-2:]
    return pad(images, ((kx - 1) // 2 + rim, kx // 2 + rim, (ky - 1) // 2 + rim, ky // 2 + rim), value=value)


def _summed(padded: Float[Tensor, "n channels y x"], kernels: Float[Tensor, "maps channels ky kx"]) -> Tensor:
    """``conv2d`` without padding, by the faster of two ways."""
    if max(kernels.shape[-2:]) <= DIRECT_UP_TO:
        return conv2d(padded, kernels)
    return _spectral("ncyx,mcyx->nmyx", padded, kernels)


def _convolved(
    padded: Float[Tensor, "n channels y x"], bank: Float[Tensor, "channels tiles ky kx"]
) -> Float[Tensor, "n channels tiles y x"]:
    """Each channel with each of its tiles' kernels, without padding."""
    channels, tiles, ky, kx = bank.shape
    if max(ky, kx) <= DIRECT_UP_TO:
        flat = conv2d(padded, bank.reshape(channels * tiles, 1, ky, kx), groups=channels)
        return flat.unflatten(1, (channels, tiles))
    return _spectral("ncyx,ctyx->nctyx", padded, bank)


def _spectral(product: str, padded: Tensor, kernels: Tensor) -> Tensor:
    size = padded.shape[-2:]
    spectrum, masks = torch.fft.rfft2(padded), torch.fft.rfft2(kernels, s=size).conj()
    found = torch.fft.irfft2(torch.einsum(product, spectrum, masks), s=size)
    ky, kx = kernels.shape[-2:]
    return found[..., : size[0] - ky + 1, : size[1] - kx + 1]


def _frame_of(maps: int, detection: Detection, section: ReadoutSection) -> list[int]:
    """The frame that each tile of a channel is in."""
    return [n // section.maps_per_frame(maps, detection) for n in range(maps)] * detection.tiles_per_map


def _blurred(x: Float[Tensor, "*batch y x"], section: ReadoutSection) -> Float[Tensor, "*batch y x"]:
    """Blurred along both axes by camera pixels of finite size, the rim cut away."""
    if section.pitch is None:
        return x
    weights = blur_weights(section.pitch)
    rows, columns = (_band(weights, size).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


@lru_cache(maxsize=64)
def _band(weights: tuple[float, ...], size: int) -> Tensor:
    """The matrix [size - rim, size] that averages neighbours with these weights: faster than a small convolution."""
    band = torch.zeros(size - len(weights) + 1, size)
    for offset, weight in enumerate(weights):
        band.diagonal(offset).fill_(weight)
    return band
