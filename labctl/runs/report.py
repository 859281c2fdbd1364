"""A run as one page: ``report.html``, with everything in it, to mail, to print, and to open in ten years."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labctl.errors import RunError
from labctl.procedures.report_data import Curve, Picture, ReportData
from labctl.runs import figures
from labctl.runs.catalogue import RunSummary, summarise
from labctl.runs.recorded import RecordedRun, open_run
from labctl.runs.training import is_training, report_so_far

log = logging.getLogger(__name__)
NAME = "report.html"
LOG_LINES = 400
SAMPLES = 6
"""Frames shown of a run whose procedure gave no report of its own."""


@dataclass(frozen=True)
class Cell:
    """One cell of a results table: a text, and its interval if it has one."""

    text: str
    interval: str = ""
    numeric: bool = False


def write_report(folder: Path) -> Path:
    """Write the report of a run beside its data, whole or not at all.

    Parameters
    ----------
    folder : Path
        A run folder, however the run ended.

    Returns
    -------
    Path
        ``report.html``: one file, no external assets.

    Raises
    ------
    RunError
        If it is no run folder, or the disk does not take the page.
    """
    run = open_run(folder)
    page = render(run)
    target = run.path / NAME
    part = run.path / (NAME + ".part")
    try:
        part.write_text(page, encoding="utf-8", newline="\n")
        os.replace(part, target)
    except OSError as error:
        raise RunError(f"the report {target} cannot be written ({error})") from error
    return target


def render(run: RecordedRun) -> str:
    """The page as text."""
    summary = summarise(run)
    notes: list[str] = []
    try:
        result = run.result
    except RunError as error:
        result = None
        notes.append(str(error))
    data = _report_data(result)
    if data is None and is_training(run):
        data = report_so_far(run)
    pictures = list(data.pictures) if data else []
    if not pictures:
        try:
            pictures = _samples(run)
        except RunError as error:
            notes.append(str(error))
    columns, rows = results_table(data.table if data else ())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=(data.title if data else "") or f"{summary.procedure} on {summary.bench}",
        summary_text=data.summary if data else "",
        run=summary,
        facts=_facts(run, summary),
        notes=notes,
        columns=columns,
        rows=rows,
        intervals=_intervals(data.table if data else ()),
        confusions=_confusions(data),
        groups=_groups(pictures),
        curves=_curves(data.curves if data else ()),
        calibrations=list(_calibrations(result)),
        used=run.intent.get("bench", {}).get("calibrations", {}),
        provenance={
            name: json.dumps(value, indent=2, ensure_ascii=False)
            for name, value in run.intent.items()
            if name not in ("format", "id", "started") and value
        },
        log=_log(run),
    )


def results_table(table: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Cell]]]:
    """Column headings and cells; columns ``NAME low`` and ``NAME high`` become the interval of ``NAME``."""
    names = list(dict.fromkeys(name for row in table for name in row))
    hidden = {f"{name} {end}" for name in names for end in ("low", "high")}
    columns = [name for name in names if name not in hidden]
    rows = []
    for row in table:
        cells = []
        for name in columns:
            value = row.get(name, "")
            low, high = row.get(f"{name} low"), row.get(f"{name} high")
            has_interval = low is not None and high is not None
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            cells.append(Cell(_text(value), f"{_text(low)} – {_text(high)}" if has_interval else "", numeric))
        rows.append(cells)
    return columns, rows


def _intervals(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A plot for every column that has intervals."""
    columns, _ = results_table(table)
    plots = []
    for name in columns:
        rows = [row for row in table if all(isinstance(row.get(f"{name}{end}"), int | float) for end in _ENDS)]
        if len(rows) >= 2:
            labels = [str(row.get(columns[0], "")) for row in rows]
            values = [(float(row[name]), float(row[f"{name} low"]), float(row[f"{name} high"])) for row in rows]
            plots.append({"name": name, "images": figures.draw_intervals(labels, values, name)})
    return plots


_ENDS = ("", " low", " high")


def _confusions(data: ReportData | None) -> list[dict[str, Any]]:
    """Counts with the opacity of each cell: correct and wrong are coloured apart, each on its own scale."""
    found = []
    for name, counts in data.confusion.items() if data else ():
        matrix = np.asarray(counts, float)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
            log.warning("the confusion matrix '%s' is not square: left out of the report", name)
            continue
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        right = np.eye(len(matrix), dtype=bool)
        wrong_scale = max(float(share[~right].max(initial=0)), 0.05)
        alpha = np.where(right, share, 0.85 * share / wrong_scale)
        cells = [
            [(int(matrix[i, j]), bool(right[i, j]), round(float(alpha[i, j]), 3)) for j in range(len(matrix))]
            for i in range(len(matrix))
        ]
        classes = list(data.classes) if data and len(data.classes) == len(matrix) else list(range(len(matrix)))
        correct = float(matrix.trace() / max(matrix.sum(), 1))
        total = int(matrix.sum())
        found.append({"name": name, "cells": cells, "classes": classes, "correct": f"{correct:.1%}", "total": total})
    return found


def _groups(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group, []).append(picture)
    return [_group(name, members) for name, members in groups.items()]


def _group(name: str, pictures: Sequence[Picture]) -> dict[str, Any]:
    rows = [
        {"label": label, "pictures": [figures.draw_picture(picture) for picture in members]}
        for label, members in ((label, list(members)) for label, members in groupby(pictures, key=lambda p: p.row))
    ]
    columns = max(len(row["pictures"]) for row in rows) if any(p.row for p in pictures) else _period(pictures)
    return {"name": name or "Pictures", "rows": rows, "columns": columns}


def _period(pictures: Sequence[Picture]) -> int:
    """Columns that keep a repeating series of kinds (captured, predicted, difference) in line; 0 if there is none."""
    kinds = [picture.kind for picture in pictures]
    for period in range(2, 7):
        if len(kinds) % period == 0 and len(set(kinds)) > 1 and kinds == kinds[:period] * (len(kinds) // period):
            return period
    return 0


def _curves(curves: Sequence[Curve]) -> list[dict[str, str]]:
    axes: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        axes.setdefault((curve.xlabel, curve.ylabel), []).append(curve)
    return [figures.draw_curves(members) | {"name": f"{y} against {x}"} for (x, y), members in axes.items()]


def _samples(run: RecordedRun) -> list[Picture]:
    """Some frames and patterns of a run that says nothing about itself."""
    count = run.frame_count
    if not count:
        return []
    wanted = set(np.linspace(0, count - 1, min(SAMPLES, count)).round().astype(int).tolist())
    pictures = [
        Picture(f"frame {number}", _tag(frame.tag), "intensity", frame.data, "Frames")
        for number, frame in enumerate(run.frames())
        if number in wanted
    ]
    pictures += [
        Picture(f"pattern {token[:8]}", "", "gray", run.pattern("slm", token), "SLM patterns")
        for token in run.patterns("slm")[:4]
    ]
    return pictures


def _calibrations(tree: Any) -> Iterator[dict[str, Any]]:
    """Every calibration record in a result, as rows of text."""
    if isinstance(tree, list):
        for item in tree:
            yield from _calibrations(item)
    elif isinstance(tree, dict) and tree.get("$type") == "CalibrationRecord":
        rows = [
            {
                "name": name,
                "value": _describe(value),
                "uncertainty": _describe(tree["uncertainties"][name]) if name in tree["uncertainties"] else "",
                "unit": tree["units"].get(name, ""),
            }
            for name, value in tree["values"].items()
        ]
        quality = ", ".join(f"{name} {_text(figure)}" for name, figure in tree["quality"].items())
        yield {"kind": tree["kind"], "taken": tree["taken"], "rows": rows, "quality": quality}
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _calibrations(item)


def _facts(run: RecordedRun, summary: RunSummary) -> list[tuple[str, str]]:
    git = run.intent.get("git") or {}
    revision = git.get("revision", "")[:12] + (" + local changes" if git.get("dirty") else "")
    versions = run.intent.get("versions", {})
    facts = [
        ("Run", summary.id),
        ("Procedure", summary.procedure),
        ("Bench", summary.bench + (" (simulated)" if summary.simulated else "")),
        ("Started", summary.started.replace("T", " ")[:19] + " UTC"),
        ("Duration", "" if summary.duration_s is None else _duration(summary.duration_s)),
        ("Frames", str(summary.frames)),
        ("Revision", revision),
        ("labctl", versions.get("labctl", "")),
    ]
    return [(name, text) for name, text in facts if text]


def _log(run: RecordedRun) -> list[dict[str, str]]:
    lines = []
    for event in run.events:
        text = str(event.get("text") or event.get("message") or event.get("label") or "")
        if event.get("kind") == "prompt":
            text = f"{text} -> {event.get('choice', '')}"
        elif event.get("kind") in ("set", "read"):
            text = f"{event.get('kind')} {event.get('instrument')} {event.get('setting')}: {event.get('value')}"
        elif event.get("kind") == "published" and isinstance(event.get("value"), int | float):
            text = f"{event.get('name')} = {_text(event['value'])}"
        elif event.get("kind") == "measure":
            text = f"{text or 'measure'}: {event.get('exposures')} exposures"
        if text:
            level = str(event.get("level", "info"))
            lines.append({"time": str(event.get("time", ""))[11:19], "level": level, "text": text})
    if len(lines) > LOG_LINES:
        left_out = {"time": "", "level": "info", "text": f"… {len(lines) - LOG_LINES} lines in events.jsonl …"}
        lines = [*lines[: LOG_LINES // 2], left_out, *lines[-LOG_LINES // 2 :]]
    return lines


def _report_data(tree: Any) -> ReportData | None:
    """The `ReportData` somewhere in a result."""
    if isinstance(tree, dict) and tree.get("$type") == "ReportData":
        pictures, curves = ([_plain(item) for item in tree.get(name, [])] for name in ("pictures", "curves"))
        return ReportData(
            title=tree["title"],
            summary=tree["summary"],
            table=tree["table"],
            confusion=tree["confusion"],
            classes=tree["classes"],
            pictures=[
                Picture(**item | {"limits": tuple(item["limits"]) if item.get("limits") else None}) for item in pictures
            ],
            curves=[Curve(**item) for item in curves],
        )
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return next((found for child in children if (found := _report_data(child)) is not None), None)


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "$type"}


def _tag(tag: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in tag.items())[:80]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _describe(value: Any) -> str:
    """A value of a calibration record: itself while it can be read, else its shape and range."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        return str(value)
    if array.ndim == 0:
        return f"{array[()]:.5g}"
    if array.size <= 12:
        rows = array if array.ndim == 2 else array.reshape(1, -1)
        return "\n".join("  ".join(f"{number:.4g}" for number in row) for row in rows)
    shape = " × ".join(str(n) for n in array.shape)
    if np.iscomplexobj(array):
        return f"{shape}, complex"
    return f"{shape}: {np.nanmin(array):.4g} … {np.nanmax(array):.4g}, median {np.nanmedian(array):.4g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
