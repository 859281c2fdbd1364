"""The README of an exported run: what each file is, and how to read it without labctl."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from labctl.runs.labels import labels_of
from labctl.runs.recorded import RecordedRun

FILES = {
    "run.json": "What was meant, written before anything else: procedure and parameters, bench, devices, versions, "
    "revision, seeds, hashes of models and data.",
    "result.json": "How it ended, and what the procedure returned. `$type` names a record's kind, `$array` holds a "
    "small array, `$ref` one in `result.h5`.",
    "result.h5": "Arrays that `result.json` refers to.",
    "events.jsonl": "What happened when, one JSON object per line.",
    "frames.h5": "Every frame as the camera gave it, and the patterns shown (HDF5).",
    "checkpoint.h5": "The last state that the procedure kept to resume from.",
    "tags.json": "Tags and note.",
    "manifest.json": "Sizes and hashes of the small files at the end of the run, which `labctl runs verify` compares.",
    "report.html": "A page for people: open it in a browser.",
    "bench.json": "The bench file that was used, all defaults filled in.",
    "patterns/slm/": "Gray patterns of the SLM as PNG, named by their token: column `slm` of the table in `frames.h5`.",
    "patterns/input/": "Gray patterns of the input panel as PNG, named by their token (column `input`).",
    "calibrations.h5": "Calibration records that were in force (HDF5), by kind: `values` with their unit as attribute, "
    "`uncertainties`, `quality`.",
    "SHA256SUMS": "Check all files with `sha256sum -c SHA256SUMS`.",
}
READING = """\
## Frames in Python
```python
import h5py, json

with h5py.File("frames.h5") as file:
    for number, row in enumerate(file["table"][()]):
        if not row["stack"]:                                  # a row that was never filled
            continue
        frame = file["frames"][row["stack"].decode()][row["index"]]   # [row, column], counts
        tag = json.loads(file["tags"].asstr()[number])        # what the frame was for
        started, ended = row["started"], row["ended"]         # of the exposure, s, on the bench's clock
        slm = row["slm"].decode()                             # token of the SLM pattern that made it
```
`/frames/ROWSxCOLUMNS-TYPE` are stacks [frame, row, column] of frames of one size. `/table` has one row per frame in the
order captured: `exposure_s` in seconds; `origin`, row and column of the frame's corner on the sensor; `batch` and
`position`, the exposure that it answers; `xxh3`, a hash of its bytes. `/patterns/slm/TOKEN` holds each SLM pattern once
[row, column], gray levels. MATLAB reads the same with `h5read('frames.h5', '/table')`, ImageJ with its HDF5 plugin.
"""


def readme(run: RecordedRun, files: Collection[str]) -> str:
    """The text, Markdown.

    Parameters
    ----------
    files : collection of str
        What is beside it.
    """
    known = {name: text for name, text in FILES.items() if _is_there(name, files)}
    lines = [f"# Run {run.id}", "", *(f"- {name}: {text}" for name, text in _facts(run).items() if text), ""]
    lines += ["## Files", "", "| file | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in known.items()]
    lines.append("")
    return "\n".join(lines) + ("\n" + READING if "frames.h5" in files else "\nThe run ended before its first frame.\n")


def _is_there(name: str, files: Collection[str]) -> bool:
    return (
        name == "SHA256SUMS" or name in files or (name.endswith("/") and any(file.startswith(name) for file in files))
    )


def _facts(run: RecordedRun) -> dict[str, str]:
    intent, provenance = run.intent, run.intent.get("provenance", {})
    bench, labels, git = intent.get("bench", {}), labels_of(run.path, run.intent), intent.get("git") or {}
    message = run.conclusion.get("message", "")
    parameters = provenance.get("recipe", {}).get("parameters") or intent.get("procedure", {}).get("parameters", {})
    return {
        "procedure": str(intent.get("procedure", {}).get("name", "")),
        "parameters": json.dumps(parameters, ensure_ascii=False) if parameters else "",
        "bench": str(bench.get("name", "")) + (" (simulated)" if bench.get("simulated") else ""),
        "devices": _named(intent.get("devices", {})),
        "started": str(intent.get("started", "")),
        "outcome": run.outcome + (f": {message}" if message else ""),
        "frames": str(run.frame_count),
        "models (SHA-256)": _named(provenance.get("models", {})),
        "data (SHA-256)": _named(provenance.get("data", {})),
        "seeds": _named(provenance.get("seeds", {})),
        "experiment": str(provenance.get("experiment", {}).get("name", "")),
        "tags": " ".join(labels.tags),
        "note": labels.note,
        "versions": _named(intent.get("versions", {})),
        "revision": str(git.get("revision", "")) + (" + local changes" if git.get("dirty") else ""),
    }


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in ("", None))
