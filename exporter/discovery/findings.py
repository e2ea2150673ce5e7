"""What discovery finds: values, which the tracker performs in their order and answers."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from exporter.matching.automaton import Match


@dataclass(frozen=True, slots=True)
class Appeared:
    """A path that matches may have become a file, another one, or none: stat it.

    The answer is whether a file is there. Where that cannot be known, it is True.

    Attributes:
        path: the path.
        match: what matches it.
        origin: the name that it was just renamed from, if that mattered; else "".
    """

    path: str
    match: Match
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A path that matches no pattern may lead to a file that had a name which does: stat it.

    The answer is whether it does.

    Attributes:
        path: the path.
        origin: the name that the file had, if it has no other known name; else "".
    """

    path: str
    origin: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A path is tracked no longer, whatever it leads to: forget it. There is no answer."""

    path: str


@dataclass(frozen=True, slots=True)
class Rematched:
    """Other patterns match a file that is known: there is nothing to stat. There is no answer."""

    path: str
    match: Match


Finding = Appeared | Moved | Gone | Rematched

Findings = Generator[Finding, bool | None, None]
"""Findings in order. Each is sent its answer; an error while it was performed is thrown in."""
