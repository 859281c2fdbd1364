"""A whole model on a bench: one pattern for each input channel, and for each part of a bank too large for one frame.

Channels are shown one after the other, each with a pattern of its own, and their maps are summed in electronics. The
engine orders exposures by pattern, so the slow SLM changes once per pattern and batch of images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from labctl.bench.facts import BenchFacts
from labctl.errors import ModelError
from labctl.learning.bundle import Bundle
from labctl.learning.fits import Misfit, Requirements, fits, requirements, tiles_per_frame
from labctl.optics.detection import Detection
from labctl.optics.encoders import EncoderSpec
from labctl.optics.fidelity import Fidelity, encoder_fidelity
from labctl.optics.tiles import most_tiles
from labctl.procedures.deployment import MARGIN_PX, Deployment, compile_deployment


def misfits(bundle: Bundle, facts: BenchFacts) -> list[Misfit]:
    """Why a bundle does not fit a bench: see `labctl.learning.fits.fits`."""
    gain = facts.calibrations.get("gain")
    full_well = float(gain["gain"]) * (2**facts.camera_bitdepth - 1) if gain is not None else math.nan
    return fits(
        requirements(bundle), facts.geometry, bench=facts.name, camera_bits=facts.camera_bitdepth, full_well=full_well
    )


def check_fit(bundle: Bundle, facts: BenchFacts) -> list[str]:
    """What deploying a bundle on this bench will cost; a line each.

    Raises
    ------
    ModelError
        If it cannot be deployed; says all that keeps it from it.
    """
    found = misfits(bundle, facts)
    if against := [misfit.text for misfit in found if misfit.prevents]:
        raise ModelError("; ".join(against))
    return [misfit.text for misfit in found]


def patterns_needed(needs: Requirements, facts: BenchFacts) -> int:
    """Patterns that show a whole model, which is also captures per image; 1 where it does not fit at all."""
    return max(1, needs.captures(tiles_per_frame(needs, facts.geometry)))


def compile_model(
    kernels: Float[Tensor, "maps channels ky kx"],
    facts: BenchFacts,
    *,
    image: tuple[int, int],
    detection: Detection = Detection.PAIRED,
    encoder: EncoderSpec | None = None,
    block: tuple[int, int] = (2, 2),
    calibrated: bool = True,
    corrected: bool | None = None,
    tiles: int | None = None,
) -> tuple[Deployment, ...]:
    """Compile a model's kernels into as many patterns as they take.

    Parameters
    ----------
    kernels : float tensor [maps, channels, ky, kx]
        Signed kernels in ``conv2d``'s convention.
    image, block : (y, x)
    corrected : bool, optional
        See `compile_deployment`.
    tiles : int, optional
        At most so many tiles in a pattern; default: as many as the bench holds.

    Returns
    -------
    tuple of Deployment
        By channel, then by map; the maps of a channel are shared out evenly.

    Raises
    ------
    ModelError, CalibrationError
        As `compile_deployment`.
    """
    maps, channels = kernels.shape[:2]
    each = detection.tiles_per_map
    held = most_tiles(
        facts.geometry, image=image, kernel=(kernels.shape[-2], kernels.shape[-1]), block=block,
        margin=(MARGIN_PX, MARGIN_PX),
    )  # fmt: skip
    whole = max(1, min(held, tiles or held) // each)  # where not even one fits, compiling says so
    frames = -(-maps // whole)
    edges = [n * maps // frames for n in range(frames + 1)]
    return tuple(
        compile_deployment(
            kernels[first:end, channel : channel + 1], facts, image=image, detection=detection, encoder=encoder,
            block=block, calibrated=calibrated, corrected=corrected, channel=channel, first=first,
        )
        for channel in range(channels)
        for first, end in pairwise(edges)
    )  # fmt: skip


def fidelity_of(
    deployments: Sequence[Deployment], images: Float[Tensor, "n channels y x"], facts: BenchFacts
) -> Fidelity | None:
    """What the encoder is worth on an ideal bench, over all patterns; None in incoherent light, where it is unknown."""
    if not facts.geometry.coherent:
        return None
    found = [
        encoder_fidelity(
            images[:, part.channel, None], part.kernels, part.layout, facts.geometry, part.encoder,
            levels=facts.slm_levels,
        )
        for part in deployments
    ]  # fmt: skip
    return Fidelity(
        per_tile=tuple(r for one in found for r in one.per_tile),
        mean=sum(one.mean for one in found) / len(found),
        worst=min(one.worst for one in found),
        efficiency=sum(one.efficiency for one in found) / len(found),
    )


def digest_of(deployments: Sequence[Deployment]) -> str:
    """One hash for a model's deployments: the deployment's own if there is one."""
    if len(deployments) == 1:
        return deployments[0].digest
    return hashlib.sha256(" ".join(part.digest for part in deployments).encode()).hexdigest()
