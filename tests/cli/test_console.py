"""What a long command shows while it works."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from labctl.cli.console import duration, progress_observer
from labctl.procedures.messages import Prompt
from labctl.runs.events import Event, Logged, Progressed, Prompted, RunFinished, RunStarted, State, StateChanged

STORY: list[Event] = [
    StateChanged(State.RUNNING),
    RunStarted("r1", "registration", Path("runs/r1"), 20),
    *(Progressed(done, 20, "dots", None if done < 3 else 2.0 * (20 - done), done) for done in range(1, 21)),
    Logged("found [12] dots", "info"),
    Logged("detail", "debug"),
    Logged("dim", "warning"),
    Prompted(Prompt("turn the screw")),
    StateChanged(State.PAUSED),
    RunFinished("r1", "done"),
]


def told(story: list[Event], *, quiet: bool = False, terminal: bool = False) -> str:
    target = io.StringIO()
    console = Console(file=target, force_terminal=terminal, width=100, soft_wrap=True)
    with progress_observer(quiet=quiet, target=console) as observe:
        for event in story:
            observe(event)
    return target.getvalue()


def test_a_file_gets_a_line_for_every_tenth() -> None:
    text = told(STORY)
    assert text.count(" of 20 frames") == 10
    assert "registration: dots: 10 of 20 frames, 20 s left" in text
    assert "found [12] dots" in text
    assert "detail" not in text
    assert "\x1b" not in text


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    text = told(STORY[:12], terminal=True)
    assert "registration: dots" in text
    assert "10/20" in text
    assert "20 s left" in text


def test_quiet_leaves_warnings() -> None:
    assert told(STORY, quiet=True).splitlines() == ["dim", "turn the screw"]


def test_a_run_that_failed_says_why() -> None:
    assert "registration failed: camera: no answer" in told(
        [*STORY[:5], RunFinished("r1", "failed", "camera: no answer")]
    )


def test_a_run_without_known_length_does_no_harm() -> None:
    for terminal in (False, True):
        told([RunStarted("r", "watch", None, 0), Progressed(1, 0, "", None, 1)], terminal=terminal)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7805, "2 h 10 min"), (float("inf"), "?"), (-1, "0 s")],
)
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
