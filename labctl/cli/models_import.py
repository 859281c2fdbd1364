"""`labctl models import`: a network that was trained elsewhere becomes a bundle."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from labctl.learning.import_guess import Choices, Guess
    from labctl.learning.import_mapping import Mapping
    from labctl.learning.import_reading import Weights
    from labctl.learning.import_trying import Trial

TRIED = 8
"""How many of the wirings that were tried are shown."""


class ReluPlace(StrEnum):
    """`labctl.learning.import_guess.ReluPlace`, known here without torch."""

    NONE = "none"
    BEFORE_NORM = "before-norm"
    AFTER_NORM = "after-norm"


class PoolKind(StrEnum):
    """`labctl.learning.import_guess.PoolKind`, known here without torch."""

    AVERAGE = "average"
    MAX = "max"


def import_model(
    file: Annotated[Path, typer.Argument(help="A state dict: .pth or .pt of torch.save, or .safetensors.")],
    name: Annotated[str | None, typer.Option(help="Name of the new bundle; default: that of the file.")] = None,
    data: Annotated[str | None, typer.Option(help="Image set it is for: measures its accuracy.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="The wiring, written down (TOML), in place of a guess.")] = None,
    write_mapping: Annotated[Path | None, typer.Option(help="Write the guess to this file, and stop.")] = None,
    key: Annotated[str | None, typer.Option(help="Which network of a checkpoint that holds several.")] = None,
    input_shape: Annotated[str | None, typer.Option(help="Channels,height,width of an image: 3,32,32.")] = None,
    mean: Annotated[str | None, typer.Option(help="Of the input normalisation: 0.5, or one per channel.")] = None,
    std: Annotated[str | None, typer.Option(help="Of the input normalisation: 0.5, or one per channel.")] = None,
    relu: Annotated[ReluPlace | None, typer.Option(help="Where a ReLU stands behind the last convolution.")] = None,
    padding: Annotated[int | None, typer.Option(min=0, help="Zero padding of every convolution, pixels.")] = None,
    pool: Annotated[int | None, typer.Option(min=0, help="Window and stride of the pool, pixels; 0 for none.")] = None,
    pool_kind: Annotated[PoolKind | None, typer.Option(help="Whether the pool takes the mean or the maximum.")] = None,
    approximate_borders: Annotated[
        bool, typer.Option("--approximate-borders", help="Take a cascade that cuts its maps between layers.")
    ] = False,
    models_dir: Annotated[
        Path | None, typer.Option(help="Folder of the bundles; default: models/ of the workspace.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the guess as it is shown.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
) -> None:
    """Import a network trained elsewhere: convolutions or Fourier masks, then batch norm, pooling, linear layers.

    A file of weights does not say how they are wired: that is guessed, shown, and asked for. No code in it is run.
    """
    from labctl.errors import ModelError
    from labctl.learning.import_guess import Choices, guess_mapping
    from labctl.learning.import_mapping import load_mapping, mapping_text
    from labctl.learning.import_reading import read_weights

    weights = read_weights(file, key=key)
    choices = Choices(
        shape=_shape(input_shape),
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        relu=relu.value if relu else None,
        padding=padding,
        pool=pool,
        pool_kind=pool_kind.value if pool_kind else None,
        borders="approximate" if approximate_borders else "exact",
    )
    assumed: tuple[str, ...] = ()
    if mapping is not None:
        wiring = load_mapping(mapping)
        if approximate_borders:
            wiring = wiring.model_copy(update={"borders": "approximate"})
        _show(wiring, weights, ())
    else:
        if choices.shape is None and data is not None:
            choices = replace(choices, shape=_shape_of(data))
        try:
            guess = guess_mapping(weights.tensors, choices, data=data)
        except ModelError as error:
            raise ModelError(f"{file}: {error}") from error
        if data is not None and write_mapping is None:
            guess = _try(guess, weights, choices, data, data_dir, yes=yes)
        wiring, assumed = guess.mapping, tuple(item.text for item in guess.assumed)
        _show(wiring, weights, assumed)
        if write_mapping is not None:
            write_mapping.write_text(mapping_text(wiring, notes=_header(file, assumed)), encoding="utf-8", newline="\n")
            typer.echo(f"{write_mapping}: written; look it through, then import with --mapping {write_mapping}")
            return
        if not yes:
            confirmed = _ask(guess, weights, choices, data)
            wiring, assumed = confirmed.mapping, ()
    _save(weights, wiring, assumed, name or _default_name(file), data, data_dir, models_dir, force=force, json=json)


def _save(
    weights: Weights,
    wiring: Mapping,
    assumed: tuple[str, ...],
    name: str,
    data: str | None,
    data_dir: Path | None,
    models_dir: Path | None,
    *,
    force: bool,
    json: bool,
) -> None:
    from labctl.learning.importing import import_student, save_import
    from labctl.workspace import find

    imported = import_student(weights, wiring)
    target = (models_dir or Path(find().models)) / name
    bundle = save_import(target, imported, name=name, data=data, data_dir=data_dir, overwrite=force, assumed=assumed)
    accuracy = bundle.metrics.chosen().test if bundle.metrics.measured else None
    if json:
        facts: dict[str, Any] = {
            "path": str(bundle.path),
            "sha256": bundle.sha256,
            "deviation": imported.section.deviation,
            "maps": imported.section.maps,
            "kernel": imported.section.kernel,
            "accuracy": accuracy.accuracy if accuracy else None,
            "assumed": list(assumed),
            "notes": list(imported.notes),
        }
        typer.echo(json_module.dumps(facts))
        return
    for note in imported.notes:
        typer.echo(f"- {note}")
    said = "accuracy not measured (--data)"
    if accuracy is not None:
        said = f"{100 * accuracy.accuracy:.2f} % of {accuracy.n} test images"
    kernel = imported.section.kernel
    typer.echo(
        f"{bundle.path}: {imported.section.maps} signed {kernel}x{kernel} maps, logits "
        f"within {imported.section.deviation:.0e} of the network's, {said}"
    )


def _default_name(file: Path) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in file.stem)
    return kept.lstrip("._-") or "imported"


def _header(file: Path, assumed: tuple[str, ...]) -> tuple[str, ...]:
    doubts = tuple(f"  {text}" for text in assumed)
    return (f"How {file.name} is wired, as guessed. Not in the file, and to be looked at:", *doubts)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    from labctl.errors import ConfigError

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected one number, or one per channel: 0.49,0.48,0.45") from error
    if option == "--std" and min(values) <= 0:
        raise ConfigError(f"{option} {text}: a standard deviation is above 0")
    return values


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    from labctl.errors import ConfigError

    try:
        channels, rows, columns = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise ConfigError(f"--input-shape {text}: expected channels,height,width: 3,32,32") from error
    if min(channels, rows, columns) < 1:
        raise ConfigError(f"--input-shape {text}: expected numbers of 1 or more")
    return channels, rows, columns


def _shape_of(data: str) -> tuple[int, int, int]:
    from labctl.learning.data import known_set

    return known_set(data).shape


def _show(wiring: Mapping, weights: Weights, assumed: tuple[str, ...]) -> None:
    """The wiring as a table on standard error, and what of it the file does not say."""
    from rich.table import Table

    from labctl.cli.console import console
    from labctl.learning.import_card import layer_tensors, layer_text
    from labctl.learning.import_wiring import sizes

    for note in weights.notes:
        console.print(f"- {note}", markup=False)
    given = wiring.input
    table = Table("layer", "tensors", "leaves", title=f"{weights.path.name}, as it is read", title_justify="left")
    shape = "x".join(map(str, given.shape))
    table.add_row("image, 0 to 1", f"mean {list(given.mean)}, std {list(given.std)}", shape)
    for layer, left in zip(wiring.layers, sizes(wiring, weights.tensors), strict=True):
        table.add_row(layer_text(layer), layer_tensors(layer), "x".join(map(str, left)))
    console.print(table)
    for text in assumed:
        console.print(f"? {text}", markup=False)


def _try(guess: Guess, weights: Weights, choices: Choices, data: str, data_dir: Path | None, *, yes: bool) -> Guess:
    """Try what is open on training images, show how often each is right, and take the best as the guess."""
    from labctl.cli.console import console
    from labctl.learning.import_guess import alternatives
    from labctl.learning.import_trying import try_wirings

    open_ = alternatives(guess, weights.tensors, choices, data)
    if len(open_) < 2:
        return guess
    trials = try_wirings(weights.tensors, open_, data, data_dir=data_dir)
    if len(trials) < 2:
        return guess
    console.print(f"{len(trials)} wirings fit the file; right answers on {trials[0].images} training images of {data}:")
    for trial in trials[:TRIED]:
        console.print(f"  {100 * trial.accuracy:5.1f} %  loss {trial.loss:6.2f}  {trial.text}", markup=False)
    return _measured(trials, yes=yes)


def _measured(trials: list[Trial], *, yes: bool) -> Guess:
    """The best wiring, with its accuracy in place of what was assumed about what was tried."""
    from labctl.learning.import_guess import Assumption, Guess

    best, second = trials[0], trials[1]
    kept = tuple(item for item in best.guess.assumed if item.about not in ("relu", "pool_kind", "mean"))
    doubt = "; the two are close: look at both" if best.accuracy - second.accuracy < 0.02 else ""
    text = (
        f"{best.text}: right on {100 * best.accuracy:.1f} % of {best.images} training images, loss {best.loss:.2f}; "
        f"the next is right on {100 * second.accuracy:.1f} %, loss {second.loss:.2f} ({second.text}){doubt}"
    )
    return Guess(best.guess.mapping, (*kept, Assumption("", text)))


def asks() -> bool:
    """Whether a person sits at standard input."""
    return sys.stdin.isatty()


def _ask(guess: Guess, weights: Weights, choices: Choices, data: str | None) -> Guess:
    """Have a person settle what is open."""
    from labctl.errors import ModelError
    from labctl.learning.import_guess import guess_mapping

    if not asks():
        raise ModelError(
            f"{weights.path}: how it is wired must be confirmed: by a person at a terminal, with --mapping FILE "
            "(--write-mapping makes a draft), or with --yes, which takes the guess as it is"
        )
    for item in guess.assumed:
        values = [str(option) for option in item.options]
        if item.about in ("relu", "pool_kind") and len(values) > 1:
            said = typer.prompt(f"{item.text}\n  {item.about} ({' / '.join(values)})", default=values[0], err=True)
            if said not in values:
                raise ModelError(f"{said!r}: expected one of {', '.join(values)}")
            choices = replace(choices, **{item.about: said})
        elif item.about == "shape":
            shape = ",".join(str(n) for n in guess.mapping.input.shape)
            choices = replace(choices, shape=_shape(typer.prompt(f"{item.text}\n  shape", default=shape, err=True)))
        elif item.about == "mean":
            said = typer.prompt(f"{item.text}\n  mean", default="0", err=True)
            choices = replace(choices, mean=_numbers("--mean", said))
            choices = replace(choices, std=_numbers("--std", typer.prompt("  std", default="1", err=True)))
    if any(item.about for item in guess.assumed):
        guess = guess_mapping(weights.tensors, choices, data=data)
        _show(guess.mapping, weights, tuple(item.text for item in guess.assumed))
    typer.confirm("import it like this?", default=True, abort=True, err=True)
    return guess
