"""Captures, latency and energy per image, and where optics pays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.errors import ModelError
from labctl.learning.cost import (
    Plan,
    break_even,
    capture_s,
    digital_cost,
    layout_for,
    optical_cost,
    plan_captures,
)
from labctl.learning.figures import CPU, DEVICE_PRESETS, DIGITAL_PRESETS, DMD, EDGE, LCOS, MASK
from labctl.optics.detection import Detection

KERNEL = (7, 7)
SMALL = Plan(tiles=16, tiles_per_frame=16, captures=1, patterns=1, rows=100, pixels=100_000)
COLOUR = replace(SMALL, captures=3, patterns=3)


@pytest.mark.parametrize("figures", DEVICE_PRESETS.values(), ids=DEVICE_PRESETS)
def test_every_number_of_a_preset_has_a_source(figures: object) -> None:
    assert figures.unsourced() == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("digital", DIGITAL_PRESETS.values(), ids=DIGITAL_PRESETS)
def test_every_number_of_a_computer_has_a_source(digital: object) -> None:
    assert set(digital.sources) == {"macs_per_s", "mac_j", "call_s"}  # type: ignore[attr-defined]


@settings(max_examples=30, deadline=None)
@given(
    maps=st.integers(1, 40),
    channels=st.integers(1, 4),
    side=st.integers(8, 90),
    detection=st.sampled_from(Detection),
)
def test_captures_hold_every_tile_of_every_channel(maps: int, channels: int, side: int, detection: Detection) -> None:
    plan = plan_captures(LCOS, image=(side, side), kernel=KERNEL, maps=maps, channels=channels, detection=detection)
    assert plan.tiles == maps * detection.tiles_per_map
    assert plan.captures * plan.tiles_per_frame >= channels * plan.tiles
    assert plan.captures == channels * math.ceil(plan.tiles / plan.tiles_per_frame)
    assert plan.patterns in (1, plan.captures)
    assert (plan.patterns == 1) == (plan.captures == 1 or channels * plan.tiles <= plan.tiles_per_frame)
    assert plan.rows <= LCOS.geometry.camera.shape[0]


def test_the_room_for_tiles_is_the_most_that_the_layout_takes() -> None:
    free = replace(LCOS, pixels_per_tile=1)
    found = len(layout_for(free, (32, 32), KERNEL, 10_000).carriers)
    assert len(layout_for(free, (32, 32), KERNEL, found).carriers) == found
    assert found > len(layout_for(LCOS, (32, 32), KERNEL, 10_000).carriers) == 1200 * 1920 // 65536
    assert len(layout_for(free, (64, 64), KERNEL, 10_000).carriers) < found
    with pytest.raises(ModelError, match="does not fit"):
        layout_for(LCOS, (900, 900), KERNEL, 1)


def test_a_basis_that_channels_share_needs_one_pattern() -> None:
    apart = plan_captures(LCOS, image=(32, 32), kernel=KERNEL, maps=16, channels=3)
    shared = plan_captures(LCOS, image=(32, 32), kernel=KERNEL, maps=16, channels=3, tiles=16, shared=True)
    assert (apart.captures, apart.patterns) == (3, 3)
    assert (shared.captures, shared.patterns) == (3, 1)
    assert optical_cost(shared, DMD, 0, EDGE).latency_s < 0.1 * optical_cost(apart, DMD, 0, EDGE).latency_s


def test_times_by_hand() -> None:
    figures = replace(
        LCOS, input_period_s=0.01, input_settle_s=0.02, slm_settle_s=0.05, exposure_s=0.004, row_s=1e-4, extra_rows=0
    )
    assert capture_s(SMALL, figures) == pytest.approx(0.024)
    assert capture_s(SMALL, replace(figures, overlapped=False)) == pytest.approx(0.034)
    assert capture_s(SMALL, replace(figures, row_s=1e-3)) == pytest.approx(0.1)
    assert capture_s(SMALL, figures.at_rate(7)) == pytest.approx(1 / 7)
    one = optical_cost(SMALL, figures, 4_000_000, CPU)
    assert one.period_s == pytest.approx(0.024) and one.latency_s == pytest.approx(0.024 + 0.01 + 0.001)
    three = optical_cost(COLOUR, figures, 4_000_000, CPU)
    assert three.period_s == pytest.approx(3 * (0.024 + 0.03))
    assert optical_cost(COLOUR, figures, 4_000_000, CPU, batch=1000).period_s == pytest.approx(3 * 0.024, rel=2e-3)
    assert three.energy_j == pytest.approx(17 * 3 * 0.054 + 0.006)
    assert three.converters_j == pytest.approx(3 * 1e5 * 1e-10 + 0.006)


def test_a_mask_that_cannot_change_never_shows_a_second_pattern() -> None:
    assert math.isfinite(optical_cost(SMALL, MASK, 0, EDGE).latency_s)
    assert math.isinf(optical_cost(COLOUR, MASK, 0, EDGE).latency_s)


@settings(max_examples=40, deadline=None)
@given(left=st.integers(0, 10**7), more=st.integers(1, 10**9))
def test_at_the_break_even_rate_bench_and_rival_cost_the_same(left: int, more: int) -> None:
    found = break_even(SMALL, LCOS, left, left + more, CPU)
    rival = digital_cost(left + more, CPU)
    bench = optical_cost(SMALL, LCOS.at_rate(found.energy_fps), left, CPU)
    assert bench.energy_j == pytest.approx(rival.energy_j, rel=1e-6)
    assert capture_s(SMALL, LCOS.at_rate(found.speed_fps)) == pytest.approx(rival.period_s)
    assert found.converters_pay == (more * CPU.mac_j > SMALL.pixels * LCOS.conversion_j)


def test_no_rate_pays_where_more_macs_are_left_than_the_rival_has() -> None:
    found = break_even(SMALL, LCOS, 201_984, 101_632, EDGE)
    assert math.isinf(found.energy_fps) and math.isinf(found.speed_fps) and not found.converters_pay


def test_a_rate_that_costs_for_ever_is_refused() -> None:
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ModelError, match="above zero"):
            LCOS.at_rate(rate)
