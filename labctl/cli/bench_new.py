"""`labctl bench new`: a bench file from what is connected, asking only what cannot be found out."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labctl.errors import ConfigError

if TYPE_CHECKING:
    from labctl.devices.discovery import Finding, Found

SIMULATED = "simulated"
PITCH = "pixel pitch in µm (data sheet)"


def new(
    name: Annotated[str, typer.Argument(help="Name of the bench, and of its file in configs/benches.")],
    from_json: Annotated[
        str, typer.Option("--from-json", help="What 'labctl devices --json' wrote: a file, or - for standard input.")
    ] = "",
    slm: Annotated[str, typer.Option(help="SLM: a name that 'labctl devices' shows, or 'simulated'.")] = "",
    panel: Annotated[str, typer.Option("--input", help="Input panel, likewise.")] = "",
    camera: Annotated[str, typer.Option(help="Camera, likewise.")] = "",
    wavelength: Annotated[float | None, typer.Option("--wavelength-nm", help="Wavelength of the laser.")] = None,
    f1: Annotated[float | None, typer.Option("--f1-mm", help="Focal length, input to SLM.")] = None,
    f2: Annotated[float | None, typer.Option("--f2-mm", help="Focal length, SLM to camera.")] = None,
    slm_settle: Annotated[float | None, typer.Option("--slm-settle-ms", help="Settling time of the SLM.")] = None,
    input_settle: Annotated[float | None, typer.Option("--input-settle-ms", help="Of the input panel.")] = None,
    slm_pitch: Annotated[float | None, typer.Option("--slm-pitch-um", help="Pixel pitch of the SLM.")] = None,
    input_pitch: Annotated[float | None, typer.Option("--input-pitch-um", help="Of the input panel.")] = None,
    camera_pitch: Annotated[float | None, typer.Option("--camera-pitch-um", help="Of the camera.")] = None,
    exposure: Annotated[float, typer.Option("--exposure-ms", help="Exposure to begin with.")] = 1.0,
) -> None:
    """Write a bench file from what is connected. Asks what cannot be found out; never overwrites."""
    from labctl.config.load import parse_bench
    from labctl.workspace import find

    path = find().benches / f"{name}.toml"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"'{name}' is no name for a bench: use letters, digits, '.', '-' and '_'")
    if path.exists():
        raise ConfigError(f"{path} exists, and is not overwritten: choose another name or remove it first")
    devices = [found for finding in _findings(from_json) for found in finding.found]
    chosen: dict[str, Found | None] = {}
    pitches = {"slm": slm_pitch, "input": input_pitch, "camera": camera_pitch}
    for role, wanted in (("slm", slm), ("input", panel), ("camera", camera)):
        section = "camera" if role == "camera" else "slm"
        taken = [found for found in chosen.values() if found is not None]
        fitting = [found for found in devices if found.section == section and found not in taken]
        chosen[role] = _choose(role, wanted, fitting)
    lacking: list[str] = []
    figures = {
        "wavelength_nm": _figure("--wavelength-nm", "wavelength of the laser in nm", wavelength, lacking),
        "f1_mm": _figure("--f1-mm", "focal length f1, input to SLM, in mm", f1, lacking),
        "f2_mm": _figure("--f2-mm", "focal length f2, SLM to camera, in mm", f2, lacking),
    }
    settles = {
        "slm": _figure("--slm-settle-ms", "settling time of the SLM in ms", slm_settle, lacking),
        "input": _figure("--input-settle-ms", "settling time of the input panel in ms", input_settle, lacking),
    }
    sections: dict[str, dict[str, Any]] = {}
    for role, found in chosen.items():
        options = dict(found.options) if found else {}
        if found is not None and "pitch_um" in found.asks:
            options["pitch_um"] = _figure(f"--{role}-pitch-um", f"{role}: {PITCH}", pitches[role], lacking)
        elif pitches[role] is not None:
            options["pitch_um"] = pitches[role]
        sections[role] = {"driver": found.driver if found else SIMULATED, "options": options}
        sections[role] |= {"exposure_ms": exposure} if role == "camera" else {"settle_ms": settles[role]}
    if sections["camera"]["driver"] == "opencv":
        sections["camera"]["trigger"] = "free-run"
    if lacking:
        raise ConfigError(f"nobody can be asked here: add {', '.join(lacking)}")
    text = _text(name, figures, sections, chosen, [found for found in devices if found.section == "instruments"])
    parse_bench(text, str(path))
    _write(path, text)
    typer.echo(f"wrote {path}\nnext:  labctl bench check {name}")


def _findings(source: str) -> list[Finding]:
    from labctl.devices.discovery import discover, read_findings

    if not source:
        from labctl.cli.console import console

        with console.status("looking for devices"):
            return discover()
    if source == "-":
        return read_findings(sys.stdin.read())
    try:
        return read_findings(Path(source).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--from-json: {source} cannot be read: {error}") from error


def _choose(role: str, wanted: str, fitting: list[Found]) -> Found | None:
    """The device for a role; None for a simulated one."""
    if wanted == SIMULATED:
        return None
    names = [found.name for found in fitting]
    if wanted:
        for found in fitting:
            if found.name == wanted:
                return found
        raise ConfigError(f"--{role}: '{wanted}' is not connected: there are {', '.join([*names, SIMULATED])}")
    usable = [found for found in fitting if "carries the desktop" not in found.detail]
    if len(usable) == 1 and role != "input":
        return usable[0]
    if not usable:
        return None
    if not sys.stdin.isatty():
        listed = ", ".join([*(found.name for found in usable), SIMULATED])
        raise ConfigError(f"several devices could be the {role}: name one with --{role}: {listed}")
    for number, found in enumerate(usable, start=1):
        typer.echo(f"  {number}  {found.name}  ({found.detail})", err=True)
    typer.echo(f"  0  {SIMULATED}", err=True)
    number = -1
    while not 0 <= number <= len(usable):
        number = int(typer.prompt(f"{role}: which one", type=int, default=1, err=True))
    return usable[number - 1] if number else None


def _figure(option: str, what: str, given: float | None, lacking: list[str]) -> float:
    """A number from the command line, or else from the person at the terminal; noted in `lacking` where neither is."""
    if given is not None:
        return given
    if sys.stdin.isatty():
        return float(typer.prompt(what, type=float, err=True))
    lacking.append(option)
    return 0.0


def _text(
    name: str,
    figures: dict[str, float],
    sections: dict[str, dict[str, Any]],
    chosen: dict[str, Found | None],
    instruments: list[Found],
) -> str:
    import tomlkit

    document = tomlkit.document()
    document["bench"] = {"name": name}
    document["optics"] = figures
    for role, values in sections.items():
        table, found = tomlkit.table(), chosen[role]
        if found is not None and found.detail:
            table.add(tomlkit.comment(found.detail))
        inline = tomlkit.inline_table()
        inline.update(values["options"])
        for key, value in values.items():
            table[key] = inline if key == "options" else value
        document[role] = table
    if any(found is None for found in chosen.values()):
        document["simulation"] = {"preset": "typical"}
    text = tomlkit.dumps(document)
    for found in instruments:
        text += f"\n# found, not yet used: {found.name}  ({found.detail})\n"
        text += "".join(f"# {line}\n" for line in found.snippet.splitlines())
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} has just appeared, and is not overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
