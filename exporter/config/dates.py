"""The dates in patterns, such as ``{today:%Y%m%d}``, and when they change. Pure but for the time zone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, tzinfo

from exporter.config.errors import shortened

_DATE = re.compile(r"\\.|\{(?P<day>today|yesterday)(?P<utc>_utc)?:(?P<format>[^{}]*)\}", re.DOTALL)


def resolve(text: str, now_s: float, escape: Callable[[str], str]) -> str:
    """Replace the dates in a pattern.

    Args:
        text: the pattern. ``{today:FORMAT}`` and ``{yesterday:FORMAT}`` are dates of local time, ``{today_utc:FORMAT}``
            and ``{yesterday_utc:FORMAT}`` of UTC; the format is that of strftime(3). Other braces stay.
        now_s: the present, unix time.
        escape: returns the pattern that matches exactly a text.

    Raises:
        ValueError: a format is not valid; the message says why.
    """
    return _DATE.sub(lambda found: found[0] if found["day"] is None else escape(_written(found, now_s)), text)


def next_midnight_s(now_s: float) -> float:
    """Return when a date changes next, unix time: the next midnight of local time or of UTC."""
    return min(_midnight_s(now_s, zone, days=1) for zone in (None, UTC))


def last_midnight_s(now_s: float) -> float:
    """Return when a date has changed last, unix time."""
    return max(_midnight_s(now_s, zone, days=0) for zone in (None, UTC))


def _midnight_s(now_s: float, zone: tzinfo | None, *, days: int) -> float:
    day = datetime.fromtimestamp(now_s, zone).date() + timedelta(days)
    return datetime.combine(day, time.min, zone).timestamp()


def _written(found: re.Match[str], now_s: float) -> str:
    day = datetime.fromtimestamp(now_s, UTC if found["utc"] else None).date()
    if found["day"] == "yesterday":
        day -= timedelta(days=1)
    whole, form = shortened(found[0]), found["format"]
    written = datetime.combine(day, time.min).strftime(form)
    if written != datetime.combine(day, time.max).strftime(form):
        raise ValueError(f"the date '{whole}' changes during the day, expected a format without hours and minutes")
    if written in ("", ".", ".."):
        raise ValueError(f"the date '{whole}' gives '{written}', expected a format as in '{{today:%Y%m%d}}'")
    if "/" in written:
        what = "expected one date for each component of the path"
        raise ValueError(f"the date '{whole}' gives '{shortened(written)}', which contains a '/', {what}")
    return written
