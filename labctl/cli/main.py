"""`labctl`: the command line. What goes wrong in an expected way is one line; what does not leaves a log to send in."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from labctl import __version__
from labctl.cli.lazy import Lazy, LazyGroup, add_stand_ins
from labctl.errors import Aborted, LabctlError

FAILED, MISUSED, DEFECT, STOPPED = 1, 2, 70, 130

BENCH, MODELS, LAB = "At the bench", "Models and data", "This machine"
COMMANDS = {
    "align": Lazy("labctl.cli.align:align", "Align a bench, screw by screw, each with a live figure of merit."),
    "calibrate": Lazy(
        "labctl.cli.calibrate:calibrate", "Calibrate a bench: what is missing, stale or out of limits; check it."
    ),
    "deploy": Lazy("labctl.cli.bench_runs:deploy", "Compile a model into phase patterns for a calibrated bench."),
    "evaluate": Lazy("labctl.cli.bench_runs:evaluate", "Classify test images with a bench and in simulation."),
    "run": Lazy("labctl.cli.run:run", "Run experiment files: procedures in order, sweeps, queues."),
    "bench": Lazy("labctl.cli.bench:app", "Bench files: list, new, check, show."),
    "devices": Lazy(
        "labctl.cli.devices:devices", "Find monitors, cameras and instruments, with their lines for a bench file."
    ),
    "runs": Lazy("labctl.cli.runs:app", "Recorded runs: find, show, report, export."),
    "models": Lazy("labctl.cli.models:app", "Trained networks: list, show."),
    "train": Lazy("labctl.cli.train:train", "Train a recipe into a model bundle."),
    "data": Lazy("labctl.cli.data:app", "Image sets: where they are, how to get them."),
    "doctor": Lazy("labctl.cli.doctor:doctor", "Say what this machine lacks, and the line that installs it."),
}
PANELS = {
    **dict.fromkeys(("align", "calibrate", "deploy", "evaluate", "run", "bench", "devices", "runs"), BENCH),
    **dict.fromkeys(("models", "train", "data"), MODELS),
    "doctor": LAB,
}


class Commands(LazyGroup):
    """The commands of labctl."""

    lazy = COMMANDS


app = typer.Typer(
    name="labctl",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"labctl {__version__}")
        raise typer.Exit


@app.callback()
def labctl(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run a 4f optical neural network on a real bench, or on a simulated one. Without a command it opens the window."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if context.invoked_subcommand is None:
        _open_window()


@app.command(rich_help_panel=BENCH)
def demo(
    bench: Annotated[str, typer.Option(help="Bench, by name or file.")] = "sim-4f",
    model: Annotated[str, typer.Option(help="Model bundle, by name or folder.")] = "fashion-mnist-sclc",
    images: Annotated[int, typer.Option(min=1, help="How many test images to capture.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Which images are drawn, and how the back end is refitted.")] = 0,
    gui: Annotated[bool, typer.Option("--gui", help="Show it in the window.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; use no device.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing before using real devices.")] = False,
    json: Annotated[bool, typer.Option("--json", help="No bars; the result as JSON on standard output.")] = False,
) -> None:
    """Calibrate a bench, show a trained model on it, capture real images, and print what it gets right."""
    if gui:
        _open_window("--demo", "--bench", bench, "--model", model, "--images", str(images))
        return
    if dry_run:
        from labctl.cli.dry import say_procedure

        say_procedure(bench, "demo", {"model": model, "images": images, "seed": seed}, yes=yes, as_json=json)
        return
    from labctl.cli.demo import run_demo

    run_demo(bench=bench, model=model, images=images, seed=seed, yes=yes, as_json=json)


@app.command(
    rich_help_panel=BENCH,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def gui(context: typer.Context) -> None:
    """Open the window; its own options: labctl gui --help."""
    _open_window(*context.args)


add_stand_ins(app, {name: COMMANDS[name] for name in COMMANDS if PANELS[name] != LAB}, PANELS)


@app.command(rich_help_panel=LAB)
def init(folder: Annotated[Path, typer.Argument(help="A new folder, or one that holds none of these files.")]) -> None:
    """Make a workspace with example benches and models."""
    from labctl.workspace import init as make

    workspace = make(folder)
    typer.echo(f"made the workspace {workspace.root}\nnext:  cd {workspace.root}  and  labctl demo")


add_stand_ins(app, {name: COMMANDS[name] for name in COMMANDS if PANELS[name] == LAB}, PANELS)


def run(args: Sequence[str] | None = None) -> int:
    """The entry point `labctl`.

    Parameters
    ----------
    args : sequence of str, optional
        The command line without the program's name; by default this process's.

    Returns
    -------
    int
        0 only when it did what was asked; 1 when it could not, for a reason that the user can see to; 2 for a command
        line that makes no sense; 70 for a defect of labctl; 130 when it was stopped.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    _survive_old_terminals()
    try:
        code = typer.main.get_command(app).main(args, prog_name="labctl", standalone_mode=False)
    except TyperException as error:
        _say(f"{' '.join(error.format_message().split())} ('labctl --help' shows what there is)")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except Aborted as error:
        _say(f"stopped; {error}" if not str(error).startswith("stopped") else str(error))
        return STOPPED
    except LabctlError as error:
        if debug:
            _show_traceback()
        _say(str(error))
        return FAILED
    except OSError as error:
        if error.errno not in _DISK:
            return _defect(error, args, debug)
        _say(f"{_DISK[error.errno]}{f' ({error.filename})' if error.filename else ''}: see to it and start again")
        return FAILED
    except Exception as error:
        return _defect(error, args, debug)
    if code == STOPPED:
        _say("stopped")
    # A command's own return value is no exit code, except where it says so with typer.Exit.
    return code if isinstance(code, int) else 0


def run_gui() -> int:
    """The entry point `labctl-gui`: the window, from a desktop icon."""
    return run(["gui"])


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "this file may not be read or written",
}


def _open_window(*options: str) -> None:
    import importlib

    try:
        # By name: cli and gui are neighbours that know nothing of each other, and the import contract keeps it so.
        main = importlib.import_module("labctl.gui.app").main
        code = main(list(options))
    except ImportError as error:
        raise LabctlError(f"the window cannot open ({error}): 'labctl doctor' says what is missing") from error
    if code:
        raise typer.Exit(code)


def _say(text: str) -> None:
    sys.stderr.write(f"labctl: {text}\n")


def _show_traceback() -> None:
    import traceback

    sys.stderr.write(traceback.format_exc())


def _defect(error: Exception, args: Sequence[str], debug: bool) -> int:
    if debug:
        _show_traceback()
    where = _write_log(args)
    kept = f"the details are in {where}" if where else "no log could be written: --debug shows the details"
    _say(f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}; this is a defect of labctl, {kept}")
    return DEFECT


def _write_log(args: Sequence[str]) -> Path | None:
    """A file with the present traceback, to send in; None if there is no place for one."""
    import datetime as dt
    import os
    import platform
    import traceback

    import platformdirs

    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    text = (
        f"labctl {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"command: labctl {' '.join(args)}\n\n{traceback.format_exc()}"
    )
    try:
        path = platformdirs.user_log_path("labctl", appauthor=False) / f"defect-{stamp}-{os.getpid()}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError:
        return None
    return path


def _survive_old_terminals() -> None:
    """A console that knows no 'µ' shows '?' for it, and does not end the run."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
