"""Latency and energy per image: the optical student on a bench, and the same answers by electronics alone.

Captures. A camera sees intensity, so a map takes `Detection.tiles_per_map` tiles T1; channels are shown one after the
other. With `maps` M, channels c and N tiles to a frame::

    tiles    T = M T1                      of one channel
    captures C = c ceil(T / N)             of one image
    patterns P = 1 where all c T tiles fit one frame (or the channels share theirs), else C

N follows from the geometry (`labctl.optics.tiles.arrange`) and from the SLM's pixels that a tile was seen to need.

Time. One capture takes, with the panel's period T_in and settling t_in, exposure t_e and read-out
t_r = row time (rows + overhead)::

    t_c = max(T_in, t_in + t_e, t_r)       where a frame is read out while the next one is exposed
    t_c = max(T_in, t_in + t_e + t_r)      elsewhere;  1 / f on a bench that was measured at f frames/s

Where P > 1, every change of the SLM waits t_s - t_in longer; a batch of B images shown to one pattern shares it::

    time per image = max(C t_c + (P / B) max(0, t_s - t_in), t_d)     t_d: the electronics' time
    latency        = C t_c + P max(0, t_s - t_in) + t_r + t_d         of one image alone, P = 0 where nothing changes

Energy. Two figures, because they answer two questions::

    at the plug    = (W_in + W_slm + W_camera + W_laser) (C t_c + (P / B) max(0, t_s - t_in)) + e_mac (MACs left)
    converters     = C e_conversion pixels + e_mac (MACs left)

The first is what a bench draws. The second leaves out every watt that the devices draw whether or not they work: a
bound on what an integrated instrument could reach, and no instrument that can be bought. Light is not in it: a full
well of 10,000 electrons at 638 nm, 10 % of diffraction, 60 % of quantum and 30 % of wall-plug efficiency takes
1e4 h c / 638 nm / 0.018 = 0.17 pJ per pixel, which is lost beside its conversion.

Digital. time = call + MACs / rate, energy = e_mac MACs, at the device's stated rate and power: memory traffic is in
the device's power, and small networks reach less than the stated rate, so that these figures favour electronics.

The numbers, and where they come from, are in `labctl.learning.figures`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from labctl.errors import ModelError
from labctl.learning.figures import DeviceFigures, DigitalFigures
from labctl.optics.detection import Detection
from labctl.optics.geometry import Shape
from labctl.optics.tiles import Layout, arrange


@dataclass(frozen=True)
class Plan:
    """How an image is captured; all counts are per image, `rows` and `pixels` per capture."""

    tiles: int
    tiles_per_frame: int
    captures: int
    patterns: int
    rows: int
    pixels: int


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes
    ----------
    latency_s : float
        Of one image alone.
    period_s : float
        Per image, when images follow one another.
    energy_j : float
        At the plug.
    converters_j : float
        Conversion and arithmetic alone.
    """

    latency_s: float
    period_s: float
    energy_j: float
    converters_j: float


@dataclass(frozen=True)
class BreakEven:
    """Frames per second from which the bench beats a digital rival; infinite where no rate does.

    Attributes
    ----------
    energy_fps : float
        At the plug, with the power that the devices draw.
    speed_fps : float
        In time per image.
    converters_pay : bool
        Whether conversion and the MACs left take less energy than the rival's MACs: if not, no bench ever pays.
    """

    energy_fps: float
    speed_fps: float
    converters_pay: bool


def layout_for(figures: DeviceFigures, image: Shape, kernel: Shape, tiles: int) -> Layout:
    """As many tiles of `tiles` as one frame of these devices holds, arranged.

    Raises
    ------
    ModelError
        If not even one fits; says why.
    """
    most = max(1, figures.geometry.slm.shape[0] * figures.geometry.slm.shape[1] // figures.pixels_per_tile)

    def fitted(count: int) -> Layout:
        return arrange(count, figures.geometry, image=image, kernel=kernel, block=figures.block)

    low, high = 1, min(tiles, most)
    best = fitted(1)
    while low < high:
        middle = (low + high + 1) // 2
        try:
            best, low = fitted(middle), middle
        except ModelError:
            high = middle - 1
    return best


def plan_captures(
    figures: DeviceFigures,
    *,
    image: Shape,
    kernel: Shape,
    maps: int,
    channels: int = 1,
    detection: Detection = Detection.PAIRED,
    tiles: int | None = None,
    shared: bool = False,
) -> Plan:
    """What one image takes on a bench.

    Parameters
    ----------
    image, kernel : (y, x), pixels
    maps, channels : int
    tiles : int, optional
        Tiles of one channel, where they are not `detection.tiles_per_map` per map: of a low-rank bank.
    shared : bool
        Whether all channels are shown to the same tiles (a basis that they share), so that one pattern serves them.

    Raises
    ------
    ModelError
        If the image does not fit the bench.
    """
    tiles = maps * detection.tiles_per_map if tiles is None else tiles
    layout = layout_for(figures, image, kernel, tiles if shared else tiles * channels)
    fits = len(layout.carriers)
    frames = -(-tiles // fits)
    captures = channels * frames
    at_once = frames == 1 and (shared or channels * tiles <= fits)
    shown = layout.carriers[: channels * tiles if at_once and not shared else min(tiles, fits)]
    field_of_view, camera = figures.geometry.field_of_view, figures.geometry.camera
    rows, columns = (
        min(camera.shape[i], math.ceil((max(c) - min(c) + layout.footprint[i]) * field_of_view[i] / camera.pitch[i]))
        for i, c in enumerate(zip(*shown, strict=True))
    )
    patterns = 1 if at_once else frames if shared else captures
    return Plan(tiles, fits, captures, patterns, rows, rows * columns)


def digital_cost(macs: int, digital: DigitalFigures) -> Cost:
    """Of a network that runs in electronics alone."""
    seconds, joules = digital.call_s + macs / digital.macs_per_s, macs * digital.mac_j
    return Cost(seconds, seconds, joules, joules)


def capture_s(plan: Plan, figures: DeviceFigures) -> float:
    """t_c, the time of one capture, s."""
    if figures.frames_per_s is not None:
        return 1 / figures.frames_per_s
    exposing, readout = figures.input_settle_s + figures.exposure_s, _readout_s(plan, figures)
    busy = max(exposing, readout) if figures.overlapped else exposing + readout
    return max(figures.input_period_s, busy)


def optical_cost(
    plan: Plan, figures: DeviceFigures, electronic_macs: int, digital: DigitalFigures, *, batch: int = 1
) -> Cost:
    """Of a student whose front is the bench and whose `electronic_macs` run on a computer."""
    electronics = digital_cost(electronic_macs, digital)
    changing = 0.0  # of one image alone
    if plan.patterns > 1:
        changing = plan.patterns * max(0.0, figures.slm_settle_s - figures.input_settle_s)
    captures = plan.captures * capture_s(plan, figures)
    bench = captures + changing / batch
    return Cost(
        latency_s=captures + changing + _readout_s(plan, figures) + electronics.latency_s,
        period_s=max(bench, electronics.period_s),
        energy_j=figures.watts * bench + electronics.energy_j,
        converters_j=_conversion_j(plan, figures) + electronics.converters_j,
    )


def break_even(
    plan: Plan, figures: DeviceFigures, electronic_macs: int, rival_macs: int, digital: DigitalFigures
) -> BreakEven:
    """The rate that the bench needs against a rival on the same computer, patterns held still."""
    left, rival = digital_cost(electronic_macs, digital), digital_cost(rival_macs, digital)
    saved_j = rival.energy_j - left.energy_j
    return BreakEven(
        energy_fps=plan.captures * figures.watts / saved_j if saved_j > 0 else math.inf,
        speed_fps=plan.captures / rival.period_s if rival.period_s > left.period_s else math.inf,
        converters_pay=saved_j > _conversion_j(plan, figures),
    )


def _readout_s(plan: Plan, figures: DeviceFigures) -> float:
    return figures.row_s * (plan.rows + figures.extra_rows)


def _conversion_j(plan: Plan, figures: DeviceFigures) -> float:
    return plan.captures * plan.pixels * figures.conversion_j
