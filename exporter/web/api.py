"""The parameters of the JSON API, and its answers as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from exporter.overview import FOLLOWED, SORTS, WINDOWS_S, FilesQuery, Json, Overview

MAX_LIMIT = 1_000
MAX_WORDS = 8
"""How many words of a search stand for themselves; the rest of it is looked for as it is."""

Arguments = Mapping[str, Sequence[str]]
"""The query of a URL: name -> the values that it has."""
Answer = Callable[[Overview, Arguments], Json]


class BadQueryError(Exception):
    """A parameter is unknown or has a wrong value; the message says what was expected."""


def files(overview: Overview, arguments: Arguments) -> Json:
    """Answer /api/v1/files.

    Raises:
        BadQueryError: of any parameter.
    """
    _check_names(arguments, ("sort", "order", "limit", "window", "group", "search", "followed", "unread"))
    order = _choice(arguments, "order", ("asc", "desc"))
    default = FilesQuery()
    return overview.files(
        FilesQuery(
            sort=_choice(arguments, "sort", SORTS) or default.sort,
            descending=None if order is None else order == "desc",
            limit=_number(arguments, "limit", default.limit, 1, MAX_LIMIT),
            window_s=_window_s(arguments),
            groups=_groups(arguments, overview.groups),
            search=tuple((_one(arguments, "search") or "").casefold().strip().split(maxsplit=MAX_WORDS - 1)),
            followed=_choice(arguments, "followed", FOLLOWED),
            is_unread=_choice(arguments, "unread", ("true",)) is not None,
        )
    )


def groups(overview: Overview, arguments: Arguments) -> Json:
    """Answer /api/v1/groups; raises as :func:`files`."""
    _check_names(arguments, ("window",))
    return overview.group_totals(_window_s(arguments))


def status(overview: Overview, arguments: Arguments) -> Json:
    """Answer /api/v1/status; raises as :func:`files`."""
    _check_names(arguments, ())
    return overview.status()


ANSWERS: Mapping[str, Answer] = {"files": files, "groups": groups, "status": status}
"""What is under /api/v1/."""


def encode(answer: Json) -> bytes:
    """Write an answer as a line of JSON, in ASCII."""
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def _check_names(arguments: Arguments, known: Sequence[str]) -> None:
    for name in arguments:
        if name not in known:
            expected = f"expected {_listed(known)}" if known else "expected none"
            raise BadQueryError(f"unknown parameter {_quoted(name)}: {expected}")


def _one(arguments: Arguments, name: str) -> str | None:
    values = arguments.get(name, ())
    if len(values) > 1:
        raise BadQueryError(f"{name}: given {len(values)} times, expected once")
    return values[0] if values and values[0] else None


def _choice(arguments: Arguments, name: str, choices: Sequence[str]) -> str | None:
    value = _one(arguments, name)
    if value is not None and value not in choices:
        raise BadQueryError(f"{name}: unknown value {_quoted(value)}, expected {_listed(choices)}")
    return value


def _number(arguments: Arguments, name: str, default: int, least: int, greatest: int) -> int:
    value = _one(arguments, name)
    if value is None:
        return default
    # What is longer is beyond every bound, and int() takes only so many digits.
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and least <= int(value) <= greatest):
        raise BadQueryError(f"{name}: {_quoted(value)}, expected a whole number from {least} to {greatest}")
    return int(value)


def _window_s(arguments: Arguments) -> int:
    return _number(arguments, "window", FilesQuery().window_s, WINDOWS_S[0], WINDOWS_S[-1])


def _groups(arguments: Arguments, known: frozenset[str]) -> frozenset[str]:
    asked = frozenset(filter(None, arguments.get("group", ())))
    for group in sorted(asked - known):
        raise BadQueryError(f"group: there is no group {_quoted(group)}")
    return asked


def _listed(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else ", ".join(choices[:-1]) + " or " + choices[-1]


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")
