"""A run taken elsewhere: all of it as one zip that explains itself, or its frames as TIFF, zarr or npz.

Whatever is written appears under its name only when it is whole. Frames pass one by one, each compared with its
checksum, so that a run of any length fits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2

from labctl.errors import RunError
from labctl.runs.export_frames import write_npz, write_tiff, write_tiffs, write_zarr
from labctl.runs.export_readme import readme
from labctl.runs.recorded import RecordedRun
from labctl.runs.store import disk_errors

Format = Literal["zip", "tiff", "zarr", "npz"]
SUFFIXES: dict[str, Format] = {".zip": "zip", ".tif": "tiff", ".tiff": "tiff", ".zarr": "zarr", ".npz": "npz"}
CONTENTS = (
    "run.json", "result.json", "result.h5", "events.jsonl", "frames.h5", "calibrations.h5", "checkpoint.h5",
    "tags.json", "report.html", "manifest.json",
)  # fmt: skip
BLOCK = 2**20


def export_run(
    run: RecordedRun,
    target: Path,
    kind: Format | None = None,
    *,
    force: bool = False,
    report: bool = False,
) -> Path:
    """Write a run, or its frames, somewhere else.

    Parameters
    ----------
    run : RecordedRun
        However it ended.
    target : Path
        What to write. A TIFF without suffix becomes a folder with one file per frame; zarr is a folder, too.
    kind : {"zip", "tiff", "zarr", "npz"}, optional
        Default: what the target's suffix says.
    force : bool
        Replace a target that is there.
    report : bool
        zip: put the report in.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    RunError
        If the target is there, the format is unknown, the run is being written, has no frames, or is damaged, or the
        disk does not take it. Nothing is left behind then, and what was there stays.
    """
    kind = kind or kind_of(target)
    if target.exists() and not force:
        raise RunError(f"{target} is there already: choose another name, or add --force")
    if run.path.resolve() in (target.resolve(), *target.resolve().parents):
        raise RunError(f"{target} lies in the run's own folder: export it to another place")
    if run.outcome == "running":
        raise RunError(f"run {run.id} is still going on: export it when it has ended")
    page = ""
    if report and kind == "zip":
        from labctl.runs.report import render  # figures are slow to import

        page = render(run)
    writers: dict[str, Callable[[Path], None]] = {
        "zip": lambda part: _write_zip(run, part, page),
        "tiff": lambda part: (write_tiff if target.suffix.lower() in (".tif", ".tiff") else write_tiffs)(run, part),
        "zarr": lambda part: write_zarr(run, part),
        "npz": lambda part: write_npz(run, part),
    }
    if kind not in writers:
        raise RunError(f"'{kind}' is no format: there are {', '.join(writers)}")
    with disk_errors(f"run {run.id} cannot be exported to {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _whole(target) as part:
            writers[kind](part)
    return target


def kind_of(target: Path) -> Format:
    """The format that a name asks for.

    Raises
    ------
    RunError
        If its suffix says nothing.
    """
    try:
        return SUFFIXES[target.suffix.lower()]
    except KeyError:
        raise RunError(f"{target.name} does not say its format: add --format zip, tiff, zarr or npz") from None


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file or folder that takes the target's place when everything went well, and else vanishes."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
    old = part.with_suffix(".old")
    try:
        yield part
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(part, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        for left in (part, old):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _write_zip(run: RecordedRun, part: Path, page: str) -> None:
    sums: dict[str, str] = {}
    with zipfile.ZipFile(part, "w", allowZip64=True) as archive:

        def put(name: str, blocks: Iterator[bytes], *, dense: bool = False) -> None:
            """One member; what does not shrink is stored as it is."""
            entry = zipfile.ZipInfo(f"{run.id}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            digest = hashlib.sha256()
            with archive.open(entry, "w", force_zip64=True) as member:
                for block in blocks:
                    digest.update(block)
                    member.write(block)
            sums[name] = digest.hexdigest()

        names = [name for name in CONTENTS if (run.path / name).is_file() and not (page and name == "report.html")]
        if "frames.h5" in names:
            for _ in run.frames(check=True):  # a damaged frame is noticed here, not at the other end
                pass
        for name in names:
            put(name, _blocks(run.path / name), dense=name == "frames.h5")
        if page:
            put("report.html", iter([page.encode()]))
        for panel in ("slm", "input"):
            for token in run.patterns(panel):
                done, png = cv2.imencode(".png", run.pattern(panel, token))
                if not done:
                    raise RunError(f"the {panel} pattern {token} of run {run.id} cannot be turned into a PNG")
                put(f"patterns/{panel}/{token}.png", iter([png.tobytes()]), dense=True)
        config = run.intent.get("provenance", {}).get("config")
        if config:
            put("bench.json", iter([(json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()]))
        put("README.md", iter([readme(run, list(sums)).encode()]))
        lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        put("SHA256SUMS", iter([lines.encode()]))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
