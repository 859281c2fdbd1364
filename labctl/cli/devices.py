"""`labctl devices`: what is connected, and what to put in the bench file for it."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer


def devices(
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts and 'labctl bench new'.")] = False,
    limit: Annotated[float, typer.Option(min=1.0, help="Seconds that one maker's library may take.")] = 30.0,
    only: Annotated[list[str] | None, typer.Option(help="Look here only: monitors, basler, visa, serial ...")] = None,
) -> None:
    """Show monitors, cameras, SLMs, VISA resources and serial ports, with their lines for a bench file.

    Nothing is opened, and nothing is sent to an instrument.
    """
    from labctl.devices.discovery import discover, sources
    from labctl.errors import LabctlError

    unknown = [name for name in only or () if name not in sources()]
    if unknown:
        raise LabctlError(f"--only {unknown[0]}: labctl looks at {', '.join(sources())}")
    findings = discover(only, limit_s=limit)
    if json:
        typer.echo(json_module.dumps([finding.as_json() for finding in findings], indent=1))
        return
    for finding in findings:
        for found in finding.found:
            typer.echo(f"{finding.source}: {found.name}  ({found.detail})")
            typer.echo("".join(f"    {line}\n" for line in found.snippet.splitlines()))
    quiet = [finding.source for finding in findings if finding.installed and not finding.found and not finding.note]
    if quiet:
        typer.echo(f"nothing connected: {', '.join(quiet)}")
    for finding in findings:
        if finding.note and finding.installed:
            typer.echo(f"{finding.source}: {finding.note}")
    missing = [finding for finding in findings if not finding.installed]
    if missing:
        typer.echo("\nnot installed:")
        for finding in missing:
            typer.echo(f"    {finding.note}")
