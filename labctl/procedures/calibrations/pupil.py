"""Pupil amplitude: how much of the light's amplitude each part of the SLM passes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.errors import CalibrationError
from labctl.procedures.calibrations.common import record
from labctl.procedures.calibrations.pinhole import Carrier
from labctl.procedures.calibrations.speckle import Blocks
from labctl.procedures.calibrations.wavefront import Masks
from labctl.procedures.messages import Publish, Steps


@dataclass(frozen=True)
class Pupil:
    """Amplitude over the SLM, without the spectrum of what lit it, by the fit of `Wavefront` to masks of its own.

    The wavefront is known from before; what is left of it is fitted beside the amplitude.

    Attributes
    ----------
    masks, carrier, blocks, seed
        As `Masks`.
    """

    masks: int = 10
    carrier: Carrier = (0.2, -0.13)
    blocks: int = 64
    seed: int = 1

    needs: ClassVar[tuple[str, ...]] = ("registration", "wavefront")
    uses: ClassVar[tuple[str, ...]] = ("dark", "gain", "fourier-centre")
    max_age_h: ClassVar[float] = 24 * 30.0
    limits: ClassVar[Mapping[str, float]] = {"residual": 0.3}

    @property
    def name(self) -> str:
        return "pupil"

    @property
    def _masks(self) -> Masks:
        return Masks(self.masks, self.carrier, self.blocks, self.seed)

    def exposures(self, facts: BenchFacts) -> int:
        return self._masks.exposures()

    def steps(self, facts: BenchFacts) -> Steps[CalibrationRecord]:
        before = facts.calibration("wavefront")
        blocks = Blocks.of(facts, self.blocks)
        middle = facts.geometry.slm.centre
        axes = (before["y"], before["x"])
        y, x = (np.clip(b + m, a[0], a[-1]) for b, m, a in zip((blocks.y, blocks.x), middle, axes, strict=True))
        known = RegularGridInterpolator(axes, before["phase"].astype(float))(
            np.stack(np.meshgrid(y, x, indexing="ij"), -1)
        )
        blocks, solved, residual = yield from self._masks.solved(facts, self.name, known)
        if residual > self.limits["residual"]:
            raise CalibrationError(
                f"{self.name}: masks that were not fitted miss by {residual:.2f} of their light (limit "
                f"{self.limits['residual']}): calibrate the wavefront again"
            )
        yield Publish("pupil, least amplitude", float(solved.amplitude.min()))
        return record(
            self.name,
            facts,
            {
                "amplitude": (solved.amplitude.astype(np.float32), "1 (without the source's spectrum)"),
                "y": (blocks.y + middle[0], "SLM px"),
                "x": (blocks.x + middle[1], "SLM px"),
            },
            quality={"residual": residual},
        )

    def picture(self, record: CalibrationRecord) -> NDArray[np.float32]:
        """The amplitude over the SLM [row, column]."""
        return np.asarray(record["amplitude"], np.float32)
