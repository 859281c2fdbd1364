"""Reading a bench file: whatever is wrong with it becomes one line that says where, what, and what to write instead."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from labctl.config.problems import Problem, describe, one_line
from labctl.config.schema import BenchConfig
from labctl.errors import ConfigError
from labctl.workspace import Workspace, find


def load_bench(path_or_name: str | Path, workspace: Workspace | None = None) -> BenchConfig:
    """Read and check one bench file.

    Parameters
    ----------
    path_or_name : str or Path
        A bench of the workspace by name (``sim-4f``), or the path of a file.
    workspace : Workspace, optional
        Where names are looked up; by default the one that `labctl.workspace.find` gives.

    Raises
    ------
    ConfigError
        If there is no such file, or anything in it is wrong: one line with the file, the line where it is known, the
        key, what is wrong, and what to do about it.
    """
    path = bench_path(path_or_name, workspace)
    text = read_text(path)
    config = parse_bench(text, str(path))
    config._path = path.absolute()
    return config


def parse_bench(text: str, source: str = "bench file") -> BenchConfig:
    """Check the text of a bench file; `source` names it in messages.

    Raises
    ------
    ConfigError
        As `load_bench`.
    """
    content = parse_toml(text, source)
    try:
        return BenchConfig.model_validate(content)
    except ValidationError as error:
        raise as_config_error(describe(error, BenchConfig, "a bench file"), text, source) from error


def bench_path(path_or_name: str | Path, workspace: Workspace | None = None) -> Path:
    """The file of a bench that is given by name or path; it exists.

    Raises
    ------
    ConfigError
        If it does not; the message lists the benches that there are.
    """
    given = str(path_or_name)
    if not given.strip() or "\0" in given:
        raise ConfigError(f"{given!r} is neither a bench nor a file")
    if isinstance(path_or_name, Path) or given.endswith(".toml") or "/" in given or "\\" in given:
        path = Path(path_or_name).expanduser()
        if _exists(path):
            return path
        known = _known(workspace) if workspace else ""
        raise ConfigError(one_line(f"there is no bench file {path}{known}"))
    workspace = workspace or find()
    path = workspace.benches / f"{given}.toml"
    if not _exists(path):
        raise ConfigError(one_line(f"there is no bench '{given}' in {workspace.benches}{_known(workspace, given)}"))
    return path


def read_text(path: Path) -> str:
    """The text of a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(one_line(f"{path} cannot be read: {reason}")) from error
    try:
        # Editors on Windows put a byte order mark in front, which TOML does not know.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(one_line(f"{path}, line {line}: this is not UTF-8 text: save the file as UTF-8")) from error


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The content of a TOML text; `source` names it in messages.

    Raises
    ------
    ConfigError
        If it is not TOML, with the line.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{source}: the brackets are nested too deep to be meant: is this a bench file?") from error
    except ValueError as error:  # TOMLDecodeError is one; so is an integer of thousands of digits
        said = str(error)
        at = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", said)
        if at is None:
            raise ConfigError(one_line(f"{source}: this is not valid TOML: {_plain(said)}")) from error
        line = at[1] or str(max(1, len(text.splitlines())))
        column = f", column {at[2]}" if at[2] else " (the last)"
        raise ConfigError(one_line(f"{source}, line {line}{column}: {_plain(said[: at.start()])}")) from error


def as_config_error(problems: list[Problem], text: str, source: str) -> ConfigError:
    """The first problem in one line: the file, the line where it is known, and how many more there are."""
    first, others = problems[0], len(problems) - 1
    line = _line_of(text, first.key)
    where = f"{source}, line {line}" if line else source
    more = f" (and {others} more)" if others else ""
    return ConfigError(one_line(f"{where}: {first.text}{more}"))


def _plain(said: str) -> str:
    """tomllib's words, and for the two mistakes that people make most, what to write."""
    if said.startswith("Expected '=' after a key"):
        return "a line must read 'key = value', or '[table]'"
    if said.startswith("Expected newline or end of document"):
        return "something follows the value that does not belong there (a number has a point, not a comma)"
    if "integer string conversion" in said:
        return "a number has thousands of digits"
    if said == "Invalid value":
        return "this value is not valid TOML: text needs quotes, and a number has a point, not a comma"
    if said.startswith(("Cannot overwrite a value", "Cannot declare")):
        return f"{said}: the same key or table stands here twice"
    return said


def _line_of(text: str, key: tuple[str, ...]) -> int | None:
    """The line where a key stands, or else the table that it belongs to."""
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    tables: Counter[tuple[str, ...]] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if array := re.match(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]", line):
            name = _parts(array[1])
            table = here = (*name, str(tables[name]))
            tables[name] += 1
        elif header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = _parts(header[1])
            here = table
        elif entry := re.match(r"\s*([A-Za-z0-9_.\-\"' ]+?)\s*=", line):
            here = table + _parts(entry[1])
        else:
            continue
        if here == key[: len(here)] and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that the file system refuses names no file
        return False


def _known(workspace: Workspace | None, given: str = "") -> str:
    names = workspace.bench_names() if workspace else []
    if not names:
        return ": 'labctl init' makes a workspace with example benches"
    near = difflib.get_close_matches(given, names, 1)
    guess = f": did you mean {near[0]}?" if near else ":"
    return f"{guess} The benches are {', '.join(names)}" if near else f"{guess} the benches are {', '.join(names)}"
