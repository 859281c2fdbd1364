"""What a long command shows while it works: a bar with the time left, and log lines above it. All on standard error."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from labctl.runs.events import Event, Logged, Progressed, Prompted, RunFinished, RunStarted, State, StateChanged

#: Results go to standard output, progress to standard error, so that `labctl ... --json > file` stays clean.
output = Console(highlight=False, soft_wrap=True)
console = Console(stderr=True, highlight=False, soft_wrap=True)

_COLOURS = {"warning": "yellow", "error": "red", "debug": "dim"}


def progress_observer(*, quiet: bool = False, target: Console | None = None) -> ProgressObserver:
    """An engine observer that shows progress in the terminal; use it as a context manager.

    Parameters
    ----------
    quiet : bool
        Show warnings and errors only; for ``--json``.
    target : Console, optional
        Where; standard error by default.

    Examples
    --------
    >>> with progress_observer() as observe:
    ...     engine = Engine(bench, observer=observe)  # doctest: +SKIP
    """
    return ProgressObserver(target or console, quiet=quiet)


class ProgressObserver:
    """One bar for the run that is going on; log lines scroll above it.

    Where the output is no terminal (a file, CI), a line at every tenth of the run stands for the bar.
    Called on the engine's thread; rich draws on a thread of its own, so that calls return at once.
    """

    def __init__(self, target: Console, *, quiet: bool = False) -> None:
        self._console = target
        self._quiet = quiet
        self._live = target.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=target,
            transient=True,
            refresh_per_second=8,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._procedure = ""
        self._tenth = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._started(event)
            case Progressed():
                self._progressed(event)
            case Logged():
                self.log(event.text, event.level)
            case Prompted():
                self.log(event.prompt.text, "warning")
            case StateChanged(state=State.PAUSED):
                self.log("paused")
            case StateChanged(state=State.ABORTING):
                self.log("stopping after this frame; Ctrl-C again to stop at once", "warning")
            case RunFinished():
                self._finished(event)
            case _:
                pass

    def hide(self) -> None:
        """Take the bar away, while something else is written there."""
        self._bar.stop()

    def show(self) -> None:
        """Put it back."""
        self._bar.start()

    def log(self, text: str, level: str = "info") -> None:
        """A line above the bar."""
        if level == "debug" or (self._quiet and level == "info"):
            return
        colour = _COLOURS.get(level)
        line = escape(text)
        self._console.print(f"[{colour}]{line}[/{colour}]" if colour else line)

    def _started(self, event: RunStarted) -> None:
        self._procedure, self._tenth = event.procedure, 0
        if self._live:
            self._drop_task()
            self._task = self._bar.add_task(escape(event.procedure), total=event.exposures or None, left="")
        else:
            self.log(f"{event.procedure}: {event.exposures} frames")

    def _progressed(self, event: Progressed) -> None:
        name = f"{self._procedure}: {event.label}" if event.label else self._procedure
        left = f"{duration(event.eta_s)} left" if event.eta_s is not None else ""
        if self._live and self._task is not None:
            self._bar.update(
                self._task, completed=event.done, total=event.total or None, description=escape(name), left=left
            )
            return
        tenth = 10 * event.done // event.total if event.total else 0
        if tenth > self._tenth:
            self._tenth = tenth
            self.log(f"{name}: {event.done} of {event.total} frames{f', {left}' if left else ''}")

    def _finished(self, event: RunFinished) -> None:
        self._drop_task()
        if event.outcome != "done":
            self.log(f"{self._procedure} {event.outcome}{f': {event.message}' if event.message else ''}", "warning")

    def _drop_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def duration(seconds: float) -> str:
    """Seconds in words: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
