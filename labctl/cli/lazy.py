"""Commands that are imported when they are called, so that `labctl --help` answers at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from labctl.errors import LabctlError


@dataclass(frozen=True)
class Lazy:
    """Where a command is.

    Attributes
    ----------
    target : str
        ``package.module:attribute``: a `typer.Typer` (a group of commands) or a function (one command).
    help : str
        What the overview says of it.
    """

    target: str
    help: str

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]


class LazyGroup(TyperGroup):
    """A group whose overview shows stand-ins, each replaced by the real command when it is called."""

    lazy: Mapping[str, Lazy] = {}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is about to run."""
        name = args[0] if args else ""
        if name in self.lazy:
            self.commands[name] = load(name, self.lazy[name])
        return super().resolve_command(ctx, args)


def load(name: str, lazy: Lazy) -> Any:
    """The real command.

    Raises
    ------
    LabctlError
        If this installation lacks it.
    """
    module, _, attribute = lazy.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LabctlError(f"this installation of labctl lacks the command '{name}': install labctl again") from error
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        command = typer.main.get_command(single)
    command.name = name
    return command


def add_stand_ins(app: typer.Typer, lazy: Mapping[str, Lazy], panels: Mapping[str, str] | None = None) -> None:
    """Let the overview of `app` show these commands."""
    for name, entry in lazy.items():

        def stand_in() -> None:
            raise LabctlError("a stand-in was called: this is a defect of labctl")

        app.command(name, help=entry.help, rich_help_panel=(panels or {}).get(name))(stand_in)
