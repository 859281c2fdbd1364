"""Exercising a bench: what each device can do and how fast, measured, beside what its file claims."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.bench.bench import Bench
from labctl.errors import LabctlError

WRITES = 6
SAMPLES = 30
"""Frames at most on the way to settling, which the time resolution follows from."""
STABLE = 0.05
"""A panel counts as settled when the light is within this fraction of the whole change."""
READABLE = {"laser": ("enabled", "power"), "shutter": ("open",), "power-meter": ("power",), "stage": ("position",)}
"""Settings to try on an instrument whose bench file lists none."""


@dataclass(frozen=True)
class Row:
    """One thing that was tried.

    Attributes
    ----------
    device : str
        As the bench file calls it.
    what : str
    measured : float or None
        None where nothing could be measured.
    unit : str
    claimed : float or None
        What the bench file says, in the same unit.
    good : bool
    note : str
        One line: what failed, or what to make of it.
    """

    device: str
    what: str
    measured: float | None = None
    unit: str = ""
    claimed: float | None = None
    good: bool = True
    note: str = ""


def check_devices(
    bench: Bench, *, frames: int = 20, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Row]:
    """Exercise every device of an open bench. Leaves panels blank, the camera on its whole sensor; moves no instrument.

    Parameters
    ----------
    bench : Bench
    frames : int
        How many to take for the frame rate.
    options : mapping, optional
        Instrument's name -> its options in the bench file; ``settings`` among them says what can be read.

    Returns
    -------
    list of Row
        All are good only if every device did what was asked.
    """
    rows = _tried("camera", "exposure", lambda: _exposures(bench))
    rows += _tried("camera", "window", lambda: [_window(bench)])
    for name in ("slm", "input"):
        if bench.device(name) is not None:
            rows += _tried(name, "pattern write", lambda name=name: [_write(bench, name)])  # type: ignore[misc]
    rows += _tried("camera", "frame rate", lambda: _frame_rate(bench, frames))
    for name in ("slm", "input"):
        if bench.device(name) is not None:
            rows += _tried(name, "settle", lambda name=name: [_settle(bench, name)])  # type: ignore[misc]
    for name, role in bench.facts.instruments.items():
        settings = (options or {}).get(name, {}).get("settings")
        rows += _tried(name, "read", lambda n=name, r=role, s=settings: _readings(bench, n, r, s))  # type: ignore[misc]
    rows += _tried("bench", "left safe", lambda: [_safe(bench)])
    return rows


def _tried(device: str, what: str, attempt: Callable[[], list[Row]]) -> list[Row]:
    try:
        return attempt()
    except LabctlError as error:
        return [Row(device, what, good=False, note=str(error))]


def _exposures(bench: Bench) -> list[Row]:
    """The bench file's exposure and half of it: what the camera makes of them."""
    rows = []
    for exposure in (bench.facts.exposure_s / 2, bench.facts.exposure_s):
        bench.capture(exposure)
        realised = getattr(bench.device("camera"), "exposure_s", None)
        off, note = False, ""
        if realised is not None and abs(realised - exposure) > 0.05 * exposure:
            off, note = True, f"the camera does not expose for {exposure * 1e3:g} ms"
        rows.append(
            Row(
                "camera",
                "exposure",
                realised * 1e3 if realised is not None else None,
                "ms",
                exposure * 1e3,
                # Half the exposure is asked for to see that it follows; only the bench file's own has to be met.
                not off or exposure != bench.facts.exposure_s,
                note,
            )
        )
    return rows


def _window(bench: Bench) -> Row:
    """The middle quarter of the sensor, and back."""
    height, width = bench.facts.geometry.camera.shape
    asked = (height // 4, height // 4 + height // 2, width // 4, width // 4 + width // 2)
    try:
        bench.set("camera", "window", asked)
        frame = bench.capture()
    finally:
        bench.set("camera", "window", None)
    wanted = (asked[1] - asked[0], asked[3] - asked[2])
    got = frame.data.shape
    note = "" if got == wanted else f"asked for {wanted} (rows, columns), got {got}"
    holds = got[0] >= wanted[0] and got[1] >= wanted[1]
    return Row(
        "camera", "window", float(frame.data.size), "pixels", float(wanted[0] * wanted[1]), good=holds, note=note
    )


def _frame_rate(bench: Bench, frames: int) -> list[Row]:
    bench.capture()
    started = bench.clock.now()
    levels = [int(bench.capture().data.max()) for _ in range(frames)]
    seconds = max(bench.clock.now() - started, 1e-9) / frames
    facts = bench.facts
    readout = seconds - facts.exposure_s
    full = 2**facts.camera_bitdepth - 1
    over = max(levels) > full
    note = f"gray level {max(levels)} is above {full}: the driver states a wrong bit depth" if over else ""
    claimed = 1 / (facts.exposure_s + facts.readout_s) if facts.readout_s else None
    return [
        Row("camera", "frame rate", 1 / seconds, "frames/s", claimed, good=not over, note=note),
        Row("camera", "read-out", readout * 1e3, "ms", facts.readout_s * 1e3 if facts.readout_s else None),
        Row("camera", "brightest pixel", float(max(levels)), "counts", float(full)),
    ]


def _write(bench: Bench, name: str) -> Row:
    """Median time that the driver takes for a pattern, settling apart."""
    panel = bench.device(name)
    times = []
    for number in range(WRITES):
        pattern = np.full(panel.shape, number * (panel.levels - 1) // WRITES, _dtype(panel.levels))
        before = bench.clock.now()
        _show(bench, name, pattern)
        times.append(bench.clock.now() - before)
    return Row(name, "pattern write", statistics.median(times) * 1e3, "ms")


def _settle(bench: Bench, name: str) -> Row:
    """How long the light takes to follow a new pattern.

    The pattern is changed, frames of the middle of the sensor are taken without waiting, and compared with what the
    camera sees in the end. The time resolution is the frame period, or the wait over `SAMPLES`.
    """
    claimed = (bench.facts.slm_settle_s if name == "slm" else bench.facts.input_settle_s) * 1e3
    slm, panel = bench.device("slm"), bench.device("input")
    first, second = _contrast(bench, name)
    if panel is not None and name == "slm":
        bench.show(input=np.full(panel.shape, panel.levels - 1, _dtype(panel.levels)))
    if name == "input":
        bench.show(slm=np.zeros(slm.shape, _dtype(slm.levels)))
    _show(bench, name, first)
    before = _small(bench.capture().data)
    wait = max(3 * claimed / 1e3, 0.1)
    samples: list[tuple[float, NDArray[np.float64]]] = []
    _show(bench, name, second)
    changed = bench.clock.now()
    while not samples or samples[-1][0] < wait:
        raw = bench._camera.grab_now(bench.facts.exposure_s)
        if raw.started >= changed:
            samples.append(((raw.started + raw.ended) / 2 - changed, _small(raw.data)))
        if bench.clock.now() - changed > 2 * wait + 1:
            break
        bench.clock.sleep(changed + (len(samples) + 1) * wait / SAMPLES - bench.clock.now())
    tail = [data for when, data in samples if when > 0.8 * wait] or [data for _, data in samples[-3:]]
    final = np.mean(tail, axis=0)
    noise = max((float(np.linalg.norm(data - final)) for data in tail), default=0.0)
    change = float(np.linalg.norm(before - final))
    if change < max(5 * noise, 1e-9):
        why = "the camera sees no change: no light, or it is not the light of this panel"
        return Row(name, "settle", None, "ms", claimed, note=why)
    limit = max(STABLE * change, 2 * noise)
    late = [when for when, data in samples if float(np.linalg.norm(data - final)) > limit]
    after = [when for when, _ in samples if not late or when > late[-1]]
    measured = min(after) * 1e3 if after else wait * 1e3
    resolution = statistics.median(np.diff([when for when, _ in samples])) * 1e3 if len(samples) > 1 else 0.0
    slow = measured > claimed + resolution
    note = f"settle_ms is too short: write {measured:.0f} or more" if slow else f"to within {resolution:.1f} ms"
    return Row(name, "settle", measured, "ms", claimed, good=not slow, note=note)


def _contrast(bench: Bench, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two patterns that look very different to the camera: dark and bright, or flat and a coarse grating."""
    panel = bench.device(name)
    flat = np.zeros(panel.shape, _dtype(panel.levels))
    if name == "input":
        return flat, np.full(panel.shape, panel.levels - 1, flat.dtype)
    grating = flat.copy()
    grating[:, (np.arange(panel.shape[1]) // 4) % 2 == 1] = panel.levels // 2
    return flat, grating


def _readings(bench: Bench, name: str, role: str, settings: Any) -> list[Row]:
    wanted: Iterable[str] = settings or READABLE.get(role, ())
    rows = []
    for setting in wanted:
        if isinstance(settings, Mapping) and "get" not in settings[setting]:
            continue
        before = bench.clock.now()
        try:
            value = bench.read(name, setting)
        except LabctlError as error:
            if not settings:  # it was only a guess that the instrument has this
                continue
            rows.append(Row(name, setting, good=False, note=str(error)))
            continue
        number = float(value) if isinstance(value, bool | int | float) else None
        took = (bench.clock.now() - before) * 1e3
        rows.append(Row(name, setting, number, note=f"{value!r}, answered in {took:.1f} ms"))
    return rows or [Row(name, "read", note="nothing that could be read is known of it")]


def _safe(bench: Bench) -> Row:
    failures = bench.make_safe()
    return Row("bench", "left safe", good=not failures, note="; ".join(failures))


def _dtype(levels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if levels <= 256 else np.uint16


def _small(data: NDArray[Any]) -> NDArray[np.float64]:
    """A frame at about 32 x 32, averaged: enough to see a change, and quick."""
    rows, columns = max(1, data.shape[0] // 32), max(1, data.shape[1] // 32)
    cut = data[: data.shape[0] // rows * rows, : data.shape[1] // columns * columns].astype(np.float64)
    return np.asarray(cut.reshape(cut.shape[0] // rows, rows, -1, columns).mean(axis=(1, 3)))


def _show(bench: Bench, name: str, pattern: NDArray[Any]) -> None:
    if name == "slm":
        bench.show(slm=pattern)
    else:
        bench.show(input=pattern)
