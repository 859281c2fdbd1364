"""`labctl data`: which image sets are here, how to get the public ones, and how to add one's own."""

from __future__ import annotations

import json as json_module
import re
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from labctl.learning.data import Found, KnownSet
    from labctl.learning.sets.added import SetRecord

app = typer.Typer(help="Image sets: where they are, how to get them, how to add your own.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="Look here instead of the usual places.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


@app.command("list")
def list_sets(
    data_dir: DataDir = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every pixel and compare it with the set's checksum.")
    ] = False,
    json: Json = False,
) -> None:
    """Show every set, where it was found and how many images it holds there, the one that `load` takes first."""
    from labctl.errors import DataError
    from labctl.learning.data import FULL_SET, KNOWN, fetch_hint, find_sets

    found = find_sets(data_dir, verify=verify)
    if json:
        rows = [{**asdict(place), "folder": str(place.folder)} for place in found]
        typer.echo(json_module.dumps({"found": rows, "hints": {name: fetch_hint(name) for name in KNOWN}}))
    else:
        for name in [*KNOWN, *dict.fromkeys(place.name for place in found if place.name not in KNOWN)]:
            places = [place for place in found if place.name == name]
            for place in places:
                typer.echo(_line(place, KNOWN.get(name)))
                if place.problem:
                    typer.echo(f"{name}  DAMAGED: {place.problem}")
            if name in KNOWN and not any(place.source == FULL_SET and not place.problem for place in places):
                typer.echo(f"{name}  {'full set ' if places else ''}not found; to get it, {fetch_hint(name)}")
    if verify and (bad := [place for place in found if place.genuine is False or place.problem]):
        names = ", ".join(f"{place.name} in {place.folder}" for place in bad)
        raise DataError(f"not as they should be: {names}; fetch or add them again")


def _line(place: Found, known: KnownSet | None) -> str:
    """One place of one set."""
    from labctl.learning.data import FULL_SET

    held = {"train": place.train, "validation": place.validation, "test": place.test}
    counts = ", ".join(f"{n} {split}" for split, n in held.items() if n or split != "validation")
    whole = known.counts if known and place.source == FULL_SET else {}
    if not place.problem and any(held[split] != n for split, n in whole.items()):
        counts += f" (INCOMPLETE: the set has {', '.join(f'{n} {split}' for split, n in whole.items())})"
    task = ", segmentation" if place.task == "segmentation" else ""
    verdict = {True: ", genuine", False: ", ALTERED", None: ""}[place.genuine]
    return f"{place.name}  {place.source}{task}, {counts}{verdict}, in {place.folder}"


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call the set: lower-case letters, digits, '-', '_', '.'.")],
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of images by class, folder of images/ and masks/, .npz file, or folder of IDX or CIFAR files."
        ),
    ],
    size: Annotated[
        str | None, typer.Option(help="Fit every image to this size: 32, or 120x160 (rows x columns).")
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="One channel, even if there are colours.")] = False,
    test_share: Annotated[
        float, typer.Option(help="Part of the images for the test, where they are not divided already.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Draws that part.")] = 0,
    void: Annotated[
        int | None, typer.Option(help="Index in the masks that belongs to no class, besides 255.", min=0, max=255)
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where to put it; default: see `labctl data list`.")] = None,
    json: Json = False,
) -> None:
    """Add your own images: check them, convert them once, and train on them by name."""
    from labctl.learning.sets.adding import add_set

    with _bar(f"adding {name}", quiet=json) as update:
        folder, record = add_set(
            name,
            path,
            size=parse_size(size),
            grey=grey,
            test_share=test_share,
            seed=seed,
            void=void,
            data_dir=data_dir,
            progress=lambda done, total: update(f"adding {name}", done, total),
        )
    if json:
        typer.echo(json_module.dumps({"folder": str(folder), **record.model_dump(mode="json")}))
    else:
        _show(folder, record)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(y, x) from "32" or "120x160"; ConfigError for anything else."""
    from labctl.errors import ConfigError

    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})(?:[xX*]([1-9]\d{0,3}))?", text.strip())
    if match is None:
        raise ConfigError(f"--size is {text!r}, expected one number, or rows x columns: 32, or 120x160")
    return int(match[1]), int(match[2] or match[1])


def _show(folder: Path, record: SetRecord) -> None:
    """What was added, class by class."""
    channels, rows, columns = record.shape
    splits = ", ".join(f"{n} {split}" for split, n in record.counts.items())
    colour = "grey" if channels == 1 else "colour"
    typer.echo(f"{record.name}  {record.kind}, {record.task}: {splits}, {rows}x{columns} {colour}, in {folder}")
    wide = max(len(name) for name in record.classes)
    totals = {split: max(1, sum(counts)) for split, counts in record.per_class.items()}
    for index, name in enumerate(record.classes):
        counts = {split: record.per_class[split][index] for split in record.counts}
        if record.task == "segmentation":
            said = ", ".join(f"{100 * n / totals[split]:.1f} % of {split}" for split, n in counts.items())
        else:
            said = ", ".join(f"{n} {split}" for split, n in counts.items())
        typer.echo(f"  {index:3d}  {name:{wide}}  {said}")
    for note in record.notes:
        typer.echo(f"  note: {note}")


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of a set that was added.")],
    data_dir: DataDir = None,
) -> None:
    """Delete a set that was added. The files it was made from stay as they are."""
    from labctl.learning.sets.added import remove_set

    typer.echo(f"removed {remove_set(name, data_dir=data_dir)}")


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="Name of a public set.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address that holds the files, for a computer without the internet.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where to put it; default: see `labctl data list`.")] = None,
) -> None:
    """Fetch a public set, checked against its published checksums. The same command goes on with one that broke off."""
    from labctl.learning.sets.fetching import fetch_set

    with _bar(f"fetching {name}") as update:
        folder = fetch_set(name, data_dir=data_dir, mirror=mirror, progress=update)
    typer.echo(f"{name}  genuine, in {folder}")


@app.command("fetch-hint")
def hint(name: Annotated[str, typer.Argument(help="Name of a set.")]) -> None:
    """Say how to get the full set by hand."""
    from labctl.learning.data import fetch_hint

    typer.echo(fetch_hint(name))


@contextmanager
def _bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, with the time left; one for each description. Silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        tasks = {title: bar.add_task(title, total=None)}

        def update(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield update
