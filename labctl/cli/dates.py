"""Dates as people type them: a day, a day and a time, ``today``, or how long ago."""

from __future__ import annotations

import datetime as dt
import re

from labctl.errors import LabctlError

_AGO = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, *, end: bool = False, now: dt.datetime | None = None) -> dt.datetime:
    """The moment that is meant, with its time zone (this machine's, where none is given).

    Parameters
    ----------
    text : str
        ``2026-11-21``, ``2026-11-21 14:30``, ``today``, ``yesterday``, or ``30min``, ``12h``, ``7d``, ``2w`` ago.
    end : bool
        Whether a day means its end, as in "until".
    now : datetime, optional
        For tests.

    Raises
    ------
    LabctlError
        If it is none of these.
    """
    now = now or dt.datetime.now().astimezone()
    words = text.strip().lower()
    if ago := re.fullmatch(r"(\d{1,6})\s*(min|h|d|w)", words):
        return now - dt.timedelta(**{_AGO[ago[2]]: int(ago[1])})
    if words in ("today", "yesterday"):
        words = str(now.date() - dt.timedelta(days=words == "yesterday"))
    try:
        meant = dt.datetime.fromisoformat(words.replace("z", "+00:00"))
    except ValueError:
        raise LabctlError(
            f"'{text}' is no date: write a day (2026-11-21), a day and time ('2026-11-21 14:30'), today, yesterday, "
            "or how long ago (30min, 12h, 7d, 2w)"
        ) from None
    if end and re.fullmatch(r"\d{4}-\d{2}-\d{2}", words):
        meant += dt.timedelta(days=1)
    return meant if meant.tzinfo else meant.astimezone()
