"""`labctl doctor`: what this machine has, what it lacks, and the line that installs it."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from labctl.cli import checks
from labctl.cli.checks import Check, Need
from labctl.errors import LabctlError


def doctor(
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
    libraries: Annotated[bool, typer.Option("--libraries", help="Check the system libraries only.")] = False,
    install: Annotated[bool, typer.Option("--install", help="Install missing system libraries, if root may.")] = False,
) -> None:
    """Say what this machine lacks, and the line that installs it.

    The exit code is 0 only when everything that labctl requires is there.
    """
    if install:
        checks.install_libraries()
    parts = {"system libraries": list(checks.libraries())} if libraries else examine()
    findings = [finding for part in parts.values() for finding in part]
    missing = [finding for finding in findings if not finding.good and finding.need is Need.REQUIRED]
    if json:
        content = {
            part: [asdict(finding) | {"need": finding.need.value} for finding in found] for part, found in parts.items()
        }
        typer.echo(json_module.dumps({"fit": not missing, "checks": content}))
    elif libraries:
        _say_missing(missing)
    else:
        _show(parts)
        _say_missing(missing)
        if not missing:
            typer.echo("\nThis machine has what labctl requires.")
    if missing:
        raise typer.Exit(1)


def examine() -> dict[str, list[Check]]:
    """Every check, by part."""
    parts: dict[str, Callable[[], Iterable[Check]]] = {
        "Python": lambda: [checks.python(), *checks.dependencies()],
        "system libraries": checks.libraries,
        "loading": checks.imports,
        "window": checks.qt,
        "workspace": _workspace,
        "image sets": checks.data_sets,
        "vendor kits": checks.vendors,
    }
    return {name: list(part()) for name, part in parts.items()}


def _workspace() -> list[Check]:
    from labctl.workspace import find

    try:
        workspace = find()
    except LabctlError as error:
        return [Check("workspace", False, str(error))]
    names = ", ".join(workspace.bench_names()) or "none"
    return [Check("workspace", True, f"{workspace.root}, benches: {names}"), checks.disk(workspace.runs)]


def _show(parts: dict[str, list[Check]]) -> None:
    for part, found in parts.items():
        typer.echo(part)
        for finding in found:
            mark = "ok  " if finding.good else ("MISS" if finding.need is Need.REQUIRED else "-   ")
            typer.echo(f"  {mark} {finding.name:<24} {finding.detail}".rstrip())
            if finding.fix and not finding.good:
                typer.echo(f"         {finding.fix}")


def _say_missing(missing: list[Check]) -> None:
    if not missing:
        return
    typer.echo(f"\nlabctl cannot work here without {', '.join(finding.name for finding in missing)}:", err=True)
    libraries = checks.library_line(checks.ALWAYS | (checks.WINDOWS_ON_X if checks.has_screen() else {}))
    lines = [libraries] if libraries else []
    lines += [finding.fix for finding in missing if finding.fix and not finding.name.startswith("lib")]
    for line in dict.fromkeys(lines):
        typer.echo(f"  {line}", err=True)
