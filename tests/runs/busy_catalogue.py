"""A process that makes run folders and lists them: started twice by a test of the catalogue."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from labctl.runs.catalogue import list_runs


def make_run(runs_dir: Path, name: str, number: int, **facts: object) -> Path:
    """A settled run folder without frames."""
    folder = runs_dir / f"20260101T{number:06d}Z-{name}-{number:04x}"
    folder.mkdir()
    started = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000+00:00"
    intent = {"id": folder.name, "started": started, "procedure": {"name": name}, "bench": {"name": "fake"}, **facts}
    (folder / "run.json").write_text(json.dumps(intent), encoding="utf-8")
    result = {"outcome": "done", "finished": started, "frames": number}
    (folder / "result.json.part").write_text(json.dumps(result), encoding="utf-8")
    (folder / "result.json.part").replace(folder / "result.json")
    return folder


def main(runs_dir: Path, name: str, count: int) -> None:
    made = set()
    for number in range(count):
        made.add(make_run(runs_dir, name, number).name)
        found = {run.id for run in list_runs(runs_dir)}
        if not made <= found:
            sys.exit(f"{name}: missed {sorted(made - found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
