"""The card of a bundle: what a stranger needs to know before using it."""

from __future__ import annotations

from labctl.learning.metrics import Metrics, Score
from labctl.learning.recipe import AugmentSection, Recipe

_ARM_TITLES = {
    "teacher": "teacher (nonlinear CNN, digital)",
    "distilled": "student, distilled",
    "undistilled": "student, labels alone",
}


def percent(score: Score) -> str:
    """Accuracy and its 95 % interval, as "89.5 % (88.9 to 90.1)"."""
    low, high = score.interval95
    return f"{100 * score.accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f})"


def _augmentation(augment: AugmentSection) -> str:
    shifts = f"shifts of up to {augment.shift_px} px" if augment.shift_px else ""
    return " and ".join(part for part in ("horizontal flips" if augment.flip else "", shifts) if part) or "none"


def _table(metrics: Metrics) -> str:
    lines = [
        f"| network | seed | held back, n = {metrics.data.validation} | test, n = {metrics.data.test} | shipped test |",
        "|---|---|---|---|---|",
    ]
    for arm, content in metrics.arms.items():
        for run in content.runs:
            chosen = " **(in this bundle)**" if (arm, run.seed) == (metrics.selected.arm, metrics.selected.seed) else ""
            shipped = percent(run.shipped_test) if run.shipped_test else "none"
            title = _ARM_TITLES.get(arm, arm)
            held = f"{100 * run.validation.accuracy:.2f} %"
            lines.append(f"| {title}{chosen} | {run.seed} | {held} | {percent(run.test)} | {shipped} |")
    return "\n".join(lines)


def _means(metrics: Metrics) -> str:
    lines = []
    for arm, content in metrics.arms.items():
        if content.interval95 is not None:
            low, high = content.interval95
            lines.append(
                f"- {_ARM_TITLES.get(arm, arm)}: mean {100 * content.mean_test:.2f} % over {len(content.runs)} seeds "
                f"(95 % interval of the mean {100 * low:.2f} to {100 * high:.2f})"
            )
    kd, plain = metrics.arms.get("distilled"), metrics.arms.get("undistilled")
    if kd and plain and kd.interval95 and plain.interval95:
        gain = 100 * (kd.mean_test - plain.mean_test)
        apart = kd.interval95[0] > plain.interval95[1] or plain.interval95[0] > kd.interval95[1]
        verdict = "outside" if apart else "**not outside**"
        lines.append(f"- distilling changes the mean by {gain:+.2f} points, {verdict} these intervals")
    return "\n".join(lines)


def write_card(recipe: Recipe, metrics: Metrics) -> str:
    """The card as Markdown. Every figure in it is also in metrics.json."""
    known, student, robust = recipe.images(), recipe.student, recipe.robustness
    kernel = sum(student.kernel_sizes) - len(student.kernel_sizes) + 1
    macs, back, kd = metrics.macs, student.backend, recipe.distillation
    linear = (
        "with an electronic ReLU on the maps"
        if back.after_detection != "linear"
        else ("strictly linear up to and including the first fully connected layer")
    )
    noise = (
        "none"
        if not any((robust.gain, robust.offset, robust.noise))
        else (
            f"every image and map gets a gain of 1 ± {robust.gain:g},\n  an offset of ± {robust.offset:g} and white "
            f"noise of ± {robust.noise:g} of the map's rms (standard deviations), so that the back end knows a bench"
        )
    )
    notes = f"\n{recipe.notes.strip()}\n" if recipe.notes.strip() else ""
    channels = "1 channel" if known.shape[0] == 1 else f"{known.shape[0]} channels"
    size = f"{known.shape[1]}x{known.shape[2]} pixels, {channels}"
    made = ", ".join(f"{key} {value}" for key, value in metrics.made_with.items())
    teacher_gap = 100 * (metrics.arms["teacher"].runs[0].test.accuracy - metrics.chosen().test.accuracy)
    left, collapsed = macs["electronic"], macs["collapsed"]
    saved = (
        f"{left:,} MACs are\n  left, against {collapsed:,} for that one map and the last layer run digitally."
        if left < collapsed
        else f"**here they do not**,\n  for {left:,} MACs are left, against {collapsed:,} for that one map and the "
        "last layer\n  run digitally."
    )
    power = (
        f"With `{metrics.detection}` detection the optical layer is linear. The only nonlinearities of the student are "
        "electronic: the ReLU on the maps and the one behind the first fully connected layer."
        if back.after_detection != "linear"
        else f"With `{metrics.detection}` detection the optical layer is linear and adds **no expressive power**:\n  "
        "convolution, batch norm, average pool and first fully connected layer together are one linear map, which\n  "
        "electronics could do as well. What the optics can do is remove digital work: " + saved
    )
    return f"""# {recipe.name}

{recipe.description}.

**What it is.** A classifier for {metrics.data.name} ({size}, {len(known.classes)} classes:
{", ".join(known.classes)}), cut in two.
The front is {student.maps} signed {kernel}x{kernel} kernels, shown as Fourier masks on a 4f bench; the back end runs in
electronics on what the camera reads. The front is a cascade of {len(student.kernel_sizes)} linear spectral convolution
layers, which fuses exactly into one mask per map; the student is {linear}
(SCLC, arXiv:2102.13323).

**Intended bench.** A 4f bench with an intensity camera and `{metrics.detection}` detection: each signed kernel is
shown as two non-negative ones on two tiles ({2 * student.maps} tiles), whose square roots are subtracted.
Feature maps follow `torch.nn.functional.conv2d(images, student.fused_kernels(), padding={kernel // 2})`, images of
0 to 1.

## Figures
In simulation (no bench), in eval mode; in brackets the 95 % Wilson interval over the images.

{_table(metrics)}

{_means(metrics)}

The weights are those of the {metrics.selected.arm} student that did best on held-back *training* images (seed
{metrics.selected.seed}). It is {teacher_gap:.1f} points below its teacher.

| MACs per image | |
|---|---|
| teacher, all digital | {macs["teacher"]:,} |
| student, all digital | {macs["student"]:,} |
| the same, its linear part as one matrix | {collapsed:,} |
| moved to optics | {macs["optical"]:,} ({100 * macs["optical"] / macs["student"]:.0f} % of the student) |
| left in electronics | {macs["electronic"]:,} |

## What is not claimed
- {power}
- These figures say nothing of a real bench. Deploying, calibrating and refitting are measured by `labctl demo` and
  `labctl evaluate`, against these as the ceiling.
- The intervals are of the test images, and of the seeds of this one recipe; they say nothing of other recipes.

## Data and training
Trained on {metrics.data.train:,} of the official training images ({metrics.data.source}), {metrics.data.validation:,}
held back, tested on {metrics.data.test:,} official test images. Data licence: {metrics.data.licence}. These weights:
the licence of labctl (MIT).

- Teacher: 3x3 convolutions of {", ".join(map(str, recipe.teacher.widths))} channels, {recipe.teacher.epochs} epochs.
- Student: {student.epochs} epochs, loss alpha T² KL + (1 - alpha) CE with T = {kd.temperature:g}, alpha = {kd.alpha:g}.
- Augmentation: teacher {_augmentation(recipe.teacher.augment)}; students {_augmentation(student.augment)}.
- Bench noise while training the students: {noise}.
{notes}
Train it again (goes on where it was cut off; the same weights bit for bit only with the same torch build and number
of threads: {made}):

    labctl train models/{recipe.name}/recipe.toml --out models/my-{recipe.name}

Use it: `labctl.learning.bundle.load_bundle(path)` gives `student` and `teacher` in eval mode; `student.fused_kernels()`
goes to the optics, `student.backend(features)` takes what the camera read, `labctl.learning.refit.refit_backend` fits
the back end to a bench.
"""
