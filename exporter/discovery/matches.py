"""What matches the known files, counted by pattern."""

from __future__ import annotations

import logging
from collections import Counter

from exporter.matching.automaton import Match, PathMatcher
from exporter.ops.log import fields

_log = logging.getLogger(__name__)


class Matches:
    """Counts the known files, and logs which groups overlap.

    Attributes:
        matcher: what is looked for now.
        counts: pattern number -> files that it matches.
    """

    def __init__(self, matcher: PathMatcher) -> None:
        self.matcher = matcher
        self.counts = Counter[int]()
        self._overlaps: set[tuple[int, ...]] = set()
        self._is_of_two = False  # configurations, whose groups overlap by their nature

    def go_over(self, matcher: PathMatcher) -> None:
        """Look for what another matcher matches."""
        self._is_of_two = matcher.rules.keys() > self.matcher.rules.keys()
        self.matcher = matcher

    def forget_what_was(self) -> None:
        """Forget patterns and groups that the matcher does not have, when no file is matched by them any more."""
        for pattern in self.counts.keys() - self.matcher.patterns.keys():
            del self.counts[pattern]
        self._overlaps = {groups for groups in self._overlaps if self.matcher.rules.keys() >= set(groups)}

    def set(self, known: dict[str, Match], path: str, match: Match | None) -> None:
        """Set what matches a file among those that are known; None: the file is known no longer."""
        if path in known:
            for pattern in known.pop(path).patterns:
                self.counts[pattern] -= 1
        if match is None:
            return
        known[path] = match
        for pattern in match.patterns:
            self.counts[pattern] += 1
        is_of_one = not self._is_of_two and self.matcher.rules.keys() >= set(match.groups)
        if len(match.groups) > 1 and is_of_one and match.groups not in self._overlaps:
            self._overlaps.add(match.groups)
            first, *others = (self.matcher.rules[group].name for group in match.groups)
            _log.info(
                "groups overlap, the first one has the files",
                extra=fields(group=first, also=",".join(others), example=path),
            )
