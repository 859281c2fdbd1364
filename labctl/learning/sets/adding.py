"""Adding a user's images: checked, converted once, and put beside the public sets, or refused with nothing left."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError
from labctl.learning.sets.added import RECORD_FILE, SetRecord, check_name, find_added
from labctl.learning.sets.known import ADDED_FILE, SPLITS, VOID, Split
from labctl.learning.sets.npz import PARTS, NpzWriter
from labctl.learning.sets.pictures import Size
from labctl.learning.sets.places import collections
from labctl.learning.sets.sources import Label, Source, open_source

BLOCK = 64
#: After so many bad files no more are looked for.
ENOUGH = 20
MIB = 1 << 20
Progress = Callable[[int, int], None]
Chosen = dict[Split, list[tuple[Split, int]]]


@dataclass
class _Tally:
    """What was learned while converting one split."""

    sha256: str = ""
    per_class: NDArray[np.int64] = field(default_factory=lambda: np.zeros(VOID + 1, dtype=np.int64))
    pictures: Counter[bytes] = field(default_factory=Counter)


def add_set(
    name: str,
    path: Path,
    *,
    size: Size | None = None,
    grey: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
    void: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, SetRecord]:
    """Add images under a name by which `labctl.learning.data.load` finds them.

    Images go through memory in blocks of 64, so that their number is limited by the disk alone.

    Parameters
    ----------
    path
        A folder of images by class, a folder of pairs of images and masks, an .npz file, or a folder with IDX files
        or CIFAR-10 batches.
    size
        (y, x) to fit every image to; None keeps their size, which must be the same for all.
    grey
        One channel, even if there are colours.
    test_share, seed
        What is not divided into training and test images is divided by chance: this part of it, and of each class, is
        for the test.
    void
        Index in the masks that belongs to no class, besides 255.
    data_dir
        The collection to add it to; default: where full sets belong.
    progress
        Called with images done, and in all.

    Returns
    -------
    The folder of the set, and its record.

    Raises
    ------
    DataError
        The name is taken, or something in `path` is not right. Nothing of the set is left then.
    """
    check_name(name)
    base = collections(data_dir)[0]
    if (there := find_added(name, data_dir)) is not None:
        raise DataError(f"{there}: is there already; choose another name, or `labctl data remove {name}` first")
    if (base / name).exists():
        raise DataError(f"{base / name}: is there already and is no added set; choose another name, or delete it")
    if not 0 < test_share < 1:
        raise DataError(f"the share of test images is {test_share:g}, expected more than 0 and less than 1")
    if size is not None and not all(1 <= length <= 8192 for length in size):
        raise DataError(f"the size is {size[0]}x{size[1]} pixels, expected 1 to 8192 each way")
    source = open_source(path, size=size, grey=grey, void=void)
    chosen, drawn = _chosen(source, path, test_share, seed)
    options: dict[str, str | int | float | bool | None] = {
        "size": f"{size[0]}x{size[1]}" if size else None,
        "grey": grey,
        "void": void,
    }
    if drawn:
        options |= {"test_share": test_share, "seed": seed}
    _make_room(base, source, chosen)
    # a name with a dot is no set to whoever looks meanwhile; no tempfile, whose folders other users cannot read
    work = base / f".{name}.{uuid4().hex[:8]}"
    try:
        work.mkdir()
        tallies = _convert(source, chosen, work, progress)
        classes, per_class = _classes(source, path, tallies)
        with NpzWriter(work / ADDED_FILE, append=True) as writer:
            writer.write_small("classes", np.array(classes))
        record = SetRecord(
            name=name,
            task=source.task,
            shape=(source.channels, *source.size),
            classes=classes,
            counts={split: len(items) for split, items in chosen.items()},
            per_class=per_class,
            sha256={split: tally.sha256 for split, tally in tallies.items()},
            size=(work / ADDED_FILE).stat().st_size,
            source=str(path.resolve()),
            kind=source.kind,
            options=options,
            notes=tuple(_notes(source, classes, per_class, tallies)),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        (work / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(work, base / name)
    except OSError as error:
        raise DataError(f"{base / name}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return base / name, record


def _chosen(source: Source, path: Path, test_share: float, seed: int) -> tuple[Chosen, bool]:
    """Which images make which split, and whether chance decided."""
    if "test" in source.counts:
        return {split: [(split, index) for index in range(n)] for split, n in source.counts.items()}, False
    labels = source.labels("train")
    groups = [np.arange(source.counts["train"])]
    if labels is not None:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng = np.random.default_rng(seed)
    test: list[int] = []
    for group in groups:
        if len(group) < 2:
            what = "pair" if labels is None else f"image of class {_said(source, int(labels[group[0]]))}"
            raise DataError(f"{path}: has one {what} only; training and test need one each at least")
        count = min(max(round(test_share * len(group)), 1), len(group) - 1)
        test += rng.permutation(group)[:count].tolist()
    held = set(test)
    train = [index for index in range(source.counts["train"]) if index not in held]
    chosen: Chosen = {"train": [("train", index) for index in train]}
    if "validation" in source.counts:
        chosen["validation"] = [("validation", index) for index in range(source.counts["validation"])]
    return chosen | {"test": [("train", index) for index in sorted(held)]}, True


def _said(source: Source, label: int) -> str:
    return repr(source.classes[label]) if source.classes and label < len(source.classes) else str(label)


def _make_room(base: Path, source: Source, chosen: Chosen) -> None:
    """Make the collection's folder; DataError when it cannot be, or the disk is too full for the images."""
    pixels = sum(len(items) for items in chosen.values()) * source.size[0] * source.size[1]
    # masks lie there twice for a moment: once beside the images, once behind them
    need = pixels * (source.channels + (2 if source.task == "segmentation" else 0)) + 16 * MIB
    try:
        base.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(base).free
    except OSError as error:
        raise DataError(f"{base}: cannot be made or looked at ({error.strerror or error})") from error
    if free < need:
        raise DataError(
            f"{base}: {need / MIB:.0f} MiB are needed and {free / MIB:.0f} are free; make room, or use a smaller size"
        )


def _convert(source: Source, chosen: Chosen, work: Path, progress: Progress | None) -> dict[Split, _Tally]:
    """Write all images and labels into the file of the set."""
    total, done = sum(len(items) for items in chosen.values()), 0
    tallies: dict[Split, _Tally] = {}
    problems: list[tuple[str, str]] = []

    def told(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, NpzWriter(work / ADDED_FILE) as writer:
        for split in SPLITS:
            if split not in chosen:
                continue
            items, tally = chosen[split], _Tally()
            digest = hashlib.sha256()
            shape = (len(items), *source.size, source.channels)
            with (work / "labels").open("w+b") as labels:
                blocks = _blocks(source, items, pool, labels, tally, problems, digest.update, told)
                writer.write(f"x_{PARTS[split]}", shape, blocks)
                labels.seek(0)
                wide = shape[:3] if source.task == "segmentation" else shape[:1]
                writer.write(f"y_{PARTS[split]}", wide, _copied(labels, digest.update))
            tally.sha256 = digest.hexdigest()
            tallies[split] = tally
    (work / "labels").unlink()
    if problems:
        rest, many = len(problems) - 1, " or more" if len(problems) >= ENOUGH else ""
        more = f" (and {rest}{many} besides, the next is {problems[1][0]})" if rest else ""
        raise DataError(problems[0][1] + more)
    return tallies


def _blocks(
    source: Source,
    items: list[tuple[Split, int]],
    pool: ThreadPoolExecutor,
    labels: IO[bytes],
    tally: _Tally,
    problems: list[tuple[str, str]],
    update: Callable[[bytes], None],
    told: Callable[[int], None],
) -> Iterator[NDArray[np.uint8]]:
    """Blocks of images uint8 [n, y, x, channels]; their labels go to a file, what is wrong to `problems`."""

    def attempt(item: tuple[Split, int]) -> tuple[NDArray[np.uint8], Label] | DataError:
        try:
            image, label = source.read(*item)
            wanted = (*source.size, source.channels)
            if image.shape != wanted:
                raise DataError(
                    f"{source.where(*item)}: is {list(image.shape)} once decoded, not {list(wanted)}; save it anew"
                )
            return image, label
        except DataError as error:
            return error

    for first in range(0, len(items), BLOCK):
        several = items[first : first + BLOCK]
        block = np.zeros((len(several), *source.size, source.channels), dtype=np.uint8)
        for at, (item, result) in enumerate(zip(several, pool.map(attempt, several), strict=True)):
            if isinstance(result, DataError):
                problems.append((source.where(*item), str(result)))
                continue
            block[at], label = result
            values = np.asarray(label, dtype=np.uint8)
            tally.per_class += np.bincount(values.ravel(), minlength=VOID + 1)
            tally.pictures[hashlib.blake2b(block[at].tobytes(), digest_size=16).digest()] += 1
            labels.write(values.tobytes())
        update(np.ascontiguousarray(block.transpose(0, 3, 1, 2)).tobytes())
        told(len(several))
        yield block
        if len(problems) >= ENOUGH:
            return


def _copied(file: IO[bytes], update: Callable[[bytes], None]) -> Iterator[NDArray[np.uint8]]:
    while content := file.read(MIB):
        update(content)
        yield np.frombuffer(content, dtype=np.uint8)


def _classes(
    source: Source, path: Path, tallies: dict[Split, _Tally]
) -> tuple[tuple[str, ...], dict[Split, tuple[int, ...]]]:
    """Names of the classes, and how many images or pixels each has; DataError when a class is missing."""
    whole = sum((tally.per_class for tally in tallies.values()), np.zeros(VOID + 1, dtype=np.int64))
    if source.task == "segmentation":
        # 255 is no class
        whole = whole[:VOID]
    used = np.flatnonzero(whole)
    highest = int(used.max(initial=-1))
    names = source.classes
    if names is not None and highest >= len(names):
        raise DataError(f"{path}: holds label {highest}, its {len(names)} classes are 0 to {len(names) - 1}")
    if len(used) < 2:
        hint = ""
        if source.task == "segmentation":
            hint = "; masks hold 0 for the first class, 1 for the second and so on, 255 is no class"
        raise DataError(f"{path}: has one class only; two or more are needed{hint}")
    classes = names if names is not None else tuple(str(label) for label in range(highest + 1))
    per_class = {split: tuple(int(n) for n in tally.per_class[: len(classes)]) for split, tally in tallies.items()}
    empty = [index for index, count in enumerate(per_class["train"]) if not count]
    if empty and (source.task == "classification" or names is None):
        what = "pixel in the training masks" if source.task == "segmentation" else "training image"
        raise DataError(f"{path}: class {classes[empty[0]]!r} (label {empty[0]}) has no {what}; add some or drop it")
    return classes, per_class


def _notes(
    source: Source, classes: tuple[str, ...], per_class: dict[Split, tuple[int, ...]], tallies: dict[Split, _Tally]
) -> Iterator[str]:
    """What the user should know, though it is no error."""
    for split, counts in per_class.items():
        if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
            what = "pixels" if source.task == "segmentation" else "images"
            yield f"no {what} of {', '.join(missing)} in the {split} split"
    train = tallies["train"].pictures
    for split in ("validation", "test"):
        if split in tallies and (shared := sum(n for key, n in tallies[split].pictures.items() if key in train)):
            yield f"{shared} of the {split} images are in the training images too: accuracy will be flattered"
