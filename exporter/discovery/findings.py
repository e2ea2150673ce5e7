"""The findings of discovery: values, which the tracker performs in order and answers."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from exporter.matching.automaton import Match


@dataclass(frozen=True, slots=True)
class Appeared:
    """A matching path may have a file, another file, or none now: stat it.

    The answer is whether a file is there; True also if that cannot be known.

    Attributes:
        path: the path.
        match: its match.
        origin: the path from which the file was just renamed, if that was tracked; else "".
    """

    path: str
    match: Match
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """An unmatched path may lead to a file that was renamed from a matching path: stat it.

    The answer is whether it leads to such a file.

    Attributes:
        path: the path.
        origin: the path that the file had, if known; else "".
        birth_ns: if only its birth tells that it had that path, see `strays`: its birth; else 0.
    """

    path: str
    origin: str
    birth_ns: int = 0


@dataclass(frozen=True, slots=True)
class Gone:
    """A path is no longer tracked, even if a file is there: forget it. There is no answer."""

    path: str


@dataclass(frozen=True, slots=True)
class Rematched:
    """A known file has another match: there is nothing to stat. There is no answer."""

    path: str
    match: Match


Finding = Appeared | Moved | Gone | Rematched

Findings = Generator[Finding, bool | None, None]
"""Findings in order. The caller sends the answer to each, and throws in an error that it had while performing it."""
