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
        is_of_now = match.groups[-1] in self.matcher.rules and match.groups[0] in self.matcher.rules
        if len(match.groups) > 1 and is_of_now and match.groups not in self._overlaps:
            self._overlaps.add(match.groups)
            first, *others = (self.matcher.rules[group].name for group in match.groups)
            _log.info(
                "groups overlap, the first one has the files",
                extra=fields(group=first, also=",".join(others), example=path),
            )
