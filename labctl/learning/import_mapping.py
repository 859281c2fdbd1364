"""What a state dict does not hold: which tensor plays which part, and what stands between them.

A mapping is the wiring of a foreign network as a list of layers, in the order in which an image meets them, with the
names of their tensors in the file. It is guessed (`labctl.learning.import_guess`), shown, corrected by hand in TOML,
and kept in the recipe of the bundle that was made with it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from labctl.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


Size = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
"""(y, x), pixels, 1 or more; one number stands for both."""
Offset = Annotated[tuple[Count, Count], BeforeValidator(_pair)]
"""(y, x), pixels, 0 or more; one number stands for both."""


class Table(BaseModel):
    """A table of the file: frozen, no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Convolution(Table):
    """`torch.nn.Conv2d`: weight [out, in / groups, y, x], zero padding."""

    kind: Literal["convolution"] = "convolution"
    weight: str
    bias: str | None = None
    padding: Offset = (0, 0)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
    groups: Positive = 1


class Spectral(Table):
    """A product in the Fourier domain, summed over input channels, of which the real part is taken.

    Attributes
    ----------
    weight, imaginary
        The tensor, and the one with its imaginary part where that is a tensor of its own.
    axes
        What the axes of the tensor are, in order: "out", "in", "y", "x", "pair" (real part, imaginary part), "1" (an
        axis of length one). "half" instead of "x" is the non-redundant half of `torch.fft.rfft2`.
    holds
        "mask": the tensor is what the spectrum is multiplied with. "kernel": its Fourier transform is.
    mirrored
        Whether the spectrum is multiplied with the complex conjugate of that: then the layer correlates, as
        `torch.nn.functional.conv2d` does; otherwise it convolves.
    centred
        Whether the zero frequency of a mask lies in the middle (`torch.fft.fftshift`).
    grid
        (y, x) of the Fourier transform; the image is zero-padded at the end to this size.
    start, size
        The part of the result that is kept: its first pixel (y, x), and its size (y, x).
    """

    kind: Literal["spectral"] = "spectral"
    weight: str
    imaginary: str | None = None
    bias: str | None = None
    axes: tuple[Literal["out", "in", "y", "x", "half", "pair", "1"], ...]
    holds: Literal["mask", "kernel"] = "mask"
    mirrored: bool = False
    centred: bool = False
    grid: Size
    start: Offset = (0, 0)
    size: Size

    @model_validator(mode="after")
    def _whole(self) -> Spectral:
        named = [axis for axis in self.axes if axis != "1"]
        wanted = {"out", "in", "y"} | ({"half"} if "half" in named else {"x"})
        if set(named) - {"pair"} not in (wanted, wanted - {"in"}) or len(set(named)) != len(named):
            raise ValueError(
                f"axes {list(self.axes)} must name out, in, y, and x or half, once each, in if it is not 1"
            )
        if "half" in named and self.holds == "kernel":
            raise ValueError('axes have "half", which only a mask can: a kernel has no redundant half')
        if any(start + size > grid for start, size, grid in zip(self.start, self.size, self.grid, strict=True)):
            raise ValueError(f"start {self.start} and size {self.size} leave the grid {self.grid}")
        return self


class Norm(Table):
    """`torch.nn.BatchNorm2d` in eval mode (`BatchNorm1d` behind a linear layer): tensors of one value per map."""

    kind: Literal["batch norm"] = "batch norm"
    mean: str
    variance: str
    weight: str | None = None
    bias: str | None = None
    eps: Annotated[float, Field(gt=0)] = 1e-5


class Relu(Table):
    """An elementwise ReLU."""

    kind: Literal["relu"] = "relu"


class Pool(Table):
    """`AvgPool2d` or `MaxPool2d`; zero padding counts in an average, as torch has it."""

    kind: Literal["average pool", "max pool"]
    size: Size
    stride: Annotated[tuple[Positive, Positive] | None, BeforeValidator(_pair)] = None
    padding: Offset = (0, 0)

    @property
    def steps(self) -> tuple[int, int]:
        """(y, x) from window to window, pixels: the window's size unless said otherwise."""
        return self.stride or self.size


class AdaptivePool(Table):
    """`AdaptiveAvgPool2d` or `AdaptiveMaxPool2d` with this output size (y, x)."""

    kind: Literal["adaptive average pool", "adaptive max pool"]
    output: Size


class Linear(Table):
    """`torch.nn.Linear`: weight [out, in]; the first one takes maps flattened in the order map, y, x."""

    kind: Literal["linear"] = "linear"
    weight: str
    bias: str | None = None


class Softmax(Table):
    """The end of some networks. It changes no answer, and a bundle gives the logits before it."""

    kind: Literal["softmax", "log softmax"] = "softmax"


Layer = Annotated[
    Convolution | Spectral | Norm | Relu | Pool | AdaptivePool | Linear | Softmax, Field(discriminator="kind")
]
LAYERS = (Convolution, Spectral, Norm, Relu, Pool, AdaptivePool, Linear, Softmax)


class Input(Table):
    """What the network takes.

    Attributes
    ----------
    shape
        (channels, y, x) of an image.
    mean, std
        The network was trained on ``(image - mean) / std``, image from 0 to 1; one value, or one per channel.
    """

    shape: tuple[Positive, Positive, Positive]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)

    @model_validator(mode="after")
    def _fits(self) -> Input:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise ValueError(f"input.{name} has {len(values)} values for {self.shape[0]} channels")
        return self


class Mapping(Table):
    """The wiring of a foreign network.

    Attributes
    ----------
    borders
        "exact" refuses a cascade whose layers cut each other's maps at the border of the image; "approximate" takes it,
        and the outputs then differ (see `labctl.learning.import_folding`).
    """

    input: Input
    borders: Literal["exact", "approximate"] = "exact"
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]

    def tensors(self) -> list[str]:
        """Names of all tensors that some layer uses."""
        keys = ("weight", "imaginary", "bias", "mean", "variance")
        names = [getattr(layer, key, None) for layer in self.layers for key in keys]
        return [name for name in names if name is not None]


def _explain(error: ValidationError) -> str:
    clauses = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            clauses.append(f"unknown key {key!r}")
        elif problem["type"] == "missing":
            clauses.append(f"key {key!r} is missing")
        elif problem["type"] == "value_error":
            clauses.append(str(problem["msg"]).removeprefix("Value error, "))
        elif problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
            kinds = [kind for model in LAYERS for kind in _kinds(model)]
            clauses.append(f"{key}: its kind must be one of {', '.join(kinds)}")
        else:
            clauses.append(f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return "; ".join(clauses)


def _kinds(model: type[BaseModel]) -> list[str]:
    return list(getattr(model.model_fields["kind"].annotation, "__args__", ()))


def parse_mapping(text: str, *, path: Path | str = "mapping") -> Mapping:
    """Read a mapping from TOML text; `path` names it in messages. ConfigError when it is not right."""
    try:
        return Mapping.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is no valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file; ConfigError that names the file and the key when it is not right."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a mapping ({error})") from error
    return parse_mapping(text, path=path)


def mapping_values(mapping: Mapping) -> dict[str, Any]:
    """The mapping as plain values for TOML: what is at its default is left out, except what only a person can know."""
    values: dict[str, Any] = {"input": mapping.input.model_dump(mode="json")}
    if mapping.borders != "exact":
        values["borders"] = mapping.borders
    values["layers"] = [
        {"kind": layer.kind} | layer.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        for layer in mapping.layers
    ]
    for layer, entry in zip(mapping.layers, values["layers"], strict=True):
        if isinstance(layer, Convolution):
            entry["padding"] = list(layer.padding)
    return values


def mapping_text(mapping: Mapping, *, notes: tuple[str, ...] = ()) -> str:
    """The mapping as a TOML file, headed by `notes` as comments."""
    document = tomlkit.document()
    for note in notes:
        document.add(tomlkit.comment(note))
    values = mapping_values(mapping)
    if "borders" in values:
        document["borders"] = values["borders"]
    document["input"] = values["input"]
    layers = tomlkit.aot()
    for entry in values["layers"]:
        layers.append(tomlkit.item(entry))
    document["layers"] = layers
    return tomlkit.dumps(document)
