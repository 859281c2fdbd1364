"""``index.sqlite``: what was read from the run folders before. It may be deleted, damaged or locked at any time."""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
INDEX = "index.sqlite"
FORMAT = 2
PATIENCE_S = 2.0
"""How long another process that is writing the index is waited for."""

Entry = tuple[str, dict[str, Any]]
"""A stamp, which changes when the folder does, and a summary."""


def read_index(runs_dir: Path) -> dict[str, Entry]:
    """What the index knows, by run; nothing if there is none, or it is damaged, locked, or of another version."""
    if not (runs_dir / INDEX).is_file():
        return {}
    try:
        with closing(_connect(runs_dir)) as connection:
            rows = connection.execute("SELECT id, stamp, summary, crc FROM runs").fetchall()
        return {
            run: (stamp, json.loads(summary)) for run, stamp, summary, crc in rows if crc == _crc(run, stamp, summary)
        }
    except sqlite3.OperationalError as error:  # locked, or a folder that may only be read: the folders still tell
        log.debug("%s: %s", runs_dir / INDEX, error)
    except (sqlite3.DatabaseError, TypeError, ValueError, AttributeError) as error:
        log.debug("%s is damaged (%s): made again from the run folders", runs_dir / INDEX, error)
        discard_index(runs_dir)
    return {}


def update_index(runs_dir: Path, new: Mapping[str, Entry], gone: Collection[str]) -> None:
    """Put new entries in and take those of deleted folders out; an index that cannot be written stays as it is."""
    rows = []
    for run, (stamp, summary) in new.items():
        text = json.dumps(summary)
        rows.append((run, stamp, text, _crc(run, stamp, text)))
    try:
        with closing(_connect(runs_dir)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM runs WHERE id = ?", [(run,) for run in gone])
            connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        log.debug("%s is not updated: %s", runs_dir / INDEX, error)


def discard_index(runs_dir: Path) -> None:
    """Delete the index, with the journal of a writer that was killed, which must not be played back into a new one."""
    for name in (f"{INDEX}-journal", INDEX):
        try:
            (runs_dir / name).unlink(missing_ok=True)
        except OSError as error:  # on Windows, another process is just reading it
            log.debug("%s: %s", runs_dir / name, error)


def _connect(runs_dir: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(runs_dir / INDEX, timeout=PATIENCE_S, isolation_level=None)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have been faster.
            if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                connection.execute("DROP TABLE IF EXISTS runs")
                connection.execute(
                    "CREATE TABLE runs (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, summary TEXT NOT NULL, crc INTEGER)"
                )
                connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _crc(*parts: str) -> int:
    """SQLite does not notice a flipped bit in a text; this does."""
    return zlib.crc32("\0".join(parts).encode())
