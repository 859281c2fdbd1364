"""What the devices of a bench and the computers beside it do per second, and draw: each figure with its source.

A figure whose source says "assumption" is one that was found nowhere; read what hangs on it accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from labctl.errors import ModelError
from labctl.optics.geometry import Geometry, Plane, Shape


@dataclass(frozen=True)
class DeviceFigures:
    """What the devices of a 4f bench do per frame, and draw.

    Attributes
    ----------
    name : str
    geometry : Geometry
    input_period_s, input_settle_s : float, s
        Shortest time between two images on the input panel; until one stands.
    slm_settle_s : float, s
        Infinite for a mask that cannot change.
    exposure_s : float, s
    row_s, extra_rows : float, s; int
        Read-out: time per camera row, and rows' worth of overhead.
    overlapped : bool
        Whether a frame is read out while the next one is exposed.
    input_w, slm_w, camera_w, laser_w : float, W
        Electrical power.
    conversion_j : float, J
        To read and convert one camera pixel.
    sources : mapping
        Field -> where its number comes from.
    block : (y, x)
        Panel pixels per image pixel.
    pixels_per_tile : int
        SLM pixels that a tile needs to be faithful.
    frames_per_s : float, optional
        A measured rate, which stands in for the times above.
    """

    name: str
    geometry: Geometry
    input_period_s: float
    input_settle_s: float
    slm_settle_s: float
    exposure_s: float
    row_s: float
    extra_rows: int
    overlapped: bool
    input_w: float
    slm_w: float
    camera_w: float
    laser_w: float
    conversion_j: float
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    block: Shape = (2, 2)
    pixels_per_tile: int = 65536
    frames_per_s: float | None = None

    @property
    def watts(self) -> float:
        """All devices together, W."""
        return self.input_w + self.slm_w + self.camera_w + self.laser_w

    def at_rate(self, frames_per_s: float, name: str | None = None) -> DeviceFigures:
        """The same devices at a measured rate.

        Raises
        ------
        ModelError
            If the rate is not above zero.
        """
        if not (math.isfinite(frames_per_s) and frames_per_s > 0):
            raise ModelError(f"a rate of {frames_per_s:g} frames/s costs for ever: give one above zero")
        sources = dict(self.sources) | {"frames_per_s": "measured"}
        return replace(self, frames_per_s=frames_per_s, name=name or f"{self.name}, measured", sources=sources)

    def unsourced(self) -> list[str]:
        """Numbers that `sources` says nothing of."""
        numbers = [f.name for f in fields(self) if isinstance(getattr(self, f.name), (int, float))]
        return [name for name in [*numbers, "geometry", "block"] if name not in self.sources]


@dataclass(frozen=True)
class DigitalFigures:
    """A computer: MACs per second, joules per MAC, seconds that every call costs besides; and their sources."""

    name: str
    macs_per_s: float
    mac_j: float
    call_s: float
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)


_OTON = (
    "J. Oton et al., Appl. Opt. 48 (2009), https://studylib.net/doc/18095781: a phase LCoS follows at about 130 Hz for "
    "small changes of phase and at 32 Hz for extreme ones; the slower is taken"
)
_GENIE = (
    "Teledyne DALSA Genie Nano manual, M2450 (Sony IMX250, 12 bit), "
    "https://www.easymanua.ls/dalsa/genie-nano-series/manual?p=52: read-out = 8.333 us x (rows + 28), 3.45 um pixels, "
    "2464 x 2056, exposures from 20 us"
)
_BASLER = "about 3 W typical: Basler acA1920-40gm data sheet; 3.7 W for 24 megapixels: https://docs.baslerweb.com"
_DMD = (
    "TI DLP9500, 1920 x 1080: loading all rows 43.2 us, then 4.5 us until the mirrors move and 8 us until they stand, "
    "https://e2e.ti.com/support/dlp-products-group/dlp/f/dlp-products-forum/1075252. Binary: gray amplitudes are "
    "dithered over a block of mirrors (assumption: five levels in 2 x 2 do; no accuracy here was measured so)"
)
_CONVERSION = (
    "assumption: 100 pJ per pixel, read and converted; whole image sensors take more, and hardly less when they run "
    "slower (LiKamWa et al., MobiSys 2013, https://doi.org/10.1145/2462456.2464448)"
)
_TILE = (
    "tests/benchmarks/encoders.py: 16 tiles of 7 x 7 kernels on 1024 x 1024 SLM pixels keep r = 0.996; more to a pixel "
    "was not tried"
)
_LASER = "assumption: a 638 nm diode of 50 mW with its driver and temperature control"
_DESIGN = (
    "a design for this account: panels of 1920 x 1200, f1 = 200 mm, f2 = 100 mm, so that the SLM resolves 13.3 um on "
    "the input plane and the sensor sees half of its orders"
)
_PAIRED = {"pixels_per_tile": _TILE, "conversion_j": _CONVERSION, "laser_w": _LASER, "geometry": _DESIGN}
_UM = 1e-6
_CAMERA = Plane((2056, 2464), (3.45 * _UM, 3.45 * _UM))
_SLM = Plane((1200, 1920), (8 * _UM, 8 * _UM))

LCOS = DeviceFigures(
    name="LCoS panels and a machine-vision camera",
    geometry=Geometry(638e-9, 0.2, 0.1, _SLM, _SLM, _CAMERA),
    input_period_s=1 / 60, input_settle_s=1 / 32, slm_settle_s=1 / 32,
    exposure_s=1e-3, row_s=8.333e-6, extra_rows=28, overlapped=True,
    input_w=6.0, slm_w=6.0, camera_w=3.0, laser_w=2.0, conversion_j=100e-12,
    sources=_PAIRED | {
        "input_period_s": "60 Hz, the video rate that drives such panels (Oton et al. 2009)",
        "input_settle_s": _OTON, "slm_settle_s": _OTON,
        "exposure_s": "the bench file configs/benches/sim-4f.toml", "row_s": _GENIE, "extra_rows": _GENIE,
        "overlapped": "common to global-shutter sensors; labctl reads out so (bench/taking.py)",
        "input_w": "assumption: panel and its driver", "slm_w": "assumption: panel and its driver",
        "camera_w": _BASLER, "block": "configs/benches/sim-4f.toml and procedures/deployment.py",
    },
)  # fmt: skip

DMD = replace(
    LCOS,
    name="DMD input and a high-speed camera",
    geometry=Geometry(638e-9, 0.28, 0.1, _SLM, Plane((1080, 1920), (10.8 * _UM, 10.8 * _UM)), _CAMERA),
    input_period_s=55.7e-6, input_settle_s=12.5e-6, exposure_s=40e-6, row_s=0.5e-6,
    input_w=20.0, camera_w=50.0,
    sources=dict(LCOS.sources) | {
        "geometry": _DESIGN.replace("200", "280").replace("13.3", "18.6") + ", for mirrors of 10.8 um",
        "input_period_s": _DMD, "input_settle_s": _DMD, "block": _DMD,
        "exposure_s": "assumption: what the DMD's period leaves",
        "row_s": "assumption: a high-speed sensor of 0.5 us per row, 2,000 frames/s of 1,000 rows",
        "extra_rows": "assumption: as the slower camera",
        "input_w": "assumption: mirrors and their driver board", "camera_w": "assumption: a high-speed camera",
    },
)  # fmt: skip

MASK = replace(
    LCOS,
    name="fixed mask before the camera, the scene itself as input",
    geometry=replace(LCOS.geometry, coherent=False),
    input_period_s=0.0, input_settle_s=0.0, slm_settle_s=math.inf, exposure_s=10e-3,
    input_w=0.0, slm_w=0.0, laser_w=0.0,
    sources=dict(LCOS.sources) | {
        "input_period_s": "no panel: the scene is there", "input_settle_s": "no panel: the scene is there",
        "slm_settle_s": "a mask does not change: printed or metasurface mask, as in S. Colburn et al., Appl. Opt. 58 "
        "(2019), arXiv:1901.03661",
        "exposure_s": "assumption: daylight or indoor light, behind a mask that spreads it over all tiles",
        "input_w": "no panel", "slm_w": "no panel", "laser_w": "no laser",
    },
)  # fmt: skip
"""No bench that labctl runs: the best case for optics, where only the camera draws power, and electronics would need
one as well."""

DEVICE_PRESETS = {"lcos": LCOS, "dmd": DMD, "mask": MASK}

GPU = DigitalFigures(
    "GPU (NVIDIA H100, FP16)", 989.4e12 / 2, 700 / (989.4e12 / 2), 50e-6,
    {
        "macs_per_s": "989.4 TFLOP/s dense, https://glennklockwood.com/garden/processors/h100; reached by large "
        "batches only",
        "mac_j": "700 W at that rate, same page", "call_s": "assumption: a dozen kernels launched one after the other",
    },
)  # fmt: skip
EDGE = DigitalFigures(
    "edge accelerator (Coral Edge TPU, int8)", 2e12, 2 / 2e12, 1e-3,
    {
        "macs_per_s": "4 TOPS, https://applied-ee.github.io/embedded/docs/edge-ai/hardware-accelerators/coral-edge-tpu",
        "mac_j": "2 W at that rate, same page", "call_s": "assumption: one transfer over USB",
    },
)  # fmt: skip
CPU = DigitalFigures(
    "embedded CPU (Raspberry Pi 4)", 4e9, 6 / 4e9, 0.0,
    {
        "macs_per_s": "8 GFLOP/s in Linpack, double precision, https://feiereisen.net/?page_id=924",
        "mac_j": "assumption: 6 W under load", "call_s": "nothing to be called",
    },
)  # fmt: skip
DIGITAL_PRESETS = {"gpu": GPU, "edge": EDGE, "cpu": CPU}
