"""The card of a bundle: what a stranger needs to know before using it."""

from __future__ import annotations

import textwrap

from labctl.learning.metrics import ArmMetrics, Metrics, Score
from labctl.learning.recipe import AugmentSection, Recipe, RobustnessSection

ARMS = {
    "transfer": "distilled, stronger transfer",
    "distilled": "distilled",
    "undistilled": "labels alone",
    "random": "distilled, behind random masks",
    "digital": "distilled, without an optical layer",
}
_AFTER = {
    "linear": "linear up to and including the first fully connected layer",
    "relu": "with an electronic ReLU on the maps",
    "two-sided": "with an electronic ReLU on the maps and on their negatives",
}
_STRICT = {
    "linear": "strictly linear up to and including the first fully connected layer",
    "relu": "not linear: an electronic ReLU acts on every value of the maps",
    "two-sided": "not linear: an electronic ReLU acts on every value of the maps, and another on its negative",
}
_DETECTION = {
    "paired": "each signed kernel is shown as two non-negative ones on two tiles, and the square roots of their "
    "intensities are subtracted: linear",
    "intensity": "each signed kernel is shown on one tile, whose intensity is the map: a square law, not linear",
    "incoherent": "the light is incoherent; each signed kernel is shown as two point spread functions on two tiles, "
    "whose intensities are subtracted: linear",
}


def percent(score: Score) -> str:
    """Accuracy and its 95 % interval, as "89.5 % (88.9 to 90.1)"."""
    low, high = score.interval95
    return f"{100 * score.accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f})"


def _mean(arm: ArmMetrics) -> str:
    if arm.interval95 is None:
        return f"{100 * arm.mean_test:.2f} %"
    low, high = arm.interval95
    return f"{100 * arm.mean_test:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def _said(*sentences: str) -> str:
    """Paragraphs of a width that is read well, here and in a terminal."""
    return "\n".join(textwrap.fill(" ".join(sentence.split()), 110, break_on_hyphens=False) for sentence in sentences)


def _item(sentence: str) -> str:
    text = " ".join(sentence.split())
    return textwrap.fill(text, 110, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _augmentation(augment: AugmentSection) -> str:
    parts = [
        "horizontal flips" if augment.flip else "",
        f"shifts of up to {augment.shift_px} px" if augment.shift_px else "",
        f"magnifications of {augment.zoom[0]:g} to {augment.zoom[1]:g}" if augment.zoom != (1, 1) else "",
        f"changes of brightness, colour and gamma by {augment.colour:g}" if augment.colour else "",
    ]
    return ", ".join(part for part in parts if part) or "none"


def _noise(robust: RobustnessSection) -> str:
    parts = [
        f"a gain of 1 ± {robust.gain:g}" if robust.gain else "",
        f"an offset of ± {robust.offset:g} of the map's rms" if robust.offset else "",
        f"white noise of ± {robust.noise:g} of the map's rms" if robust.noise else "",
        f"white noise of ± {robust.tiles:g} of each tile's rms" if robust.tiles else "",
        f"errors of ± {robust.kernels:g} of each kernel's norm" if robust.kernels else "",
    ]
    given = ", ".join(part for part in parts if part)
    if not given:
        return "none"
    return f"every image and map gets {given} (standard deviations), so that the student knows a bench"


def _reading(recipe: Recipe, arm: ArmMetrics) -> str:
    after = _AFTER.get(arm.after_detection or "", arm.after_detection)
    ideal = "" if recipe.for_variant(arm.variant) is recipe else ", trained for an ideal bench"
    return f"`{arm.detection}`, {after}, {arm.runs[0].epochs} epochs{ideal}"


def _means(recipe: Recipe, metrics: Metrics) -> str:
    """A row per student, a column per arm."""
    arms = [arm for arm in metrics.arms.values() if arm.detection is not None]
    columns = [name for name in ARMS if any(arm.arm == name for arm in arms)]
    lines = [
        "| student | " + " | ".join(ARMS[name] for name in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for variant in dict.fromkeys(arm.variant for arm in arms):
        own = {arm.arm: arm for arm in arms if arm.variant == variant}
        cells = [_mean(own[name]) if name in own else "" for name in columns]
        lines.append(f"| {_reading(recipe, next(iter(own.values())))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _margins(metrics: Metrics) -> str:
    """What the student of this bundle gains over each of its controls."""
    best = metrics.arms[metrics.selected.arm]
    lines = []
    for arm in metrics.arms.values():
        if arm.detection is None or arm.variant != best.variant or arm is best:
            continue
        gain = 100 * (best.mean_test - arm.mean_test)
        verdict = "one seed each: no interval"
        if best.interval95 and arm.interval95:
            apart = best.interval95[0] > arm.interval95[1] or arm.interval95[0] > best.interval95[1]
            verdict = f"the intervals {'are apart' if apart else '**overlap**'}"
        lines.append(_item(f"{ARMS[best.arm]} over {ARMS[arm.arm]}: {gain:+.2f} points; {verdict}"))
    return "\n".join(lines)


def _runs(metrics: Metrics) -> str:
    lines = ["| network | seed | held back | test | shipped test |", "|---|---|---|---|---|"]
    for name, arm in metrics.arms.items():
        for run in arm.runs:
            chosen = (
                " **(in this bundle)**" if (name, run.seed) == (metrics.selected.arm, metrics.selected.seed) else ""
            )
            shipped = percent(run.shipped_test) if run.shipped_test else ""
            held = f"{100 * run.validation.accuracy:.2f} %"
            lines.append(f"| {name}{chosen} | {run.seed} | {held} | {percent(run.test)} | {shipped} |")
    return "\n".join(lines)


def _power(recipe: Recipe, metrics: Metrics) -> str:
    """What the optical layer adds, and what it does not."""
    left = metrics.macs["electronic"]
    rival = min(metrics.macs[way] for way in ("student", "collapsed", "spectral") if way in metrics.macs)
    if metrics.detection == "intensity":
        return (
            "The camera's square law is the optical layer's own nonlinearity; it cannot be folded into what follows. "
            f"{left:,} MACs are left in electronics."
        )
    if recipe.student.backend.after_detection != "linear":
        return (
            f"With `{metrics.detection}` detection the optical layer is linear. All nonlinearities of the student are "
            f"electronic. {left:,} MACs are left in electronics."
        )
    saved = (
        f"{left:,} MACs are left, against {rival:,} for all of it folded and run digitally."
        if left < rival
        else f"**here they do not**, for {left:,} MACs are left, against {rival:,} for all of it folded "
        "and run digitally."
    )
    return (
        f"With `{metrics.detection}` detection the optical layer is linear and adds **no expressive power**: "
        "convolution, batch norm, average pool and first fully connected layer together are one linear map, which "
        f"electronics could do as well. What the optics can do is remove digital work: {saved}"
    )


def _figures(metrics: Metrics) -> str:
    chosen = metrics.chosen().test
    if chosen.measure == "mIoU":
        return (
            f"Mean IoU over {len(metrics.data.classes or ())} classes on {metrics.data.test:,} test images, all pixels "
            "of the split counted together, pixels of no class left out; in simulation (no bench), in eval mode. "
            "Intervals of one network: 95 %, from 1,000 bootstrap draws of the images. "
            f"Of the pixels, {100 * (chosen.pixel_accuracy or 0):.1f} % are right."
        )
    return (
        f"Accuracy on {metrics.data.test:,} test images, in simulation (no bench), in eval mode. Intervals of one "
        "network: 95 %, Wilson, over the images."
    )


def _bench(recipe: Recipe, metrics: Metrics) -> str:
    student, channels = recipe.student, (metrics.data.shape or recipe.images().shape)[0]
    tiles = student.maps * (1 if metrics.detection == "intensity" else 2)
    kernel = sum(student.kernel_sizes) - len(student.kernel_sizes) + 1
    colours = "" if channels == 1 else f" for each of {channels} colours, which are shown one after the other"
    formula = f"`conv2d(images, student.fused_kernels(), padding={kernel // 2})`"
    follow = f"the sum over colours of the squares of {formula}" if metrics.detection == "intensity" else formula
    return (
        f"**Intended bench.** A 4f bench with an intensity camera and `{metrics.detection}` detection: "
        f"{_DETECTION[metrics.detection]}. That is {tiles} tiles{colours}. What is read follows {follow}, images of "
        "0 to 1 as amplitudes on the input panel. `labctl models show NAME --bench BENCH` says whether a bench will do."
    )


def write_card(recipe: Recipe, metrics: Metrics) -> str:
    """The card as Markdown. Every figure in it is also in metrics.json."""
    data, student, kd, macs = metrics.data, recipe.student, recipe.distillation, metrics.macs
    channels, rows, columns = data.shape or recipe.images().shape
    classes = data.classes or recipe.images().classes
    kernel = sum(student.kernel_sizes) - len(student.kernel_sizes) + 1
    layers = len(student.kernel_sizes)
    front = (
        "The front is one linear spectral convolution layer"
        if layers == 1
        else f"The front is a cascade of {layers} linear spectral convolution layers, which fuses exactly into one "
        "mask per map"
    )
    job = "Says the class of every pixel of" if data.task == "segmentation" else "A classifier for"
    look = "grey" if channels == 1 else f"{channels} colours"
    bank = f"{student.maps} signed {kernel}x{kernel} kernels" + ("" if channels == 1 else " per colour")
    what = _said(
        f"**What it is.** {job} {data.name} ({rows}x{columns} pixels, {look}; {len(classes)} classes: "
        f"{', '.join(classes)}), cut in two: {bank}, shown as Fourier masks on a 4f bench, and a back end in "
        f"electronics on what the camera reads. {front} (SCLC, arXiv:2102.13323). Behind the camera the student "
        f"is {_STRICT[student.backend.after_detection]}."
    )
    teacher = metrics.arms["teacher"].runs[0].test
    gap = 100 * (teacher.accuracy - metrics.chosen().test.accuracy)
    trained = ARMS.get(metrics.arms[metrics.selected.arm].arm, metrics.selected.arm)
    chosen = _said(
        f'The weights are those of the student trained as "{trained}" that did best on held-back images (seed '
        f"{metrics.selected.seed}): {percent(metrics.chosen().test)}. It is {gap:.1f} points below its teacher, "
        f"{percent(teacher)}."
        + (f" Read through the camera of its recipe: {percent(seen)}." if (seen := metrics.chosen().read_test) else "")
    )
    made = ", ".join(f"{key} {value}" for key, value in metrics.made_with.items())
    notes = f"\n{recipe.notes.strip()}\n" if recipe.notes.strip() else ""
    intervals = _item(
        "The intervals are of the test images, and of the seeds of this one recipe; they say nothing of other recipes."
    )
    unmeasured = _item(
        "These figures say nothing of a real bench. Deploying, calibrating and refitting are measured by `labctl demo` "
        "and `labctl evaluate`, against these as the ceiling."
    )
    told = "channels" if data.task == "segmentation" else recipe.transfer.kind
    training = (
        _item(
            f"Teacher: {recipe.teacher.network} of {', '.join(map(str, recipe.teacher.widths))} channels, "
            f"{metrics.arms['teacher'].parameters or 0:,} weights, {recipe.teacher.epochs} epochs."
        ),
        _item(
            f"Student: {student.epochs} epochs, loss alpha T² KL + (1 - alpha) CE with T = {kd.temperature:g}, "
            f"alpha = {kd.alpha:g}; stronger transfer: {recipe.transfer.weight:g} times the mismatch of {told} besides."
        ),
        _item(
            f"Augmentation: teacher {_augmentation(recipe.teacher.augment)}; students {_augmentation(student.augment)}."
        ),
        _item(f"Bench noise while training the students: {_noise(recipe.robustness)}."),
    )
    source = _said(
        f"Trained on {data.train:,} training images ({data.source}), {data.validation:,} held back, tested on "
        f"{data.test:,} official test images. Data licence: {data.licence or 'unknown'}. These weights: the licence of "
        "labctl (MIT), as far as the data's licence allows."
    )
    again = _said(
        "Train it again (goes on where it was cut off; the same weights bit for bit only with the same torch build and "
        f"number of threads: {made}):"
    )
    use = _said(
        "Use it: `labctl.learning.bundle.load_bundle(path)` gives `student` and `teacher` in eval mode; "
        "`student.fused_kernels()` goes to the optics, `student.backend(features)` takes what the camera read."
    )
    return f"""# {recipe.name}

{recipe.description}.

{what}

{_said(_bench(recipe, metrics))}

## Figures
{_said(_figures(metrics))}

{_means(recipe, metrics)}

Means over seeds, with 95 % intervals by Student's t.

{_margins(metrics)}

{chosen}

| MACs per image | |
|---|---|
| teacher, all digital | {macs["teacher"]:,} |
| student, all digital | {macs["student"]:,} |
| the same, its linear part folded | {macs["collapsed"]:,} |
| moved to optics | {macs["optical"]:,} ({100 * macs["optical"] / macs["student"]:.0f} % of the student) |
| left in electronics | {macs["electronic"]:,} |

## What is not claimed
{_item(_power(recipe, metrics))}
{unmeasured}
{intervals}

## Data and training
{source}

{chr(10).join(training)}
{notes}
{again}

    labctl train models/{recipe.name} --out models/my-{recipe.name} --arms

{use}

## Every run
{_runs(metrics)}
"""
