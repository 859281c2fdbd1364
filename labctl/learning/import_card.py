"""The card of an imported bundle: what a stranger needs to know before using it."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.learning.import_mapping import AdaptivePool, Convolution, Layer, Linear, Norm, Pool, Spectral
from labctl.learning.imported import ImportedSection
from labctl.learning.metrics import Metrics


def layer_text(layer: Layer) -> str:
    """One layer in words: its kind, its numbers."""
    match layer:
        case Convolution():
            said = f"convolution, padding {layer.padding[0]}x{layer.padding[1]}"
            said += f", stride {layer.stride[0]}x{layer.stride[1]}" if layer.stride != (1, 1) else ""
            said += f", dilation {layer.dilation[0]}x{layer.dilation[1]}" if layer.dilation != (1, 1) else ""
            return said + (f", {layer.groups} groups" if layer.groups > 1 else "")
        case Spectral():
            how = ", mirrored" if layer.mirrored else ""
            (top, left), (rows, columns) = layer.start, layer.size
            return (
                f"spectral, {layer.holds}s on a grid of {layer.grid[0]}x{layer.grid[1]}{how}, "
                f"{rows}x{columns} from ({top}, {left})"
            )
        case Pool():
            said = f"{layer.kind} {layer.size[0]}x{layer.size[1]}"
            said += f" in steps of {layer.steps[0]}x{layer.steps[1]}" if layer.steps != layer.size else ""
            return said + (f", padding {layer.padding[0]}x{layer.padding[1]}" if layer.padding != (0, 0) else "")
        case AdaptivePool():
            return f"{layer.kind} to {layer.output[0]}x{layer.output[1]}"
        case _:
            return layer.kind


def layer_tensors(layer: Layer) -> str:
    """The names of its tensors."""
    if isinstance(layer, Norm):
        return layer.mean.rpartition(".")[0] + ".*" if "." in layer.mean else layer.mean
    names = [getattr(layer, key, None) for key in ("weight", "imaginary", "bias")]
    return ", ".join(name for name in names if name is not None)


def _accuracy(metrics: Metrics) -> str:
    if not metrics.measured:
        return "Not measured: it was imported without an image set. `labctl models import ... --data SET` measures it."
    test = metrics.chosen().test
    low, high = (100 * bound for bound in test.interval95)
    return (
        f"{100 * test.accuracy:.2f} % ({low:.1f} to {high:.1f}, 95 % Wilson interval) of {test.n:,} test images of "
        f"{metrics.data.name} ({metrics.data.source}), in simulation, in eval mode."
    )


def write_import_card(
    name: str, section: ImportedSection, metrics: Metrics, notes: Sequence[str], assumed: Sequence[str]
) -> str:
    """The card as Markdown."""
    given, macs = section.mapping.input, metrics.macs
    channels, rows, columns = given.shape
    table = "\n".join(
        f"| {number} | {layer_text(layer)} | {layer_tensors(layer)} |"
        for number, layer in enumerate(section.mapping.layers, start=1)
    )
    listed = "\n".join(f"- {note}" for note in notes) or "- nothing"
    doubts = "\n".join(f"- {text}" for text in assumed) or "- nothing: the mapping was written or confirmed"
    relu = (
        "an electronic ReLU on the maps"
        if section.after_detection == "relu"
        else "nothing nonlinear up to and including its first fully connected layer"
    )
    borders = (
        ""
        if section.mapping.borders == "exact"
        else "\n**Its borders are approximate**: the network cuts its maps between layers, light does not. "
    )
    multiplied = sum(isinstance(layer, Linear) for layer in section.mapping.layers)
    return f"""# {name}

A student that was trained elsewhere and imported from `{section.file}` (sha256 {section.sha256[:16]}...).

**What it is.** A classifier with {section.classes} classes of images of {rows}x{columns} pixels, {channels} channel\
{"s" if channels > 1 else ""}, from 0 to 1.
Its front is {section.maps} signed {section.kernel}x{section.kernel} kernels, shown as Fourier masks on a
4f bench with `paired` detection ({2 * section.maps} tiles per channel); its back end runs in electronics, with
{relu} and {multiplied} linear layer{"s" if multiplied != 1 else ""} in the file.

**The same as the network.** On made-up images the logits differ from those of the network that the mapping describes by
at most {section.deviation:.1e} of the largest. That the mapping is the network's own, no file can prove: the accuracy
below can.{borders}

## Accuracy
{_accuracy(metrics)}

| MACs per image | |
|---|---|
| all digital | {macs["student"]:,} |
| moved to optics | {macs["optical"]:,} |
| left in electronics | {macs["electronic"]:,} |

## How the file was read
Images go in from 0 to 1; the network's `(image - mean) / std` with mean {list(given.mean)}, std {list(given.std)}
is in the kernels and the back end.

| | layer | tensors |
|---|---|---|
{table}

Not in the file, and confirmed by nobody:

{doubts}

Moved or folded:

{listed}

The bundle has no teacher: refitting its back end on a bench uses labels alone.
"""
