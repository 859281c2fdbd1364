"""Pictures and plots of a report, as PNG in data URIs. No pyplot: nothing here has a state or needs a display.

Pictures keep their own pixels and carry no text, so that the page can set captions and colour bars in its own type, in
light and dark, on screen and on paper.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from labctl.procedures.report_data import Curve, Picture

INK = {"light": "#1b1f24", "dark": "#e4e7eb"}
FAINT = {"light": "#c9ced6", "dark": "#454b55"}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's, told apart with any colour vision."""
MAPS = {"phase": "twilight", "gray": "gray", "intensity": "viridis", "signed": "PuOr", "amplitude": "cividis"}
UNITS = {"phase": "rad", "gray": "gray level", "intensity": "counts", "signed": "", "amplitude": ""}
LARGEST = 1024
"""Longest side of an embedded picture, pixels; a page should open in a second."""


@dataclass(frozen=True)
class Drawn:
    """A picture as the page shows it: image and colour bar as data URIs, and what to write beside them."""

    name: str
    caption: str
    image: str
    bar: str
    low: str
    middle: str
    high: str
    unit: str
    pixelated: bool
    size: str


def draw_picture(picture: Picture) -> Drawn:
    """Colour one picture. Values that are not finite stay transparent."""
    data = np.asarray(picture.data)
    if np.iscomplexobj(data):
        data = np.angle(data) if picture.kind == "phase" else np.abs(data)
    data = np.atleast_2d(data.astype(np.float64))
    low, high = picture.limits or _limits(picture.kind, data, np.asarray(picture.data).dtype)
    shown, step = _reduced(data, picture.kind)
    finite = np.isfinite(shown)
    span = (high - low) or 1.0
    index = np.clip(np.round((np.where(finite, shown, low) - low) / span * 254), 0, 254).astype(np.uint8)
    index[~finite] = 255
    texts = _ends(picture.kind, low, high)
    size = f"{data.shape[0]} × {data.shape[1]} px" + (f", shown at 1/{step}" if step > 1 else "")
    return Drawn(
        name=picture.name,
        caption=picture.caption,
        image=_palette_png(index, MAPS[picture.kind]),
        bar=_palette_png(np.arange(255, dtype=np.uint8)[None, :], MAPS[picture.kind]),
        low=texts[0],
        middle=texts[1],
        high=texts[2],
        unit=picture.unit or UNITS[picture.kind],
        pixelated=max(index.shape) <= 256,
        size=size,
    )


def draw_curves(curves: Sequence[Curve]) -> dict[str, str]:
    """One set of axes; data URIs for a light and a dark page."""

    def draw(axes: Axes, ink: str) -> None:
        for curve, colour in zip(curves, cycle(PALETTE), strict=False):
            x, y = np.asarray(curve.x), np.asarray(curve.y)
            axes.plot(x, y, color=colour, lw=1.6, marker="o" if x.size <= 30 else None, ms=4, label=curve.name)
        axes.set_xlabel(curves[0].xlabel)
        axes.set_ylabel(curves[0].ylabel)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=ink)

    return _plot(draw, (6.4, 3.6))


def draw_intervals(names: Sequence[str], values: Sequence[tuple[float, float, float]], label: str) -> dict[str, str]:
    """A dot with its interval (value, low, high) per name; data URIs for a light and a dark page."""

    def draw(axes: Axes, ink: str) -> None:
        rows = np.arange(len(names))[::-1]
        middle, low, high = (np.asarray(column, float) for column in zip(*values, strict=True))
        axes.hlines(rows, low, high, color=PALETTE[0], lw=2.4, alpha=0.55)
        axes.plot(middle, rows, "o", color=PALETTE[0], ms=7)
        for row, value, end in zip(rows, middle, high, strict=True):
            axes.annotate(
                f"{value:.4g}", (end, row), (7, 0), textcoords="offset points", va="center", color=ink, fontsize=9
            )
        axes.set_yticks(rows, names)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.margins(x=0.12)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)

    return _plot(draw, (7.2, 0.8 + 0.36 * len(names)))


def _plot(draw: Any, size: tuple[float, float]) -> dict[str, str]:
    uris = {}
    for theme, ink in INK.items():
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color=FAINT[theme], lw=0.6)
        axes.set_axisbelow(True)
        draw(axes, ink)
        for spine in axes.spines.values():
            spine.set_color(FAINT[theme])
        axes.tick_params(colors=ink, labelsize=9)
        axes.xaxis.label.set_color(ink)
        axes.yaxis.label.set_color(ink)
        file = io.BytesIO()
        figure.set_dpi(160)
        canvas.print_png(file)
        uris[theme] = _uri(file.getvalue())
    return uris


def _limits(kind: str, data: NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[float, float]:
    finite = data[np.isfinite(data)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if kind == "phase":
        return (-np.pi, np.pi) if least < 0 else (0.0, 2 * np.pi)
    if kind == "signed":
        edge = max(abs(least), abs(most)) or 1.0
        return -edge, edge
    if kind == "gray":
        return 0.0, float(np.iinfo(dtype).max) if dtype == np.uint8 else max(most, 1.0)
    low = min(least, 0.0)
    return low, most if most > low else low + 1.0


def _ends(kind: str, low: float, high: float) -> tuple[str, str, str]:
    if kind == "phase" and np.isclose(high - low, 2 * np.pi):
        return ("−π", "0", "π") if low < 0 else ("0", "π", "2π")
    middle = (low + high) / 2
    if abs(middle) < 1e-9 * (high - low):
        middle = 0.0
    return _number(low), _number(middle), _number(high)


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 or abs(value) >= 1e6 else f"{value:,.0f}"


def _reduced(data: NDArray[np.float64], kind: str) -> tuple[NDArray[np.float64], int]:
    """At most `LARGEST` pixels a side: light is averaged, patterns are sampled, as their mean means nothing."""
    step = -(-max(data.shape) // LARGEST)
    if step <= 1:
        return data, 1
    if kind in ("phase", "gray"):
        return data[::step, ::step], step
    rows, columns = (n // step * step for n in data.shape)
    if not rows or not columns:
        return data[::step, ::step], step
    blocks = data[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return blocks.mean(axis=(1, 3)), step


def _palette_png(index: NDArray[np.uint8], colours: str) -> str:
    table = np.vstack([colormaps[colours](np.linspace(0, 1, 255)), np.zeros(4)])
    image = Image.fromarray(index, mode="L")
    image.putpalette((table[:, :3] * 255).round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=255)
    return _uri(file.getvalue())


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
