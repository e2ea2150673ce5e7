"""The matches of the known files, counted by pattern."""

from __future__ import annotations

from collections import Counter

from exporter.matching.automaton import Match, PathMatcher


class Matches:
    """Counts the known files.

    Attributes:
        matcher: the latest matcher.
        counts: pattern number -> number of files that it matches.
        shadowed: pattern number -> number of those of them that belong to an earlier group.
    """

    def __init__(self, matcher: PathMatcher) -> None:
        self.matcher = matcher
        self.counts = Counter[int]()
        self.shadowed = Counter[int]()
        self._group_of = _group_of(matcher)

    def switch_to(self, matcher: PathMatcher) -> None:
        """Use another matcher from now on."""
        self.matcher = matcher
        self._group_of |= _group_of(matcher)

    def forget_unused(self) -> None:
        """Forget the patterns that the latest matcher does not have, once no file has them in its match."""
        self._group_of = _group_of(self.matcher)
        for counter in (self.counts, self.shadowed):
            for pattern in counter.keys() - self._group_of.keys():
                del counter[pattern]

    def set(self, known: dict[str, Match], path: str, match: Match | None) -> None:
        """Set the match of a file in a dictionary of known files; None removes it."""
        if path in known:
            self._count(known.pop(path), -1)
        if match is not None:
            known[path] = match
            self._count(match, 1)

    def _count(self, match: Match, files: int) -> None:
        for pattern in match.patterns:
            self.counts[pattern] += files
        if len(match.groups) > 1:
            for pattern in match.patterns:
                if self._group_of[pattern] != match.groups[0]:
                    self.shadowed[pattern] += files


def _group_of(matcher: PathMatcher) -> dict[int, int]:
    return {pattern: group for pattern, (group, _) in matcher.patterns.items()}
