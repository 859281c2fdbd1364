"""The figure and the page of the resolution study; `resolution.py` makes what they show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from labctl.learning.figures import CPU, DMD, EDGE, GPU, LCOS

TITLES = {"cats-dogs": "cats against dogs", "camvid-small": "CamVid small, segmentation"}
MEASURES = {"cats-dogs": "accuracy (%)", "camvid-small": "mIoU (%)"}
ARMS = {
    "teacher": ("teacher, nonlinear", "black", "o"),
    "distilled": ("student, linear", "#0072b2", "s"),
    "two-sided/distilled": ("student, two-sided ReLU", "#d55e00", "^"),
}
TICKS = (8, 16, 24, 32, 64, 128, 256, 30, 60, 90, 120, 180, 240)
GREY, BLUE, SKY, RED = "#777777", "#0072b2", "#56b4e9", "#d55e00"
PI, TPU, SEEN, GPU_NAME = "embedded CPU", "edge accelerator", "bench at its measured rate", "GPU"
Row = dict[str, Any]


def write(
    results: dict[str, list[Row]], counted: dict[str, list[Row]], out: Path, *, quick: bool, fps: float, batch: int
) -> None:
    """resolution.png and resolution.md in `out`."""
    figure(results, counted, out / "resolution.png")
    text = page(results, counted, fps=fps, batch=batch)
    if quick:
        text = "**A trial of the script with budgets of seconds: no result.**\n\n" + text
    (out / "resolution.md").write_text(text, encoding="utf-8", newline="\n")


def figure(results: dict[str, list[Row]], counted: dict[str, list[Row]], path: Path) -> None:
    """Accuracy, MACs, time and energy over the image's height, a row for each task."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.grid": True, "grid.alpha": 0.25})
    fig, axes = plt.subplots(len(counted), 4, figsize=(15, 3.3 * len(counted) + 1.5), layout="constrained")
    for row, (task, sizes) in zip(axes, counted.items(), strict=True):
        trained = [tuple(point["size"]) for point in results.get(task, [])]
        _accuracies(row[0], results.get(task, []), task)
        _macs(row[1], sizes)
        _times(row[2], sizes)
        _energies(row[3], sizes)
        for panel, name in zip(row[1:], ("MACs per image", "time per image (s)", "energy per image (J)"), strict=True):
            panel.set(ylabel=name)
            _size_axis(panel, [row["size"][0] for row in sizes])
            if trained:
                panel.axvspan(trained[0][0], trained[-1][0], color="0.93", zorder=0, lw=0)
        row[0].annotate(TITLES[task], (0, 1.08), xycoords="axes fraction", fontsize=11, fontweight="bold")
    for panel in axes[0][1:]:
        panel.set_title("shaded: sizes that were trained", color=GREY, fontsize=8, loc="right")
    for column in axes.T:
        handles, labels = column[0].get_legend_handles_labels()
        column[-1].legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, frameon=False)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _size_axis(panel: Axes, heights: list[int]) -> None:
    panel.set_xscale("log")
    shown = [height for height in heights if height in TICKS]
    panel.xaxis.set_major_locator(FixedLocator(shown))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="x", labelsize=8)
    panel.set_xlabel("image height (pixels)")


def _accuracies(panel: Axes, points: list[Row], task: str) -> None:
    panel.set_ylabel(MEASURES[task])
    heights = [point["size"][0] for point in points]
    for arm, (label, colour, marker) in ARMS.items():
        found = [point["arms"][arm] for point in points if arm in point["arms"]]
        if not found:
            continue
        means = [100 * entry["mean"] for entry in found]
        bars = [
            [mean - 100 * entry["interval95"][0] for mean, entry in zip(means, found, strict=True)],
            [100 * entry["interval95"][1] - mean for mean, entry in zip(means, found, strict=True)],
        ]
        panel.errorbar(heights, means, bars, color=colour, marker=marker, ms=5, capsize=3, label=label)
    if heights:
        _size_axis(panel, heights)
        panel.set_xlim(heights[0] / 1.15, heights[-1] * 1.15)


def _lines(panel: Axes, sizes: list[Row], lines: list[tuple[str, str, str, Any]]) -> None:
    heights = [row["size"][0] for row in sizes]
    for label, colour, style, value in lines:
        values = [value(row) for row in sizes]
        panel.plot(heights, [math.nan if v is None or not math.isfinite(v) else v for v in values], style,
                   color=colour, label=label, lw=1.6, ms=4)  # fmt: skip
    panel.set_yscale("log")


def _macs(panel: Axes, sizes: list[Row]) -> None:
    _lines(panel, sizes, [
        ("teacher", "black", "-o", lambda row: row["macs"]["teacher"]),
        ("linear student, digital: direct", BLUE, ":", lambda row: row["macs"]["student"]),
        ("linear student, digital: cheapest", BLUE, "-s", lambda row: row["cheapest"]),
        ("linear student, left after optics", SKY, "--s", lambda row: row["macs"]["electronic"]),
        ("two-sided student, digital: cheapest", RED, "-^", lambda row: row["two_sided_cheapest"]),
        ("two-sided student, left after optics", RED, "--^", lambda row: row["two_sided_left"]),
    ])  # fmt: skip


def _bench(name: str, computer: str, value: str) -> Any:
    def read(row: Row) -> float | None:
        return None if row["optical"][name] is None else row["optical"][name][computer][value]

    return read


def _times(panel: Axes, sizes: list[Row]) -> None:
    _lines(panel, sizes, [
        ("teacher, embedded CPU", "black", "-o", lambda row: row["digital"][PI]["teacher"]["latency_s"]),
        ("teacher, edge accelerator", GREY, "-o", lambda row: row["digital"][TPU]["teacher"]["latency_s"]),
        ("linear student, embedded CPU, no optics", BLUE, "-s",
         lambda row: row["digital"][PI]["student"]["latency_s"]),
        ("linear student on LCoS panels", BLUE, "--s", _bench("LCoS panels", PI, "latency_s")),
        ("the same, at the measured rate, in a batch", "#009e73", "--v", _bench(SEEN, PI, "period_s")),
        ("linear student, DMD input, one image", SKY, "--D", _bench("DMD input", PI, "latency_s")),
        ("the same, in a batch", RED, "--D", _bench("DMD input", PI, "period_s")),
    ])  # fmt: skip


def _energies(panel: Axes, sizes: list[Row]) -> None:
    _lines(panel, sizes, [
        ("teacher, embedded CPU", "black", "-o", lambda row: row["digital"][PI]["teacher"]["energy_j"]),
        ("teacher, edge accelerator", GREY, "-o", lambda row: row["digital"][TPU]["teacher"]["energy_j"]),
        ("linear student, edge accelerator, no optics", BLUE, "-s",
         lambda row: row["digital"][TPU]["student"]["energy_j"]),
        ("linear student on LCoS panels, at the plug", BLUE, "--s", _bench("LCoS panels", PI, "energy_j")),
        ("linear student, DMD input, at the plug", RED, "--D", _bench("DMD input", PI, "energy_j")),
        ("converters and edge accelerator alone", SKY, "--v", _bench("LCoS panels", TPU, "converters_j")),
    ])  # fmt: skip


def page(results: dict[str, list[Row]], counted: dict[str, list[Row]], *, fps: float, batch: int) -> str:
    """The page, as Markdown."""
    lines = [
        "# Resolution: accuracy and cost of teacher and student", "",
        "Made by `python docs/results/resolution.py` from `resolution.json`. Eval mode, no bench, `paired` detection,",
        "16 signed 7x7 kernels on three channels shown one after the other. The networks are the same at every size,",
        "and the student's back end reads maps pooled to one grid (8x8, 30x40), so that its own work does not grow.",
        "Images are made smaller, never larger. Intervals are 95 %: of the mean over three seeds for students, over",
        "test images for the one teacher.", "",
        "![Accuracy, MACs, time and energy over the image's height](resolution.png)", "",
    ]  # fmt: skip
    for task, sizes in counted.items():
        lines += [f"## {TITLES[task][0].upper()}{TITLES[task][1:]}", ""]
        lines += _accuracy_table(results.get(task, []), sizes, task) + _same_accuracy(results.get(task, []), sizes)
        lines += _cost_table(sizes, results.get(task, []))
    lines += _verdicts(counted)
    lines += _figures(fps, batch)
    return "\n".join(lines) + "\n"


def _percent(entry: Row) -> str:
    low, high = entry["interval95"]
    return f"{100 * entry['mean']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _of_size(sizes: list[Row], size: list[int]) -> Row:
    return next(row for row in sizes if list(row["size"]) == list(size))


def _accuracy_table(points: list[Row], sizes: list[Row], task: str) -> list[str]:
    head = (
        f"| image | teacher, {MEASURES[task]} | linear student | two-sided student | MACs: teacher | linear student, "
        "digital: direct, cheapest | left after optics | two-sided: cheapest, left |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for point in points:
        row, arms = _of_size(sizes, point["size"]), point["arms"]
        lines.append(
            f"| {_x(row)} | {_percent(arms['teacher'])} | {_percent(arms['distilled'])} | "
            f"{_percent(arms['two-sided/distilled'])} | {row['macs']['teacher']:,} | {row['macs']['student']:,}, "
            f"{row['cheapest']:,} | {row['macs']['electronic']:,} | {row['two_sided_cheapest']:,}, "
            f"{row['two_sided_left']:,} |"
        )
    return [*lines, ""]


def _same_accuracy(points: list[Row], sizes: list[Row]) -> list[str]:
    """The paper's comparison: a student at a higher resolution against a teacher at a lower one, equally good."""
    lines = []
    for at in points:
        teacher = at["arms"]["teacher"]["mean"]
        for arm, title, left in (
            ("distilled", "linear", lambda row: row["macs"]["electronic"]),
            ("two-sided/distilled", "two-sided", lambda row: row["two_sided_left"]),
        ):
            enough = [point for point in points if point["arms"][arm]["mean"] >= teacher]
            if enough:
                own, row = _of_size(sizes, at["size"])["macs"]["teacher"], _of_size(sizes, enough[0]["size"])
                there = f"{at['size'][0]}x{at['size'][1]} ({100 * teacher:.1f} %, {own:,} MACs)"
                lines.append(
                    f"- as good as the teacher at {there}: the "
                    f"{title} student from {row['size'][0]}x{row['size'][1]} on, with {left(row):,} MACs left"
                )
    none = "- no student at any size tried is as good as the teacher at any size"
    return ["Equal accuracy, by the means:", "", *(lines or [none]), ""] if points else []


def _cost_table(sizes: list[Row], points: list[Row]) -> list[str]:
    head = (
        "| image | captures (tiles to a frame) | LCoS: one image, energy | at the measured rate | DMD: one image, in a "
        "batch, energy | teacher on embedded CPU | on edge accelerator | optics: converters alone |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    trained = {tuple(point["size"]) for point in points}
    for row in sizes:
        edge, cpu = (row["digital"][name]["teacher"] for name in (TPU, PI))
        lcos, dmd, seen = (row["optical"][name] for name in ("LCoS panels", "DMD input", SEEN))
        mark = "" if tuple(row["size"]) in trained else " (not trained)"
        cells = [f"{_x(row)}{mark}"]
        if lcos is None:
            cells += ["no tile fits"] * 3
        else:
            cells += [
                f"{lcos['captures']} ({lcos['tiles_per_frame']})",
                _both(lcos[PI]),
                _si(seen[PI]["period_s"], "s"),
            ]
        cells.append("no tile fits" if dmd is None else f"{_si(dmd[PI]['latency_s'], 's')}, "
                     f"{_si(dmd[PI]['period_s'], 's')}, {_si(dmd[PI]['energy_j'], 'J')}")  # fmt: skip
        cells += [_both(cpu), _both(edge), "" if lcos is None else _si(lcos[TPU]["converters_j"], "J")]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _x(row: Row) -> str:
    return "x".join(map(str, row["size"]))


def _both(cost: Row) -> str:
    return f"{_si(cost['latency_s'], 's')}, {_si(cost['energy_j'], 'J')}"


def _verdicts(counted: dict[str, list[Row]]) -> list[str]:
    """A line for each task, rival and computer, the same computer on both sides."""
    head = (
        "| task | rival | computer | faster, in batches | less energy at the plug | converters alone take less | "
        "rate to be faster | rate to save energy |"
    )
    lines = [
        "## Where optics pays, and where not", "",
        "Sizes of the tables above at which the bench with the DMD beats a rival in electronics by a tenth or more,",
        "the computer being the same on both sides, and the captures per second that it would take at 32x32 and",
        "120x160:", "",
        head, "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for task, sizes in counted.items():
        at = next(row for row in sizes if row["size"][0] in (32, 120))
        for rival, title in (("teacher", "teacher"), ("student", "linear student without optics")):
            for computer in (GPU_NAME, TPU, PI):
                cells = [TITLES[task], title, computer]
                for name, own in (("period_s", "period_s"), ("energy_j", "energy_j"), ("converters_j", "energy_j")):
                    there = [(row, row["optical"]["DMD input"]) for row in sizes]
                    wins = [
                        _x(row) for row, bench in there
                        if bench is not None and bench[computer][name] < 0.9 * row["digital"][computer][rival][own]
                    ]  # fmt: skip
                    cells.append("at none" if not wins else wins[0] if len(wins) == 1 else f"{wins[0]} to {wins[-1]}")
                rates = at["optical"]["DMD input"][computer]["against"][rival]
                cells += [_rate(rates["speed_fps"]), _rate(rates["energy_fps"])]
                lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_why(counted), ""]


def _why(counted: dict[str, list[Row]]) -> list[str]:
    """The reasons, with the figures of the largest sizes that are trained."""
    lines = []
    for task, sizes in counted.items():
        row = next(row for row in sizes if row["size"][0] in (32, 120))
        lcos, macs = row["optical"]["LCoS panels"], row["macs"]
        edge = row["digital"][TPU]
        lines += [
            f"- {TITLES[task]}, {_x(row)}: optics takes {macs['optical']:,} of the linear student's",
            f"  {macs['student']:,} MACs and leaves {macs['electronic']:,}; folded or through Fourier transforms,",
            f"  electronics do all of it in {row['cheapest']:,}. The bench with LCoS panels takes",
            f"  {lcos['captures']} captures and",
            f"  {_si(lcos[PI]['energy_j'], 'J')} at the plug; an edge accelerator runs the teacher for",
            f"  {_si(edge['teacher']['energy_j'], 'J')}, the student for {_si(edge['student']['energy_j'], 'J')}.",
        ]
    return [
        "Why:", "", *lines,
        "- A bench draws its watts whether it works or waits: only its rate can earn them back, and the rates that",
        "  would are far above what a panel or a camera can do, against everything but a slow processor.",
        "- What is linear folds. The student without a nonlinearity at the detector has a digital rival far cheaper",
        "  than its own convolutions; the MACs *moved* to optics are not MACs *saved*. A two-sided ReLU does not fold.",
        "- Larger images leave room for fewer tiles on one SLM, so that captures grow where MACs are to be saved.",
        "- Three channels in pairs do not fit one pattern: the SLM has to settle between them, which costs one image",
        "  alone a tenth of a second, and a batch nothing. A basis that the channels share would not have to",
        "  ([low_rank.md](low_rank.md)).",
    ]  # fmt: skip


def _rate(value: float | None) -> str:
    return "none will do" if value is None or not math.isfinite(value) else f"{value:,.3g}/s"


def _figures(fps: float, batch: int) -> list[str]:
    lines = [
        "## Formulae and figures", "",
        "The formulae stand in `labctl/learning/cost.py`. MACs are of direct convolution; *cheapest* is the least of",
        "direct, through fast Fourier transforms, and with everything linear folded (`labctl/learning/accounting.py`).",
        f"Batches are of {batch} images to one SLM pattern. *Measured rate*: the LCoS bench at {fps:g} captures/s, as",
        "`labctl models cost --run` reads it from `labctl evaluate fashion-mnist-sclc --bench sim-4f` (a simulated",
        "bench, on its own clock: 5 ms of settling, 12.7 ms of exposure, the read-out overlapped).",
        "`labctl models cost NAME` says the same of any model, on stated devices, a bench file or a run.", "",
    ]  # fmt: skip
    for devices in (LCOS, DMD):
        lines += [f"**{devices.name}**", "", "| figure | value | source |", "|---|---|---|"]
        for key in ("input_period_s", "input_settle_s", "slm_settle_s", "exposure_s", "row_s", "extra_rows",
                    "input_w", "slm_w", "camera_w", "laser_w", "conversion_j", "pixels_per_tile"):  # fmt: skip
            lines.append(f"| `{key}` | {getattr(devices, key):.4g} | {devices.sources[key]} |")
        geometry = devices.geometry
        told = f"{geometry.wavelength * 1e9:.0f} nm, f1 {geometry.f1 * 1e3:.0f} mm, f2 {geometry.f2 * 1e3:.0f} mm"
        lines += [f"| `geometry` | {told} | {devices.sources['geometry']} |", ""]
    lines += ["| computer | MACs/s | J per MAC | s per call | sources |", "|---|---|---|---|---|"]
    for computer in (GPU, EDGE, CPU):
        said = "; ".join(f"{key}: {value}" for key, value in computer.sources.items())
        lines.append(
            f"| {computer.name} | {computer.macs_per_s:.3g} | {computer.mac_j:.3g} | {computer.call_s:g} | {said} |"
        )
    return lines


def _si(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return "never"
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.2g} {unit}"
