"""What matches the known files, counted by pattern."""

from __future__ import annotations

from collections import Counter

from exporter.matching.automaton import Match, PathMatcher


class Matches:
    """Counts the known files.

    Attributes:
        matcher: what is looked for now.
        counts: pattern number -> files that it matches.
        shadowed: pattern number -> those of them that belong to an earlier group.
    """

    def __init__(self, matcher: PathMatcher) -> None:
        self.matcher = matcher
        self.counts = Counter[int]()
        self.shadowed = Counter[int]()
        self._group_of = _group_of(matcher)

    def go_over(self, matcher: PathMatcher) -> None:
        """Look for what another matcher matches."""
        self.matcher = matcher
        self._group_of |= _group_of(matcher)

    def forget_what_was(self) -> None:
        """Forget patterns that the matcher does not have, when no file is matched by them any more."""
        self._group_of = _group_of(self.matcher)
        for counter in (self.counts, self.shadowed):
            for pattern in counter.keys() - self._group_of.keys():
                del counter[pattern]

    def set(self, known: dict[str, Match], path: str, match: Match | None) -> None:
        """Set what matches a file among those that are known; None: the file is known no longer."""
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
