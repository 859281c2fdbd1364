"""One table and one figure per task, from the metrics.json of the shipped bundles.

    python docs/results/tasks.py [BUNDLE ...]        default: every bundle in models/

Writes docs/results/NAME.md and NAME.png, NAME being the data set. Nothing is trained or measured here: the figures are
those of `labctl train RECIPE --arms`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from labctl.learning.bundle import Bundle, list_bundles, load_bundle
from labctl.learning.metrics import ArmMetrics, Score

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

ARMS = {
    "transfer": "stronger transfer",
    "distilled": "distilled",
    "undistilled": "labels alone",
    "random": "random masks",
    "digital": "no optical layer",
}
READINGS = {
    "paired, linear": "strictly linear up to the first fully connected layer",
    "paired, relu": "ReLU in electronics after detection",
    "paired, two-sided": "ReLU of the maps and of their negatives, in electronics after detection",
    "intensity, linear": "square law: the camera's own nonlinearity, linear after it",
    "incoherent, linear": "incoherent light, strictly linear",
}
PUBLISHED = {
    "mnist": ((97.3, "NTKD, 8 kernels"), (95.9, "the same, plain KD")),
    "cifar10": ((75.6, "NTKD, 16 kernels"), (72.5, "the same, plain KD"), (36.7, "the same, random kernels")),
}


def student_of(arm: ArmMetrics) -> str:
    """How its maps are read, and what follows."""
    return f"{arm.detection}, {arm.after_detection}"


def mean(arm: ArmMetrics) -> str:
    """Mean over seeds in %, with its 95 % interval."""
    if arm.interval95 is None:
        return f"{100 * arm.mean_test:.2f}"
    low, high = arm.interval95
    return f"{100 * arm.mean_test:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def percent(score: Score) -> str:
    """One run in %, with its 95 % interval over the images."""
    return f"{100 * score.accuracy:.2f} ({100 * score.interval95[0]:.2f} to {100 * score.interval95[1]:.2f})"


def students(bundle: Bundle) -> dict[str, dict[str, ArmMetrics]]:
    """Student -> arm -> its runs: linear ones first, arms in the order of `ARMS`."""
    contents = [content for content in bundle.metrics.arms.values() if content.detection is not None]
    variants = sorted(
        dict.fromkeys(content.variant for content in contents),
        key=lambda name: list(READINGS).index(next(student_of(c) for c in contents if c.variant == name)),
    )
    names = {name: next(student_of(c) for c in contents if c.variant == name) for name in variants}
    found: dict[str, dict[str, ArmMetrics]] = {}
    for variant in variants:
        arms = {content.arm: content for content in contents if content.variant == variant}
        label = names[variant]
        if list(names.values()).count(label) > 1:
            label += f", {next(iter(arms.values())).runs[0].epochs} epochs"
        if bundle.recipe.for_variant(variant) is not bundle.recipe:
            label += ", trained for an ideal bench"
        found[label] = {arm: arms[arm] for arm in ARMS if arm in arms}
    return found


def figure(bundle: Bundle, path: Path) -> None:
    """Every student's arms side by side, the teacher and published figures as lines, the kernels below."""
    metrics, found = bundle.metrics, students(bundle)
    measure = metrics.chosen().test.measure
    fig, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    teacher = 100 * metrics.arms["teacher"].mean_test
    axes.axhline(teacher, color="tab:gray", linewidth=1.5)
    axes.text(len(ARMS) - 0.52, teacher, f"teacher {teacher:.1f}", va="bottom", ha="right", fontsize=9, color="0.35")
    for value, label in PUBLISHED.get(metrics.data.name, ()):
        axes.axhline(value, color="0.6", linewidth=0.8, linestyle=":")
        axes.text(-0.48, value, f"{label} {value:g}", va="bottom", ha="left", fontsize=8, color="0.4")
    width = 0.7 / len(found)
    for number, (student, arms) in enumerate(found.items()):
        shift = (number - (len(found) - 1) / 2) * width
        for place, arm in enumerate(ARMS):
            if arm not in arms:
                continue
            content = arms[arm]
            values = [100 * run.test.accuracy for run in content.runs]
            x = place + shift
            low, high = content.interval95 or (content.mean_test, content.mean_test)
            centre = 100 * content.mean_test
            axes.errorbar(
                x, centre, yerr=[[centre - 100 * low], [100 * high - centre]], fmt="D", markersize=5, capsize=4,
                color=f"C{number}", label=student if arm == next(iter(arms)) else None,
            )  # fmt: skip
            axes.plot([x] * len(values), values, ".", color=f"C{number}", alpha=0.45, markersize=5)
    axes.set(
        xticks=range(len(ARMS)), xticklabels=list(ARMS.values()), xlim=(-0.5, len(ARMS) - 0.5),
        ylabel=f"{'accuracy' if measure == 'accuracy' else 'mean IoU'} on {metrics.data.test:,} test images (%)",
        title=f"{metrics.data.name}: {bundle.recipe.student.maps} signed "
        f"{bundle.student.front.kernel}x{bundle.student.front.kernel} kernels, simulated",
    )  # fmt: skip
    axes.grid(axis="y", alpha=0.3)
    columns = 1 if len(found) < 4 else 2
    fig.legend(
        title="detection, then electronics", fontsize=9, title_fontsize=9, loc="outside lower center", ncols=columns
    )
    fig.savefig(path, dpi=110)
    plt.close(fig)


def margin(better: ArmMetrics, worse: ArmMetrics) -> str:
    """The gain in points, and whether the intervals of the two are apart."""
    gain = 100 * (better.mean_test - worse.mean_test)
    if better.interval95 is None or worse.interval95 is None:
        return f"{gain:+.2f} points (one seed)"
    apart = better.interval95[0] > worse.interval95[1] or worse.interval95[0] > better.interval95[1]
    return f"{gain:+.2f} points, intervals {'apart' if apart else 'overlap'}"


def findings(bundle: Bundle) -> list[str]:
    """What each control says, in numbers, per student."""
    lines = []
    for student, arms in students(bundle).items():
        best = max(arms.values(), key=lambda content: content.mean_test)
        for arm, content in arms.items():
            if content is not best:
                lines.append(f"- {student}: {ARMS[best.arm]} over {ARMS[arm]}: {margin(best, content)}")
    return lines


def page(bundle: Bundle, name: str) -> str:
    """The Markdown page of one task."""
    metrics = bundle.metrics
    teacher = metrics.arms["teacher"]
    what = "accuracy" if metrics.chosen().test.measure == "accuracy" else "mean IoU"
    lines = [
        f"# {metrics.data.name}, simulated",
        "",
        f"Made by `python docs/results/tasks.py` from `models/{bundle.name}/metrics.json`, which",
        f"`labctl train models/{bundle.name} --arms` writes. Eval mode, no bench. Test {what} in %, on",
        f"{metrics.data.test:,} images; for a mean over seeds, its 95 % interval by Student's t.",
        "",
        f"![{what} of every arm]({name}.png)",
        "",
        f"Teacher: {percent(teacher.runs[0].test)}, {teacher.parameters or 0:,} weights; in brackets its 95 % interval",
        "over the test images.",
        "",
        "| student | " + " | ".join(ARMS.values()) + " | weights of the back end |",
        "|---|" + "---|" * (len(ARMS) + 1),
    ]
    for student, arms in students(bundle).items():
        cells = [mean(arms[arm]) if arm in arms else "" for arm in ARMS]
        weights = max((content.parameters or 0) for content in arms.values())
        lines.append(f"| {student} | " + " | ".join(cells) + f" | {weights:,} |")
    read = {student_of(content) for arms in students(bundle).values() for content in arms.values()}
    lines += ["", *(f"- {reading}: {text}" for reading, text in READINGS.items() if reading in read), ""]
    lines += ["## What the controls say", "", *findings(bundle), "", "## Every run", ""]
    lines += ["| student | arm | seed | test (95 % interval over the images) | held back |", "|---|---|---|---|---|"]
    for student, arms in students(bundle).items():
        for arm, content in arms.items():
            lines += [
                f"| {student} | {ARMS[arm]} | {run.seed} | {percent(run.test)} | {100 * run.validation.accuracy:.2f} |"
                for run in content.runs
            ]
    return "\n".join([*lines, ""])


def main() -> None:
    paths = [Path(argument) for argument in sys.argv[1:]] or list_bundles(ROOT / "models")
    for path in paths:
        bundle = load_bundle(path)
        if any(content.detection is not None for content in bundle.metrics.arms.values()):
            name = bundle.metrics.data.name
            figure(bundle, HERE / f"{name}.png")
            (HERE / f"{name}.md").write_text(page(bundle, name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
