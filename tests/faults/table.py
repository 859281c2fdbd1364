"""Writes docs/results/faults.md from the matrix that the tests hold labctl to: ``python tests/faults/table.py``."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from faults_matrix import COLUMNS, FATES, PROVABLE, Becomes, Fate

PAGE = Path(__file__).parents[2] / "docs" / "results" / "faults.md"
HEAD = """# What becomes of a run when a device fails

Made by `python tests/faults/table.py` from `tests/faults/faults_matrix.py`; `tests/faults/test_matrix.py` carries
every cell out: on a tiny bench with both kinds of camera (one that is asked for a frame, and one that exposes while
it reads out) and on a simulated bench from a bench file. Each time the run has either just the frames, patterns and
readings of a run without the fault, or it ends with the line given here, is recorded as failed, keeps every frame
from before, and can be resumed; and the next run in the same process, on the same bench, is whole.

With what `[recovery]` says if nobody changes it: two tries more, then the device is opened again and tried once more
(where something has failed at opening again, `reopens = 2`). *Once* is one call, *for a moment* 0.3 s, *for a while*
until plain tries are used up, *for good* every call from then on.

| word | what labctl does |
|---|---|
| sends it again | shows the pattern again, lets it settle, and repeats the exposures that were under way |
| exposes again | throws away what the camera holds, shows both patterns again, lets them settle, and exposes again |
| passes it over | recognises an old frame by its times, and takes the next one |
| tries again | makes the call again |
| opens it again | closes and opens it; gives it back its settings (light last), its window, or its pattern |
| waits | the call is late, and then answered; one that takes `hang_s` longer than it should ends the run, see below |
| reports it | the run keeps its outcome; a line says what failed, all others are made safe and released |
| **ends** | one line: the device's name, then what stands here, and how often it was tried |
| unseen | no time, shape or answer tells; where it says so, a proof of pairing sees it in the light |
"""
FOOT = """
## Hangs
A call that does not come back is given up: after an abort 0.4 s later than it should have ended, otherwise after
`timeout_ms` and `hang_s`. The run ends with `camera: does not answer: check its cable and power, then open the bench
again`, the other devices are made safe at once, and the bench closes without it. When the call comes back after all,
its device is made safe before anything else may use it. `tests/faults/test_hangs.py` hangs each device at each kind
of call (also while it is opened again, made safe and closed), with an abort and without.

## Unseen, and with a proof
What a frame shows is proved by a code in its light ([proof of pairing](../how-to/proof-of-pairing.md)).
`tests/faults/test_proven.py` runs every cell *unseen: proof of pairing* again with a proof: once, the exposure
is repeated; for good, the run ends after `mismatches` tries with `camera: frame 3 does not show the code 3 of its
patterns: a panel was late, ignored a pattern, or the frame is an old one`. `tests/bench/test_proof.py` does so with
real dots on the simulated bench. A laser that ignores a setting or dies is no matter of pairing: a power meter and
`[safety.power_loss]` see it ([safety](../how-to/safety.md)). A panel or laser that ignores being made safe is seen by
nobody.
"""
WORDS = {
    Becomes.REOPEN: "opens it again", Becomes.REPORTS: "reports it", Becomes.RETRY: "tries again",
    Becomes.GOES_ON: "waits",
}  # fmt: skip
EXPOSING = ("camera: grab", "camera: expose", "camera: read out", "camera: flush")
OLD = ("stale", "duplicated")


def cell(column: str, fault: str, fate: Fate | None) -> str:
    """What the page says."""
    if fate is None:
        return ""
    becomes, message = fate
    if becomes is Becomes.ENDS:
        return f"**ends**: {message}"
    if becomes is Becomes.UNSEEN:
        return "unseen: proof of pairing" if (column, fault) in PROVABLE else "unseen"
    if becomes is Becomes.RETRY and column == "panel: show":
        return "sends it again"
    if becomes is Becomes.RETRY and column in EXPOSING:
        return "exposes again"
    if becomes is Becomes.GOES_ON and fault in OLD:
        return "passes it over"
    if becomes is Becomes.GOES_ON and fault == "dropped":
        return "takes the next frame, which is right"
    return WORDS[becomes]


def table(kind: str) -> list[str]:
    """The table of one kind of device."""
    columns = [name for name, column in COLUMNS.items() if column.kind == kind]
    rows = list(dict.fromkeys(key for name in columns for key in FATES[name]))
    order = {fault: number for number, fault in enumerate(dict.fromkeys(fault for fault, _ in rows))}
    rows.sort(key=lambda row: order[row[0]])
    lines = [
        "",
        f"## {kind.capitalize()}s",
        "",
        "| fault | how long | " + " | ".join(name.partition(": ")[2] for name in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for fault, lasts in rows:
        said = "" if fault.endswith("close") else lasts
        texts = [cell(name, fault, FATES[name].get((fault, lasts))) for name in columns]
        lines.append(f"| `{fault}` | {said} | " + " | ".join(texts) + " |")
    return lines


def summary() -> str:
    """How many cells come to what."""
    found: Counter[str] = Counter()
    for name, fates in FATES.items():
        for (fault, _), (becomes, _) in fates.items():
            if becomes is Becomes.UNSEEN:
                found["proof" if (name, fault) in PROVABLE else "unseen"] += 1
            else:
                found[becomes.name] += 1
    recovers = found["GOES_ON"] + found["RETRY"] + found["REOPEN"]
    text = (
        f"Of {sum(found.values())} cells, in {recovers} the run recovers ({found['GOES_ON']} without repeating "
        f"anything, {found['RETRY']} by trying again, {found['REOPEN']} by opening again), in {found['ENDS']} it ends "
        f"with its line, in {found['REPORTS']} what failed while the bench was being left is reported, "
        f"{found['proof']} only a proof of pairing sees, and {found['unseen']} nothing in labctl sees for certain."
    )
    return textwrap.fill(text, 118)


def page() -> str:
    """The whole page."""
    lines = [HEAD, summary()]
    for kind in ("panel", "camera", "instrument"):
        lines += table(kind)
    return "\n".join(lines) + "\n" + FOOT


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
